"""`raysys zoo build`: train the shipped models on scenes, and save them in Hugging Face layout with checksums.

Training takes minutes per member on one CPU thread. The same seed and number of steps give the same weights on the
same machine with the same library versions: with one thread, the order of sums is fixed.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from raysys.errors import InputError
from raysys.models import places
from raysys.progress import Progress
from raysys.tables.folder_output import FolderOutput
from raysys.zoo import captioner as zoo_captioner
from raysys.zoo import clip as zoo_clip
from raysys.zoo import rewriter as zoo_rewriter
from raysys.zoo import vae as zoo_vae

MEMBERS = ("vae", "clip", "captioner", "rewriter")
"""Members that can be built. `clip` gives three folders: tokenizer, text_encoder and clip (both encoders)."""

DEFAULT_STEPS = {
    "vae": zoo_vae.MAX_STEPS,
    "clip": zoo_clip.MAX_STEPS,
    "captioner": zoo_captioner.MAX_STEPS,
    "rewriter": zoo_rewriter.MAX_STEPS,
}
_HASHED = ("*.json", "*.jinja", "*.txt", "*.safetensors")


def build(
    out: str | Path, members: Sequence[str] = MEMBERS, seed: int = 0, max_steps: int | None = None
) -> dict[str, Any]:
    """Build `members` in `out`, one folder each, and write or update `out`/manifest.json. Returns the manifest.

    `max_steps`: None = the default of each member. The old folder of a member is replaced when the new one is complete;
    other members are not changed. Raises InputError for an unknown member.
    """
    unknown = [member for member in members if member not in MEMBERS]
    if unknown or not members:
        raise InputError(f"zoo members {unknown or list(members)} cannot be built", f"use some of {', '.join(MEMBERS)}")
    if max_steps is not None and max_steps < 1:
        raise InputError(f"max_steps = {max_steps} is not positive", "give at least 1")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    manifest = places.read_manifest(out) if (out / places.MANIFEST).is_file() else {"members": {}}
    with _one_thread():
        for member in members:
            manifest["members"] |= _build_member(out, member, seed, max_steps or DEFAULT_STEPS[member])
            _write_manifest(out, manifest)
    return manifest


def _build_member(out: Path, member: str, seed: int, max_steps: int) -> dict[str, Any]:
    """Build in a temporary folder, then replace each folder of the member. Returns the manifest entries."""
    made_with = {"seed": seed, "max_steps": max_steps, "versions": _versions()}
    entries: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        built = Path(scratch)
        with Progress(f"zoo {member}", max_steps, "steps") as progress:
            metrics = _train(built, member, seed, max_steps, lambda step, loss: progress.update(step + 1, loss=loss))
        for folder in sorted(p for p in built.iterdir() if p.is_dir()):
            copy = partial(_copied, folder, metrics.get(folder.name, {}))
            found = FolderOutput("zoo build", out / folder.name, {"member": folder.name, **made_with}).write(copy)
            entries[folder.name] = {**made_with, "metrics": found, **_files(out / folder.name)}
    return entries


def _copied(source: Path, metrics: dict[str, Any], target: Path) -> dict[str, Any]:
    shutil.copytree(source, target, dirs_exist_ok=True)
    return metrics


def _train(
    staging: Path, member: str, seed: int, max_steps: int, progress: Callable[[int, float], None]
) -> dict[str, dict[str, Any]]:
    """Train and save one member. Returns the metrics per folder."""
    if member == "vae":
        return {"vae": zoo_vae.build_vae(staging / "vae", seed, max_steps, progress)}
    if member == "captioner":
        return {member: zoo_captioner.build_captioner(staging / member, seed, max_steps, progress)}
    if member == "rewriter":
        return {member: zoo_rewriter.build_rewriter(staging / member, seed, max_steps, progress)}
    tokenizer = zoo_clip.build_tokenizer(staging / "tokenizer", seed)
    places = (staging / "clip", staging / "tokenizer", staging / "text_encoder")
    retrieval = zoo_clip.build_clip(*places, seed, max_steps, progress)
    return {"tokenizer": tokenizer, "clip": retrieval, "text_encoder": retrieval}


def _files(folder: Path) -> dict[str, Any]:
    """{"files": {relative path: sha256}, "bytes": total size}"""
    files = sorted(file for pattern in _HASHED for file in folder.rglob(pattern))
    return {
        "files": {file.relative_to(folder).as_posix(): places.sha256(file) for file in files},
        "bytes": sum(file.stat().st_size for file in files),
    }


def _write_manifest(out: Path, manifest: dict[str, Any]) -> None:
    temporary = out / f"_{places.MANIFEST}"
    temporary.write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    temporary.replace(out / places.MANIFEST)


def _versions() -> dict[str, str]:
    return {package: version(package) for package in ("torch", "diffusers", "transformers", "tokenizers")}


@contextmanager
def _one_thread() -> Iterator[None]:
    """One torch thread and deterministic kernels; previous settings and the global generator are restored on exit."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict)
