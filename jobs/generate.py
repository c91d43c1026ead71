"""`raysys generate` as a script, for `ray job submit -- python jobs/generate.py --config …`."""

from raysys.cli import launch

if __name__ == "__main__":
    launch("generate")
