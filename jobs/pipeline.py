"""`raysys pipeline` as a script, for `ray job submit -- python jobs/pipeline.py --config …`."""

from raysys.cli import launch

if __name__ == "__main__":
    launch("pipeline")
