"""Small models of the real architectures: what tests build, save and sample from."""

from __future__ import annotations

from pathlib import Path

from raysys.models.families import family
from raysys.models.family import Pipeline
from raysys.models.schedule import NoiseScheduleConfig
from raysys.models.sd.config import SdDenoiserConfig

SMALL = SdDenoiserConfig(block_out_channels=(32, 32), attention_head_dim=16)


def tiny_pipeline(
    seed: int = 0, config: SdDenoiserConfig = SMALL, schedule: NoiseScheduleConfig | None = None
) -> Pipeline:
    """An untrained denoiser beside the zoo's text encoder and autoencoder."""
    sd = family("sd")
    denoiser = sd.build_denoiser(config, schedule or NoiseScheduleConfig(), seed).eval()
    return Pipeline(sd.load_text_encoder("zoo:text_encoder"), denoiser, sd.load_autoencoder("zoo:vae"))


def save_tiny_pipeline(
    folder: Path, seed: int = 0, config: SdDenoiserConfig = SMALL, schedule: NoiseScheduleConfig | None = None
) -> Path:
    """The same, saved to `folder`."""
    return family("sd").save_pipeline(folder, tiny_pipeline(seed, config, schedule))
