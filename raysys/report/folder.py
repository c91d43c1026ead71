"""A study's run folder as its report reads it; `study.json` holds all paths."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raysys.errors import InputError
from raysys.replication.inputs import ImageSet, open_images
from raysys.tables import Store

RECORD = "study.json"
"""Written by the study after every step."""

DONE, FAILED = "done", "failed"
"""States of a step that has ended."""

METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class RunFolder:
    """The folder of a study and the contents of its record."""

    store: Store
    record: Mapping[str, Any]

    @classmethod
    def open(cls, folder: str) -> RunFolder:
        """Open a run folder. Raises InputError if no study was run there."""
        store = Store(folder)
        record = store.read_json(RECORD)
        if record is None:
            raise InputError(f"{folder} is not a run folder of `raysys study`", "run the study first")
        return cls(store, record)

    def path(self, place: str) -> str:
        """A path of the record (relative to the run folder) as an absolute path or URL."""
        return self.store.path(place)

    def images(self, place: str) -> ImageSet:
        """The images of a table of the run."""
        return open_images(self.path(place))

    def training_images(self) -> ImageSet:
        """The samples that the models were trained on, by row_id."""
        return self.images(self.record["samples"]["train"])

    @property
    def models(self) -> list[str]:
        """Names in the order of the study; the first is the reference."""
        return list(self.record["models"])

    def why_missing(self, model: str) -> str | None:
        """Why some results of a model are missing; None if it is complete."""
        steps = {name: step for name, step in self.record["steps"].items() if step["model"] == model}
        for name, step in steps.items():
            if step.get("state") == FAILED:
                return f"failed at “{name}”: {step['reason']}"
        waiting = [name for name, step in steps.items() if step.get("state") != DONE]
        return f"not done yet: {', '.join(waiting)}" if waiting else None

    def metrics(self, model: str) -> list[dict[str, Any]]:
        """The metrics records of a model's training; [] if there are none."""
        try:
            lines = self.store.read(f"{self.record['models'][model]['training']}/{METRICS}").decode().splitlines()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines]
