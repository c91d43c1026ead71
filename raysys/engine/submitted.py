"""The other end of `raysys submit`, on the cluster: take the keys that were left for this job, count the nodes."""

from __future__ import annotations

import json
import os

from ray._raylet import GcsClient
from ray.core.generated.gcs_pb2 import GcsNodeInfo

from raysys.errors import InputError


def take(uri: str) -> None:
    """Move the variables that `JobServer.left` stored under `uri` into this process's environment.

    Raises InputError if they are not there.
    """
    gcs = _gcs()
    data = gcs.internal_kv_get(uri.encode(), None)
    gcs.internal_kv_del(uri.encode(), False, None)
    if not data:
        raise InputError(
            "the keys that were sent with this job are not there: they are taken once, and wait for 10 minutes",
            "run `raysys submit` again",
        )
    os.environ.update(json.loads(data))


def count_nodes() -> int:
    """Nodes of this job's cluster that are alive now."""
    return sum(node.state == GcsNodeInfo.ALIVE for node in _gcs().get_all_node_info().values())


def _gcs() -> GcsClient:
    """The cluster's control store. `ray.init` would start a second Ray job for it."""
    return GcsClient(address=os.environ["RAY_ADDRESS"])
