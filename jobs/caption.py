"""`raysys caption` as a script, for `ray job submit -- python jobs/caption.py --config …`."""

from raysys.cli import launch

if __name__ == "__main__":
    launch("caption")
