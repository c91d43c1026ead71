"""Claim: the engine under captioning and rewriting gives ≥ 0.9 × the output tokens/s of vLLM's own offline generation.

    python benchmarks/bench_captioning.py [--turns 5] [--rows 128]

Reference: one `vllm.LLM.generate` call with all prompts of a turn. Ours: the same prompts as the stages send them, in
chunks of 64 rows, three in flight from three threads. Text (Llama) and pictures (BLIP-2), random weights, of a size
that makes a decode step take ≥ 20 ms: with less, the front end would be measured and not the engine.

Each engine lives in a process of its own with the same arguments, and both are up before the first turn: start-up is
not in the figures. They work in turns, so that other load on the machine meets both; the claim is the median of the
turns' ratios of tokens per second of wall time (an engine that is not kept full loses there). Tokens per CPU second,
over the engine's whole process tree, stand beside it: they tell what the front end costs on a machine that is busy.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from common import record
from PIL import Image

from raysys.llm.config import LlmConfig
from raysys.llm.contract import Request, SamplingConfig

sys.path.append(str(Path(__file__).resolve().parent.parent))
from tests.support import tiny_llm

MIN_RATIO, MIN_STEP_MS = 0.9, 20
CHUNK_ROWS, IN_FLIGHT = 64, 3
MAX_NUM_SEQS = 32
SAMPLING = SamplingConfig(max_tokens=24)
SIZES = {"hidden": 768, "layers": 8, "heads": 8}
WORDS = "red blue green circle square star ring small large left right above below behind photo picture of with"

Generate = Callable[[Sequence[Request]], int]
"""Requests → number of tokens of all answers."""


def config(folder: Path) -> LlmConfig:
    return LlmConfig(engine="vllm", model=str(folder), prompt_format="completion", vllm={"max_num_seqs": MAX_NUM_SEQS})


def requests(kind: str, turn: int, rows: int) -> list[Request]:
    """Prompts that no other turn has: a cached prefix would be a gift."""
    rng = np.random.default_rng([turn, rows])
    made = []
    for i in range(rows):
        text = " ".join(rng.choice(WORDS.split(), size=rng.integers(6, 24)))
        image = rng.integers(0, 256, (64, 96, 3), dtype=np.uint8) if kind == "vision" else None
        made.append(Request(f"{turn}/{i}", text, SAMPLING, image=image))
    return made


def ours(folder: Path) -> Generate:
    from raysys.llm.vllm import VllmGenerator

    generator = VllmGenerator(config(folder))

    def generate(asked: Sequence[Request]) -> int:
        chunks = [asked[start : start + CHUNK_ROWS] for start in range(0, len(asked), CHUNK_ROWS)]
        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            replies = [reply for chunk in pool.map(generator.generate, chunks) for reply in chunk]
        return sum(completion.completion_tokens for reply in replies for completion in reply)

    return generate


def offline(folder: Path) -> Generate:
    from raysys.llm.vllm import engine_arguments

    sees = (folder / "processor_config.json").is_file()
    arguments = engine_arguments(config(folder), folder, trust_remote_code=False, sees=sees)
    from vllm import LLM, SamplingParams

    llm = LLM(**arguments)

    def generate(asked: Sequence[Request]) -> int:
        prompts: list[Any] = [{"prompt": request.text} for request in asked]
        for prompt, request in zip(prompts, asked, strict=True):
            if request.image is not None:
                prompt["multi_modal_data"] = {"image": Image.fromarray(request.image)}
        params = SamplingParams(temperature=0, max_tokens=asked[0].sampling.max_tokens)
        outputs = llm.generate(prompts, params, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    return generate


def cpu_seconds() -> float:
    """Of this process and all below it."""
    me = psutil.Process()
    return sum(p.cpu_times().user + p.cpu_times().system for p in [me, *me.children(recursive=True)])


def serve(side: Callable[[Path], Generate], folder: Path, pipe: Connection) -> None:
    """One engine, started once; for each list of requests it is sent, (tokens, wall seconds, CPU seconds)."""
    generate = side(folder)
    pipe.send("ready")
    for asked in iter(pipe.recv, None):
        began, cpu = time.perf_counter(), cpu_seconds()
        tokens = generate(asked)
        pipe.send((tokens, time.perf_counter() - began, cpu_seconds() - cpu))


def measure(kind: str, folder: Path, turns: int, rows: int) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    sides: dict[str, tuple[Any, Connection]] = {}
    for side in (offline, ours):
        here, there = context.Pipe()
        process = context.Process(target=serve, args=(side, folder, there))
        process.start()
        there.close()  # so that an engine that fails to start is an EOFError here
        here.recv()
        sides[side.__name__] = process, here

    def ask(side: str, asked: list[Request]) -> tuple[int, float, float]:
        sides[side][1].send(asked)
        return sides[side][1].recv()

    for side in sides:
        ask(side, requests(kind, 1000, MAX_NUM_SEQS))
    step_ms = decode_step_ms(lambda asked: ask("offline", asked), kind)
    found: dict[str, list[tuple[int, float, float]]] = {side: [] for side in sides}
    for turn in range(turns):
        for side in sorted(sides, reverse=bool(turn % 2)):
            found[side].append(ask(side, requests(kind, turn, rows)))
    for process, pipe in sides.values():
        pipe.send(None)
        process.join()
    return {"rows": rows, "decode_step_ms": round(step_ms, 1), **summary(found["ours"], found["offline"])}


def decode_step_ms(ask: Callable[[list[Request]], tuple[int, float, float]], kind: str) -> float:
    """Wall time of one more token for a full batch: the median of five pairs of a long and a short answer."""

    def seconds(max_tokens: int, turn: int) -> float:
        asked = requests(kind, turn, MAX_NUM_SEQS)
        sampling = SamplingConfig(max_tokens=max_tokens)
        return ask([Request(r.id, r.text, sampling, image=r.image) for r in asked])[1]

    pairs = [seconds(17, 2000 + 2 * i) - seconds(1, 2001 + 2 * i) for i in range(5)]
    return 1000 * statistics.median(pairs) / 16


def summary(mine: list[tuple[int, float, float]], reference: list[tuple[int, float, float]]) -> dict[str, Any]:
    speed = [(m[0] / m[1]) / (r[0] / r[1]) for m, r in zip(mine, reference, strict=True)]
    thrift = [(m[0] / m[2]) / (r[0] / r[2]) for m, r in zip(mine, reference, strict=True)]
    return {
        "tokens_ours": [m[0] for m in mine],
        "tokens_offline": [r[0] for r in reference],
        "tokens_per_s_ours": [round(m[0] / m[1], 1) for m in mine],
        "tokens_per_s_offline": [round(r[0] / r[1], 1) for r in reference],
        "cpu_seconds_ours": [round(m[2], 2) for m in mine],
        "cpu_seconds_offline": [round(r[2], 2) for r in reference],
        "ratio": round(statistics.median(speed), 3),
        "ratios": [round(s, 3) for s in speed],
        "ratio_cpu": round(statistics.median(thrift), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--rows", type=int, default=128)
    args = parser.parse_args()
    results: dict[str, Any] = {"min_ratio": MIN_RATIO, "min_step_ms": MIN_STEP_MS, "max_num_seqs": MAX_NUM_SEQS}
    results |= {"chunk_rows": CHUNK_ROWS, "chunks_in_flight": IN_FLIGHT, "max_tokens": SAMPLING.max_tokens}
    with tempfile.TemporaryDirectory() as folder:
        text = tiny_llm.write_llama(Path(folder, "text"), chat=False, **SIZES)
        vision = tiny_llm.write_blip2(Path(folder, "vision"), **SIZES)
        results["text"] = measure("text", text, args.turns, args.rows)
        results["vision"] = measure("vision", vision, args.turns, args.rows)
    record("captioning", results)


if __name__ == "__main__":
    main()
