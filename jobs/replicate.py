"""`raysys replicate` as a script, for `ray job submit -- python jobs/replicate.py --config …`."""

from raysys.cli import launch

if __name__ == "__main__":
    launch("replicate")
