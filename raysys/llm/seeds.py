"""The seed of one answer: from the request's own, the same in every batch."""

from __future__ import annotations

import hashlib

_DIGEST_BYTES = 7
"""Seeds stay below this, which leaves room below 2⁶³ for the number of the answer."""


def draw_seed(seed: int, answer: int = 0) -> int:
    """What a random generator is seeded with for one answer of a request.

    Hashed, so that requests with neighboring seeds share no answers: vLLM counts up from the seed for n answers.
    """
    digest = hashlib.blake2b(str(seed).encode(), digest_size=_DIGEST_BYTES).digest()
    return int.from_bytes(digest, "big") + answer
