"""`raysys encode` as a script, for `ray job submit -- python jobs/encode.py --config …`."""

from raysys.cli import launch

if __name__ == "__main__":
    launch("encode")
