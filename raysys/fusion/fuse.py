"""Dual fusion (Li, Chen, Zhang, Beerel, ICASSP 2024, arXiv 2309.07254): pure functions on batches.

B: batch size; C, h, w: latent channels, height, width; T: tokens; D: hidden size of the text encoder.
"ft" is the caption or image that is trained on, "fu" the one from the fusion set that is mixed in.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from raysys.models.family import Conditioning


def fuse_latents(latents: torch.Tensor, fusion_latents: torch.Tensor, w_lat: float) -> torch.Tensor:
    """Eq. 1: (1 − w_lat)·VE(x_ft) + w_lat·VE(x_fu), on clean, scaled latents [B, C, h, w], before noise is added.

    The training target (ε or v) must be computed from the result. w_lat = 0 returns `latents` itself, bit for bit.
    """
    return _mix(latents, fusion_latents, w_lat, "w_lat")


def fuse_conditioning(own: Conditioning, fusion: Conditioning, w_emb: float) -> Conditioning:
    """Eq. 2: (1 − w_emb)·TE(y_ft) + w_emb·TE(y_fu), on the full last hidden states [B, T, D].

    Without masks, captions are mixed including their padding, as in the paper. If T differs, the shorter caption is
    padded with zeros, and a position is attended to if either caption has a token there. w_emb = 0 returns `own`
    itself, bit for bit.
    """
    if w_emb == 0.0:
        return own
    length = max(own.states.shape[1], fusion.states.shape[1])
    own, fusion = own.padded(length), fusion.padded(length)
    mask = None if own.mask is None or fusion.mask is None else own.mask | fusion.mask
    extra = {name: _mix(x, fusion.extra[name], w_emb, "w_emb") for name, x in own.extra.items()}
    return Conditioning(_mix(own.states, fusion.states, w_emb, "w_emb"), mask, extra)


def join_captions(caption: str, fusion_caption: str) -> str:
    """Token-level fusion (Eq. 3): append y_fu to y_ft; the joined caption is then encoded.

    A period at the end of y_ft is removed, as in the authors' code. An empty fusion caption changes nothing.
    """
    fusion_caption = fusion_caption.strip()
    if not fusion_caption:
        return caption
    return f"{caption.rstrip().rstrip('.')} {fusion_caption}".strip()


def draw_fusion(rng: np.random.Generator, class_index: Sequence[Sequence[int]]) -> int:
    """Draw one image of the fusion set: first a class, then an image of that class, both uniformly.

    class_index[k]: the image indices of class k. Rare classes are drawn as often as common ones. Always takes exactly
    two numbers from `rng`, so that later draws do not depend on the set.
    """
    u_class, u_image = rng.random(2)
    images = class_index[int(u_class * len(class_index))]
    return int(images[int(u_image * len(images))])


def _mix(own: torch.Tensor, other: torch.Tensor, weight: float, name: str) -> torch.Tensor:
    if not 0.0 <= weight <= 1.0:
        raise ValueError(f"{name} = {weight} is outside [0, 1]")
    if own.shape != other.shape:
        raise ValueError(f"cannot fuse shapes {tuple(own.shape)} and {tuple(other.shape)}")
    if weight == 0.0:
        return own  # own·1 + other·0 would turn −0.0 into 0.0 and an infinite `other` into NaN
    return own * (1.0 - weight) + other * weight
