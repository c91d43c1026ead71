"""`raysys train-diffusion` as a script, for `ray job submit -- python jobs/train_diffusion.py --config …`."""

from raysys.cli import launch

if __name__ == "__main__":
    launch("train-diffusion")
