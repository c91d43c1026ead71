"""How a job is run. These options do not change results, so they are not part of fingerprints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

OnChange = Literal["refuse", "recompute", "keep"]
INLINE = "inline"
"""Address for running in this process, without Ray (row jobs only)."""

ON_CHANGE: tuple[OnChange, ...] = ("refuse", "recompute", "keep")


@dataclass(frozen=True)
class RunOptions:
    """The flags that every job shares."""

    limit: int | None = None
    """Stop after this many input items, rounded up to whole chunks; None = all."""

    dry_run: bool = False
    """Print the plan (items, chunks, pending chunks, resources) and do nothing."""

    on_change: OnChange = "refuse"
    """If the output was written with another configuration: refuse, recompute, or keep the old result."""

    address: str | None = None
    """"local" = a private Ray on this machine; "inline" = no Ray, in this process; else a Ray address; None = the
    cluster in RAY_ADDRESS; without one "inline" for a small job without a model, else "local"."""

    only: tuple[str, ...] = ()
    """Models of a study to make in this run; () = all."""

    allow_local_output: bool = False
    """In a submitted job: allow an output on the disk of its node, if the cluster has only this node."""

    retry: str | None = None
    """Folder of the output whose error rows are redone with its recorded configuration (`raysys retry`)."""

    def retried(self) -> tuple[str, str, str] | None:
        """(URL of the table, producer, fingerprint) of the output that `retry` names; None without `retry`."""
        if self.retry is None:
            return None
        table, _, folder = self.retry.rpartition("/")
        producer, _, fingerprint = folder.rpartition("-")
        return table, producer, fingerprint


def inline(**options: Any) -> RunOptions:
    """Options that run a row job in this process, without Ray: `ingest.run(config, inline(limit=100))`."""
    return RunOptions(address=INLINE, **options)
