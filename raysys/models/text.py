"""Captions → the hidden states that condition a Stable Diffusion U-Net: pure functions on a CLIP text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import CLIPTextModel, CLIPTokenizer


@dataclass(frozen=True)
class TextStates:
    """What a text encoder made of N captions."""

    prompt_embeds: torch.Tensor
    """float32 [N, T, D] on the CPU: last hidden states, padded to T = the encoder's maximum length."""
    n_tokens: list[int]
    """Tokens of each caption, start and end included, before padding and before truncation."""
    truncated: list[bool]
    """Whether a caption was longer than T and lost its end."""


def max_length(tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel) -> int:
    """T: the smaller of what the tokenizer is configured for and what the encoder has positions for."""
    return min(int(tokenizer.model_max_length), text_encoder.config.max_position_embeddings)


@torch.inference_mode()
def encode_captions(tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, captions: Sequence[str]) -> TextStates:
    """Last hidden states (after the final layer norm), exactly as `StableDiffusionPipeline` conditions its U-Net.

    Every caption is padded to T and no attention mask is given: Stable Diffusion was trained that way, and CLIP's
    causal mask keeps real tokens from seeing the padding. T states per caption, the padding's included.
    """
    length = max_length(tokenizer, text_encoder)
    full = tokenizer(list(captions), padding=False, truncation=False, verbose=False).input_ids
    tokens = tokenizer(
        list(captions), padding="max_length", max_length=length, truncation=True, return_tensors="pt", verbose=False
    )
    states = text_encoder(tokens.input_ids.to(text_encoder.device))[0]
    return TextStates(
        prompt_embeds=states.to(device="cpu", dtype=torch.float32),
        n_tokens=[len(ids) for ids in full],
        truncated=[len(ids) > length for ids in full],
    )
