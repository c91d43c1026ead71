"""A list of images as an image set: paths of files, Pillow images and arrays, in any mixture."""

from __future__ import annotations

import hashlib
import io
import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from raysys.errors import InputError
from raysys.outcomes import error_from
from raysys.replication.inputs import ImageSet, RawImage, sidecar_facts
from raysys.similarity.images import ImageLike, as_pil

Listed = str | os.PathLike | ImageLike


class ListedImages:
    """Ids are the paths as given, and "image <position>" for images in memory; a repeated path gets its position, too.

    Raises InputError for an empty list, and for an item that is neither a path nor an image.
    """

    def __init__(self, items: Sequence[Listed], role: str = "images") -> None:
        self.source = f"a list of {len(items):,} images"
        if not items:
            raise InputError(f"{role}: the list is empty", "give paths of image files or Pillow images")
        names = [os.fspath(item) if isinstance(item, (str, os.PathLike)) else None for item in items]
        repeated = {name for name, count in Counter(names).items() if count > 1}
        self._items: dict[str, Path | bytes] = {}
        for position, (item, name) in enumerate(zip(items, names, strict=True)):
            if name is None:
                self._items[f"image {position}"] = _encoded(item, f"{role}: item {position}")
            else:
                self._items[f"{name} ({position})" if name in repeated else name] = Path(name)

    def __len__(self) -> int:
        return len(self._items)

    def signature(self) -> str:
        digest = hashlib.sha256()
        for image_id, item in self._items.items():
            digest.update(f"{image_id}\n".encode("utf-8", "surrogateescape"))
            digest.update(item if isinstance(item, bytes) else _state(item).encode())
        return digest.hexdigest()[:16]

    def ids(self) -> set[str]:
        return set(self._items)

    def images(self) -> Iterator[RawImage]:
        for image_id in self._items:
            try:
                yield RawImage(image_id, self.bytes_of(image_id))
            except OSError as exc:
                yield RawImage(image_id, None, error_from("read", exc))

    def bytes_of(self, image_id: str) -> bytes:
        item = self._items[image_id]
        return item if isinstance(item, bytes) else item.read_bytes()

    def facts_of(self, ids: Collection[str]) -> dict[str, dict[str, str | None]]:
        return {image_id: self._facts(self._items[image_id]) for image_id in ids}

    def _facts(self, item: Path | bytes) -> dict[str, str | None]:
        if isinstance(item, bytes):
            return sidecar_facts(None, None)
        beside = (item.with_suffix(extension) for extension in (".txt", ".json"))
        return sidecar_facts(*(path.read_bytes() if path.is_file() else None for path in beside))


def refuse_equal(first: ImageSet, second: ImageSet, roles: tuple[str, str]) -> None:
    """Raise InputError if two sets, of which one is a list, hold the same images under the same ids."""
    if first.signature() == second.signature():
        raise InputError(
            f"{roles[0]} and {roles[1]} are the same list: every image would match itself", "give two different lists"
        )


def _encoded(item: ImageLike, what: str) -> bytes:
    """An image in memory as PNG, which loses nothing."""
    try:
        image = as_pil(item)
    except (AttributeError, ValueError) as exc:
        raise InputError(
            f"{what} is not an image: {type(item).__name__}", "give a path, a Pillow image or a uint8 array [H, W, 3]"
        ) from exc
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=1)
    return out.getvalue()


def _state(path: Path) -> str:
    """Changes if the file does; that it is missing is found out when it is read."""
    if not path.exists():
        return "missing"
    stat = path.stat()
    return f"{os.path.realpath(path)} {stat.st_size} {stat.st_mtime_ns}"
