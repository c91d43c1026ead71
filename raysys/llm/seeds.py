"""The seed of one answer, derived from the request's seed and independent of the batch."""

from __future__ import annotations

import hashlib

_DIGEST_BYTES = 7
"""Bytes of a seed; adding the number of the answer stays below 2⁶³."""


def draw_seed(seed: int, answer: int = 0) -> int:
    """The seed of the random generator for one answer to a request.

    Hashed, so that requests with consecutive seeds do not share answers: vLLM uses seed, seed + 1, … for n answers.
    """
    digest = hashlib.blake2b(str(seed).encode(), digest_size=_DIGEST_BYTES).digest()
    return int.from_bytes(digest, "big") + answer
