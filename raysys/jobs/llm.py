"""What the jobs that ask language models share: checks before anything starts, and their stage on a worker pool."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import pyarrow as pa

from raysys.config import Config
from raysys.engine.config import EngineConfig, PoolConfig
from raysys.errors import InputError
from raysys.jobs.stages import Rows, RowStage
from raysys.llm.build import resolve_engine
from raysys.llm.config import LlmConfig
from raysys.llm.contract import SamplingConfig
from raysys.llm.preflight import preflight

C = TypeVar("C", bound=Config)

CHUNKS_IN_FLIGHT = 3
"""While one chunk ends, with ever fewer rows in the engine, others fill it; one is checked and scored meanwhile."""


def pinned(section: C) -> C:
    """A section with a language model, its `engine: auto` resolved: workers and retries, which may find other packages
    installed, use the engine that the fingerprint names. Raises InputError without the model's folder."""
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
    """What would go wrong on every worker is said here, before a GPU is asked for. Raises InputError."""
    size = None if image_size is None else (image_size, image_size)
    named = [name for name in adapters if name is not None]
    found = preflight(llm, texts, sampling.max_tokens, size, named, sample)
    for note in found["notes"]:
        print(f"note: {note}", file=sys.stderr)


def kept_busy(llm: LlmConfig, engine: EngineConfig) -> EngineConfig:
    """`engine`, with as many chunks in flight as keep an engine full that batches by itself, where it does not say."""
    if engine.pool.chunks_in_flight is not None or resolve_engine(llm) == "transformers":
        return engine
    return engine.model_copy(update={"pool": engine.pool.model_copy(update={"chunks_in_flight": CHUNKS_IN_FLIGHT})})


def language_stage(
    name: str,
    build: Callable[..., Callable[[pa.Table], Rows]],
    args: tuple,
    called_for: Callable[..., Rows],
    pool: PoolConfig,
) -> tuple[Callable[..., RowStage], tuple]:
    """(factory, arguments) of a stage that holds an engine: `called_for(args[0], item)` names the rows of an item.

    Raises InputError when the model of `args[0]` and the pool disagree about GPUs.
    """
    _check_gpus(args[0].llm, pool)
    share = 1.0 / pool.max_size  # of a rate limit: all workers together keep it
    return RowStage, (name, build, (*args, share), partial(called_for, *args))


def _check_gpus(llm: LlmConfig, pool: PoolConfig) -> None:
    """Only where workers reserve GPUs: without a reservation nobody knows what they will see."""
    if not pool.num_gpus or llm.is_remote:
        return
    engine = resolve_engine(llm)
    if engine == "transformers" and llm.transformers.device == "cpu":
        raise InputError(
            f"llm.transformers.device = cpu, but a worker reserves {pool.num_gpus:g} GPU (engine.pool.num_gpus)",
            "leave device out, or set engine.pool.num_gpus: 0",
        )
    kwargs = llm.vllm.engine_kwargs
    needed = kwargs.get("tensor_parallel_size", 1) * kwargs.get("pipeline_parallel_size", 1)
    if engine == "vllm" and needed > max(1, pool.num_gpus):
        raise InputError(
            f"llm.vllm.engine_kwargs: the engine spreads over {needed} GPUs (tensor_parallel_size × "
            f"pipeline_parallel_size), a worker reserves {pool.num_gpus:g}",
            f"set engine.pool.num_gpus: {needed}",
        )
