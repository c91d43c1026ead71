"""The shipped models: `zoo:<member>` → the member's folder, after its files were verified.

The members are in `raysys/zoo/members`. `manifest.json` holds a sha256 per file, so that a damaged file gives a clear
message instead of wrong images.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raysys.errors import InputError

ROOT = Path(__file__).resolve().parent.parent / "zoo" / "members"
MANIFEST = "manifest.json"
PREFIX = "zoo:"

DAMAGED_FIX = "copy, download or save the model again"


def is_zoo_name(name: str) -> bool:
    """Whether `name` is the name of a member, like `zoo:vae`, and not a folder."""
    return name.startswith(PREFIX)


def read_manifest(root: Path = ROOT) -> dict[str, Any]:
    """{"members": {name: {"files": {relative path: sha256}, "seed", "max_steps", "metrics", …}}}"""
    file = root / MANIFEST
    if not file.is_file():
        raise InputError(f"model zoo {root} has no {MANIFEST}", "reinstall raysys, or run `raysys zoo build`")
    return read_json(file)


def path(name: str, root: Path = ROOT) -> Path:
    """The folder of a member ("vae" or "zoo:vae"), after its files were verified against the manifest.

    Raises InputError for an unknown name and for a missing or damaged file.
    """
    member = name.removeprefix(PREFIX)
    members = read_manifest(root)["members"]
    if member not in members:
        raise InputError(f"model {name!r} is not in the zoo", f"use one of {', '.join(PREFIX + m for m in members)}")
    folder = root / member
    for relative, expected in members[member]["files"].items():
        file = folder / relative
        if not file.is_file():
            raise InputError(f"zoo file {file} is missing", "reinstall raysys, or run `raysys zoo build`")
        if (found := sha256(file)) != expected:
            raise InputError(
                f"zoo file {file} is damaged: sha256 {found[:12]}…, the manifest says {expected[:12]}…",
                "reinstall raysys, or run `raysys zoo build`",
            )
    return folder


def read_json(file: Path) -> Any:
    """The JSON value in a file of a model. Raises InputError naming the file if it is damaged, FileNotFoundError if it
    is missing."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as exc:
        raise InputError(f"model file {file} is not valid JSON: {exc}", DAMAGED_FIX) from exc


@contextmanager
def naming_damaged_files(folder: Path) -> Iterator[None]:
    """If the block fails and a file of the model in `folder` is damaged, raise an InputError that names the file.

    Libraries report damaged files with exceptions of many types, and often without the file's name.
    """
    try:
        yield
    except Exception as exc:
        _refuse_damaged_files(folder, exc)
        raise


def _refuse_damaged_files(folder: Path, cause: Exception) -> None:
    from safetensors import SafetensorError, safe_open

    for file in sorted(f for f in folder.rglob("*") if f.is_file()):
        if file.suffix == ".json":
            read_json(file)
        elif file.suffix == ".safetensors":
            try:
                with safe_open(file, "np"):
                    pass
            except (SafetensorError, OSError) as exc:
                raise InputError(f"model file {file} is damaged or incomplete: {exc}", DAMAGED_FIX) from cause


def sha256(file: Path) -> str:
    """sha256 (hex) of the bytes of a file, read in blocks."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
