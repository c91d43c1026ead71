"""A recipe in a few lines: a small network learns a fixed function. It imports torch only, so workers start fast."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from raysys.training.draws import sample_rng
from raysys.training.recipe import Built, Share

WIDTH = 6


@dataclass
class ToyLoader:
    """Sample i of the sequence is a pure function of i; the position is the number of batches given out."""

    share: Share
    batches: int = 0

    def __iter__(self):
        return self

    def __next__(self) -> torch.Tensor:
        positions = self.share.positions(self.batches)
        self.batches += 1
        rows = [sample_rng(0, "toy", p).standard_normal(WIDTH) for p in positions]
        return torch.from_numpy(np.array(rows, dtype=np.float32))

    def state(self) -> dict:
        return {"batches": self.batches}

    def close(self) -> None:
        pass


@dataclass
class ToyRecipe:
    """y = |x|·A learnt by two blocks with dropout between them. `data` stands for the data set's contents."""

    seed: int = 0
    dropout: float = 0.0
    data: str = "a"
    on_loss: Callable[[int], None] = lambda position: None
    """Called with the position of each micro batch's first sample: tests interfere here."""
    validated: list[float] = field(default_factory=list)

    def identity(self) -> dict:
        return {"dropout": self.dropout, "data": self.data}

    def build(self) -> Built:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            net = torch.nn.Sequential(_block(), torch.nn.Dropout(self.dropout), _block())
            target = torch.nn.Linear(WIDTH, WIDTH)
        return Built({"net": net}, {"target": target}, [net[0], net[2]])

    def loader(self, share: Share, state: dict | None) -> ToyLoader:
        return ToyLoader(share, 0 if state is None else state["batches"])

    def loss(self, modules, batch, positions):
        self.on_loss(positions[0])
        target = torch.linspace(-1, 1, WIDTH) * batch.abs()
        error = (modules["net"](batch) - target).square().mean(1)
        return error.mean(), {"largest": error.max()}

    def validate(self, modules, share: Share, n_samples: int) -> dict[str, float]:
        loss, _ = self.loss(modules, next(ToyLoader(share, 10**6)), [0])
        self.validated.append(float(loss))
        return {"loss": float(loss)}

    def export(self, weights, folder: Path) -> Path:
        built = self.build()
        weights(built.trainable)
        folder.mkdir()
        torch.save(built.trainable["net"].state_dict(), folder / "net.pt")
        return folder


def _block() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(WIDTH, 9), torch.nn.GELU(), torch.nn.Linear(9, WIDTH))
