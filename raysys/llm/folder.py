"""A language model's folder: its configuration, context length, and whether its Python code may run."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from raysys.errors import InputError
from raysys.llm.config import LlmConfig
from raysys.models import places

_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length")
"""Keys of the number of positions in model configs, depending on the architecture."""

_HUB_RECORDS = ".cache/huggingface/download"
"""`hf download --local-dir` writes one <file>.metadata per file here, with commit, etag and time."""


def model_folder(place: str, repository: str | None = None) -> Path:
    """The folder of `zoo:<member>` (with its checksums checked) or of a local model. Raises InputError if missing.

    repository: where the model can be downloaded, for the message.
    """
    if places.is_zoo_name(place):
        return places.path(place)
    folder = Path(place)
    if not folder.is_dir():
        fetch = f"hf download {repository or '…'} --revision <commit> --local-dir {folder}"
        raise InputError(f"model folder {folder} does not exist", f"give a local folder ({fetch}), or zoo:<member>")
    return folder


def read_config(folder: Path) -> dict[str, Any]:
    """The contents of config.json. Raises InputError if it is missing or not JSON."""
    try:
        return places.read_json(folder / "config.json")
    except OSError as exc:
        raise InputError(
            f"model folder {folder}: config.json is missing", "give the folder of a complete model"
        ) from exc


def load_config(folder: Path, trust_remote_code: bool = False) -> Any:
    """The model's `PretrainedConfig`, with defaults. Raises InputError if transformers does not support the model."""
    from transformers import AutoConfig

    written = read_config(folder)
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
    except (OSError, ValueError, KeyError) as exc:
        if "auto_map" in written and not trust_remote_code:
            raise InputError(
                f"model {folder} runs Python code from its own folder",
                "review this code, then set remote_code_commit to its commit (40 hex digits)",
            ) from exc
        raise InputError(
            f"model folder {folder} cannot be loaded: {str(exc).splitlines()[0]}",
            "give a model that transformers supports",
        ) from exc


def context_length(model_config: Any, max_model_len: int | None = None) -> int | None:
    """Maximum total tokens of prompt, image and answer; None if neither the model nor the user specifies it."""
    text_config = model_config.get_text_config(decoder=True)
    limits = [value for key in _CONTEXT_KEYS if isinstance(value := getattr(text_config, key, None), int)]
    return min([*limits, *([max_model_len] if max_model_len else [])], default=None)


def saved_dtype(folder: Path) -> str | None:
    """The dtype in config.json, e.g. "float32"; None if there is none."""
    written = read_config(folder)
    text = written.get("text_config", {})
    return next((str(c[key]) for c in (written, text) for key in ("dtype", "torch_dtype") if c.get(key)), None)


def may_run_code(config: LlmConfig, folder: Path) -> bool:
    """Whether the Python files in `folder` may run: only if they are those of `remote_code_commit`.

    The commit is known for `hf download --local-dir` (by its records) and for snapshots in the hub's cache (by path).
    Raises InputError if it is unknown or different, or if a file was changed afterwards.
    """
    wanted = config.remote_code_commit
    files = sorted(folder.rglob("*.py"))
    if wanted is None or not files:
        return False
    elsewhere = [name for name in _auto_map(folder) if "--" in name]
    if elsewhere:
        raise InputError(
            f"model {folder} runs code of another repository ({elsewhere[0]})",
            "remote_code_commit pins only the code in this folder; use a model whose folder contains its code",
        )
    for file in files:
        commit, blob = _origin(folder, file)
        if commit != wanted:
            known = f"is of commit {commit}" if commit else "does not say of which commit it is"
            raise InputError(
                f"{file} {known}, remote_code_commit is {wanted}",
                f"hf download <model> --revision {wanted} --local-dir {folder}",
            )
        if blob is not None and blob != _git_blob(file):
            raise InputError(f"{file} was changed after it was downloaded", "download it again, or leave the code out")
    return True


def _auto_map(folder: Path) -> list[str]:
    names = []
    for file in ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json"):
        if (folder / file).is_file():
            for value in places.read_json(folder / file).get("auto_map", {}).values():
                names += [str(v) for v in (value if isinstance(value, list) else [value]) if v]
    return names


def _origin(folder: Path, file: Path) -> tuple[str | None, str | None]:
    """(commit, git's hash of the contents) as recorded by the download; None for unknown values."""
    record = folder / _HUB_RECORDS / f"{file.relative_to(folder).as_posix()}.metadata"
    if record.is_file():
        lines = record.read_text(encoding="utf-8").splitlines()
        if len(lines) >= 2:
            return lines[0].strip(), lines[1].strip()
    for place in (folder, folder.resolve()):
        if place.parent.name == "snapshots":
            return place.name, file.resolve().name if file.is_symlink() else None
    return None, None


def _git_blob(file: Path) -> str:
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
