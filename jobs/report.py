"""`raysys report` as a script, for `ray job submit -- python jobs/report.py --config …`."""

from raysys.cli import launch

if __name__ == "__main__":
    launch("report")
