"""Texts → vectors whose cosine is the similarity in meaning of two captions: by a CLIP model, or by shared words."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from raysys.errors import InputError
from raysys.models import places
from raysys.models.device import AUTO
from raysys.models.loading import BUILDING, model_hash, ready
from raysys.models.places import naming_damaged_files

BATCH_SIZE = 64
WORDS = "words"
"""Name of the embedding without weights. It does not know synonyms, but works in every domain."""
WORD_DIM = 4096

_FUNCTION_WORDS = frozenset(
    [
        "a",
        "an",
        "and",
        "are",
        "as",
        "at",
        "be",
        "behind",
        "between",
        "by",
        "for",
        "from",
        "has",
        "have",
        "in",
        "into",
        "is",
        "it",
        "its",
        "near",
        "next",
        "of",
        "off",
        "on",
        "onto",
        "or",
        "over",
        "that",
        "the",
        "their",
        "this",
        "to",
        "under",
        "up",
        "which",
        "while",
        "with",
    ]
)

TextEmbedder = Callable[[Sequence[str]], np.ndarray]
"""Texts → float32 [N, D], L2-normalized (zero for a text without words)."""


def make_text_embedder(place: str, device: str = AUTO) -> TextEmbedder:
    """The embedder `words`, or the text encoder of a CLIP (a folder or zoo member).

    Raises InputError if `place` is not a CLIP folder.
    """
    if place == WORDS:
        return embed_words
    with naming_damaged_files(folder := _folder(place)):
        return _clip_embedder(place, folder, device)


def text_embedder_identity(place: str | None) -> str | None:
    """Identifies the embedder: the content hash of a CLIP; `words` and None are returned as they are.

    Raises InputError if there is no folder at `place`.
    """
    if place is None or place == WORDS:
        return place
    return model_hash(_folder(place))


def embed_words(texts: Sequence[str]) -> np.ndarray:
    """float32 [N, 4096]: hashed indicators of the content words, without plural -s; cosine = |A ∩ B| / √(|A|·|B|)."""
    out = np.zeros((len(texts), WORD_DIM), np.float32)
    for row, text in zip(out, texts, strict=True):
        for word in set(re.findall(r"\w+", text.casefold())) - _FUNCTION_WORDS:
            stem = word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
            row[int.from_bytes(hashlib.blake2b(stem.encode(), digest_size=4).digest()) % WORD_DIM] = 1.0
    return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12)


def _folder(place: str) -> Path:
    folder = places.path(place) if places.is_zoo_name(place) else Path(place)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a CLIP folder: it does not exist", "give one, or zoo:clip")
    return folder


def _clip_embedder(place: str, folder: Path, device: str) -> TextEmbedder:
    """Texts longer than the model's context are truncated."""
    # Imported here, because `words` does not need them.
    import torch
    from transformers import AutoTokenizer, CLIPModel

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        with BUILDING:
            model = CLIPModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError, KeyError) as exc:
        raise InputError(f"{place} is not a CLIP folder: {str(exc).splitlines()[0]}", "give one, or zoo:clip") from exc
    model = ready(model, device)
    length = model.config.text_config.max_position_embeddings

    alone = threading.Lock()  # a fast tokenizer raises if a second thread uses it while it pads

    @torch.inference_mode()
    def embed(texts: Sequence[str]) -> np.ndarray:
        out = [np.empty((0, model.config.projection_dim), np.float32)]
        for start in range(0, len(texts), BATCH_SIZE):
            batch = list(texts[start : start + BATCH_SIZE])
            with alone:
                tokens = tokenizer(batch, padding=True, truncation=True, max_length=length, return_tensors="pt")
            tokens = tokens.to(model.device)
            pooled = model.get_text_features(**tokens)
            features = getattr(pooled, "pooler_output", pooled)
            out.append(torch.nn.functional.normalize(features.float(), dim=-1).cpu().numpy())
        return np.concatenate(out)

    return embed
