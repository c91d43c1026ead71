"""What the jobs that ask language models share: checks before anything starts, and their stage on a worker pool."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial

import pyarrow as pa

from raysys.engine.config import PoolConfig
from raysys.jobs.stages import Rows, RowStage
from raysys.llm.config import LlmConfig
from raysys.llm.contract import SamplingConfig
from raysys.llm.preflight import preflight


def check_model(llm: LlmConfig, texts: Sequence[str], sampling: SamplingConfig, image_size: int | None = None) -> None:
    """What would go wrong on every worker is said here, before a GPU is asked for. Raises InputError."""
    size = None if image_size is None else (image_size, image_size)
    found = preflight(llm, texts, sampling.max_tokens, size)
    if note := found.get("note"):
        print(f"note: {note}", file=sys.stderr)


def language_stage(
    name: str,
    build: Callable[..., Callable[[pa.Table], Rows]],
    args: tuple,
    called_for: Callable[..., Rows],
    pool: PoolConfig,
) -> tuple[Callable[..., RowStage], tuple]:
    """(factory, arguments) of a stage that holds an engine: `called_for(args[0], item)` names the rows of an item."""
    share = 1.0 / pool.max_size  # of a rate limit: all workers together keep it
    return RowStage, (name, build, (*args, share), partial(called_for, *args))
