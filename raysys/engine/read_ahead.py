"""Limit how many chunks are read ahead, and so how many wait in Ray's object store.

Ray Data limits queues only by their fraction of the object store, which is far more than a stage needs: without this
limit, 28 chunks of 5 MiB waited for one slow worker. For pixels the limit must be an explicit number.
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
"""Names in `raysys.engine.workers`, which Ray uses in the names of its operators."""

_MAX_CHUNKS = "raysys_max_chunks_read"


class ReadAhead(BackpressurePolicy):
    """Starts no new reading task while `max_chunks_read` chunks are being read, waiting or being processed."""

    def can_add_input(self, op: Any) -> bool:
        # If Ray fuses reading into the stage's operator (CPU stages), nothing waits between them.
        if READ not in op.name or STAGE in op.name:
            return True
        (stage,) = op.output_dependencies
        begun, done = op.metrics.num_tasks_submitted, stage.metrics.num_tasks_finished
        return begun - done < self._data_context.get_config(_MAX_CHUNKS)


def limit_read_ahead(context: DataContext, max_chunks: int | None) -> None:
    """Set the limit for datasets created from now on; None removes it."""
    policies = [*ENABLED_BACKPRESSURE_POLICIES, *([ReadAhead] if max_chunks is not None else [])]
    context.set_config(ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, policies)
    context.set_config(_MAX_CHUNKS, max_chunks)
