"""A second model family for tests: its text encoder masks, gives one state per word, and exceeds float16."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from raysys.models import families
from raysys.models.family import Conditioning, EncodedCaptions
from raysys.models.sd.family import SdFamily

TOY = "toy"
WIDTH = 3


class ToyTextEncoder:
    """Word k of a caption becomes [1e5 × k, letters of the word, 1]: every state tells where it comes from."""

    tokenizer = None
    max_length = 4
    states_dtype = "bfloat16"

    def encode(self, captions: Sequence[str]) -> EncodedCaptions:
        words = [caption.split() for caption in captions]
        length = max(1, *(min(len(w), self.max_length) for w in words))
        states, mask = torch.zeros(len(words), length, WIDTH), torch.zeros(len(words), length, dtype=torch.bool)
        for n, row in enumerate(words):
            for k, word in enumerate(row[:length]):
                states[n, k], mask[n, k] = torch.tensor([1e5 * k, len(word), 1.0]), True
        return EncodedCaptions(Conditioning(states, mask), [len(w) for w in words])


class ToyFamily(SdFamily):
    """Stable Diffusion's images with the text encoder above."""

    name = TOY

    def load_text_encoder(self, place, tokenizer=None, dtype=torch.float32, device="cpu") -> ToyTextEncoder:
        return ToyTextEncoder()

    def text_encoder_hashes(self, place: str | Path, tokenizer: str | Path | None = None) -> dict[str, str]:
        return {"text_encoder_hash": "toy", "tokenizer_hash": "words"}


FAMILY = ToyFamily()


def use_toy_family(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `family: toy` a valid name in this process."""
    monkeypatch.setitem(families.FAMILIES, TOY, "tests.support.toy_family")
