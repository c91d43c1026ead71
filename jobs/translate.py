"""`raysys translate` as a script, for `ray job submit -- python jobs/translate.py --config …`."""

from raysys.cli import launch

if __name__ == "__main__":
    launch("translate")
