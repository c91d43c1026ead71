"""Programs under test: started in a group of their own, watched, killed, and followed to their end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

DEADLINE_S = 240
"""For one program; a run of seconds takes minutes when a machine is shared."""


def start(command: Sequence[str | Path], cwd: Path | None = None, **environment: str) -> subprocess.Popen:
    """A program in a process group of its own, its output captured as text."""
    return subprocess.Popen(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **environment},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def raysys(*args: str | Path, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess:
    """`raysys …` to its end."""
    process = start([sys.executable, "-m", "raysys", *args], cwd, **environment)
    out, err = communicate(process)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def communicate(process: subprocess.Popen) -> tuple[str, str]:
    """(stdout, stderr) of a program's end. One that hangs is stopped, with its group, and fails the test."""
    try:
        return process.communicate(timeout=DEADLINE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        raise AssertionError(f"{process.args} did not end in {DEADLINE_S} s:\n{out[-2000:]}\n{err[-4000:]}") from None


def finish(process: subprocess.Popen) -> tuple[int, str]:
    """(exit code, stderr)"""
    _, err = communicate(process)
    return process.returncode, err


def wait_for(condition: Callable[[], object], process: subprocess.Popen) -> None:
    """Until `condition` holds, while `process` runs."""
    began = time.monotonic()
    while not condition():
        assert process.poll() is None, f"ended too early: {process.stderr.read()}"
        assert time.monotonic() - began < DEADLINE_S, "nothing happened"
        time.sleep(0.02)


def kill_driver(process: subprocess.Popen) -> None:
    """SIGKILL to the driver only; Ray's processes notice on their own. Wait until they are gone."""
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    psutil.wait_procs(children, timeout=10)
    for child in children:
        if child.is_running():
            child.kill()


def workers_of(pid: int, title: str = "Map") -> list[psutil.Process]:
    """Ray worker processes below a driver or a raylet that run a task or hold an actor of a job (not Ray's own)."""
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        try:
            words = " ".join(child.cmdline())
        except psutil.Error:
            continue
        if words.startswith("ray::") and title in words:
            found.append(child)
    return found


def engines_of(pid: int, title: str = "") -> list[psutil.Process]:
    """vLLM's processes below a driver: EngineCore, and its Workers where they are processes of their own."""
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        try:
            words = " ".join(child.cmdline())
        except psutil.Error:
            continue
        if words.startswith(f"VLLM::{title}"):
            found.append(child)
    return found
