"""Arrow files as written by `save_to_disk` of Hugging Face datasets: rows by number, and a cursor over the images.

A saved dataset is a folder of Arrow streams with state.json; a saved DatasetDict is a folder with one such folder per
split. Local files are memory-mapped, so that skipped rows cost nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from raysys.errors import InputError
from raysys.shards.columns import (
    DEFAULT_COLUMNS,
    ColumnsConfig,
    fact_columns,
    image_bytes,
    image_column,
    raw_item,
    refuse_web_addresses,
    values_of,
)
from raysys.shards.files import is_url, join, open_binary, read_file
from raysys.shards.raw import RawItem

STATE = "state.json"


def data_files(folder: str, names: Iterable[str]) -> list[str]:
    """The Arrow files among `names` (relative to `folder`) that hold rows.

    Beside a state.json, these are the files that it lists; others are caches of `datasets`.
    """
    paths = [PurePosixPath(name) for name in names]
    listed = {path.parent: _listed(join(folder, str(path))) for path in paths if path.name == STATE}
    found = [path for path in paths if path.suffix.lower() == ".arrow"]
    return [str(path) for path in found if path.name in listed.get(path.parent, {path.name})]


def _listed(path: str) -> set[str]:
    try:
        return {file["filename"] for file in json.loads(read_file(path))["_data_files"]}
    except (ValueError, KeyError, TypeError) as exc:
        raise InputError(
            f"{path} is not the state of a saved dataset: {type(exc).__name__}: {exc}", "save the dataset again"
        ) from None


@contextmanager
def open_batches(path: str) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
    """The schema and the batches of a stream, or of an Arrow file with a footer.

    Raises InputError if it is neither; pa.ArrowInvalid while reading if it is truncated.
    """
    with ExitStack() as stack:
        source = stack.enter_context(open_binary(path) if is_url(path) else pa.memory_map(path))
        is_file = source.read(6) == b"ARROW1"
        source.seek(0)
        try:
            if is_file:
                reader = pa.ipc.open_file(source)
                batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
            else:
                reader = pa.ipc.open_stream(source)
                batches = iter(reader)
        except (pa.ArrowInvalid, OSError) as exc:
            raise InputError(f"{path} is not an Arrow file: {exc}", "save the dataset again") from None
        yield reader.schema, batches


def count_items(path: str, columns: ColumnsConfig) -> int:
    """The number of rows. Raises InputError if the file is not a complete Arrow file or has no image column."""
    with open_batches(path) as (schema, batches):
        image = image_column(path, schema, columns)
        count = 0
        try:
            for batch in batches:
                if count == 0 and batch.num_rows and not image.holds_bytes:
                    refuse_web_addresses(path, batch.column(image.name)[0].as_py())
                count += batch.num_rows
        except (pa.ArrowInvalid, OSError) as exc:
            raise InputError(f"{path} is not a complete Arrow file: {exc}", "save the dataset again") from None
        return count


def read_items(path: str, start: int, stop: int, columns: ColumnsConfig) -> Iterator[RawItem]:
    """Rows [start, stop)."""
    with open_batches(path) as (schema, batches):
        image = image_column(path, schema, columns)
        names = [image.name, *fact_columns(schema, image, columns)]
        number = 0
        for batch in batches:
            if number >= stop:
                break
            wanted = batch.select(names)
            for k in range(max(0, start - number), min(batch.num_rows, stop - number)):
                yield raw_item(path, number + k, image, values_of(wanted, k), columns)
            number += batch.num_rows


class ArrowCursor:
    """Image bytes by row number. Ascending access reads the file once."""

    def __init__(self, path: str, column: str | None) -> None:
        """column: None = found by its name. Raises OSError, pa.ArrowInvalid or InputError if the file is not (or no
        longer) an image Arrow file."""
        self._path, self._open = path, ExitStack()
        self._restart()
        self._column = column or image_column(path, self._schema, DEFAULT_COLUMNS).name

    def _restart(self) -> None:
        self._open.close()
        self._schema, self._batches = self._open.enter_context(open_batches(self._path))
        self._images: Any = ()
        self._first = 0  # row number of self._images[0]

    def get(self, number: int) -> bytes | None:
        """The image bytes of a row; None if the row has no image or does not exist."""
        if number < self._first:
            self._restart()
        while number >= self._first + len(self._images):
            batch = next(self._batches, None)
            if batch is None:
                return None
            self._first += len(self._images)
            self._images = batch.column(self._column)
        return image_bytes(self._images[number - self._first].as_py())

    def close(self) -> None:
        self._open.close()
