"""Rows of an assembled training set, made without the jobs before it."""

from __future__ import annotations

from typing import Any

import numpy as np

from raysys.outcomes import kept
from raysys.rows import array_to_bytes


def set_row(row_id: str, caption: str, latents: np.ndarray, states: np.ndarray, **columns: Any) -> dict[str, Any]:
    """A kept TRAINING_SET row: latents [C, h, w] and text states [T, D] of its only caption, stored as float16."""
    data, shape = array_to_bytes(latents)
    text_states, states_shape = array_to_bytes(states)
    return {
        "row_id": row_id,
        "copy": 0,
        "captions": [caption],
        "caption_ids": [f"{row_id}/original"],
        "n_tokens": [len(states)],
        "bucket": "x".join(map(str, shape[-2:])),
        "latents": data,
        "latents_shape": shape,
        "text_states": text_states,
        "text_states_shapes": [states_shape],
        "text_states_dtype": "float16",
        **kept(),
        **columns,
    }
