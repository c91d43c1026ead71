"""Noise schedules: training schedulers (DDPM) from a config or a saved file, and samplers (DPM-Solver++) from these.

diffusers is imported when a scheduler is built: this takes seconds, and checking a configuration does not need it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from raysys.config import Config
from raysys.errors import InputError
from raysys.models.loading import loaded, part_folder

if TYPE_CHECKING:
    from diffusers import DDPMScheduler, DPMSolverMultistepScheduler
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

SCHEDULER_CONFIG = "scheduler_config.json"

PredictionType = Literal["epsilon", "v_prediction"]


class NoiseScheduleConfig(Config):
    """q(x_t | x_0) = N(√ᾱ_t x_0, (1 − ᾱ_t) I), ᾱ_t = Π_{s≤t} (1 − β_s) (Ho et al. 2020), and the prediction type."""

    num_train_timesteps: int = Field(1000, ge=2, description="T, the number of noise levels")
    beta_schedule: Literal["scaled_linear", "linear", "squaredcos_cap_v2"] = Field(
        "scaled_linear", description="how β grows from beta_start to beta_end; Stable Diffusion uses scaled_linear"
    )
    beta_start: float = Field(0.00085, gt=0, lt=1, description="β of the first step")
    beta_end: float = Field(0.012, gt=0, lt=1, description="β of the last step")
    prediction_type: PredictionType = Field(
        "epsilon", description="epsilon = the noise ε; v_prediction = √ᾱ ε − √(1−ᾱ) x_0 (Salimans & Ho 2022)"
    )
    rescale_betas_zero_snr: bool = Field(
        False,
        description="rescale β so that the last step contains no signal (Lin et al. 2023, Alg. 1); needs v_prediction",
    )

    @model_validator(mode="after")
    def _consistent(self) -> NoiseScheduleConfig:
        if self.beta_start > self.beta_end:
            raise ValueError(f"beta_start = {self.beta_start} is above beta_end = {self.beta_end}")
        if self.rescale_betas_zero_snr and self.prediction_type == "epsilon":
            raise ValueError(
                "rescale_betas_zero_snr needs prediction_type v_prediction: at zero SNR, ε does not determine x_0"
            )
        return self


def build_noise_scheduler(config: NoiseScheduleConfig) -> DDPMScheduler:
    """The training scheduler: `add_noise`, `get_velocity`, `alphas_cumprod`.

    Predictions are not clipped, because latents are not pixels. Samplers built from it use `trailing` timesteps, which
    start at t = T − 1; `leading` timesteps start at a lower t, where signal remains (Lin et al. 2023, §3.3).
    """
    from diffusers import DDPMScheduler

    return DDPMScheduler(
        num_train_timesteps=config.num_train_timesteps,
        beta_start=config.beta_start,
        beta_end=config.beta_end,
        beta_schedule=config.beta_schedule,
        prediction_type=config.prediction_type,
        rescale_betas_zero_snr=config.rescale_betas_zero_snr,
        clip_sample=False,
        timestep_spacing="trailing",
        steps_offset=1,  # has no effect on trailing timesteps; diffusers warns about any other value
    )


def load_noise_scheduler(place: str | Path) -> DDPMScheduler:
    """Load the training schedule of a saved pipeline, or the one next to the folder of a denoiser.

    The file may be written by any sampler. β and prediction type are read from it, and the timestep spacing, too, if
    the file states it. Otherwise it is `trailing`: the default of diffusers, `leading`, starts Stable Diffusion 2.1 at
    t = 941 instead of 999.
    Raises InputError if there is no schedule or it is damaged.
    """
    from diffusers import DDPMScheduler

    folder = _scheduler_folder(place)
    config = loaded(folder, lambda: DDPMScheduler.load_config(folder))
    spacing = config.get("timestep_spacing") or "trailing"
    return loaded(folder, lambda: DDPMScheduler.from_config(config, clip_sample=False, timestep_spacing=spacing))


def _scheduler_folder(place: str | Path) -> Path:
    folder = part_folder(place, "scheduler")
    for candidate in (folder, folder.parent / "scheduler"):
        if (candidate / SCHEDULER_CONFIG).is_file():
            return candidate
    raise InputError(f"no noise schedule in {folder} or next to it", "give a pipeline folder or noise_schedule")


def build_sampler(noise_scheduler: SchedulerMixin) -> DPMSolverMultistepScheduler:
    """A new DPM-Solver++ (2M) sampler (Lu et al. 2022) for the noise schedule of any diffusers scheduler.

    β, prediction type and timestep spacing are copied; the solver is always the deterministic second-order multistep
    solver. Every call returns a new object, because a multistep scheduler keeps state from one image to the next.
    """
    from diffusers import DPMSolverMultistepScheduler

    config = dict(noise_scheduler.config)
    taken = (
        "num_train_timesteps",
        "beta_start",
        "beta_end",
        "beta_schedule",
        "trained_betas",
        "prediction_type",
        "rescale_betas_zero_snr",
        "timestep_spacing",
        "steps_offset",
    )
    return DPMSolverMultistepScheduler(
        **{key: config[key] for key in taken if config.get(key) is not None},
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        lower_order_final=True,
    )
