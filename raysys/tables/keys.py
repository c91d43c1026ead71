"""Find keys that occur more than once in a table of any size: 64-bit hashes, 8 bytes of memory per row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

_A, _B = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)  # odd, so that multiplying can be undone
_S29, _S32 = np.uint64(29), np.uint64(32)


def hashes_of(table: pa.Table, columns: Sequence[str]) -> np.ndarray:
    """uint64 [n_rows]: equal for equal keys, and for different keys only by chance (about 2⁻⁶⁴ per pair).

    The columns must hold strings or integers.
    """
    hashes = np.zeros(table.num_rows, np.uint64)
    for name in columns:
        column = table.column(name).combine_chunks()
        _mix(hashes, column.is_null().to_numpy(zero_copy_only=False).astype(np.uint64))
        if pa.types.is_string(column.type):
            _mix_strings(hashes, column)
        else:
            _mix(hashes, column.fill_null(0).cast(pa.int64()).to_numpy().view(np.uint64))
    return hashes


def _mix(hashes: np.ndarray, words: np.ndarray) -> None:
    """Update every hash by one 64-bit word. Every step can be undone: equal hashes and different words stay apart."""
    hashes ^= words
    hashes *= _A
    hashes ^= hashes >> _S29
    hashes *= _B
    hashes ^= hashes >> _S32


def _mix_strings(hashes: np.ndarray, column: pa.StringArray) -> None:
    """Update every hash by the length of its string, then by its bytes, 8 at a time; zeros fill the last word."""
    if not len(column):
        return
    _, offsets, data = column.buffers()
    at = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1].astype(np.int64)
    length, start = np.diff(at), at[:-1] - at[0]
    _mix(hashes, length.view(np.uint64))
    n_bytes = int(at[-1] - at[0])
    padded = np.zeros(n_bytes + 8, np.uint8)
    if n_bytes:
        padded[:n_bytes] = np.frombuffer(data, np.uint8)[at[0] : at[-1]]
    words = np.ndarray((n_bytes + 1,), np.dtype("<u8"), buffer=padded, strides=(1,))  # the 8 bytes from every position
    for done in range(0, int(length.max()), 8):
        rows = np.flatnonzero(length > done)
        n_unused = 64 - 8 * np.minimum(length[rows] - done, 8)
        mixed = hashes[rows]
        _mix(mixed, words[start[rows] + done] & (~np.uint64(0) >> n_unused.astype(np.uint64)))
        hashes[rows] = mixed


class KeyHashes:
    """The key hashes of a whole table. Its memory grows with the rows that are added, not with the capacity."""

    def __init__(self, capacity: int) -> None:
        self._all, self._n = np.empty(capacity, np.uint64), 0

    def add(self, hashes: np.ndarray) -> None:
        stop = self._n + len(hashes)
        if stop > len(self._all):
            larger = np.empty(2 * stop, np.uint64)
            larger[: self._n] = self._all[: self._n]
            self._all = larger
        self._all[self._n : stop] = hashes
        self._n = stop

    def repeated(self) -> np.ndarray:
        """Every hash that equals one before it, sorted: a hash that was added three times is returned twice."""
        found = self._all[: self._n]
        found.sort()
        return found[1:][found[1:] == found[:-1]]
