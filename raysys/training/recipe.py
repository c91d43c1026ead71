"""The interface between the training loop and what is trained.

A recipe defines the modules, the batches and the loss. It does not know about workers, optimizers or checkpoints;
`fit` (training/loop.py) does not know what a recipe trains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

Modules = Mapping[str, torch.nn.Module]
"""The trainable modules by name, as the recipe must call them: with several workers, wrapped for DDP or FSDP2."""


@dataclass(frozen=True)
class Built:
    """The result of a recipe's `build`: modules on the CPU, the same on every worker.

    trainable: name → module. Weights in checkpoints are named <name>.<parameter>.
    frozen: modules that the loss needs but that are not trained; the loop moves them to the device, in eval mode.
    blocks: the submodules of the trainable modules that FSDP2 shards one by one, in forward order.
    """

    trainable: dict[str, torch.nn.Module]
    frozen: dict[str, torch.nn.Module] = field(default_factory=dict)
    blocks: Sequence[torch.nn.Module] = ()


@dataclass(frozen=True)
class Share:
    """One worker's samples of each global batch: start … stop − 1.

    Shares differ in size by at most one sample, so any number of workers up to the batch size works.
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
        """The positions in the global sample sequence of this share's samples of global batch `batch` (0-based)."""
        first = batch * self.batch_size
        return range(first + self.start, first + self.stop)


class Batch(Protocol):
    """One worker's share of a global batch. A slice of it is a batch, too (a micro batch)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice) -> Batch: ...


class Loader(Protocol):
    """An endless iterator over batches whose position is the same on every worker."""

    def __iter__(self) -> Iterator[Batch]: ...

    def __next__(self) -> Batch: ...

    def state(self) -> dict[str, Any]:
        """The position after the last batch, JSON-serializable. It does not depend on the number of workers."""

    def close(self) -> None: ...


class Recipe(Protocol):
    """One training. `loss` derives all randomness from (seed, position), so it does not depend on the workers."""

    def identity(self) -> dict[str, Any]:
        """Everything that changes the trained weights, JSON-serializable; data sets and models by content."""

    def build(self) -> Built:
        """Build new modules, with the same weights for the same seed. Called once per worker."""

    def loader(self, share: Share, state: dict[str, Any] | None) -> Loader:
        """This worker's batches, from the beginning or from a saved position."""

    def loss(
        self, modules: Modules, batch: Batch, positions: Sequence[int]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The mean loss over the samples (a scalar), and further means for the metrics by name (scalars).

        `positions` are the samples' places in the sequence of all samples. Called under autocast if the precision
        requires it, with torch's global generator seeded for this step and worker (dropout inside modules).
        All workers call it equally often, so they may exchange tensors (negatives of a contrastive loss). A loss that
        couples the samples of a batch must reject partial batches, which gradient accumulation would pass.
        """

    def validate(self, modules: Modules, share: Share, n_samples: int) -> dict[str, float]:
        """Means over this worker's share of about `n_samples` held-out samples; {} without held-out data.

        Called with the averaged weights, in eval mode, without gradients. Every worker must call the modules equally
        often, because FSDP2's forward passes are collective.
        """

    def export(self, weights: Callable[[Modules], None], folder: Path) -> Path:
        """Write the trained model to `folder` and return its path. `weights` loads the weights to export into newly
        built modules (unsharded, on the CPU)."""
