"""What every row job does to its rows: the base class of stages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, final

import pyarrow as pa

Row = dict[str, Any]


class Stage(ABC):
    """Items (an Arrow table) in, rows of one row type out. Built once per worker: the constructor loads the model.

    A subclass gives `name` (it stands in the `stage` column of rows that failed), `__call__`, and `expand` where an
    item ends as something else than one row with its `carried` columns.
    """

    name: str

    carried: ClassVar[tuple[str, ...]] = ("row_id",)
    """Columns of an item that its row has too, whatever its fate: the key at least."""

    keyed: ClassVar[bool] = True
    """The keys of the rows follow from the items. False: one row per item in order, its key is found on the way."""

    heavy: ClassVar[bool] = False
    """A model is loaded: the stage gets a pool of actors. False: it runs in the task that reads the chunk."""

    @abstractmethod
    def __call__(self, items: pa.Table) -> Sequence[Row] | pa.Table:
        """The rows of all items. May raise: the items that cause it become error rows."""

    def expand(self, item: Row) -> list[Row]:
        """The rows that `item` must end as, without their fate: keys and the columns that are known before."""
        return [{column: item[column] for column in self.carried}]

    @final
    def failed(self, item: Row, fate: Row) -> list[Row]:
        """The rows of an item that met `fate` as a whole."""
        return [{**row, **fate} for row in self.expand(item)]
