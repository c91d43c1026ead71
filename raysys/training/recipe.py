"""The contract between the training loop and what is trained.

A recipe says what the modules are, where its batches come from and what the loss is. It knows no worker, no optimizer
and no checkpoint; `fit` (training/loop.py) knows nothing of what a recipe learns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

Modules = Mapping[str, torch.nn.Module]
"""The trainable modules by name, as the recipe must call them: wrapped for DDP or FSDP2 where there are workers."""


@dataclass(frozen=True)
class Built:
    """What a recipe's `build` returns, on the CPU, the same on every worker.

    trainable: name → module. Weights in checkpoints are called <name>.<parameter>.
    frozen: modules that the loss needs and nobody trains; they are moved to the device, in eval mode.
    blocks: the parts of the trainable modules that FSDP2 shards one by one, in the order of the forward pass.
    """

    trainable: dict[str, torch.nn.Module]
    frozen: dict[str, torch.nn.Module] = field(default_factory=dict)
    blocks: Sequence[torch.nn.Module] = ()


@dataclass(frozen=True)
class Share:
    """The samples of each global batch that one worker takes: start … stop − 1.

    Shares of the workers differ by one sample at most, so that any number of workers up to the batch size works.
    """

    rank: int
    world_size: int
    batch_size: int

    @property
    def start(self) -> int:
        return self.rank * self.batch_size // self.world_size

    @property
    def stop(self) -> int:
        return (self.rank + 1) * self.batch_size // self.world_size

    def __len__(self) -> int:
        return self.stop - self.start

    def positions(self, batch: int) -> range:
        """The places of this share's samples of global batch `batch` (0-based) in the sequence of all samples."""
        first = batch * self.batch_size
        return range(first + self.start, first + self.stop)


class Batch(Protocol):
    """One worker's share of a global batch: n samples, of which a slice is a batch again (micro steps)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice) -> Batch: ...


class Loader(Protocol):
    """An endless iterator of batches with a position that every worker sees alike."""

    def __iter__(self) -> Iterator[Batch]: ...

    def __next__(self) -> Batch: ...

    def state(self) -> dict[str, Any]:
        """JSON-able: the position behind the last batch. It does not depend on the number of workers."""

    def close(self) -> None: ...


class Recipe(Protocol):
    """One training. All randomness of `loss` comes from (seed, position), so that it does not depend on the workers."""

    def identity(self) -> dict[str, Any]:
        """JSON-able: everything that changes the trained weights, data sets and models by their contents."""

    def build(self) -> Built:
        """New modules, the same weights for the same seed. Called once per worker."""

    def loader(self, share: Share, state: dict[str, Any] | None) -> Loader:
        """This worker's batches, from the start or from a saved position."""

    def loss(
        self, modules: Modules, batch: Batch, positions: Sequence[int]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The mean loss over the samples (a scalar), and named means for the metrics (scalars).

        `positions` are the samples' places in the sequence of all samples. Called under autocast where the precision
        asks for it, with torch's global generator seeded for this step and worker (dropout inside modules).
        Every worker calls it equally often, so it may exchange tensors with the others (negatives of a contrastive
        loss). A loss that couples the samples of a batch must refuse a part of one, which micro steps would give it.
        """

    def validate(self, modules: Modules, share: Share, n_samples: int) -> dict[str, float]:
        """Means over this worker's share of about `n_samples` held-out samples; {} without held-out data.

        Called with the averaged weights, in eval mode, without gradients. Every worker calls the modules equally often.
        """

    def export(self, weights: Callable[[Modules], None], folder: Path) -> Path:
        """Write the trained model to `folder` for its users. `weights` fills freshly built modules (whole, on the
        CPU) with the weights to export."""
