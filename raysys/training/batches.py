"""A batch of the training set → what the model sees and must predict: fusion, mitigations, dropout, noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import CLIPTextModel, CLIPTokenizer

from raysys.errors import InputError
from raysys.fusion import (
    CAPTION_TRANSFORMS,
    CaptionMitigationConfig,
    FusionBucket,
    FusionConfig,
    FusionSet,
    fuse_embeddings,
    fuse_latents,
    gaussian_noise,
    join_captions,
)
from raysys.fusion.mitigations import Tokenizer
from raysys.models.text import encode_captions
from raysys.training.config import DiffusionTrainingConfig
from raysys.training.draws import draw_batch, sample_rng
from raysys.training.objectives import add_noise, min_snr_weights, prediction_target


@dataclass(frozen=True)
class TextConditioning:
    """The frozen text encoder: captions → hidden states [b, T, D]; its tokenizer for the random-token mitigations."""

    encode: Callable[[Sequence[str]], torch.Tensor]
    tokenizer: Tokenizer

    @classmethod
    def of(cls, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel) -> TextConditioning:
        """The conditioning of a Stable Diffusion pipeline's text encoder."""
        return cls(lambda captions: encode_captions(tokenizer, text_encoder, captions).prompt_embeds, tokenizer)


@dataclass(frozen=True)
class ModelInputs:
    """One worker's share of a step, on the CPU until `to`."""

    noisy_latents: torch.Tensor  # [b, C, h, w]
    timesteps: torch.Tensor  # int64 [b]
    prompt_embeds: torch.Tensor  # [b, T, D]
    target: torch.Tensor  # [b, C, h, w]
    weights: torch.Tensor | None  # [b], or None for the plain mean

    def slice(self, start: int, stop: int, device: torch.device | str) -> ModelInputs:
        """Samples start … stop − 1, on `device`."""
        return ModelInputs(
            *(
                None if x is None else x[start:stop].to(device)
                for x in (self.noisy_latents, self.timesteps, self.prompt_embeds, self.target, self.weights)
            )
        )


class BatchMaker:
    """Turns loader batches into model inputs, by one config. All randomness comes from (seed, position)."""

    def __init__(
        self,
        config: DiffusionTrainingConfig,
        alphas_cumprod: torch.Tensor,
        prediction_type: str,
        text: TextConditioning,
        fusion_set: FusionSet | None,
    ) -> None:
        if config.fusion.level != "none" and fusion_set is None:
            raise InputError(f"fusion.level = {config.fusion.level} but no fusion set was given", "set fusion.set")
        self.config = config
        self.alphas_cumprod = alphas_cumprod.float().cpu()
        self.prediction_type = prediction_type
        self.text = text
        self.fusion_set = fusion_set if config.fusion.level != "none" else None
        self.null_embeds = text.encode([""])[0].float().cpu()  # encoded once

    def make(self, batch: dict[str, Any], positions: Sequence[int]) -> ModelInputs:
        """Model inputs of a loader batch whose samples have these positions in the global sequence."""
        config, latents = self.config, batch["latents"]
        draws = draw_batch(config.seed, positions, latents.shape[1:], len(self.alphas_cumprod), config.caption_dropout)
        bucket, drawn = None, []
        if self.fusion_set is not None:
            bucket = self.fusion_set.bucket(batch["bucket"])
            drawn = [bucket.draw(sample_rng(config.seed, "fusion", position)) for position in positions]
            latents = fuse_latents(latents, bucket.latents[drawn], config.fusion.w_lat)
        prompt_embeds = self._prompt_embeds(batch, positions, bucket, drawn)
        # Dropout comes last: guidance needs the state of the plain empty caption, unfused.
        prompt_embeds = torch.where(draws.caption_dropped[:, None, None], self.null_embeds, prompt_embeds)
        return self._inputs(latents, draws.noise, draws.timesteps, prompt_embeds)

    def make_plain(self, batch: dict[str, Any], positions: Sequence[int], stream: int) -> ModelInputs:
        """The same without fusion, mitigation and dropout, from another random stream: for validation."""
        draws = draw_batch(stream, positions, batch["latents"].shape[1:], len(self.alphas_cumprod), 0.0)
        return self._inputs(batch["latents"], draws.noise, draws.timesteps, batch["prompt_embeds"])

    def _prompt_embeds(
        self, batch: dict[str, Any], positions: Sequence[int], bucket: FusionBucket | None, drawn: list[int]
    ) -> torch.Tensor:
        config = self.config
        embeds = batch["prompt_embeds"]
        if config.encodes_in_loop:
            classes = [] if bucket is None else [bucket.captions[c] for c in bucket.class_of[drawn]]
            captions = rewritten_captions(
                batch["captions"], positions, classes, config.fusion, config.caption_mitigation, config.seed, self.text
            )
            embeds = self.text.encode(captions).float().cpu()
        if config.fusion.level == "embedding" and bucket is not None:
            fusion_embeds = bucket.caption_embeds[torch.from_numpy(bucket.class_of[drawn])]
            embeds = fuse_embeddings(embeds, fusion_embeds, config.fusion.w_emb)
        if config.caption_mitigation.kind == "gaussian_noise":
            noise = np.stack(
                [
                    sample_rng(config.seed, "caption_mitigation", p).standard_normal(embeds.shape[1:], dtype=np.float32)
                    for p in positions
                ]
            )
            embeds = gaussian_noise(embeds, torch.from_numpy(noise), config.caption_mitigation.scale)
        return embeds

    def _inputs(
        self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor, prompt_embeds: torch.Tensor
    ) -> ModelInputs:
        alphas, gamma = self.alphas_cumprod, self.config.min_snr_gamma
        return ModelInputs(
            add_noise(latents, noise, timesteps, alphas),
            timesteps,
            prompt_embeds,
            prediction_target(latents, noise, timesteps, alphas, self.prediction_type),
            None if gamma is None else min_snr_weights(timesteps, alphas, gamma, self.prediction_type),
        )


def rewritten_captions(
    captions: Sequence[str],
    positions: Sequence[int],
    fusion_captions: Sequence[str],
    fusion: FusionConfig,
    mitigation: CaptionMitigationConfig,
    seed: int,
    text: TextConditioning,
) -> list[str]:
    """Captions after the caption mitigation, then joined with their fusion captions (token level)."""
    transform = CAPTION_TRANSFORMS.get(mitigation.kind)
    if transform is not None:
        captions = [
            transform(caption, sample_rng(seed, "caption_mitigation", position), text.tokenizer, mitigation.probability)
            for caption, position in zip(captions, positions, strict=True)
        ]
    if fusion.level == "token":
        captions = [join_captions(own, other) for own, other in zip(captions, fusion_captions, strict=True)]
    return list(captions)
