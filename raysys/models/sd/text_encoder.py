"""Captions → the CLIP hidden states that condition a Stable Diffusion denoiser."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import CLIPTextModel, CLIPTokenizer

from raysys.models.family import Conditioning, EncodedCaptions
from raysys.rows import StatesDtype


class SdTextEncoder:
    """A CLIP text model and its tokenizer, as `StableDiffusionPipeline` uses them."""

    states_dtype: StatesDtype = "float16"

    def __init__(self, tokenizer: CLIPTokenizer, model: CLIPTextModel) -> None:
        self.tokenizer, self.model = tokenizer, model

    @property
    def max_length(self) -> int:
        """The smaller of the tokenizer's maximum length and the model's number of positions."""
        return min(int(self.tokenizer.model_max_length), self.model.config.max_position_embeddings)

    @torch.inference_mode()
    def encode(self, captions: Sequence[str]) -> EncodedCaptions:
        """The last hidden states, after the final layer norm: [N, T, D] with T = max_length, and no mask.

        Stable Diffusion was trained on captions padded to T without an attention mask. CLIP's causal mask
        prevents the words of a caption from attending to its padding.
        """
        full = self.tokenizer(list(captions), padding=False, truncation=False, verbose=False).input_ids
        tokens = self.tokenizer(
            list(captions),
            padding="max_length",
            max_length=self.max_length,
            truncation=True,
            return_tensors="pt",
            verbose=False,
        )
        states = self.model(tokens.input_ids.to(self.model.device))[0]
        return EncodedCaptions(
            Conditioning(states.to(device="cpu", dtype=torch.float32)),
            n_tokens=[len(ids) for ids in full],
        )
