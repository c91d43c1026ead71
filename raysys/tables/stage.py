"""The base class of stages: what a row job does to its rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, final

import pyarrow as pa

Row = dict[str, Any]


class Stage(ABC):
    """Maps items (an Arrow table) to rows of one row type. Built once per worker: the constructor loads the model.

    Subclasses define `name` (written to the `stage` column of error rows), `__call__`, and `expand` unless each item
    results in exactly one row with its `carried` columns.
    """

    name: str

    carried: ClassVar[tuple[str, ...]] = ("row_id",)
    """Columns that are copied from an item to its row, whatever its fate; at least the key."""

    keyed: ClassVar[bool] = True
    """Whether the keys of the rows are known from the items. False = one row per item, in order, with any key."""

    heavy: ClassVar[bool] = False
    """Whether the stage loads a model and runs in an actor pool. False = it runs in the task that reads the chunk."""

    @abstractmethod
    def __call__(self, items: pa.Table) -> Sequence[Row] | pa.Table:
        """The rows of all items. If it raises, the items that cause the exception become error rows."""

    def expand(self, item: Row) -> list[Row]:
        """The rows that `item` must result in, without fates: keys and the columns known beforehand."""
        return [{column: item[column] for column in self.carried}]

    @final
    def failed(self, item: Row, fate: Row) -> list[Row]:
        """The rows of an item, all with the same `fate`."""
        return [{**row, **fate} for row in self.expand(item)]
