"""`raysys export` as a script, for `ray job submit -- python jobs/export.py --config …`."""

from raysys.cli import launch

if __name__ == "__main__":
    launch("export")
