"""The fusion set in memory: latents and text states encoded once, grouped by bucket and class."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from raysys.errors import InputError
from raysys.fusion.fuse import draw_fusion
from raysys.models.family import Conditioning
from raysys.outcomes import KEPT
from raysys.rows import bytes_to_array, text_states_of


@dataclass(frozen=True)
class FusionBucket:
    """The fusion images of one latent size. class_index[k]: the images of class k. A class is a distinct caption; of
    several captions of an image, the first is used."""

    latents: torch.Tensor  # [N, C, h, w] float32, scaled
    conditioning: Conditioning  # float32, of K captions: one per class
    captions: tuple[str, ...]  # K
    class_of: np.ndarray  # [N] → class
    class_index: tuple[np.ndarray, ...]

    def draw(self, rng: np.random.Generator) -> int:
        """Draw the index of one image, see `draw_fusion`."""
        return draw_fusion(rng, self.class_index)


@dataclass(frozen=True)
class FusionSet:
    """All buckets. A fusion set is small (Tiny-ImageNet at 256 px: 0.8 GB as float16), so it is held in memory."""

    buckets: dict[str, FusionBucket]

    def bucket(self, name: str) -> FusionBucket:
        """The images of latent size `name`. Raises InputError if the set has none of this size."""
        if name not in self.buckets:
            raise InputError(
                f"the fusion set has no images of latent size {name}; it has {sorted(self.buckets)}",
                "encode the fusion set at the sizes of the training set",
            )
        return self.buckets[name]

    @classmethod
    def from_tables(cls, tables: Iterable[pa.Table]) -> FusionSet:
        """Kept rows of the training-set schema. Order does not matter: rows are sorted by row_id."""
        rows_of: dict[str, list[dict]] = {}
        for table in tables:
            for row in table.to_pylist():
                if row["outcome"] == KEPT:
                    rows_of.setdefault(row["bucket"], []).append(row)
        if not rows_of:
            raise InputError("the fusion set has no kept rows", "give a folder with an assembled set of images")
        return cls({name: _bucket(rows) for name, rows in sorted(rows_of.items())})


def _bucket(rows: list[dict]) -> FusionBucket:
    rows = sorted(rows, key=lambda row: (row["row_id"], row["copy"]))
    first_of_caption: dict[str, dict] = {}
    for row in rows:
        first_of_caption.setdefault(row["captions"][0], row)
    captions = tuple(sorted(first_of_caption))
    class_number = {caption: k for k, caption in enumerate(captions)}
    class_of = np.array([class_number[row["captions"][0]] for row in rows])
    states = [text_states_of(first_of_caption[caption])[0] for caption in captions]
    latents = np.stack([bytes_to_array(row["latents"], row["latents_shape"]) for row in rows])
    return FusionBucket(
        latents=torch.from_numpy(latents.astype(np.float32)),
        conditioning=Conditioning.stack(states),
        captions=captions,
        class_of=class_of,
        class_index=tuple(np.flatnonzero(class_of == k) for k in range(len(captions))),
    )
