"""Index a WebDataset tar from its headers: its samples and the location of their bytes.

    headers → members (name, offset, size) → samples: consecutive members with the same key, grouped as in `webdataset`

Nothing is extracted to disk. POSIX ustar, GNU long names and PAX headers are supported; sparse files, links and devices
are rejected. A truncated shard, or one with damaged headers, yields the complete samples before the damage and exactly
one error item for the remaining bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from raysys.shards.files import Source

BLOCK = 512
MAX_HEADER_BYTES = 1 << 20
"""A larger long-name or PAX record is damaged or an attack."""

_REGULAR = (b"0", b"\0", b"7")
_REFUSED_KINDS = {
    b"1": "hard link",
    b"2": "symbolic link",
    b"3": "device",
    b"4": "device",
    b"6": "pipe",
    b"S": "sparse",
}

# webdataset: the key is the path up to the first dot of the base name, the extension the rest: "d/a.b.jpg" is the
# member "b.jpg" of the sample "d/a".
_KEY_AND_EXTENSION = re.compile(r"^((?:.*/)?[^./][^./]*)\.([^/]*)$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Member:
    """One file in the tar: bytes [offset, offset + size). refused: the reason why it must not be used, or None."""

    name: str
    extension: str  # lower case, everything after the first dot
    offset: int
    size: int
    refused: str | None = None


@dataclass(frozen=True, slots=True)
class TarItem:
    """One sample (members with the same key), or the error item at the end of a damaged shard.

    key: unique in the shard; the second "a" becomes "a#2". source_key: as written in the tar. broken: (reason, detail)
    of the error item, else None.
    """

    key: str
    source_key: str
    members: tuple[Member, ...]
    broken: tuple[str, str] | None = None

    def member(self, *extensions: str) -> Member | None:
        """The member with the first of the extensions that exists."""
        for extension in extensions:
            for member in self.members:
                if member.extension == extension:
                    return member
        return None


@dataclass(frozen=True, slots=True)
class _Header:
    name: str
    kind: bytes
    size: int
    sparse: bool


class BrokenTar(Exception):
    """The rest of the tar cannot be read. name: the entry whose data are truncated, if known."""

    def __init__(self, reason: str, detail: str, name: str | None = None) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail, self.name = reason, detail, name


def index_tar(source: Source) -> list[TarItem]:
    """All samples of a tar, in order. Reads only the headers (512 bytes per member), in one pass."""
    items: list[TarItem] = []
    taken: dict[str, int] = {}
    group: list[Member] = []
    group_key: str | None = None

    def close_group() -> None:
        if group_key is not None:
            items.append(TarItem(unique_in(group_key, taken), group_key, tuple(group)))

    try:
        for key, member in _members(source):
            if key != group_key or any(m.extension == member.extension for m in group):
                close_group()  # a repeated extension starts another sample with the same key
                group_key, group = key, []
            group.append(member)
    except BrokenTar as exc:
        # A sample with a truncated member becomes the error item; earlier samples are complete.
        match = _KEY_AND_EXTENSION.match(exc.name) if exc.name is not None else None
        key = match[1] if match else "(end)"
        if key != group_key:
            close_group()
            group = []
        items.append(TarItem(unique_in(key, taken), key, tuple(group), (exc.reason, exc.detail)))
        return items
    close_group()
    return items


def unique_in(key: str, taken: dict[str, int]) -> str:
    """`key`, or "key#2", "key#3" … if the shard repeats it."""
    unique = key
    while unique in taken:
        taken[key] += 1
        unique = f"{key}#{taken[key]}"
    taken[unique] = 1
    return unique


def _members(source: Source) -> Iterator[tuple[str, Member]]:
    """(key, member) of every entry of a sample: the files that `webdataset` would read, and refused entries."""
    for header, offset in _entries(source):
        match = _KEY_AND_EXTENSION.match(header.name)
        if match is None or header.kind == b"5" or re.match(r"__[^/]*__(?:/|$)", header.name):
            continue  # folders, hidden files, names without a dot, webdataset's own __meta__ entries
        refused = _refusal(header)
        yield match[1], Member(header.name, match[2].lower(), offset, header.size, refused)


def _refusal(header: _Header) -> str | None:
    if header.sparse or header.kind in _REFUSED_KINDS:
        return _REFUSED_KINDS.get(header.kind, "sparse")
    if header.kind not in _REGULAR:
        return f"entry of type {header.kind!r}"
    if header.name.startswith("/") or "\\" in header.name or "\0" in header.name:
        return "absolute or foreign path"
    if ".." in header.name.split("/"):
        return "path leads out of the folder"
    return None


def _entries(source: Source) -> Iterator[tuple[_Header, int]]:
    """(header, offset of its data) of each entry, with long names and PAX records applied."""
    position, ended = 0, False
    overrides: dict[str, str] = {}
    common: dict[str, str] = {}  # PAX global records
    while position < source.size:
        block = source.read(position, BLOCK)
        if len(block) < BLOCK:
            raise BrokenTar("truncated_shard", f"{len(block)} bytes left at byte {position}: half a header")
        if block == bytes(BLOCK):
            # Continue after the end mark, to read archives that were concatenated with `cat`.
            ended, position = True, position + BLOCK
            continue
        ended = False
        header = _parse(block, position, source.size)
        data = position + BLOCK
        left = source.size - data
        if header.kind in b"xgLK" and header.size > MAX_HEADER_BYTES:
            raise BrokenTar("corrupt_shard", f"header record of {header.size} bytes at byte {position}")
        size = int(overrides.get("size", header.size)) if header.kind not in b"xgLK" else header.size
        if size > left:
            name = overrides.get("path", header.name)
            detail = f"{name!r} at byte {position} claims {size} bytes, {left} bytes left"
            raise BrokenTar("truncated_shard", detail, name)
        if header.kind in b"xg":
            (overrides if header.kind == b"x" else common).update(_pax_records(source.read(data, size), position))
        elif header.kind == b"L":
            overrides["path"] = _text(source.read(data, size).split(b"\0", 1)[0])
        elif header.kind != b"K":
            merged = common | overrides
            sparse = any(k.startswith("GNU.sparse") for k in merged)
            yield _Header(merged.get("path", header.name), header.kind, size, sparse), data
            overrides = {}
        position = data + -(-size // BLOCK) * BLOCK
    if not ended:
        # Every writer ends an archive with zero blocks; if they are missing, the archive is truncated.
        detail = f"0 bytes left at byte {source.size}: no end-of-archive mark"
        raise BrokenTar("truncated_shard", detail)


def _parse(block: bytes, position: int, file_size: int) -> _Header:
    """Parse a 512-byte header (POSIX.1-1988 ustar). Raises BrokenTar if its checksum is wrong."""
    stated = _number(block[148:156])
    # Some old tar programs wrote signed sums, which differ for bytes ≥ 128.
    unsigned = sum(block) - sum(block[148:156]) + 8 * 32
    if stated != unsigned:
        detail = f"no tar header at byte {position}, {file_size - position} bytes left"
        raise BrokenTar("corrupt_shard", detail)
    size = _number(block[124:136])
    if size is None or size < 0:
        raise BrokenTar("corrupt_shard", f"impossible size in the header at byte {position}")
    name, kind = _text(block[:100].split(b"\0", 1)[0]), block[156:157]
    if block[257:263] == b"ustar\0" and (prefix := block[345:500].split(b"\0", 1)[0]):
        name = f"{_text(prefix)}/{name}"
    if kind in (b"1", b"2", b"3", b"4", b"5", b"6"):
        size = 0  # links, devices and folders have no data, whatever the field says
    return _Header(name, kind, size, kind == b"S")


def _number(field: bytes) -> int | None:
    """Octal text, or base 256 if the first byte is 0x80 (positive) or 0xff (negative)."""
    if field[0] in (0x80, 0xFF):
        value = int.from_bytes(field[1:], "big")
        return value if field[0] == 0x80 else value - (1 << 8 * (len(field) - 1))
    try:
        return int(field.split(b"\0", 1)[0].strip() or b"0", 8)
    except ValueError:
        return None


def _pax_records(data: bytes, position: int) -> dict[str, str]:
    """`<length> <key>=<value>\\n` records (POSIX.1-2001)."""
    records = {}
    while data:
        digits, space, _ = data.partition(b" ")
        length = int(digits) if space and digits.isdigit() else 0
        key, equals, value = data[len(digits) + 1 : length].rstrip(b"\n").partition(b"=")
        if not equals or length > len(data):
            raise BrokenTar("corrupt_shard", f"damaged PAX header at byte {position}")
        records[_text(key)] = _text(value)
        data = data[length:]
    if not records.get("size", "0").isdigit():
        raise BrokenTar("corrupt_shard", f"impossible size in the PAX header at byte {position}")
    return records


def _text(data: bytes) -> str:
    """Decode a name; bytes that are not UTF-8 become \\xNN, so that names stay distinguishable and printable."""
    return data.decode("utf-8", errors="backslashreplace")
