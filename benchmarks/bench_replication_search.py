"""Claim: block-wise exact search is ≥ 0.9 × as fast as one faiss IndexFlatIP call, with memory bounded by the block.

    python benchmarks/bench_replication_search.py [--rows 100000] [--dim 512] [--queries 1000] [--turns 9]

Reference: one `IndexFlatIP` that holds the whole database, `search` only (adding is not timed). Ours: `top_k` over a
memory-mapped file in blocks. One thread each, in turns in one process, in CPU seconds, so that other load meets both;
the ratio of a turn is reference seconds / our seconds, the claim is their median.

Memory: how much the process's anonymous memory grows at its peak (a child process per case; pages of the mapped file
are the page cache's), over two database sizes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import threading
import time
from pathlib import Path

import faiss
import numpy as np
from common import record

from raysys.similarity import array_blocks, top_k

MIN_RATIO = 0.9
BLOCK_ROWS = 16_384


def unit_rows(rng: np.random.Generator, rows: int, dim: int) -> np.ndarray:
    x = rng.standard_normal((rows, dim), dtype=np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def write_database(path: Path, rows: int, dim: int) -> None:
    rng = np.random.default_rng(0)
    with open(path, "wb") as f:
        for start in range(0, rows, BLOCK_ROWS):
            f.write(unit_rows(rng, min(BLOCK_ROWS, rows - start), dim).tobytes())


def measure_speed(path: Path, queries: np.ndarray, k: int, turns: int) -> dict:
    database = np.memmap(path, np.float32, "r").reshape(-1, queries.shape[1])
    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatIP(queries.shape[1])
    index.add(np.asarray(database))
    seconds: dict[str, list[float]] = {"faiss": [], "ours": []}
    for turn in range(turns + 1):
        began = time.process_time()
        expected = index.search(queries, k)
        between = time.process_time()
        found = top_k(queries, array_blocks(database, BLOCK_ROWS), k, threads=1, use_gpu=False)
        ended = time.process_time()
        if turn:  # the first turn warms up both
            seconds["faiss"].append(between - began)
            seconds["ours"].append(ended - between)
    ratios = [f / o for f, o in zip(seconds["faiss"], seconds["ours"], strict=True)]
    return {
        "k": k,
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(r, 3) for r in ratios],
        "cpu_seconds_faiss": round(statistics.median(seconds["faiss"]), 3),
        "cpu_seconds_ours": round(statistics.median(seconds["ours"]), 3),
        "same_indices": float((found[1] == expected[1]).mean()),
    }


def anonymous_kib() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def peak_growth_mib(path: Path, dim: int, n_queries: int, k: int, result: multiprocessing.Queue) -> None:
    """In a fresh process: the highest anonymous memory while searching, minus what it was before."""
    database = np.memmap(path, np.float32, "r").reshape(-1, dim)
    queries = unit_rows(np.random.default_rng(1), n_queries, dim)
    top_k(queries[:2], array_blocks(database[:100], 50), 1, threads=1)  # libraries loaded
    before, peak, stop = anonymous_kib(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not stop.wait(0.002):
            peak = max(peak, anonymous_kib())

    watcher = threading.Thread(target=watch)
    watcher.start()
    top_k(queries, array_blocks(database, BLOCK_ROWS), k, threads=1, use_gpu=False)
    stop.set()
    watcher.join()
    result.put((peak - before) / 1024)


def measure_memory(path: Path, dim: int, n_queries: int, k: int) -> float:
    context = multiprocessing.get_context("spawn")
    result = context.Queue()
    process = context.Process(target=peak_growth_mib, args=(path, dim, n_queries, k, result))
    process.start()
    growth = result.get()
    process.join()
    return round(growth, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=9)
    args = parser.parse_args()
    queries = unit_rows(np.random.default_rng(1), args.queries, args.dim)
    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder, "small.f32"), Path(folder, "large.f32")
        write_database(small, args.rows, args.dim)
        write_database(large, 3 * args.rows, args.dim)
        speed = [measure_speed(small, queries, k, args.turns) for k in (1, 10)]
        memory = {
            "block_mib": round(BLOCK_ROWS * args.dim * 4 / 2**20, 1),
            "database_mib": [round(p.stat().st_size / 2**20, 1) for p in (small, large)],
            "peak_growth_mib": [measure_memory(p, args.dim, args.queries, 10) for p in (small, large)],
        }
    results = {
        "rows": args.rows,
        "dim": args.dim,
        "queries": args.queries,
        "block_rows": BLOCK_ROWS,
        "min_ratio": MIN_RATIO,
        "speed": speed,
        "memory": memory,
        "ratio": min(s["ratio"] for s in speed),
    }
    record("replication_search", results)


if __name__ == "__main__":
    main()
