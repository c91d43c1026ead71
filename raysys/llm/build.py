"""Choose and build the engine of a `LlmConfig`; determine which of its settings change results."""

from __future__ import annotations

import hashlib
import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from raysys.llm.config import LlmConfig
from raysys.llm.contract import Generator
from raysys.llm.folder import model_folder, read_config
from raysys.models.loading import model_hash

Engine = Literal["vllm", "transformers", "openai"]

NOT_ON_VLLM = frozenset({"Florence2ForConditionalGeneration"})
"""Architectures used by recipes that vLLM 0.29 does not support."""

_SPEED_ONLY = frozenset(
    {
        "async_scheduling",
        "block_size",
        "cpu_offload_gb",
        "data_parallel_size",
        "disable_custom_all_reduce",
        "disable_log_stats",
        "distributed_executor_backend",
        "enable_chunked_prefill",
        "enable_prefix_caching",
        "enforce_eager",
        "gpu_memory_utilization",
        "kv_cache_memory_bytes",
        "max_cpu_loras",
        "max_lora_rank",
        "max_loras",
        "max_num_batched_tokens",
        "mm_processor_cache_gb",
        "pipeline_parallel_size",
        "renderer_num_workers",
        "tensor_parallel_size",
        "use_tqdm_on_load",
    }
)
"""Arguments of vLLM's engine that affect time and memory, but not answers (except for rounding of the last bits).

load_format (which can mean random weights) and limit_mm_per_prompt (which can exclude images) are not among them.
"""


def resolve_engine(config: LlmConfig) -> Engine:
    """The engine to use: auto = the endpoint if there is one, else vllm if it is installed and supports the model, else
    transformers. Jobs resolve it on the driver and send the result to their workers."""
    if config.is_remote:
        return "openai"
    if config.engine != "auto":
        return config.engine
    served = not NOT_ON_VLLM & set(read_config(model_folder(config.model)).get("architectures") or [])
    return "vllm" if served and importlib.util.find_spec("vllm") is not None else "transformers"


def build_generator(config: LlmConfig, share: float = 1.0) -> Generator:
    """Load the model of `config`, which takes seconds to minutes. Raises InputError if it cannot be loaded.

    share: this worker's fraction of an endpoint's rate limit, which applies to the whole job.
    """
    engine = resolve_engine(config)
    if engine == "vllm":
        from raysys.llm.vllm import VllmGenerator

        return VllmGenerator(config)
    if engine == "transformers":
        from raysys.llm.transformers import TransformersGenerator

        return TransformersGenerator(config)
    from raysys.llm.endpoint import EndpointGenerator

    return EndpointGenerator(config, share)


def revision(config: LlmConfig) -> str:
    """The model's revision that rows record: the configured one, else a hash of the folder's contents.

    For an endpoint: the configured revision, else the model's name.
    """
    if config.revision is not None:
        return config.revision
    return config.model if config.is_remote else _folder_hash(model_folder(config.model))


def identity(config: LlmConfig) -> dict[str, Any]:
    """Everything about the model that changes its answers, for the table's fingerprint. Reads the whole folder.

    Excludes device, batch sizes and memory settings. An endpoint is identified by the served model's name and the
    configured revision, not by its address.
    """
    engine = resolve_engine(config)
    common = {
        "engine": engine,
        "revision": config.revision,
        "system": config.system,
        "template": config.template,
    }
    if engine == "openai":
        return common | {"model": config.model, "prompt_format": config.prompt_format}
    local = common | {
        "weights": _folder_hash(model_folder(config.model)),
        "prompt_format": config.prompt_format,
        "dtype": config.dtype,
        "max_model_len": config.max_model_len,
        "remote_code_commit": config.remote_code_commit,
    }
    settings = config.vllm if engine == "vllm" else config.transformers
    kwargs = settings.generate_kwargs if engine == "transformers" else settings.engine_kwargs
    local["kwargs"] = {name: value for name, value in sorted(kwargs.items()) if name not in _SPEED_ONLY}
    local["adapters"] = {name: _folder_hash(Path(place)) for name, place in sorted(settings.adapters.items())}
    return local


def _folder_hash(folder: Path) -> str:
    """SHA-256 of weights, configs, vocabularies, chat templates and code; cached per process and file version."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return _hash(folder, tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files))


@lru_cache(maxsize=64)
def _hash(folder: Path, version: tuple[tuple[str, int, int], ...]) -> str:
    digest = hashlib.sha256(model_hash(folder).encode())
    for file in sorted(f for f in folder.rglob("*") if f.suffix in (".jinja", ".py")):
        digest.update(f"{file.relative_to(folder).as_posix()}\0{len(content := file.read_bytes())}\0".encode())
        digest.update(content)
    return digest.hexdigest()
