"""The input of the describe stage, from a table or a folder of images: items per chunk, and their decoded images.

For SAMPLES these are the kept rows and the rows that ingest rejected for their license: copies of such an image must be
found, so that they are not trained on under the license of another row.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raysys.errors import InputError
from raysys.outcomes import KEPT, error_from
from raysys.rows import FEATURES, GENERATIONS, SAMPLES
from raysys.shards.decode import DecodeConfig, Decoded, decode_image
from raysys.shards.files import is_url, join, read_file
from raysys.shards.folder import image_names, list_files, listing_signature
from raysys.shards.images import image_reader
from raysys.shards.licenses import LICENSE_REASONS
from raysys.shards.raw import printable
from raysys.similarity import DescriptorFacts
from raysys.similarity.describe import LoadedImage
from raysys.tables import Chunk, InputPart, Store, TableView, open_table
from raysys.tables.plan import TABLE
from raysys.tables.read import Part

READ_ROWS = 32
"""Number of encoded images in memory at a time."""
_REFERENCE = ("sample_id", "image", "shard", "member", "offset", "length")


@dataclass(frozen=True)
class ImageTable:
    """A table of SAMPLES or GENERATIONS rows as the input of the describe stage. Picklable."""

    path: str
    version: str  # changes with the contents, so that a worker never uses a stale cached listing
    key: str

    @classmethod
    def of(cls, view: TableView) -> ImageTable:
        """Raises InputError if the table holds other rows."""
        if view.row_type.name not in (SAMPLES.name, GENERATIONS.name):
            raise InputError(
                f"{view.store.url} holds {view.row_type.name} rows", "give a table of samples or generations"
            )
        signatures = "".join(part.signature for part in view.inputs())
        version = hashlib.sha256(signatures.encode()).hexdigest()[:16]
        return cls(view.store.url, version, view.row_type.key[0])

    def __call__(self, chunk: Chunk) -> pa.Table:
        """The items of a chunk: `image_id`, and what `load_images` needs."""
        part = _parts(self.path, self.version)[chunk.part.name]
        is_samples = part.output.row_type.name == SAMPLES.name
        wanted = _REFERENCE if is_samples else ("image",)
        rows = part.read([self.key, *wanted, "outcome", "reason"]).slice(chunk.start, chunk.stop - chunk.start)
        keep = pc.equal(rows["outcome"], KEPT)
        if is_samples:
            keep = pc.or_(keep, is_refused(rows))
        return rows.filter(keep).select([self.key, *wanted]).rename_columns(["image_id", *wanted])


def is_refused(samples: pa.Table) -> pa.ChunkedArray:
    """Mask of SAMPLES rows that ingest rejected for their license and whose image could be read."""
    refused = pc.is_in(samples["reason"], pa.array(LICENSE_REASONS))
    return pc.and_(refused, pc.is_valid(samples["sample_id"]))


@lru_cache(maxsize=4)
def _parts(path: str, _version: str) -> dict[str, Part]:
    return {part.name: part for part in open_table(path).parts}


@dataclass(frozen=True)
class ImageFolder:
    """A folder of image files as the input of the describe stage: one input part with sorted items. Picklable."""

    path: str
    signature: str
    n_images: int

    @classmethod
    def of(cls, path: str) -> ImageFolder:
        """Raises InputError if the folder has no images."""
        path = path if is_url(path) else os.path.abspath(path)
        listing = list_files(path)
        n_images = len(image_names(listing))
        if not n_images:
            raise InputError(f"no images in {path}", "give a folder of image files, or a table of samples")
        return cls(path, listing_signature(listing), n_images)

    @property
    def part(self) -> InputPart:
        return InputPart("images", self.path, self.n_images, self.signature)

    def __call__(self, chunk: Chunk) -> pa.Table:
        names = _names(self.path, self.signature)[chunk.start : chunk.stop]
        # As bytes, because file names need not be UTF-8.
        paths = pa.array([os.fsencode(join(self.path, name)) for name in names], pa.binary())
        return pa.table({"image_id": pa.array([printable(name) for name in names], pa.string()), "path": paths})


@lru_cache(maxsize=2)
def _names(path: str, signature: str) -> list[str]:
    listing = list_files(path)
    if listing_signature(listing) != signature:
        raise InputError(f"the files in {path} changed while they were being read", "run the same command again")
    return image_names(listing)


def image_source(path: str) -> tuple[ImageTable | ImageFolder, list[InputPart], str | None]:
    """(loader of items, input parts, identity of the table or None) of the table or folder at `path`."""
    if Store(path).exists(TABLE):
        view = open_table(path)
        return ImageTable.of(view), view.inputs(), view.identity
    if not is_url(path) and not os.path.isdir(path):
        raise InputError(f"images: {path} does not exist", "give a table of samples or generations, or a folder")
    folder = ImageFolder.of(path)
    return folder, [folder.part], None


def stated(descriptor: DescriptorFacts) -> dict[str, str]:
    """What identifies a descriptor in fingerprints; weights are identified by content, not by path."""
    return {
        "descriptor": descriptor.name,
        "preset": descriptor.preset,
        "weights_sha256": descriptor.weights_sha256,
    }


def described_by(descriptor: DescriptorFacts, features: str, images: str) -> TableView | None:
    """The rows of the table `features` by this descriptor, if they cover all current `images`; None otherwise.

    Decoding limits are ignored, so that a table made by another job can be used.
    """
    if not Store(features).exists(TABLE):
        return None
    found = open_table(features, FEATURES).of(descriptor.preset)
    if not found.outputs or found.n_pending:
        return None
    _, parts, identity = image_source(images)
    output = found.outputs[0]
    fields = output.fields()
    is_same = all(fields.get(name) == value for name, value in {"images": identity, **stated(descriptor)}.items())
    described = {chunk.part.name: chunk.part.signature for chunk in output.chunks}
    return found if is_same and described == {part.name: part.signature for part in parts if part.n_items} else None


def features_of(path: str, descriptor: DescriptorFacts) -> TableView:
    """The rows of a FEATURES table by one descriptor. Raises InputError if there are none."""
    found = open_table(path, FEATURES).of(descriptor.preset)
    if not found.outputs:
        raise InputError(f"{path} has no features by {descriptor.preset}", "run `raysys describe` first")
    return found


@dataclass(frozen=True)
class ImageLoader:
    """Items → decoded images, one at a time. Picklable; uses one cache of open files per process."""

    limits: DecodeConfig

    def __call__(self, items: Sequence[dict[str, Any]]) -> Iterator[LoadedImage]:
        for start in range(0, len(items), READ_ROWS):
            some = items[start : start + READ_ROWS]
            for item, data in zip(some, _read(some), strict=True):
                yield load_image(item["image_id"], data, self.limits, item.get("sample_id"))


def load_image(
    image_id: str, data: bytes | Exception, limits: DecodeConfig, sample_id: str | None = None
) -> LoadedImage:
    """Decode one image. If `data` is the exception of a failed read, the fate is an error, which can be retried."""
    if isinstance(data, Exception):
        return LoadedImage(image_id, sample_id, None, error_from("read", data))
    sample_id = sample_id or hashlib.sha256(data).hexdigest()
    decoded = decode_image(data, limits)
    if isinstance(decoded, Decoded):
        return LoadedImage(image_id, sample_id, decoded.pixels)
    return LoadedImage(image_id, sample_id, None, decoded.fate())


def _read(items: Sequence[dict[str, Any]]) -> list[bytes | Exception]:
    if "path" in items[0]:
        return [_read_path(os.fsdecode(item["path"])) for item in items]
    if "shard" in items[0]:
        return image_reader().read_many(items)
    return [item["image"] or ValueError("the row is kept but has no image") for item in items]


def _read_path(path: str) -> bytes | Exception:
    try:
        return read_file(path)
    except OSError as exc:
        return exc
