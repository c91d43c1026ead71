"""Claim: `raysys train-diffusion` with one worker takes at most 15 s beside its steps.

    python benchmarks/bench_training_start.py [--steps 2] [--turns 3]

The command as a new process, as typed (one worker runs in this process), and with `--address local` (on Ray Train) for
comparison. The fixed cost is the wall time of the process without its steps, as metrics.jsonl records them: imports,
starting workers, reading the set, the last checkpoint and the saved pipeline. The claim is the median of the turns,
by wall time and by CPU time of the command with its few steps: wall time also measures the other work on the machine.
The CPU time of `ray` leaves out Ray's own processes. Both ways must record equal losses.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench_training import write_set
from common import record


def train(folder: Path, output: Path, steps: int, *options: str) -> dict[str, float]:
    """Run the command to its end; seconds before the first step, of the steps, after the last one, and of CPU time."""
    settings = [f"training.max_steps={steps}", "training.log_every_steps=1", f"training_set={folder}"]
    command = [sys.executable, "-m", "raysys", "train-diffusion", "--config", "demo", *settings, f"output={output}"]
    cpu, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *options], capture_output=True, text=True, env=environment)
    ended, used = time.time(), resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}:\n{done.stderr}")
    metrics = read(output)
    first = metrics[0]["time"] - metrics[0]["seconds_per_step"]
    return {
        "before_s": first - began,
        "steps_s": metrics[-1]["time"] - first,
        "after_s": ended - metrics[-1]["time"],
        "fixed_s": ended - began - (metrics[-1]["time"] - first),
        "cpu_s": used.ru_utime + used.ru_stime - cpu.ru_utime - cpu.ru_stime,
    }


def read(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {"default": [], "ray": []}
    with tempfile.TemporaryDirectory() as name:
        folder = write_set(Path(name, "set"), 64)
        for turn in range(args.turns):
            for way, options in (("default", ()), ("ray", ("--address", "local"))):
                found[way].append(train(folder, Path(name, f"{way}-{turn}"), args.steps, *options))
        losses = {way: [step["loss"] for step in read(Path(name, f"{way}-0"))] for way in found}
    if losses["default"] != losses["ray"]:
        raise RuntimeError("the two ways recorded other losses")
    median = {
        way: {key: round(statistics.median(run[key] for run in runs), 2) for key in runs[0]}
        for way, runs in found.items()
    }
    record("training_start", {**median, "steps": args.steps, "turns": args.turns})


if __name__ == "__main__":
    main()
