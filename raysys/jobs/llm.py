"""Shared by the jobs that use language models: checks before the start, and the stage on a worker pool."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, TypeVar

from raysys.config import Config
from raysys.engine.config import ClusterConfig, PoolConfig
from raysys.errors import InputError
from raysys.llm.build import resolve_engine
from raysys.llm.config import LlmConfig
from raysys.llm.contract import SamplingConfig
from raysys.llm.preflight import preflight
from raysys.models.device import AUTO, torch_device
from raysys.tables.job import Environment, TableJob
from raysys.tables.stage import Stage

C = TypeVar("C", bound=Config)

CHUNKS_IN_FLIGHT = 3
"""One chunk that drains from the engine, one that fills it, and one whose answers are checked."""


def pinned(section: C) -> C:
    """The section with `engine: auto` resolved, so that workers and retries use the engine that the fingerprint names
    even if they have other packages installed. Raises InputError if the model's folder does not exist."""
    llm = section.llm.model_copy(update={"engine": resolve_engine(section.llm)})
    return section.model_copy(update={"llm": llm})


def check_model(
    llm: LlmConfig,
    texts: Sequence[str],
    sampling: SamplingConfig,
    image_size: int | None = None,
    adapters: Sequence[str | None] = (),
    sample: Sequence[str] = (),
) -> None:
    """Raise InputError for mistakes that would fail on every worker, before a GPU is requested."""
    size = None if image_size is None else (image_size, image_size)
    named = [name for name in adapters if name is not None]
    found = preflight(llm, texts, sampling.max_tokens, size, named, sample)
    for note in found["notes"]:
        print(f"note: {note}", file=sys.stderr)


def kept_busy(llm: LlmConfig, cluster: ClusterConfig) -> ClusterConfig:
    """`cluster` with a default number of chunks in flight that keeps an engine with continuous batching full."""
    if cluster.pool.chunks_in_flight is not None or resolve_engine(llm) == "transformers":
        return cluster
    return cluster.model_copy(update={"pool": cluster.pool.model_copy(update={"chunks_in_flight": CHUNKS_IN_FLIGHT})})


def language_job(stage: type[Stage], args: tuple, llm: LlmConfig, cluster: ClusterConfig, **rest: Any) -> TableJob:
    """The job of a stage `stage(*args, share)` that holds the engine of `llm`; `share`: of an endpoint's rate limit.

    The key of an endpoint is sent with the job: workers of a running cluster do not have the driver's environment.

    Raises InputError if the model and the worker pool need different numbers of GPUs.
    """
    _check_gpus(llm, cluster.pool)
    print(f"{rest.get('producer') or rest['job']}: {_place(llm, cluster.pool)}", file=sys.stderr)
    variable = llm.endpoint.api_key_env if llm.is_remote else None
    key = os.environ.get(variable) if variable else None
    return TableJob(
        stage=stage,
        args=(*args, 1.0 / cluster.pool.max_size),  # so that all workers together stay within the limit
        cluster=kept_busy(llm, cluster),
        environment=Environment(**{variable: key}) if key else Environment(),
        **rest,
    )


def _place(llm: LlmConfig, pool: PoolConfig) -> str:
    """The engine that runs the model, and where, for people."""
    engine = resolve_engine(llm)
    if llm.is_remote:
        return f"engine {engine}, {llm.model} at {llm.endpoint.base_url}"
    device = llm.transformers.device if engine == "transformers" else AUTO
    if pool.num_gpus:
        where = f"{pool.num_gpus:g} GPU per worker"
    elif device == AUTO:
        where = f"device auto, on this machine {torch_device(AUTO).type}"
    else:
        where = f"device {device}"
    return f"engine {engine}, {llm.model}, {where}"


def _check_gpus(llm: LlmConfig, pool: PoolConfig) -> None:
    """Raise InputError if engine and pool disagree. Without a reservation the visible GPUs are unknown: no check."""
    if not pool.num_gpus or llm.is_remote:
        return
    engine = resolve_engine(llm)
    if engine == "transformers" and llm.transformers.device == "cpu":
        raise InputError(
            f"llm.transformers.device = cpu, but a worker reserves {pool.num_gpus:g} GPU (cluster.pool.num_gpus)",
            "remove device, or set cluster.pool.num_gpus: 0",
        )
    kwargs = llm.vllm.engine_kwargs
    needed = kwargs.get("tensor_parallel_size", 1) * kwargs.get("pipeline_parallel_size", 1)
    if engine == "vllm" and needed > max(1, pool.num_gpus):
        raise InputError(
            f"llm.vllm.engine_kwargs: the engine needs {needed} GPUs (tensor_parallel_size × "
            f"pipeline_parallel_size), but a worker reserves {pool.num_gpus:g}",
            f"set cluster.pool.num_gpus: {needed}",
        )
