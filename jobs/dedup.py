"""`raysys dedup` as a script, for `ray job submit -- python jobs/dedup.py --config …`."""

from raysys.cli import launch

if __name__ == "__main__":
    launch("dedup")
