"""Training metrics between two reports: means over the window's steps and over all workers."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from raysys.training.parallel import mean_over_ranks
from raysys.training.worker import Worker


class Window:
    """Sums since the last report. They stay on the device until `close`, because reading one synchronizes the GPU."""

    def __init__(self, batch_size: int, max_steps: int) -> None:
        self.batch_size, self.max_steps = batch_size, max_steps
        self._start_over()

    def _start_over(self) -> None:
        self.steps = 0
        self.sums: dict[str, torch.Tensor] = {}
        self.wait_seconds = 0.0
        self.started = time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside the block as waiting for data."""
        start = time.perf_counter()
        yield
        self.wait_seconds += time.perf_counter() - start

    def add(self, metrics: Mapping[str, torch.Tensor], grad_norm: torch.Tensor) -> None:
        """Add one optimizer step: this worker's metrics, and the norm of the reduced gradient before clipping."""
        self.steps += 1
        for name, value in {**metrics, "grad_norm": grad_norm}.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.detach()

    def close(self, step: int, learning_rate: float, worker: Worker) -> dict[str, float]:
        """Return the metrics of the window that ends after `step` steps, and start the next window.

        Raises FloatingPointError if the loss or a gradient is not finite, so that the broken weights are not saved.
        """
        own = [*(float(x) / self.steps for x in self.sums.values()), self.wait_seconds]
        *values, wait = mean_over_ranks(own, worker.world_size, worker.device)
        means = dict(zip(self.sums, values, strict=True))
        loss, grad_norm = means.pop("loss"), means.pop("grad_norm")
        seconds = time.perf_counter() - self.started  # measured after the reads above, which synchronize the device
        for name, value in (("loss", loss), ("grad_norm", grad_norm)):
            if not math.isfinite(value):
                raise FloatingPointError(f"{name} is {value} after step {step}: lower the learning rate")
        metrics = {
            "step": step,
            "loss": loss,
            **means,
            "learning_rate": learning_rate,
            "grad_norm": grad_norm,
            "samples_per_second": self.steps * self.batch_size / seconds,
            "seconds_per_step": seconds / self.steps,
            "data_wait_share": wait / seconds,
            "eta_seconds": (self.max_steps - step) * seconds / self.steps,
        }
        self._start_over()
        return metrics
