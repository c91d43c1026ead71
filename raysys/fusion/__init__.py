"""Dual fusion and the baseline mitigations: pure functions on batches."""

from raysys.fusion.config import CaptionMitigationConfig, FusionConfig
from raysys.fusion.fuse import draw_fusion, fuse_conditioning, fuse_latents, join_captions
from raysys.fusion.mitigations import (
    CAPTION_TRANSFORMS,
    gaussian_noise,
    random_caption,
    random_tokens,
    word_repetition,
)
from raysys.fusion.set import FusionBucket, FusionSet

__all__ = [
    "CAPTION_TRANSFORMS",
    "CaptionMitigationConfig",
    "FusionBucket",
    "FusionConfig",
    "FusionSet",
    "draw_fusion",
    "fuse_conditioning",
    "fuse_latents",
    "gaussian_noise",
    "join_captions",
    "random_caption",
    "random_tokens",
    "word_repetition",
]
