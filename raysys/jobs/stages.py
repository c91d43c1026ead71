"""One adapter for all one-to-one stages: a function over a table of items becomes a `raysys.tables.process.Stage`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

Rows = Sequence[dict[str, Any]]


class RowStage:
    """`build()` makes the function once per worker; an item that fails keeps its `carried` columns.

    expand: item → how many keys it must end as, as partial rows (default: one row with the item's row_id).
    """

    def __init__(
        self,
        name: str,
        build: Callable[..., Callable[[pa.Table], Rows]],
        args: tuple = (),
        expand: Callable[[dict[str, Any]], Rows] | None = None,
        carried: tuple[str, ...] = ("row_id",),
    ) -> None:
        self.name = name
        self._function = build(*args)
        self._expand = expand or (lambda item: [{c: item[c] for c in carried}])

    def __call__(self, items: pa.Table) -> Rows:
        return self._function(items)

    def failed(self, item: dict[str, Any], fate: dict[str, Any]) -> list[dict[str, Any]]:
        return [{**row, **fate} for row in self._expand(item)]
