"""`raysys generalize` as a script, for `ray job submit -- python jobs/generalize.py --config …`."""

from raysys.cli import launch

if __name__ == "__main__":
    launch("generalize")
