"""Which weights a descriptor has: files, checked against their pinned hash without loading a network."""

from __future__ import annotations

import hashlib
from pathlib import Path

from raysys.errors import InputError

SAFETENSORS = "model.safetensors"


def read_pinned(path: Path, sha256: str | None) -> tuple[bytes, str]:
    """(bytes, sha256) of a TorchScript file: what is loaded is what was checked. InputError for another hash."""
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
    """sha256 of the folder's model.safetensors. InputError when it is missing or not the pinned one."""
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
            "check where the file comes from, then give its own hash",
        )
