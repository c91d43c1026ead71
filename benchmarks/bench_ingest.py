"""Claims, on the same tars (JPEG photographs of 256 to 512 px with .txt and .json):

1. ingest reaches ≥ 0.8 × the rows/s per core of a bare loop: tar read, hash, full decode;
2. a further row costs the job ≤ 1.2 × the CPU time that it costs the `webdataset` library to decode it;
3. `raysys ingest` of 20 images takes ≤ 4 s, from the start of the process to its end.

    python benchmarks/bench_ingest.py [--samples 600] [--turns 9]

Bare loop: tarfile, sha256, Pillow's full decode; no captions, metadata, licenses, limits or rows. `webdataset`: reads
and groups the members, decodes images to RGB, text and JSON (`decode("pil")`); no hash, licenses, limits or rows. Ours
for claim 1: listing, indexing and ingesting the tars until the rows exist; for claim 2 the whole job without Ray, until
the table is committed. All run in turns in one process on one thread, so that other load meets all of them; a claim is
the median of the turns' ratios, in CPU seconds. Claim 2 compares slopes, between a quarter of the shards and all of
them. Claim 3 is wall time, beside that of a process that only imports `webdataset` and runs its loop.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import webdataset
from common import record
from PIL import Image
from skimage import data

from raysys.jobs import ingest as job
from raysys.jobs.options import inline
from raysys.outcomes import KEPT
from raysys.shards.ingest import IngestConfig, ingest_rows
from raysys.shards.inputs import list_inputs

MIN_RATIO = 0.8
MAX_SLOPE_RATIO = 1.2
MAX_FIXED_S = 4.0
SAMPLES_PER_SHARD = 100
FEW = 20
"""Images for which a command's time is its fixed cost."""


