"""Baseline mitigations (Somepalli et al., NeurIPS 2023, arXiv 2305.20086), as pure functions.

All draw from a numpy Generator that the caller seeds, and take `probability` (0.4 in the papers; 1 at inference).
Abbreviations of the papers: GN Gaussian noise, RC random caption, CWR caption word repetition, RT random token
insertion. MC, multiple captions, is the loader's: an assembled set may hold several captions of an image.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch

RANDOM_CAPTION_TOKENS = 4
INSERTIONS = 2


class Tokenizer(Protocol):
    """What is used of a Hugging Face tokenizer."""

    all_special_ids: list[int]

    def __len__(self) -> int: ...

    def decode(self, token_ids: list[int]) -> str: ...


def gaussian_noise(prompt_embeds: torch.Tensor, noise: torch.Tensor, scale: float) -> torch.Tensor:
    """GN: prompt_embeds + scale·noise; both [B, T, D], noise ~ N(0, I), scale 0.1 in the papers, all positions."""
    if prompt_embeds.shape != noise.shape:
        raise ValueError(f"noise {tuple(noise.shape)} does not fit prompt_embeds {tuple(prompt_embeds.shape)}")
    return prompt_embeds if scale == 0.0 else prompt_embeds + scale * noise


def random_caption(caption: str, rng: np.random.Generator, tokenizer: Tokenizer, probability: float) -> str:
    """RC: with `probability` the whole caption becomes 4 random tokens."""
    if rng.random() >= probability:
        return caption
    return " ".join(_random_word(rng, tokenizer) for _ in range(RANDOM_CAPTION_TOKENS))


def random_tokens(caption: str, rng: np.random.Generator, tokenizer: Tokenizer, probability: float) -> str:
    """RT: with `probability` 2 random tokens are inserted, each at a uniform place among the words, ends included."""
    if rng.random() >= probability:
        return caption
    return _insert(caption.split(), [_random_word(rng, tokenizer) for _ in range(INSERTIONS)], rng)


def word_repetition(caption: str, rng: np.random.Generator, tokenizer: Tokenizer, probability: float) -> str:
    """CWR: with `probability` 2 words drawn (with replacement) from the caption itself are inserted at random places.

    `tokenizer` is not used; it is there so that the three caption transforms have one signature.
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
    """A uniformly drawn token that is not special, decoded. Ids that decode to blanks are drawn again."""
    special = set(tokenizer.all_special_ids)
    while True:
        token = int(rng.integers(len(tokenizer)))
        if token not in special and (word := tokenizer.decode([token]).strip()):
            return word
