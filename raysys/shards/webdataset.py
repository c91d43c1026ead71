"""WebDataset tars, as written by the `webdataset` library and `img2dataset`: <key>.jpg + <key>.txt + <key>.json.

The key of a member is its path up to the first dot of the base name, as in `webdataset`: `a.b.jpg` belongs to the
sample `a`. One image per sample is used. Each further image is an item of its own, which is rejected as `second_image`,
so that every image in a tar has a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from raysys import outcomes
from raysys.shards.files import Source, content_signature, open_source
from raysys.shards.raw import IMAGE_EXTENSIONS, MAX_TEXT_BYTES, REFUSED_IMAGE_EXTENSIONS, RawItem
from raysys.shards.tar import Member, TarItem, index_tar, unique_in

TEXT_EXTENSIONS = ("txt", "text", "caption")
_EXTENSIONS = (*IMAGE_EXTENSIONS, *REFUSED_IMAGE_EXTENSIONS)


Item = TarItem | RawItem
"""A sample, or a further image of the sample before it."""


@lru_cache(maxsize=8)
def _index(path: str, signature: str) -> tuple[Item, ...]:
    """The items of a tar, cached for all of its chunks in this process; a changed tar has another signature."""
    source = open_source(path)
    try:
        samples = index_tar(source)
    finally:
        source.close()
    taken = {sample.key: 1 for sample in samples}
    return tuple(item for sample in samples for item in (sample, *_further_images(path, sample, taken)))


def _further_images(path: str, sample: TarItem, taken: dict[str, int]) -> Iterator[RawItem]:
    used = _image_member(sample)
    for member in sample.members:
        if member is used or not _is_image(member):
            continue
        detail = f"{used.name} is the image of sample {sample.key!r}; a key ends at the first dot of the file name"
        yield RawItem(
            unique_in(member.name, taken),
            sample.source_key,
            shard=path,
            member=member.name,
            offset=member.offset,
            length=member.size,
            fate=outcomes.rejected("second_image", detail),
        )


def count_items(path: str, signature: str) -> int:
    return len(_index(path, signature))


def read_items(path: str, start: int, stop: int, signature: str) -> Iterator[RawItem]:
    """Items [start, stop) of a tar, in order. Raises ValueError if it has changed since it was listed."""
    source = open_source(path)
    try:
        if content_signature(source) != signature:
            raise ValueError(f"{path} changed since it was listed")
        for item in _index(path, signature)[start:stop]:
            yield item if isinstance(item, RawItem) else _raw(path, source, item)
    finally:
        source.close()


def _raw(path: str, source: Source, item: TarItem) -> RawItem:
    raw = RawItem(item.key, item.source_key, shard=path)
    if item.broken is not None:
        raw.fate = outcomes.error("read", *item.broken)
        return raw
    image = _image_member(item)
    if image is not None:
        raw.member, raw.offset, raw.length = image.name, image.offset, image.size
        raw.read_image = lambda: source.read(image.offset, image.size)
    else:
        raw.missing = f"members: {', '.join(m.name for m in item.members)}"
    text, metadata = item.member(*TEXT_EXTENSIONS), item.member("json")
    if refused := [m for m in item.members if m.refused]:
        raw.fate = outcomes.rejected("unsafe_member", f"{refused[0].name}: {refused[0].refused}")
    elif large := [m for m in (text, metadata) if m is not None and m.size > MAX_TEXT_BYTES]:
        raw.fate = outcomes.rejected("text_too_large", f"{large[0].name}: {large[0].size} bytes > {MAX_TEXT_BYTES}")
    else:
        raw.caption = None if text is None else source.read(text.offset, text.size)
        raw.metadata = None if metadata is None else source.read(metadata.offset, metadata.size)
    return raw


def _image_member(item: TarItem) -> Member | None:
    """`<key>.jpg` and similar; otherwise the first image with a longer extension (`<key>.input.jpg`)."""
    return item.member(*_EXTENSIONS) or next(filter(_is_image, item.members), None)


def _is_image(member: Member) -> bool:
    return member.extension.rpartition(".")[2] in _EXTENSIONS
