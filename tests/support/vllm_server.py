"""A real OpenAI-compatible server on loopback: vLLM's, started, stopped, killed, and started again."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil

from raysys.llm.config import LlmConfig

KEY = "sesame"
START_DEADLINE_S = 600
"""Half a minute on an idle machine."""


class VllmServer:
    """`vllm serve` of the model `tiny` and its adapters, on a free port that it keeps when it is started again."""

    def __init__(self, folder: Path, model: Path, **adapters: Path) -> None:
        """folder: for its log."""
        self.model, self.adapters, self.log = model, adapters, folder / "server.log"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.base_url = f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        """Returns when it answers."""
        # The module behind `vllm serve`. The command itself looks for a package `vllm`, which the CPU build is not.
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1"]
        command += ["--port", self.port, "--model", self.model, "--served-model-name", "tiny", "--api-key", KEY]
        command += ["--dtype", "float32", "--enforce-eager", "--max-num-seqs", "8"]
        if self.adapters:
            # A slot more, which stays empty: in batches with an adapter, vLLM 0.29 gives rows without one the weights
            # of the last slot, on CPUs.
            command += ["--enable-lora", "--max-loras", len(self.adapters) + 1]
            command += ["--lora-modules", *(f"{name}={place}" for name, place in self.adapters.items())]
        environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                env={**os.environ, **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        began = time.monotonic()
        while not self._healthy():
            assert self.process.poll() is None, self.log.read_text()[-4000:]
            assert time.monotonic() - began < START_DEADLINE_S, self.log.read_text()[-4000:]
            time.sleep(0.25)

    def stop(self) -> None:
        """SIGTERM, as a service manager stops it. Waits for its end, and kills what is left after that."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        finally:
            self.process.kill()
            for child in psutil.wait_procs(children, timeout=5)[1]:
                child.kill()

    def kill(self) -> None:
        """SIGKILL to all of it, as when the machine's memory is used up."""
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5) as reply:
                return reply.status == 200
        except OSError:
            return False

    def config(self, **fields: object) -> LlmConfig:
        endpoint = {"base_url": self.base_url, "api_key_env": "TEST_ENDPOINT_KEY", **fields.pop("endpoint", {})}
        return LlmConfig(**{"engine": "openai", "model": "tiny", "endpoint": endpoint, **fields})