def write_shards(folder: Path, n_samples: int) -> int:
    """Crops of real photographs as JPEG (quality 90) in tars of 100 samples; returns their bytes."""
    rng = np.random.default_rng(0)
    photos = [data.astronaut(), data.coffee(), data.chelsea()]
    for shard in range(-(-n_samples // SAMPLES_PER_SHARD)):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for i in range(shard * SAMPLES_PER_SHARD, min(n_samples, (shard + 1) * SAMPLES_PER_SHARD)):
                photo = photos[i % len(photos)]
                side = int(rng.integers(256, min(512, *photo.shape[:2]) + 1))
                y, x = (int(rng.integers(0, n - side + 1)) for n in photo.shape[:2])
                jpeg = io.BytesIO()
                Image.fromarray(photo[y : y + side, x : x + side]).save(jpeg, "JPEG", quality=90)
                metadata = {"url": f"https://x.org/{i}", "license": "CC BY 4.0", "width": side, "height": side}
                members = {"jpg": jpeg.getvalue(), "txt": b"a photograph", "json": json.dumps(metadata).encode()}
                for extension, member in members.items():
                    info = tarfile.TarInfo(f"{i:09d}.{extension}")
                    info.size = len(member)
                    tar.addfile(info, io.BytesIO(member))
    return sum(p.stat().st_size for p in folder.glob("*.tar"))


def bare_loop(folder: Path) -> int:
    """Read, hash and decode every image; the number of images."""
    count = 0
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                image = tar.extractfile(member).read()
                if member.name.endswith(".jpg"):
                    hashlib.sha256(image).hexdigest()
                    Image.open(io.BytesIO(image)).load()
                    count += 1
    return count


def ingest(folder: Path) -> int:
    """The pure ingest function over the same shards; the number of kept rows."""
    config = IngestConfig()
    return sum(row["outcome"] == KEPT for f in list_inputs(str(folder)) for row in ingest_rows(f, 0, f.n_items, config))


def webdataset_loop(folder: Path) -> int:
    """Read and decode every sample with the `webdataset` library; the number of images."""
    samples = webdataset.WebDataset(sorted(map(str, folder.glob("*.tar"))), shardshuffle=False).decode("pil")
    return sum(sample["jpg"].size[0] > 0 for sample in samples)


def ingest_job(folder: Path) -> int:
    """The whole job in this process, until its table is committed; the number of kept rows."""
    config = job.JobConfig(input=str(folder), output=str(folder / "samples"))
    return job.run(config, inline()).steps["ingest"].rows["kept"]


def command_seconds(*command: str) -> float:
    began = time.monotonic()
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    return time.monotonic() - began


def linked(original: Path, folder: Path, n_shards: int | None = None) -> Path:
    """The first shards of `original` under new paths, so that ingest must index them again."""
    folder.mkdir()
    for path in sorted(original.glob("*.tar"))[:n_shards]:
        os.link(path, folder / path.name)
    return folder


def cpu_seconds(loop: Callable[[Path], int], folder: Path, expected: int) -> float:
    began = time.process_time()
    if (count := loop(folder)) != expected:
        raise RuntimeError(f"{loop.__name__} saw {count} of {expected} images")
    return time.process_time() - began


def bare_ratios(original: Path, n_samples: int, turns: int) -> tuple[list[float], list[float]]:
    """Claim 1: CPU seconds per turn, (of the bare loop, of ours)."""
    ours, bare = [], []
    for turn in range(turns):
        folder = linked(original, original.with_name(f"bare-{turn}"))
        pair = [(bare, bare_loop), (ours, ingest)]
        for seconds, loop in pair if turn % 2 else pair[::-1]:
            seconds.append(cpu_seconds(loop, folder, n_samples))
    return bare, ours


def slopes(original: Path, n_samples: int, turns: int) -> tuple[list[float], list[float]]:
    """Claim 2: CPU seconds per further row and turn, (of `webdataset`, of the job)."""
    n_few = n_samples // 4 // SAMPLES_PER_SHARD or 1
    theirs, ours = [], []
    for turn in range(turns):
        pair = [(theirs, webdataset_loop), (ours, ingest_job)]
        for slope, loop in pair if turn % 2 else pair[::-1]:
            few = linked(original, original.with_name(f"{loop.__name__}-{turn}-few"), n_few)
            every = linked(original, original.with_name(f"{loop.__name__}-{turn}"))
            seconds = cpu_seconds(loop, few, n_few * SAMPLES_PER_SHARD)
            slope.append((cpu_seconds(loop, every, n_samples) - seconds) / (n_samples - n_few * SAMPLES_PER_SHARD))
    return theirs, ours


def fixed(folder: Path, turns: int) -> tuple[list[float], list[float]]:
    """Claim 3: wall seconds per turn for FEW images, (of a process with `webdataset`, of the command)."""
    (folder / "few").mkdir()
    write_shards(folder / "few", FEW)
    script = f"import webdataset as w; [s for s in w.WebDataset({str(folder)!r} + '/few/00000.tar').decode('pil')]"
    command = ("-m", "raysys", "ingest", "--config", "demo", f"input={folder}/few")
    theirs, ours = [], []
    for turn in range(turns):
        theirs.append(command_seconds("-c", script))
        ours.append(command_seconds(*command, f"output={folder}/few-{turn}"))
    return theirs, ours


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, default=600)
    parser.add_argument("--turns", type=int, default=9)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        original = Path(name) / "original"
        original.mkdir()
        n_bytes = write_shards(original, args.samples)
        for loop in (bare_loop, webdataset_loop):  # the first pass warms the page cache and Pillow's plugins
            loop(original)
        bare, ours = bare_ratios(original, args.samples, args.turns)
        theirs, of_job = slopes(original, args.samples, args.turns)
        reference_s, command_s = fixed(Path(name), args.turns)
    ratios = [b / o for b, o in zip(bare, ours, strict=True)]
    slope_ratios = [o / t for t, o in zip(theirs, of_job, strict=True)]
    results = {
        "ratio": round(statistics.median(ratios), 3),
        "min_ratio": MIN_RATIO,
        "ratio_per_turn": [round(r, 3) for r in ratios],
        "ingest_rows_per_s_per_core": round(args.samples / statistics.median(ours), 1),
        "bare_rows_per_s_per_core": round(args.samples / statistics.median(bare), 1),
        "slope_to_webdataset": round(statistics.median(slope_ratios), 3),
        "max_slope_to_webdataset": MAX_SLOPE_RATIO,
        "slope_ratio_per_turn": [round(r, 3) for r in slope_ratios],
        "job_ms_per_row": round(1000 * statistics.median(of_job), 3),
        "webdataset_ms_per_row": round(1000 * statistics.median(theirs), 3),
        "command_s": round(statistics.median(command_s), 2),
        "max_command_s": MAX_FIXED_S,
        "webdataset_process_s": round(statistics.median(reference_s), 2),
        "n_few": FEW,
        "n_samples": args.samples,
        "mean_sample_bytes": n_bytes // args.samples,
        "image": "JPEG photographs, 256 to 512 px",
    }
    results["passed"] = (
        results["ratio"] >= MIN_RATIO
        and results["slope_to_webdataset"] <= MAX_SLOPE_RATIO
        and results["command_s"] <= MAX_FIXED_S
    )
    record("ingest", results)
    raise SystemExit(0 if results["passed"] else 1)


if __name__ == "__main__":
    main()
