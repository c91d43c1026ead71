"""Claim: for 1,000 rows, a row job without Ray starts in at most a quarter of the time that a local Ray needs.

    python benchmarks/bench_inline.py [--rows 1000] [--turns 5]

The same command in turns, `raysys ingest` with `--address inline` and with `--address local`: the same tars, the same
chunks, the same table. Start-up is the wall time from the start of the process until the first part is committed;
total is until the process has ended. The claim is the median of the turns' ratios. Both tables must hold equal rows.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench_ingest import write_shards
from common import record

from raysys.tables import open_table

MAX_RATIO = 0.25
CHUNK_ROWS = 100


def ingest(folder: Path, output: Path, address: str) -> dict[str, float]:
    """Run the command to its end; {"startup_s", "total_s"}."""
    command = [sys.executable, "-m", "raysys", "ingest", "--address", address, f"input={folder}", f"output={output}"]
    log = output.with_suffix(".log")
    began = time.monotonic()
    with log.open("w") as stream:
        process = subprocess.Popen([*command, f"chunk_rows={CHUNK_ROWS}"], stdout=stream, stderr=stream)
        startup_s = None
        while process.poll() is None:
            if startup_s is None and next(output.glob("*/*.parquet"), None) is not None:
                startup_s = time.monotonic() - began
            time.sleep(0.02)
    total_s = time.monotonic() - began
    if process.returncode or not list(output.glob("*/*.parquet")):
        raise RuntimeError(f"raysys ingest ended with exit code {process.returncode}:\n{log.read_text()}")
    return {"startup_s": total_s if startup_s is None else startup_s, "total_s": total_s}


def rows_of(table: Path) -> list[dict]:
    return [row for part in open_table(str(table)).rows(outcome=None) for row in part.to_pylist()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=5)
    args = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {"inline": [], "local": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "shards").mkdir()
        write_shards(folder / "shards", args.rows)
        for turn in range(args.turns):
            for address in ("inline", "local") if turn % 2 else ("local", "inline"):
                found[address].append(ingest(folder / "shards", folder / f"{address}-{turn}", address))
        if rows_of(folder / "inline-0") != rows_of(folder / "local-0"):
            raise RuntimeError("inline and Ray wrote different rows")
    pairs = list(zip(found["inline"], found["local"], strict=True))
    ratio = statistics.median(inline["startup_s"] / local["startup_s"] for inline, local in pairs)
    median = {
        address: {key: round(statistics.median(run[key] for run in runs), 2) for key in ("startup_s", "total_s")}
        for address, runs in found.items()
    }
    results = {
        "startup_inline_to_ray": round(ratio, 3),
        "max_ratio": MAX_RATIO,
        "passed": ratio <= MAX_RATIO,
        "inline": median["inline"],
        "ray": median["local"],
        "n_rows": args.rows,
        "chunk_rows": CHUNK_ROWS,
        "turns": args.turns,
    }
    record("inline", results)
    raise SystemExit(0 if results["passed"] else 1)


if __name__ == "__main__":
    main()
