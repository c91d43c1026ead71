"""Our vLLM stage beside `ray.data.llm`'s vLLM processor: output tokens/s on the same Ray, model and prompts.

    python benchmarks/versus_ray_data_llm.py [--turns 3] [--rows 256]

Ours is what every language job runs: `run_map` with a pool of one worker, chunks of 64 rows, three in flight, answers
committed as Parquet. Theirs is `build_processor` with batches of 64 rows and its other defaults, vLLM's tokenizer in
place of a stage of its own, answers taken by the driver. Both give vLLM the same arguments.

Each turn starts each side once, as their engines live as long as their dataset. Start-up is outside the figures of
both in the same way: rows beyond the first 64 wait at a gate where they are read. When the first 64 are answered the
gate opens and the clock starts; it stops when the last answer is there. No gate in gates.yaml: this is a comparison,
from which a choice was made, and not a promise.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from bench_captioning import CHUNK_ROWS, IN_FLIGHT, MAX_NUM_SEQS, SAMPLING, SIZES, config, requests
from common import record

from raysys.engine.config import ClusterConfig
from raysys.engine.map import run_map
from raysys.llm.contract import Request
from raysys.llm.vllm import VllmGenerator, engine_arguments
from raysys.outcomes import kept
from raysys.rows import CAPTIONS
from raysys.tables import Chunk, InputPart, open_output, open_table
from raysys.tables.job import TableJob, TableRun
from raysys.tables.stage import Stage

HERE = Path(__file__).resolve().parent
POLL_S = 0.01


@dataclass(frozen=True)
class Rows:
    """The prompts of one turn; all but the first chunk are given out when the file `go` is there."""

    asked: Sequence[Request]
    go: Path

    def __call__(self, start: int, stop: int) -> Sequence[Request]:
        while start >= CHUNK_ROWS and not self.go.exists():
            time.sleep(POLL_S)
        return self.asked[start:stop]


@dataclass(frozen=True)
class Load:
    """chunk → its prompts as items"""

    rows: Rows

    def __call__(self, chunk: Chunk) -> pa.Table:
        asked = self.rows(chunk.start, chunk.stop)
        return pa.table({"id": [request.id for request in asked], "text": [request.text for request in asked]})


class Answers(Stage):
    """A stage that only asks."""

    name, heavy = "answers", True

    def __init__(self, folder: Path) -> None:
        self.generator = VllmGenerator(config(folder))

    def __call__(self, items: pa.Table) -> list[dict[str, Any]]:
        replies = self.generator.generate([Request(i["id"], i["text"], SAMPLING) for i in items.to_pylist()])
        rows = []
        for item, (answer,) in zip(items.to_pylist(), replies, strict=True):
            found = {"text": answer.text, "completion_tokens": answer.completion_tokens}
            rows.append({"caption_id": item["id"], **found, **kept()})
        return rows

    def expand(self, item: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"caption_id": item["id"]}]


def ours(folder: Path, rows: Rows, work: Path) -> tuple[int, float]:
    """(output tokens, seconds) from the opening of the gate to the last answer."""
    part = InputPart("prompts", "prompts", len(rows.asked), "signature")
    output = open_output(str(work / "answers"), CAPTIONS, "answers", {}, [part], CHUNK_ROWS)
    pool = {"chunks_in_flight": IN_FLIGHT}
    cluster = ClusterConfig.model_validate({"pool": pool})
    rest = {"load": Load(rows), "stage": Answers, "args": (folder,), "cluster": cluster}
    job = TableJob("answers", output.table.url, CAPTIONS, {}, [part], CHUNK_ROWS, **rest)

    def files() -> list[Path]:
        return list((work / "answers").rglob("prompts*.parquet"))

    def open_gate() -> None:
        while not files():
            time.sleep(POLL_S)
        rows.go.touch()

    threading.Thread(target=open_gate, daemon=True).start()
    run_map(TableRun(job, output))
    last = max(file.stat().st_mtime for file in files())
    table = open_table(str(work / "answers"), CAPTIONS)
    tokens = {r["caption_id"]: r["completion_tokens"] for part in table.rows() for r in part.to_pylist()}
    return measured(tokens, rows), last - rows.go.stat().st_mtime


def ray_data_llm(folder: Path, rows: Rows, work: Path) -> tuple[int, float]:
    """The same of the processor."""
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    arguments = engine_arguments(config(folder), folder, trust_remote_code=False, sees=False)
    arguments.pop("model")
    settings = vLLMEngineProcessorConfig(
        model_source=str(folder),
        engine_kwargs=arguments,
        batch_size=CHUNK_ROWS,
        concurrency=1,
        placement_group_config={"bundles": [{"CPU": 1}]},  # it would ask for a GPU
        log_engine_metrics=False,  # needs ray[serve]
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
    )
    sampling = {"temperature": 0.0, "max_tokens": SAMPLING.max_tokens}

    def asks(row: dict[str, Any]) -> dict[str, Any]:
        (request,) = rows(row["id"], row["id"] + 1)
        return {"name": request.id, "prompt": request.text, "sampling_params": sampling}

    def answers(row: dict[str, Any]) -> dict[str, Any]:
        return {"name": row["name"], "text": row["generated_text"], "tokens": row["num_generated_tokens"]}

    processor = build_processor(settings, preprocess=asks, postprocess=answers)
    tokens: dict[str, int] = {}
    n = len(rows.asked)
    answered = processor(ray.data.range(n, override_num_blocks=n // CHUNK_ROWS))
    # No prefetching: it would hold the first answers back until the gate, which they open, lets others through.
    for batch in answered.iter_batches(batch_size=None, prefetch_batches=0):
        last = time.time()
        tokens |= dict(zip(batch["name"].tolist(), batch["tokens"].tolist(), strict=True))
        if len(tokens) == CHUNK_ROWS:
            rows.go.touch()
    return measured(tokens, rows), last - rows.go.stat().st_mtime


def measured(tokens: dict[str, int], rows: Rows) -> int:
    """Tokens of the rows behind the gate; every row must be there."""
    names = [request.id for request in rows.asked]
    assert sorted(tokens) == sorted(names)
    return sum(tokens[name] for name in names[CHUNK_ROWS:])


def compare(model: Path, turns: int, n: int, work: Path) -> dict[str, Any]:
    sides: tuple[Callable[[Path, Rows, Path], tuple[int, float]], ...] = (ours, ray_data_llm)
    found: dict[str, list[tuple[int, float]]] = {side.__name__: [] for side in sides}
    for turn in range(turns):
        for side in sides if turn % 2 == 0 else sides[::-1]:
            place = work / f"{side.__name__}-{turn}"
            place.mkdir()
            found[side.__name__].append(side(model, Rows(requests("text", turn, n), place / "go"), place))
    speeds = {name: [tokens / seconds for tokens, seconds in runs] for name, runs in found.items()}
    ratios = [mine / other for mine, other in zip(speeds["ours"], speeds["ray_data_llm"], strict=True)]
    return {
        "tokens": {name: [tokens for tokens, _ in runs] for name, runs in found.items()},
        "tokens_per_s": {name: [round(speed, 1) for speed in each] for name, each in speeds.items()},
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
    }


def main() -> None:
    from tests.support import tiny_llm

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--rows", type=int, default=256, help="a multiple of 64, the first 64 of which are warm-up")
    args = parser.parse_args()
    if args.rows % CHUNK_ROWS or args.rows <= CHUNK_ROWS:
        parser.error(f"--rows must be a multiple of {CHUNK_ROWS} and more than one")
    # Workers import this file's neighbors, and vLLM reads its variables, in both sides' workers alike.
    places = [HERE, HERE.parent, os.environ.get("PYTHONPATH", "")]
    environment = {"PYTHONPATH": ":".join(map(str, places)), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_WORKER_MULTIPROC_METHOD": "spawn"}
    environment |= {"VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1"}
    # Logical CPUs, so that no stage of either side waits for another's.
    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": environment})
    results: dict[str, Any] = {"rows": args.rows - CHUNK_ROWS, "max_num_seqs": MAX_NUM_SEQS, "chunk_rows": CHUNK_ROWS}
    results |= {"chunks_in_flight": IN_FLIGHT, "max_tokens": SAMPLING.max_tokens}
    with tempfile.TemporaryDirectory() as folder:
        model = tiny_llm.write_llama(Path(folder, "text"), chat=False, **SIZES)
        results |= compare(model, args.turns, args.rows, Path(folder))
    record("versus_ray_data_llm", results)


if __name__ == "__main__":
    sys.exit(main())
