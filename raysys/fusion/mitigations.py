"""Baseline mitigations (Somepalli et al., NeurIPS 2023, arXiv 2305.20086), as pure functions.

Caption transforms draw from a NumPy Generator and have a `probability` (0.4 in the papers; 1 at inference).
Abbreviations of the papers: GN Gaussian noise, RC random caption, CWR caption word repetition, RT random token
insertion. MC (multiple captions) is implemented by the loader: an assembled set may have several captions per image.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch

RANDOM_CAPTION_TOKENS = 4
INSERTIONS = 2


class Tokenizer(Protocol):
    """The part of the Hugging Face tokenizer interface that is used here."""

    all_special_ids: list[int]

    def __len__(self) -> int: ...

    def decode(self, token_ids: list[int]) -> str: ...


def gaussian_noise(prompt_embeds: torch.Tensor, noise: torch.Tensor, scale: float) -> torch.Tensor:
    """GN: prompt_embeds + scale·noise; both [B, T, D], noise ~ N(0, I), scale 0.1 in the papers, all positions."""
    if prompt_embeds.shape != noise.shape:
        raise ValueError(f"noise {tuple(noise.shape)} does not fit prompt_embeds {tuple(prompt_embeds.shape)}")
    return prompt_embeds if scale == 0.0 else prompt_embeds + scale * noise


def random_caption(caption: str, rng: np.random.Generator, tokenizer: Tokenizer, probability: float) -> str:
    """RC: with `probability`, replace the whole caption by 4 random tokens."""
    if rng.random() >= probability:
        return caption
    return " ".join(_random_word(rng, tokenizer) for _ in range(RANDOM_CAPTION_TOKENS))


def random_tokens(caption: str, rng: np.random.Generator, tokenizer: Tokenizer, probability: float) -> str:
    """RT: with `probability`, insert 2 random tokens, each at a uniformly drawn place between words or at an end."""
    if rng.random() >= probability:
        return caption
    return _insert(caption.split(), [_random_word(rng, tokenizer) for _ in range(INSERTIONS)], rng)


def word_repetition(caption: str, rng: np.random.Generator, tokenizer: Tokenizer, probability: float) -> str:
    """CWR: with `probability`, insert 2 words of the caption, drawn with replacement, at random places.

    `tokenizer` is not used; it gives the three caption transforms the same signature.
    """
    words = caption.split()
    if rng.random() >= probability or not words:
        return caption
    return _insert(words, [words[int(i)] for i in rng.integers(len(words), size=INSERTIONS)], rng)


CAPTION_TRANSFORMS = {
    "random_caption": random_caption,
    "random_tokens": random_tokens,
    "word_repetition": word_repetition,
}


def _insert(words: list[str], new: list[str], rng: np.random.Generator) -> str:
    words = list(words)
    for word in new:
        words.insert(int(rng.integers(len(words) + 1)), word)
    return " ".join(words)


def _random_word(rng: np.random.Generator, tokenizer: Tokenizer) -> str:
    """A uniformly drawn, decoded token, without special tokens and tokens that decode to white space."""
    special = set(tokenizer.all_special_ids)
    while True:
        token = int(rng.integers(len(tokenizer)))
        if token not in special and (word := tokenizer.decode([token]).strip()):
            return word
