"""The paths and configuration of a diffusion training: they give its identity, and its recipe with models loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raysys.models.families import family
from raysys.training.diffusion import ENCODERS, DiffusionRecipe, check_encoders, identity
from raysys.training.diffusion_config import DiffusionConfig
from raysys.training.run_config import RunConfig


@dataclass(frozen=True)
class DiffusionInputs:
    """Paths and configurations only, so that it is cheap to send to workers.

    tokenizer: None = the one saved with the text encoder.
    """

    config: DiffusionConfig
    run: RunConfig
    training_set: str
    validation_set: str | None
    vae: str
    text_encoder: str
    tokenizer: str | None

    def identity(self) -> dict[str, Any]:
        """Everything that changes the trained weights. Models and sets are identified by content, not by path.

        Raises InputError if a set was encoded with other models.
        """
        loaders = family(self.config.denoiser.family)
        text = loaders.text_encoder_hashes(self.text_encoder, self.tokenizer)
        models = {"vae_hash": loaders.autoencoder_hash(self.vae), **text}
        for folder in filter(None, (self.training_set, self.validation_set, self.config.fusion.set)):
            check_encoders(folder, models)
        return {"run": self.run.identity(), "recipe": identity(self.config, self.training_set, models)}

    def recipe(self, known: Mapping[str, Any], device: str = "cpu", to_export: bool = False) -> DiffusionRecipe:
        """The recipe with its frozen models on `device`.

        known: the result of `identity()`, for the models' hashes. to_export: also load the autoencoder, which only
        the saved pipeline needs.
        """
        loaders = family(self.config.denoiser.family)
        return DiffusionRecipe(
            self.config,
            self.run.seed,
            self.training_set,
            self.validation_set,
            loaders.load_text_encoder(self.text_encoder, self.tokenizer, device=device),
            loaders.load_autoencoder(self.vae) if to_export else None,
            {name: known["recipe"][name] for name in ENCODERS},
        )
