"""Why an engine did not start, found in what its processes wrote: lines as vLLM 0.29 writes them into logs."""

from __future__ import annotations

from pathlib import Path

import pytest

from raysys.llm.engine_log import last_error

STAMP = "ERROR 11-20 20:24:13 [multiproc_executor.py:944]"
CORE = """\
(EngineCore pid=7) ERROR 11-20 20:17:53 [core.py:1374] EngineCore failed to start.
(EngineCore pid=7) ERROR 11-20 20:17:53 [core.py:1374]     raise ValueError(
(EngineCore pid=7) ERROR 11-20 20:17:53 [core.py:1374] ValueError: No available memory for the cache blocks.
(EngineCore pid=7) Traceback (most recent call last):
(EngineCore pid=7) ValueError: No available memory for the cache blocks.
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""
RANKS = f"""\
(Worker_TP1 pid=8) {STAMP} torch.OutOfMemoryError: CUDA out of memory.
(EngineCore pid=7) Exception: WorkerProc initialization failed due to an exception. See stack trace for root cause.
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {{}}
"""


@pytest.mark.parametrize(
    ("written", "cause"),
    [
        (CORE, "ValueError: No available memory for the cache blocks."),
        (RANKS, "torch.OutOfMemoryError: CUDA out of memory."),
        ("(EngineCore pid=7) AssertionError\n", "AssertionError"),
        (f"(EngineCore pid=7) {STAMP}     raise ValueError: x\nKilled\n", None),
        ("", None),
    ],
)
def test_the_cause_is_the_last_error_that_is_one(tmp_path: Path, written: str, cause: str | None) -> None:
    log = tmp_path / "worker.err"
    log.write_text("KeyError: of an earlier start\n")
    before = {log: log.stat().st_size, tmp_path / "gone.out": 0}
    with log.open("a") as more:
        more.write(written)
    assert last_error(before) == (None if cause is None else (cause, log))
