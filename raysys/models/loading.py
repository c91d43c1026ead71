"""Find, load and hash the parts of saved models, for the loaders of all families.

A place is `zoo:<member>`, a pipeline folder (with model_index.json) or the folder of one part. Only safetensors are
read, because a pickle can run code. Nothing is ever downloaded.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from safetensors import SafetensorError

from raysys.errors import InputError
from raysys.models import places
from raysys.models.device import torch_device

if TYPE_CHECKING:  # not needed for hashing
    import torch

M, L = TypeVar("M", bound="torch.nn.Module"), TypeVar("L")

BUILDING = threading.RLock()
"""Held while a model is built or loaded. diffusers and transformers patch torch.nn for the whole process while they
load a model; two loads at the same time leave the patches in place, and all later modules lie on the meta device."""

PIPELINE_INDEX = "model_index.json"
_HASHED_SUFFIXES = (".safetensors", ".json", ".txt", ".model")
_VOLATILE_KEYS = ("_diffusers_version", "_name_or_path", "transformers_version", "_transformers_version")
"""Config keys that describe the origin of the file, not the model."""


def part_folder(place: str | Path, part: str) -> Path:
    """The folder of `part` ("vae", "unet", "text_encoder", "tokenizer", "scheduler") at `place`.

    Raises InputError if it does not exist.
    """
    if places.is_zoo_name(str(place)):
        return places.path(str(place))
    folder = Path(place)
    if not folder.is_dir():
        raise InputError(
            f"model folder {folder} does not exist", "give a local folder, or zoo:<member> for a shipped small model"
        )
    if (folder / PIPELINE_INDEX).is_file():
        folder = folder / part
        if not folder.is_dir():
            raise InputError(f"pipeline {folder.parent} has no {part} folder", "give a complete pipeline folder")
    return folder


def model_hash(folder: str | Path) -> str:
    """sha256 (hex) of the files that define a model: names and contents of weights, configs and vocabularies.

    Config keys that record only versions or origins are ignored, so that a copy written by another release has the
    same hash. Files with other suffixes (README, images) are ignored, too. Raises InputError without weights.
    """
    root = places.path(str(folder)) if places.is_zoo_name(str(folder)) else Path(folder)
    files = sorted(f for f in root.rglob("*") if f.is_file() and f.suffix in _HASHED_SUFFIXES)
    if not any(f.suffix == ".safetensors" for f in files):
        raise InputError(f"model folder {root} holds no .safetensors file", "save the model with safetensors")
    return _digest(root, files)


def vocabulary_folder(place: str | Path, part: str, tokenizer: str | Path | None) -> Path:
    """The folder of `tokenizer`; if None, of the tokenizer next to the text encoder `part` at `place`.

    It is searched in the same zoo, the same pipeline folder, the same folder and the sibling folder `tokenizer`.
    Raises InputError if there is none.
    """
    if tokenizer is not None:
        return part_folder(tokenizer, "tokenizer")
    return _tokenizer_beside(str(place), part_folder(place, part))


def digest_of(folder: Path, suffixes: tuple[str, ...]) -> str:
    """sha256 (hex) of names and contents of the files in `folder`, recursively, that have one of `suffixes`."""
    return _digest(folder, sorted(f for f in folder.rglob("*") if f.is_file() and f.suffix in suffixes))


def ready(model: M, device: str) -> M:
    """Put the model into eval mode, freeze it and move it to `device`. Raises InputError for an unavailable device."""
    return model.eval().requires_grad_(False).to(torch_device(device))


def loaded(folder: Path, load: Callable[[], L]) -> L:
    """Return `load()`, which no other thread does at the same time. Its exceptions about files of the folder are raised
    as one InputError that names the folder."""
    with places.naming_damaged_files(folder):
        try:
            with BUILDING:
                return load()
        except (OSError, ValueError, KeyError, SafetensorError) as exc:
            reason = str(exc).strip().splitlines()[0] if str(exc).strip() else type(exc).__name__
            raise InputError(
                f"model folder {folder} cannot be loaded: {reason}", "it needs config.json and .safetensors weights"
            ) from exc


def _digest(root: Path, files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        content = _config_digest(file) if file.suffix == ".json" else places.sha256(file)
        digest.update(f"{file.relative_to(root).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


def _config_digest(file: Path) -> str:
    data = places.read_json(file)
    if isinstance(data, dict):
        data = {key: value for key, value in data.items() if key not in _VOLATILE_KEYS}
    return hashlib.sha256(json.dumps(data, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _tokenizer_beside(place: str, folder: Path) -> Path:
    if places.is_zoo_name(place):
        return places.path("tokenizer")
    for candidate in (folder, folder.parent / "tokenizer"):
        if any((candidate / name).is_file() for name in ("tokenizer.json", "vocab.json")):
            return candidate
    raise InputError(f"no tokenizer in {folder} or next to it", "give the folder of the tokenizer")
