"""Metrics of a training between two reports: means over the window, over all workers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist


def mean_over_ranks(values: list[float], device: torch.device | str) -> list[float]:
    """Mean of each value over the workers of the default process group; the values themselves when there is none."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return values
    tensor = torch.tensor(values, dtype=torch.float64, device=device if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(tensor)
    return (tensor / dist.get_world_size()).tolist()


class Window:
    """Sums since the last report. Losses stay on the device until then: reading one waits for the GPU."""

    def __init__(self, batch_size: int, max_steps: int) -> None:
        self.batch_size, self.max_steps = batch_size, max_steps
        self._start_over()

    def _start_over(self) -> None:
        self.steps = 0
        self.loss: torch.Tensor | float = 0.0
        self.grad_norm: torch.Tensor | float = 0.0
        self.wait_seconds = 0.0
        self.started = time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time inside as waiting for data."""
        start = time.perf_counter()
        yield
        self.wait_seconds += time.perf_counter() - start

    def add(self, loss: torch.Tensor, grad_norm: torch.Tensor) -> None:
        """One optimiser step: this worker's mean loss and the norm of the reduced gradient before clipping."""
        self.steps += 1
        self.loss = self.loss + loss.detach()
        self.grad_norm = self.grad_norm + grad_norm.detach()

    def close(self, step: int, learning_rate: float, device: torch.device | str) -> dict[str, float]:
        """Metrics of the window that ends after `step` steps; starts the next one.

        Raises FloatingPointError when the loss is not finite: such weights are lost and must not be saved.
        """
        loss, grad_norm, wait = mean_over_ranks(
            [float(self.loss) / self.steps, float(self.grad_norm) / self.steps, self.wait_seconds], device
        )
        seconds = time.perf_counter() - self.started  # after the reads above, which wait for the device
        if not loss < float("inf"):
            raise FloatingPointError(f"loss is {loss} after step {step}: lower the learning rate")
        metrics = {
            "step": step,
            "loss": loss,
            "learning_rate": learning_rate,
            "grad_norm": grad_norm,
            "images_per_second": self.steps * self.batch_size / seconds,
            "seconds_per_step": seconds / self.steps,
            "data_wait_share": wait / seconds,
            "eta_seconds": (self.max_steps - step) * seconds / self.steps,
        }
        self._start_over()
        return metrics
