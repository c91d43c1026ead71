"""The part loader: batches of an assembled training set with an exactly resumable position.

The order of an epoch is a pure function of (seed, epoch): parts are shuffled, and rows within each part (the set itself
is already shuffled globally). The rows of a bucket form one endless sequence over all epochs, which is split into
global batches of `batch_size` rows; a remainder at the end of a part waits for the next rows of its bucket, also across
epochs. So every row occurs exactly once per epoch, no row is dropped, and a set smaller than a batch wraps around.
Global batches do not depend on the number of workers: rank r of W takes rows ⌊r·B/W⌋ … ⌊(r+1)·B/W⌋ − 1 of each.

For a row with several captions, one is drawn each time ("multiple captions", Somepalli et al. 2023, arXiv 2305.20086),
by (seed, position in the global sample sequence), so that it does not depend on the number of workers either.

Every rank reads every part, because its share of the batches is spread over the part. Parts are read ahead in a thread,
so this costs bandwidth but no step time.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from raysys.errors import InputError
from raysys.latents.assemble import MANIFEST
from raysys.models.family import Conditioning
from raysys.rows import bytes_to_array, text_states_of
from raysys.sampling.noise import noise_seed

CACHED_PARTS = 4
"""Parts in memory, at least two: the one that is read and the next."""

COLUMNS = [
    "row_id",
    "captions",
    "latents",
    "latents_shape",
    "text_states",
    "text_states_shapes",
    "text_states_dtype",
]


@dataclass(frozen=True)
class LatentBatch:
    """One worker's share of a global batch: b samples of one bucket, on the CPU."""

    latents: torch.Tensor
    """float32 [b, C, h, w], scaled."""
    conditioning: Conditioning
    """States float32 [b, T, D], padded to the longest caption of the share; with a mask if lengths differ."""
    row_ids: list[str]
    captions: list[str]
    bucket: str
    """"<h>x<w>" of the latents."""

    def __len__(self) -> int:
        return len(self.row_ids)

    def __getitem__(self, index: slice) -> LatentBatch:
        return LatentBatch(
            self.latents[index], self.conditioning[index], self.row_ids[index], self.captions[index], self.bucket
        )


