"""Check one part of a table: its bytes, its footer, its fates and its keys."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.errors import InputError
from raysys.outcomes import OUTCOMES, Counts
from raysys.tables.commit import counts_of, info_of, keys_of, open_part
from raysys.tables.keys import hashes_of
from raysys.tables.read import Part
from raysys.tables.store import Store

_BLOCK = 1 << 20
_NO_HASHES = np.empty(0, np.uint64)


@dataclass(frozen=True)
class PartCheck:
    """What was found in one part and its retries.

    rows: the range of the input that the part holds, as its writer recorded it; None if it recorded none.
    hashes: of its keys, each once; none if the part has problems that make its rows meaningless.
    """

    problems: tuple[str, ...] = ()
    counts: Counts = field(default_factory=Counts)
    rows: tuple[int, int] | None = None
    has_checksum: bool = True
    hashes: np.ndarray = field(default_factory=lambda: _NO_HASHES)

    def without_hashes(self) -> PartCheck:
        return replace(self, hashes=_NO_HASHES)


def check_part(part: Part) -> PartCheck:
    """Read every byte of a part; decode keys and fates. Raises nothing for a bad part: that is a problem."""
    columns = [*part.output.row_type.key, "outcome", "reason"]
    try:
        checked = [_check_file(part, file, columns) for file in part.files]
        table = checked[0][1] if len(checked) == 1 else part.read(columns)
        return _check_rows(part, [info for info, _ in checked], table)
    except InputError as exc:
        return PartCheck((str(exc),))
    except (pa.ArrowException, KeyError) as exc:  # a retry that does not fit its part
        return PartCheck((f"{part.output.producer}/{part.files[0]}: {exc}",))


def _check_file(part: Part, file: str, columns: list[str]) -> tuple[dict, pa.Table]:
    """The footer and some columns of a part or a retry, after its bytes, schema and counts were checked."""
    folder, row_type = part.output.folder, part.output.row_type
    with open_part(folder, file) as parquet:
        info = info_of(parquet)
        if "counts" not in info:
            raise ValueError("it was not written by raysys")
        if parquet.schema_arrow.remove_metadata() != row_type.schema:
            raise ValueError(f"the schema is not that of {row_type.name}")
        if "data_crc32" in info and crc32_of(folder, file, info["data_bytes"]) != info["data_crc32"]:
            raise ValueError("its bytes have changed since it was written")
        table = parquet.read(columns, use_threads=False)  # `verify` reads several parts at once
        if (total := Counts.from_dict(info["counts"]).total) != len(table):
            raise ValueError(f"{len(table)} rows but {total} fates")
    return info, table


def crc32_of(folder: Store, file: str, n_bytes: int) -> int:
    """The CRC-32 of the first bytes of a file."""
    value = 0
    with folder.open(file) as stream:
        while n_bytes > 0 and (block := stream.read(min(n_bytes, _BLOCK))):
            value, n_bytes = zlib.crc32(block, value), n_bytes - len(block)
    return value


def _check_rows(part: Part, infos: list[dict], table: pa.Table) -> PartCheck:
    key, problems, where = part.output.row_type.key, [], f"{part.output.producer}/{part.files[0]}"
    if strange := set(pc.unique(table["outcome"]).to_pylist()) - set(OUTCOMES):
        return PartCheck((f"{where}: outcomes {sorted(map(str, strange))} are not in {OUTCOMES}",))
    counts = counts_of(table)
    if len(part.files) == 1 and counts.as_dict() != infos[0]["counts"]:
        problems.append(f"its footer counts {infos[0]['counts']}, but its rows are {counts.as_dict()}")
    hashes = hashes_of(table, key)
    hashes.sort()
    is_first = np.append(True, hashes[1:] != hashes[:-1])[: len(hashes)]
    if not is_first.all():
        keys = keys_of(table, key)
        if twice := len(keys) - len(set(keys)):
            problems.append(f"{twice} keys occur twice")
    first = infos[0]
    return PartCheck(
        problems=tuple(f"{where}: {problem}" for problem in problems),
        counts=counts,
        rows=(first["start"], first["stop"]) if "start" in first else None,
        has_checksum=all("data_crc32" in info for info in infos),
        hashes=hashes[is_first],
    )


def keys_with(part: Part, hashes: np.ndarray) -> list[tuple]:
    """The keys of a part whose hash is one of `hashes`, each once; none if the part cannot be read."""
    key = part.output.row_type.key
    try:
        table = part.read(list(key))
    except (InputError, pa.ArrowException, KeyError):
        return []  # named by `check_part`
    found = np.isin(hashes_of(table, key), hashes)
    return list(dict.fromkeys(keys_of(table.filter(pa.array(found)), key)))
