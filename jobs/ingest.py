"""`raysys ingest` as a script, for `ray job submit -- python jobs/ingest.py --config …`."""

from raysys.cli import launch

if __name__ == "__main__":
    launch("ingest")
