"""Weights files of descriptors, checked against their pinned hash without loading a network."""

from __future__ import annotations

import hashlib
from pathlib import Path

from raysys.errors import InputError

SAFETENSORS = "model.safetensors"


def read_pinned(path: Path, sha256: str | None) -> tuple[bytes, str]:
    """(bytes, SHA-256) of a TorchScript file. Returns the bytes, so that exactly what was checked is loaded.

    Raises InputError if the file or the hash is missing, or the hash differs.
    """
    if not path.is_file():
        raise InputError(f"weights {path} do not exist", "give the path of a TorchScript file")
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if sha256 is None:
        raise InputError(
            f"TorchScript weights {path} need a pinned sha256, because loading one can run code",
            f"if you trust this file, give --sha256 {found}",
        )
    _refuse_other(path, found, sha256)
    return data, found


def hash_of_folder(folder: Path, sha256: str | None) -> str:
    """SHA-256 of the folder's model.safetensors. Raises InputError if it is missing or the hash differs."""
    path = folder / SAFETENSORS
    if not path.is_file():
        raise InputError(f"weights {path} do not exist", f"give a folder with {SAFETENSORS} in it")
    with open(path, "rb") as f:
        found = hashlib.file_digest(f, "sha256").hexdigest()
    if sha256 is not None:
        _refuse_other(path, found, sha256)
    return found


def _refuse_other(path: Path, found: str, expected: str) -> None:
    if found != expected.lower():
        raise InputError(
            f"weights {path} have sha256 {found}, expected {expected.lower()}",
            "check the origin of the file, then give its hash",
        )
