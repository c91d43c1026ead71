"""`raysys scenes` as a script, for `ray job submit -- python jobs/scenes.py --config …`."""

from raysys.cli import launch

if __name__ == "__main__":
    launch("scenes")
