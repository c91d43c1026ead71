"""Training-set batch → the denoiser's inputs and targets: fusion, caption mitigation, dropout, noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from raysys.errors import InputError
from raysys.fusion import (
    CAPTION_TRANSFORMS,
    CaptionMitigationConfig,
    FusionBucket,
    FusionConfig,
    FusionSet,
    fuse_conditioning,
    fuse_latents,
    gaussian_noise,
    join_captions,
)
from raysys.fusion.mitigations import Tokenizer
from raysys.latents.parts import LatentBatch
from raysys.models.family import Conditioning, Denoiser, TextEncoder
from raysys.training.diffusion_config import DiffusionConfig
from raysys.training.draws import draw_batch, sample_rng
from raysys.training.objectives import add_noise, min_snr_weights, prediction_target


@dataclass(frozen=True)
class ModelInputs:
    """The denoiser's inputs and targets for one micro batch of b samples."""

    noisy_latents: torch.Tensor  # [b, C, h, w]
    timesteps: torch.Tensor  # int64 [b]
    conditioning: Conditioning
    target: torch.Tensor  # [b, C, h, w]
    weights: torch.Tensor | None  # [b], or None for the plain mean

    def to(self, device: torch.device) -> ModelInputs:
        weights = None if self.weights is None else self.weights.to(device)
        moved = (x.to(device) for x in (self.noisy_latents, self.timesteps, self.conditioning, self.target))
        return ModelInputs(*moved, weights)


class BatchMaker:
    """Turns loader batches into model inputs. All randomness is derived from (seed, position)."""

    def __init__(
        self,
        config: DiffusionConfig,
        seed: int,
        denoiser: Denoiser,
        text_encoder: TextEncoder,
        fusion_set: FusionSet | None,
    ) -> None:
        if config.fusion.level != "none" and fusion_set is None:
            raise InputError(f"fusion.level = {config.fusion.level} but no fusion set was given", "set fusion.set")
        self.config, self.seed = config, seed
        self.alphas_cumprod = denoiser.noise_scheduler.alphas_cumprod.float().cpu()
        self.prediction_type = denoiser.noise_scheduler.config.prediction_type
        self.text_encoder = text_encoder
        self.fusion_set = fusion_set if config.fusion.level != "none" else None
        self.empty_caption = self._encode([""])  # encoded once

    def make(self, batch: LatentBatch, positions: Sequence[int]) -> ModelInputs:
        """Model inputs of the samples at `positions` in the global sample sequence."""
        config, seed, latents = self.config, self.seed, batch.latents
        draws = draw_batch(seed, positions, latents.shape[1:], len(self.alphas_cumprod), config.caption_dropout)
        bucket, drawn = None, []
        if self.fusion_set is not None:
            bucket = self.fusion_set.bucket(batch.bucket)
            drawn = [bucket.draw(sample_rng(seed, "fusion", position)) for position in positions]
            latents = fuse_latents(latents, bucket.latents[drawn], config.fusion.w_lat)
        conditioning = self._conditioning(batch, positions, bucket, drawn)
        # Dropout comes last: classifier-free guidance needs the text states of the empty caption without fusion.
        conditioning = Conditioning.where(draws.caption_dropped, self.empty_caption, conditioning)
        weights = None
        if config.min_snr_gamma is not None:
            gamma, kind = config.min_snr_gamma, self.prediction_type
            weights = min_snr_weights(draws.timesteps, self.alphas_cumprod, gamma, kind)
        return self._inputs(latents, draws.noise, draws.timesteps, conditioning, weights)

    def make_plain(self, batch: LatentBatch, positions: Sequence[int], stream: int) -> ModelInputs:
        """For validation: no fusion, mitigation, dropout or loss weights. `stream` is used as the seed of the noise."""
        draws = draw_batch(stream, positions, batch.latents.shape[1:], len(self.alphas_cumprod), 0.0)
        return self._inputs(batch.latents, draws.noise, draws.timesteps, batch.conditioning, None)

    def _conditioning(
        self, batch: LatentBatch, positions: Sequence[int], bucket: FusionBucket | None, drawn: list[int]
    ) -> Conditioning:
        config, found = self.config, batch.conditioning
        if config.encodes_in_loop:
            names = [] if bucket is None else [bucket.captions[c] for c in bucket.class_of[drawn]]
            captions = rewritten_captions(
                batch.captions,
                positions,
                names,
                config.fusion,
                config.caption_mitigation,
                self.seed,
                self.text_encoder.tokenizer,
            )
            found = self._encode(captions)
        if config.fusion.level == "embedding" and bucket is not None:
            classes = torch.from_numpy(bucket.class_of[drawn])
            found = fuse_conditioning(found, bucket.conditioning[classes], config.fusion.w_emb)
        if config.caption_mitigation.kind == "gaussian_noise":
            noise = np.stack(
                [
                    sample_rng(self.seed, "caption_mitigation", p).standard_normal(
                        found.states.shape[1:], dtype=np.float32
                    )
                    for p in positions
                ]
            )
            states = gaussian_noise(found.states, torch.from_numpy(noise), config.caption_mitigation.scale)
            found = Conditioning(states, found.mask, found.extra)
        return found

    def _encode(self, captions: Sequence[str]) -> Conditioning:
        """Encode with autocast disabled, so that the encoder keeps its own precision."""
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            return self.text_encoder.encode(captions).conditioning

    def _inputs(
        self,
        latents: torch.Tensor,
        noise: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Conditioning,
        weights: torch.Tensor | None,
    ) -> ModelInputs:
        alphas = self.alphas_cumprod
        target = prediction_target(latents, noise, timesteps, alphas, self.prediction_type)
        return ModelInputs(add_noise(latents, noise, timesteps, alphas), timesteps, conditioning, target, weights)


def rewritten_captions(
    captions: Sequence[str],
    positions: Sequence[int],
    fusion_captions: Sequence[str],
    fusion: FusionConfig,
    mitigation: CaptionMitigationConfig,
    seed: int,
    tokenizer: Tokenizer,
) -> list[str]:
    """Apply the caption mitigation, then, with token-level fusion, append the fusion captions."""
    transform = CAPTION_TRANSFORMS.get(mitigation.kind)
    if transform is not None:
        captions = [
            transform(caption, sample_rng(seed, "caption_mitigation", position), tokenizer, mitigation.probability)
            for caption, position in zip(captions, positions, strict=True)
        ]
    if fusion.level == "token":
        captions = [join_captions(own, other) for own, other in zip(captions, fusion_captions, strict=True)]
    return list(captions)
