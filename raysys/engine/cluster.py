"""Start or find a Ray cluster, and say which one: `local` explicitly on a laptop, no address on a cluster."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
import ray.data

from raysys import signals
from raysys.errors import InputError, RunFailed

LOCAL_MIN_CPUS = 4
"""Logical CPUs of a local run: an actor pool plus readers on 2 real cores would deadlock with only 2 to share."""

LOCAL_OBJECT_STORE_BYTES = 1 << 30


@contextmanager
def cluster(address: str | None) -> Iterator[None]:
    """A connected Ray for the duration of the block. Reuses a connection that is already there (pipeline, tests).

    address: "local" starts a private one-machine cluster and stops it at the end; None means the cluster this
    driver was submitted to (RAY_ADDRESS), or "local" when there is none; anything else is a Ray address.
    """
    if address == "inline":
        raise InputError("--address inline: this job needs Ray; only row jobs run without it", "--address local")
    if ray.is_initialized():
        yield
        return
    if threading.current_thread() is not threading.main_thread():
        # One of several runs (`run_concurrently`) that a Ctrl-C disconnected: it must not start a Ray of its own.
        raise RunFailed("Ray was disconnected")
    if address is None and not os.environ.get("RAY_ADDRESS"):
        address = "local"
    _connect(address)
    signals.install()  # ray.init put its own SIGTERM handler there, which exits at once
    try:
        yield
    finally:
        ray.shutdown()


def how_many_fit(cpus: float, gpus: float) -> int:
    """How many runs that take these resources each have room in the connected cluster at once.

    Where not one has room now, all of them are asked for (`sys.maxsize`): an autoscaler adds nodes for them.
    """
    total = ray.cluster_resources()
    fit = [int(total.get(name, 0.0) // needed) for name, needed in (("CPU", cpus), ("GPU", gpus)) if needed > 0]
    return min(fit, default=sys.maxsize) or sys.maxsize


def _hush() -> None:
    """Ray's notes about its own plan and tokens go to its log files; people want to see their rows."""
    for name in ("ray.data", "ray._private.authentication.authentication_token_setup"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _connect(address: str | None) -> None:
    _hush()
    quiet = {"logging_level": logging.WARNING, "configure_logging": True}
    if address == "local":
        _start_local(quiet)
        return
    try:
        ray.init(address=address, **quiet)
    except ConnectionError as exc:
        raise InputError(
            f"no Ray cluster at {address or os.environ.get('RAY_ADDRESS')!r}: {exc}", "--address local"
        ) from exc
    total = {k: v for k, v in ray.cluster_resources().items() if k in ("CPU", "GPU")}
    print(f"ray: cluster {ray.get_runtime_context().gcs_address}, {total}", file=sys.stderr)


def _start_local(quiet: dict[str, Any]) -> None:
    """A Ray of this process's own. Ray gives its processes 30 s to start: a busy machine gets a second chance."""
    cpus = max(LOCAL_MIN_CPUS, os.cpu_count() or 1)
    settings = {
        "address": "local",
        "num_cpus": cpus,
        "object_store_memory": LOCAL_OBJECT_STORE_BYTES,
        "include_dashboard": False,
        "log_to_driver": bool(os.environ.get("RAYSYS_WORKER_LOGS")),
        # One thread per worker: workers share the cores, and results do not depend on the thread count.
        "runtime_env": {"env_vars": {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}},
        **quiet,
    }
    try:
        ray.init(**settings)
    except Exception as exc:
        if "timed out during startup" not in str(exc):
            raise
        print("ray: did not start within its time, trying once more (is the machine busy?)", file=sys.stderr)
        ray.shutdown()
        ray.init(**settings)
    print(f"ray: local cluster, {cpus} logical CPUs on {os.cpu_count()} cores", file=sys.stderr)
