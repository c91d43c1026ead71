"""An index of a WebDataset tar from its headers alone: which samples it holds and where their bytes are.

    headers → members (name, offset, size) → samples: consecutive members with one key, as `webdataset` groups them

Nothing is ever extracted to disk. POSIX ustar, GNU long names and PAX headers are read; sparse files, links and
devices are refused. A shard that ends in the middle, or whose headers stop making sense, yields the whole samples
before that place and exactly one error item with the bytes left.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from raysys.shards.files import Source

BLOCK = 512
MAX_HEADER_BYTES = 1 << 20
"""A long-name or PAX record larger than this is an attack or damage."""

_REGULAR = (b"0", b"\0", b"7")
_REFUSED_KINDS = {
    b"1": "hard link",
    b"2": "symbolic link",
    b"3": "device",
    b"4": "device",
    b"6": "pipe",
    b"S": "sparse",
}

# webdataset: the key is the path up to the first dot of the base name, the extension the rest.
_KEY_AND_EXTENSION = re.compile(r"^((?:.*/)?[^./][^./]*)\.([^/]*)$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Member:
    """One file in the tar: bytes [offset, offset + size). `refused` says why it must not be used."""

    name: str
    extension: str  # lower case, everything after the first dot
    offset: int
    size: int
    refused: str | None = None


@dataclass(frozen=True, slots=True)
class TarItem:
    """One sample (members of one key), or the place where the shard breaks off.

    `key` is unique in the shard: the second "a" becomes "a#2". `source_key` is what the author wrote. `broken` is
    (reason, detail) of the one trailing error item, else None.
    """

    key: str
    source_key: str
    members: tuple[Member, ...]
    broken: tuple[str, str] | None = None

    def member(self, *extensions: str) -> Member | None:
        """The first member with one of the extensions, in the order of preference."""
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
    """The headers cannot be followed further. `name`: the entry whose data are cut, where that is known."""

    def __init__(self, reason: str, detail: str, name: str | None = None) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail, self.name = reason, detail, name


def index_tar(source: Source) -> list[TarItem]:
    """All samples of a tar in order. Reads headers only, in one pass: 512 bytes per member."""
    items: list[TarItem] = []
    taken: dict[str, int] = {}
    group: list[Member] = []
    group_key: str | None = None

    def close_group() -> None:
        if group_key is not None:
            items.append(TarItem(_unique(group_key, taken), group_key, tuple(group)))

    try:
        for key, member in _members(source):
            if key != group_key or any(m.extension == member.extension for m in group):
                close_group()  # a repeated extension begins another sample under the same key
                group_key, group = key, []
            group.append(member)
    except BrokenTar as exc:
        # A sample with a cut member is the error item; samples before the break are judged by what they hold.
        match = _KEY_AND_EXTENSION.match(exc.name) if exc.name is not None else None
        key = match[1] if match else "(end)"
        if key != group_key:
            close_group()
            group = []
        items.append(TarItem(_unique(key, taken), key, tuple(group), (exc.reason, exc.detail)))
        return items
    close_group()
    return items


def _unique(key: str, taken: dict[str, int]) -> str:
    """`key`, or "key#2", "key#3" … when the shard repeats it."""
    unique = key
    while unique in taken:
        taken[key] += 1
        unique = f"{key}#{taken[key]}"
    taken[unique] = 1
    return unique


def _members(source: Source) -> Iterator[tuple[str, Member]]:
    """(key, member) of every entry that belongs to a sample: files as `webdataset` sees them, and refused entries."""
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
    """(header, offset of its data) of each entry; long names and PAX records are already applied."""
    position, ended = 0, False
    overrides: dict[str, str] = {}
    common: dict[str, str] = {}  # PAX global records
    while position < source.size:
        block = source.read(position, BLOCK)
        if len(block) < BLOCK:
            raise BrokenTar("truncated_shard", f"{len(block)} bytes left at byte {position}: half a header")
        if block == bytes(BLOCK):
            # Going on after the end mark also reads archives that were joined with `cat`.
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
        # Every writer closes an archive with zero blocks; without them the rest was never written.
        detail = f"0 bytes left at byte {source.size}: no end-of-archive mark"
        raise BrokenTar("truncated_shard", detail)


def _parse(block: bytes, position: int, file_size: int) -> _Header:
    """One 512-byte header (POSIX.1-1988 ustar layout); BrokenTar when its checksum is wrong."""
    stated = _number(block[148:156])
    # Signed sums were written by some old tars; bytes ≥ 128 differ.
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
        size = 0  # no data follow links, devices and folders, whatever the field says
    return _Header(name, kind, size, kind == b"S")


def _number(field: bytes) -> int | None:
    """Octal text, or base 256 when the first byte is 0x80 (positive) or 0xff (negative)."""
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
    """Names that are not UTF-8 stay distinguishable and printable: bad bytes become \\xNN."""
    return data.decode("utf-8", errors="backslashreplace")
