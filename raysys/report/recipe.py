"""A one-line description of how a model was made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raysys.report.text import plain


def recipe_in_words(recipe: Mapping[str, Any]) -> str:
    """Captions, fusion and duplicates in words. recipe: a model's recipe in `study.json`."""
    parts = [f"trained on {captions_in_words(recipe['captions'])}", _fusion(recipe["fusion"])]
    if recipe["duplicates"] == "keep":
        parts.append("duplicates kept")
    return ", ".join(parts)


def captions_in_words(kind: str) -> str:
    """`original` → "the original captions"; `scenes/photo/general` → "the captions scenes/photo/general"."""
    return "the original captions" if kind == "original" else f"the captions {plain(kind)}"


def _fusion(fusion: Mapping[str, Any]) -> str:
    if fusion["level"] == "none":
        return "no fusion"
    weights = f"w_lat {fusion['w_lat']:g}"
    if fusion["level"] == "embedding":
        weights += f", w_emb {fusion['w_emb']:g}"
    return f"dual fusion at {fusion['level']} level ({weights})"