@dataclass(frozen=True)
class LoaderState:
    """The complete position after the last returned batch, which is the same on every rank.

    part: index in the shuffled order of `epoch`. offset: number of consumed rows of that part. waiting: per bucket, the
    rows (part number, row in the part) of the next, still incomplete batch.
    """

    epoch: int = 0
    part: int = 0
    offset: int = 0
    batches: int = 0
    waiting: dict[str, list[tuple[int, int]]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The inverse of `from_dict`, JSON-serializable."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> LoaderState:
        waiting = {bucket: [(int(p), int(r)) for p, r in rows] for bucket, rows in data["waiting"].items()}
        return cls(data["epoch"], data["part"], data["offset"], data["batches"], waiting)


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of an assembled set. Raises InputError if the folder is not a complete one."""
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise InputError(
            f"{folder} is not an assembled training set: {MANIFEST} is missing", "run `raysys assemble` first"
        )
    return json.loads(path.read_text(encoding="utf-8"))


def set_identity(folder: str | Path) -> dict[str, Any]:
    """The identity of a set: its rows in order, independent of its inputs and its path."""
    manifest = read_manifest(folder)
    digests = "".join(part["sha256"] for part in manifest["parts"])
    return {"rows": manifest["rows"]["kept"], "content": hashlib.sha256(digests.encode()).hexdigest()}


def read_tables(folder: str | Path, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The parts of an assembled set as Arrow tables, one at a time.

    columns: the columns to read (None = all); `caption` is the first of a row's captions.
    """
    stored = None if columns is None else ["captions" if name == "caption" else name for name in columns]
    for part in read_manifest(folder)["parts"]:
        table = pq.read_table(Path(folder) / part["name"], columns=stored)
        if columns is not None and "caption" in columns:
            first = pc.list_element(table["captions"], 0)
            table = table.append_column("caption", first).select(list(columns))
        yield table


def read_part(path: Path) -> list[dict[str, Any]]:
    """The rows of one part, with arrays as bytes, which are only converted to float32 for a batch."""
    return pq.read_table(path, columns=COLUMNS).to_pylist()


def drawn_caption(seed: int, position: int, n_captions: int) -> int:
    """The index of the caption for the sample at `position`: uniformly distributed, a pure function."""
    return 0 if n_captions == 1 else noise_seed(seed, "caption", position) % n_captions


class PartLoader:
    """An endless iterator over this rank's shares of global batches of `batch_size` samples.

    `state()` is the position after the last batch; a loader created with that state, for any number of workers,
    continues with exactly the next batch. Not thread-safe.
    """

    def __init__(
        self,
        folder: str | Path,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        state: dict[str, Any] | None = None,
    ) -> None:
        if batch_size < max(1, world_size):
            raise InputError(
                f"batch_size = {batch_size} is smaller than the number of workers, {world_size}",
                "each worker needs a sample of every batch",
            )
        if not 0 <= rank < world_size:
            raise ValueError(f"rank = {rank} is outside 0 … {world_size - 1}")
        self.folder = Path(folder)
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.seed = seed
        self.parts = read_manifest(folder)["parts"]
        self._state = LoaderState() if state is None else LoaderState.from_dict(state)
        self._cache: OrderedDict[int, Future[list[dict[str, Any]]]] = OrderedDict()
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="part-reader")

    @property
    def rows(self) -> int:
        """The number of rows of the set, i.e. of one epoch."""
        return sum(part["rows"] for part in self.parts)

    def state(self) -> dict[str, Any]:
        """The position after the last returned batch, JSON-serializable."""
        return self._state.as_dict()

    def close(self) -> None:
        """Stop the reader thread."""
        self._reader.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> PartLoader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[LatentBatch]:
        return self

    def __next__(self) -> LatentBatch:
        first = self._state.batches * self.batch_size
        self._state, bucket, rows = next_batch(self._state, self.parts, self.batch_size, self.seed)
        start, stop = (rank * self.batch_size // self.world_size for rank in (self.rank, self.rank + 1))
        batch = self._fetch(rows[start:stop], range(first + start, first + stop), bucket)
        self._read_ahead()
        return batch

    def _fetch(self, places: list[tuple[int, int]], positions: range, bucket: str) -> LatentBatch:
        """Rows at `places` (part number, row) as a batch; reads each part once."""
        parts = {number: self._part(number).result() for number in {number for number, _ in places}}
        rows = [parts[number][row] for number, row in places]
        drawn = [drawn_caption(self.seed, p, len(row["captions"])) for p, row in zip(positions, rows, strict=True)]
        latents = np.stack([bytes_to_array(row["latents"], row["latents_shape"]) for row in rows])
        return LatentBatch(
            torch.from_numpy(latents.astype(np.float32)),
            Conditioning.stack([text_states_of(row)[k] for k, row in zip(drawn, rows, strict=True)]),
            [row["row_id"] for row in rows],
            [row["captions"][k] for k, row in zip(drawn, rows, strict=True)],
            bucket,
        )

    def _part(self, number: int) -> Future[list[dict[str, Any]]]:
        """A part from the LRU cache, or a read of it that has been started."""
        if number not in self._cache:
            self._cache[number] = self._reader.submit(read_part, self.folder / self.parts[number]["name"])
            while len(self._cache) > CACHED_PARTS:
                self._cache.popitem(last=False)
        self._cache.move_to_end(number)
        return self._cache[number]

    def _read_ahead(self) -> None:
        """Start reading the part of the next batch and the one after it."""
        epoch, part = self._state.epoch, self._state.part
        coming = part_order(len(self.parts), self.seed, epoch)[part : part + 2]
        if len(coming) < 2:
            coming += part_order(len(self.parts), self.seed, epoch + 1)[: 2 - len(coming)]
        for number in coming:
            self._part(number)


def next_batch(
    state: LoaderState, parts: list[dict[str, Any]], batch_size: int, seed: int
) -> tuple[LoaderState, str, list[tuple[int, int]]]:
    """The global batch after `state` → (new state, bucket, batch_size rows as (part number, row)). A pure function.

    Reads the parts in epoch order and adds rows to the waiting ones of their bucket until a bucket has a full batch.
    """
    epoch, part, offset = state.epoch, state.part, state.offset
    waiting = {bucket: list(rows) for bucket, rows in state.waiting.items()}
    order = part_order(len(parts), seed, epoch)
    while True:
        if part == len(order):
            epoch, part, offset = epoch + 1, 0, 0
            order = part_order(len(parts), seed, epoch)
        number = order[part]
        n_rows, bucket = parts[number]["rows"], parts[number]["bucket"]
        gathered = waiting.setdefault(bucket, [])
        taken = row_order(n_rows, seed, epoch, number)[offset : offset + batch_size - len(gathered)]
        gathered += [(number, row) for row in taken]
        offset += len(taken)
        if offset == n_rows:
            part, offset = part + 1, 0
        if len(gathered) == batch_size:
            del waiting[bucket]
            waiting = {name: rows for name, rows in waiting.items() if rows}
            return LoaderState(epoch, part, offset, state.batches + 1, waiting), bucket, gathered


def part_order(n_parts: int, seed: int, epoch: int) -> tuple[int, ...]:
    """The parts in the order of an epoch."""
    return _permutation(n_parts, (seed, epoch, 0))


def row_order(n_rows: int, seed: int, epoch: int, part: int) -> tuple[int, ...]:
    """The rows of a part in the order of an epoch."""
    return _permutation(n_rows, (seed, epoch, part + 1))


@lru_cache(maxsize=16)  # a part serves many batches
def _permutation(n: int, key: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(np.random.default_rng(key).permutation(n).tolist())
