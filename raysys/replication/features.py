"""Image sets → descriptor features, streaming: decoded in batches, kept in a temporary file, read back in blocks."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType

import numpy as np

from raysys.outcomes import rejected
from raysys.replication.inputs import ImageSet, RawImage
from raysys.shards.decode import DecodeConfig, Decoded, decode_image
from raysys.similarity import Descriptor

BATCH_BYTES = 256 * 2**20
"""Decoded pixels that wait for the descriptor: 64 camera pictures of 50 megapixels would be 10 GB."""

OnDone = Callable[[int], None]
"""Called with the number of images of the set that are done."""


@dataclass(frozen=True)
class Unreadable:
    """An image that is not part of the figures, and why (the fate columns of `raysys.outcomes`)."""

    role: str  # generated | training | held_out
    id: str
    outcome: str
    reason: str | None
    detail: str | None

    def __str__(self) -> str:
        return f"{self.role} {self.id}: {self.reason}" + (f" ({self.detail})" if self.detail else "")


@dataclass
class Features:
    """Unit features of the readable images of one set: rows in the order of `ids`, in a temporary file.

    A file and not an array: 25M x 1024 float32 are 100 GB. The page cache keeps what fits. Use as a context manager.
    """

    dim: int
    ids: list[str] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)

    def __post_init__(self) -> None:
        # An anonymous file: gone when the process is, however it ends.
        self._file = tempfile.TemporaryFile(prefix="raysys-features-")  # noqa: SIM115 - closed by __exit__

    def __len__(self) -> int:
        return len(self.ids)

    def append(self, ids: list[str], features: np.ndarray) -> None:
        if features.shape != (len(ids), self.dim) or not np.isfinite(features).all():
            raise ValueError(f"descriptor gave {features.shape}, finite [{len(ids)}, {self.dim}] expected")
        self.ids.extend(ids)
        self._file.write(np.ascontiguousarray(features, "<f4").tobytes())

    def array(self) -> np.ndarray:
        """[N, dim] as a read-only memory map (an empty array when there is nothing)."""
        self._file.flush()
        shape = (len(self.ids), self.dim)
        return np.memmap(self._file, "<f4", "r", shape=shape) if self.ids else np.zeros(shape, np.float32)

    def __enter__(self) -> Features:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._file.close()


def describe(
    images: ImageSet,
    role: str,
    descriptor: Descriptor,
    limits: DecodeConfig,
    *,
    batch_images: int,
    workers: int,
    on_done: OnDone,
) -> Features:
    """Features of every readable image of a set; the others are listed in `unreadable`.

    Memory: one batch of decoded images (at most `batch_images`, and about BATCH_BYTES) and a few decoded ahead.
    """
    features, done = Features(descriptor.dim), 0
    ids: list[str] = []
    batch: list[np.ndarray] = []

    def flush() -> None:
        if batch:
            features.append(ids, descriptor(batch))
        ids.clear()
        batch.clear()
        on_done(done)

    for image_id, result in _decoded(images.images(), role, limits, workers):
        done += 1
        if isinstance(result, Unreadable):
            features.unreadable.append(result)
            continue
        ids.append(image_id)
        batch.append(result)
        if len(batch) == batch_images or sum(pixels.nbytes for pixels in batch) >= BATCH_BYTES:
            flush()
    flush()
    return features


def _decoded(
    images: Iterator[RawImage], role: str, limits: DecodeConfig, workers: int
) -> Iterator[tuple[str, np.ndarray | Unreadable]]:
    """(id, pixels or why not) in order; the next few are decoded by threads meanwhile (Pillow releases the GIL)."""
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[tuple[str, Future[np.ndarray | Unreadable]]] = deque()
        for image in images:
            ahead.append((image.id, pool.submit(_decode, image, role, limits)))
            if len(ahead) > 2 * workers:
                image_id, future = ahead.popleft()
                yield image_id, future.result()
        for image_id, future in ahead:
            yield image_id, future.result()


def _decode(image: RawImage, role: str, limits: DecodeConfig) -> np.ndarray | Unreadable:
    """RGB pixels uint8 [H, W, 3], or why there are none."""
    fate = image.fate
    if image.data is not None:
        found = decode_image(image.data, limits)
        if isinstance(found, Decoded):
            return found.pixels
        fate = rejected(found.reason, found.detail)
    return Unreadable(role, image.id, str(fate["outcome"]), fate["reason"], fate["detail"])
