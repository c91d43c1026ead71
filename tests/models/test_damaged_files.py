"""A damaged file of a model is named, whichever library stumbles over it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from raysys.errors import InputError
from raysys.llm.build import build_generator, identity
from raysys.llm.config import LlmConfig
from raysys.llm.preflight import preflight
from raysys.models.families import load_pipeline
from raysys.models.loading import model_hash
from raysys.models.places import path
from raysys.similarity.texts import make_text_embedder
from tests.support import tiny_llm
from tests.support.tiny_models import save_tiny_pipeline


def checked(folder: Path) -> None:
    preflight(LlmConfig(model=str(folder), engine="transformers"), ["x"], max_tokens=8)


def built(folder: Path) -> None:
    build_generator(LlmConfig(model=str(folder), engine="transformers"))


def identified(folder: Path) -> None:
    identity(LlmConfig(model=str(folder), engine="transformers"))


USES: dict[str, tuple[Callable[[Path], object], ...]] = {
    "llama": (checked, built, identified),
    "pipeline": (load_pipeline, model_hash),
    "clip": (lambda folder: make_text_embedder(str(folder)), model_hash),
}
LOADS = {"built", "load_pipeline", "<lambda>"}
"""Uses that read weights, too."""
NEEDED = {"config.json", "model_index.json", "tokenizer.json", "scheduler_config.json"}
"""What every use reads; others may pass unnoticed where they are not read."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    tiny_llm.write_llama(root / "llama")
    save_tiny_pipeline(root / "pipeline")
    shutil.copytree(path("zoo:clip"), root / "clip")
    shutil.copytree(path("zoo:tokenizer"), root / "clip", dirs_exist_ok=True)
    return root


def error_of(use: Callable[[Path], object], folder: Path) -> str | None:
    try:
        use(folder)
    except InputError as exc:
        return str(exc)
    return None


@pytest.mark.parametrize("damage", ["empty", "torn", "text"])
@pytest.mark.parametrize("kind", list(USES))
def test_every_damaged_file_is_named(folders: Path, tmp_path: Path, kind: str, damage: str) -> None:
    named: set[tuple[str, str]] = set()
    for file in sorted((folders / kind).rglob("*")):
        if file.suffix not in (".json", ".safetensors"):
            continue
        folder = tmp_path / "model"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(folders / kind, folder)
        victim = folder / file.relative_to(folders / kind)
        content = victim.read_bytes()
        victim.write_bytes({"empty": b"", "torn": content[: len(content) // 2], "text": b"<html>404"}[damage])
        for use in USES[kind]:
            said = error_of(use, folder)
            if said is not None:
                assert str(victim) in said, use
                named.add((use.__name__, victim.name))
    for use in USES[kind]:
        read = {f.name for f in (folders / kind).rglob("*.json")} & NEEDED
        read |= {f.name for f in (folders / kind).rglob("*.safetensors") if use.__name__ in LOADS}
        assert {(use.__name__, name) for name in read} <= named
