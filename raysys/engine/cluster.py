"""Start or connect to a Ray cluster, and print which one is used."""

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
from raysys.progress import Waiting, format_clock

LOCAL_MIN_CPUS = 4
"""Minimum number of logical CPUs of a local cluster: with only 2, an actor pool and its readers would deadlock."""

LOCAL_OBJECT_STORE_BYTES = 1 << 30


@contextmanager
def cluster(address: str | None) -> Iterator[None]:
    """Connect to Ray for the duration of the block. An existing connection is reused (studies, tests).

    address: "local" starts a private one-machine cluster and stops it at the end; None means the cluster this driver
    was submitted to (RAY_ADDRESS), or "local" if RAY_ADDRESS is not set; anything else is a Ray address. Raises
    InputError if the cluster cannot be reached.
    """
    if address == "inline":
        raise InputError("--address inline: this job needs Ray; only row jobs run without it", "use --address local")
    if ray.is_initialized():
        yield
        return
    if threading.current_thread() is not threading.main_thread():
        # A thread of `run_concurrently` after Ctrl-C has disconnected Ray: it must not start a new cluster.
        raise RunFailed("Ray was disconnected")
    if address is None and not os.environ.get("RAY_ADDRESS"):
        address = "local"
    _connect(address)
    signals.install()  # ray.init has installed its own SIGTERM handler, which exits immediately
    try:
        yield
    finally:
        ray.shutdown()


def how_many_fit(cpus: float, gpus: float) -> int:
    """How many runs that need these resources each fit into the connected cluster at the same time.

    If not even one fits, returns `sys.maxsize`: all runs are submitted, so that an autoscaler can add nodes for them.
    """
    total = ray.cluster_resources()
    fit = [int(total.get(name, 0.0) // needed) for name, needed in (("CPU", cpus), ("GPU", gpus)) if needed > 0]
    return min(fit, default=sys.maxsize) or sys.maxsize


def _hush() -> None:
    """Silence Ray's messages about its plan and tokens on the terminal; they are still in its log files."""
    for name in ("ray.data", "ray._private.authentication.authentication_token_setup"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _connect(address: str | None) -> None:
    _hush()
    quiet = {"logging_level": logging.WARNING, "configure_logging": True}
    if address == "local":
        _start_local(quiet)
        return
    try:
        with Waiting("ray: connecting to the cluster"):
            ray.init(address=address, **quiet)
    except ConnectionError as exc:
        raise InputError(
            f"no Ray cluster at {address or os.environ.get('RAY_ADDRESS')!r}: {exc}", "use --address local"
        ) from exc
    total = {k: v for k, v in ray.cluster_resources().items() if k in ("CPU", "GPU")}
    print(f"ray: cluster {ray.get_runtime_context().gcs_address}, {total}", file=sys.stderr)


def _start_local(quiet: dict[str, Any]) -> None:
    """Start a private cluster. Ray gives its processes 30 s to start; on a busy machine we try a second time."""
    cpus = max(LOCAL_MIN_CPUS, os.cpu_count() or 1)
    settings = {
        "address": "local",
        "num_cpus": cpus,
        "object_store_memory": LOCAL_OBJECT_STORE_BYTES,
        "include_dashboard": False,
        "log_to_driver": bool(os.environ.get("RAYSYS_WORKER_LOGS")),
        # One thread per worker, because the workers share the cores; results do not depend on the thread count.
        "runtime_env": {"env_vars": {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}},
        **quiet,
    }
    with Waiting("ray: a local cluster starts") as waiting:
        try:
            ray.init(**settings)
        except Exception as exc:
            if "timed out during startup" not in str(exc):
                raise
            print("ray: did not start in time, trying once more (is the machine busy?)", file=sys.stderr)
            ray.shutdown()
            ray.init(**settings)
    started = f"started in {format_clock(waiting.elapsed_s)}"
    print(f"ray: local cluster, {cpus} logical CPUs on {os.cpu_count()} cores, {started}", file=sys.stderr)
