"""The diffusion recipe: train a denoiser on an assembled set of latents and text states.

part loader ─▶ BatchMaker (fusion, dropout, noise) ─▶ denoiser ─▶ mean squared error
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from raysys.errors import InputError
from raysys.fusion import FusionSet
from raysys.latents.parts import LatentBatch, PartLoader, read_manifest, read_tables, set_identity
from raysys.models.families import family
from raysys.models.family import Autoencoder, Denoiser, Pipeline, TextEncoder
from raysys.models.loading import PIPELINE_INDEX
from raysys.models.schedule import NoiseScheduleConfig, load_noise_scheduler
from raysys.training.batches import BatchMaker, ModelInputs
from raysys.training.diffusion_config import DiffusionConfig
from raysys.training.objectives import diffusion_loss
from raysys.training.recipe import Built, Modules, Share

DENOISER = "denoiser"
"""The name of the trained module."""


@dataclass
class DiffusionRecipe:
    """One training of a denoiser (`Recipe`).

    text_encoder: encodes the empty caption, and captions that change from step to step.
    autoencoder: saved with the denoiser; only `export` needs it.
    models: content hashes of the frozen models; part of the identity.
    """

    config: DiffusionConfig
    seed: int
    training_set: str | Path
    validation_set: str | Path | None
    text_encoder: TextEncoder
    autoencoder: Autoencoder | None = None
    models: Mapping[str, Any] = field(default_factory=dict)

    def identity(self) -> dict[str, Any]:
        return identity(self.config, self.training_set, self.models)

    def build(self) -> Built:
        """Build the denoiser, and the `BatchMaker`, which needs the denoiser's noise schedule."""
        denoiser = build_denoiser(self.config, self.seed)
        if self.config.gradient_checkpointing:
            denoiser.enable_gradient_checkpointing()
        fusion = self.config.fusion
        fusion_set = None if fusion.level == "none" else FusionSet.from_tables(read_tables(fusion.set))
        self._batches = BatchMaker(self.config, self.seed, denoiser, self.text_encoder, fusion_set)
        return Built({DENOISER: denoiser}, blocks=denoiser.blocks())

    def loader(self, share: Share, state: dict[str, Any] | None) -> PartLoader:
        return self._loader_of(self.training_set, share, state)

    def _loader_of(self, folder: str | Path, share: Share, state: dict[str, Any] | None) -> PartLoader:
        return PartLoader(folder, share.batch_size, share.rank, share.world_size, self.seed, state)

    def loss(
        self, modules: Modules, batch: LatentBatch, positions: Sequence[int]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return self._mean_error(modules, self._batches.make(batch, positions)), {}

    def validate(self, modules: Modules, share: Share, n_samples: int) -> dict[str, float]:
        """The unweighted denoising loss of held-out samples: the same samples and noise at every call."""
        if self.validation_set is None:
            return {}
        losses = []
        with self._loader_of(self.validation_set, share, None) as loader:
            for k in range(-(-n_samples // share.batch_size)):
                inputs = self._batches.make_plain(next(loader), share.positions(k), stream=self.seed + 1)
                losses.append(float(self._mean_error(modules, inputs)))
        return {"loss": sum(losses) / len(losses)}

    def export(self, weights: Callable[[Modules], None], folder: Path) -> Path:
        """Write a pipeline folder: the denoiser with the frozen text encoder and autoencoder."""
        if self.autoencoder is None:
            raise ValueError("export needs the autoencoder")
        denoiser = build_denoiser(self.config, self.seed)
        weights({DENOISER: denoiser})
        pipeline = Pipeline(self.text_encoder, denoiser.eval().requires_grad_(False), self.autoencoder)
        return family(self.config.denoiser.family).save_pipeline(folder, pipeline)

    def _mean_error(self, modules: Modules, inputs: ModelInputs) -> torch.Tensor:
        denoiser = modules[DENOISER]
        inputs = inputs.to(next(denoiser.parameters()).device)
        output = denoiser(inputs.noisy_latents, inputs.timesteps, inputs.conditioning)
        return diffusion_loss(output, inputs.target, inputs.weights)


def build_denoiser(config: DiffusionConfig, seed: int) -> Denoiser:
    """The denoiser to train, with its noise schedule: initialized from the seed, or loaded from `start_from`."""
    loaders = family(config.denoiser.family)
    if config.start_from is None:
        schedule = config.noise_schedule or NoiseScheduleConfig()
        return loaders.build_denoiser(config.denoiser, schedule, seed)
    denoiser = loaders.load_denoiser(config.start_from, noise_schedule=_replacing_schedule(config))
    return denoiser.requires_grad_(True)


def _replacing_schedule(config: DiffusionConfig) -> NoiseScheduleConfig | None:
    """The schedule to fine-tune `start_from` with; None = the one saved with it.

    A denoiser folder outside a pipeline has no saved schedule: then the config's is used, or Stable Diffusion's.
    """
    start = Path(config.start_from or "")
    is_saved = (start / PIPELINE_INDEX).is_file() or (start.parent / "scheduler").is_dir()
    return config.noise_schedule or (None if is_saved else NoiseScheduleConfig())


def identity(config: DiffusionConfig, training_set: str | Path, models: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that changes the trained weights, JSON-serializable. Sets and models are identified by content."""
    fusion, start = config.fusion, config.start_from
    return {
        **config.identity(),
        "start_from": None if start is None else family(config.denoiser.family).denoiser_hash(start),
        "noise_schedule": _schedule_identity(config),
        "training_set": set_identity(training_set),
        "fusion_set": None if fusion.level == "none" else set_identity(fusion.set),
        **models,
    }


def _schedule_identity(config: DiffusionConfig) -> dict[str, Any]:
    """The values that define the noise schedule in use."""
    schedule = config.noise_schedule or NoiseScheduleConfig()
    if config.start_from is not None and (schedule := _replacing_schedule(config)) is None:
        saved = load_noise_scheduler(config.start_from).config
        return {key: saved.get(key) for key in (*NoiseScheduleConfig.model_fields, "trained_betas")}
    return schedule.identity() | {"trained_betas": None}


ENCODERS = ("vae_hash", "text_encoder_hash", "tokenizer_hash")


def check_encoders(training_set: str | Path, models: Mapping[str, Any]) -> None:
    """Raise InputError if a set was encoded with models other than those that will be saved with the denoiser.

    Sets that do not record their encoders (older ones, or ones not made by `raysys encode`) are accepted.
    """
    recorded = read_manifest(training_set).get("encoders") or {}
    lines = [
        f"{name}: the set has {recorded[name]}, this training has {models[name]}"
        for name in ENCODERS
        if recorded.get(name) is not None and recorded[name] != models[name]
    ]
    if lines:
        raise InputError(
            f"{training_set} was encoded with other models:" + "".join(f"\n  - {line}" for line in lines),
            "give the VAE, text encoder and tokenizer that the set was encoded with",
        )
