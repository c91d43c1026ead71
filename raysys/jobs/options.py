"""How a job is run, as opposed to what it computes: nothing here changes a result, so nothing here is fingerprinted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

OnChange = Literal["refuse", "recompute", "keep"]
INLINE = "inline"
"""The address that means: in this process, without Ray (row jobs only)."""

ON_CHANGE: tuple[OnChange, ...] = ("refuse", "recompute", "keep")


@dataclass(frozen=True)
class RunOptions:
    """The flags that every job shares."""

    limit: int | None = None
    """Stop after this many input items (whole chunks: the last one may bring a few more); None = all."""

    dry_run: bool = False
    """Print what would be done (items, chunks, pending, resources) and do nothing."""

    on_change: OnChange = "refuse"
    """When the output was written under another configuration: refuse, recompute beside it, or keep what is there."""

    address: str | None = None
    """"local" = a private Ray on this machine; "inline" = no Ray, in this process; else a Ray address; None = the
    running cluster, or local without one."""

    only: tuple[str, ...] = ()
    """Of a study: the models that are made now; () = all."""

    retry: str | None = None
    """The folder of the one output whose error rows are made again, as the others were (`raysys retry`)."""

    def retried(self) -> tuple[str, str, str] | None:
        """(table's URL, producer, fingerprint) of the output that `retry` names; None when nothing is retried."""
        if self.retry is None:
            return None
        table, _, folder = self.retry.rpartition("/")
        producer, _, fingerprint = folder.rpartition("-")
        return table, producer, fingerprint


def inline(**options: Any) -> RunOptions:
    """Options that run a row job in this process, without Ray: `ingest.run(config, inline(limit=100))`."""
    return RunOptions(address=INLINE, **options)
