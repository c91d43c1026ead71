"""How many chunks are read before their turn: the bound on what waits in Ray's object store.

Ray Data limits queues by their share of the object store, which is far more than a stage needs: 28 chunks of 5 MiB
waited for one slow worker when nothing else held them back. Pixels want a number that can be stated.
"""

from __future__ import annotations

from typing import Any

from ray.data import DataContext
from ray.data._internal.execution.backpressure_policy import (
    ENABLED_BACKPRESSURE_POLICIES,
    ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
    BackpressurePolicy,
)

READ, STAGE = "read_items", "StageActor"
"""Functions of `raysys.engine.workers`; Ray names its operators by them."""

_MAX_CHUNKS = "raysys_max_chunks_read"


class ReadAhead(BackpressurePolicy):
    """No new reading task while `max_chunks_read` chunks are being read, wait, or are in work."""

    def can_add_input(self, op: Any) -> bool:
        # Where reading is fused into the worker (CPU stages), nothing waits between them.
        if READ not in op.name or STAGE in op.name:
            return True
        (stage,) = op.output_dependencies
        begun, done = op.metrics.num_tasks_submitted, stage.metrics.num_tasks_finished
        return begun - done < self._data_context.get_config(_MAX_CHUNKS)


def limit_read_ahead(context: DataContext, max_chunks: int | None) -> None:
    """Set or, with None, remove the limit for the datasets that are made from now on."""
    policies = [*ENABLED_BACKPRESSURE_POLICIES, *([ReadAhead] if max_chunks is not None else [])]
    context.set_config(ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, policies)
    context.set_config(_MAX_CHUNKS, max_chunks)
