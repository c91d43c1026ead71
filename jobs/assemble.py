"""`raysys assemble` as a script, for `ray job submit -- python jobs/assemble.py --config …`."""

from raysys.cli import launch

if __name__ == "__main__":
    launch("assemble")
