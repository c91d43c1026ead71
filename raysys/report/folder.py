"""A study's run folder as its report reads it; `study.json` holds all paths."""

from __future__ import annotations

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


def failure_of(record: Mapping[str, Any], model: str) -> tuple[str, str] | None:
    """(step, reason) of the first failed step that a model needs, its own or a shared one; None if none has failed."""
    steps = record["steps"]
    todo = [name for name, step in steps.items() if step["model"] == model]
    needed = set(todo)
    while todo:
        further = [name for name in steps[todo.pop()].get("needs", ()) if name in steps and name not in needed]
        needed.update(further)
        todo += further
    failed = (name for name, step in steps.items() if name in needed and step.get("state") == FAILED)
    return next(((name, steps[name]["reason"]) for name in failed), None)


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
        if (failure := failure_of(self.record, model)) is not None:
            return f"failed at “{failure[0]}”: {failure[1]}"
        waiting = [name for name, step in steps.items() if step.get("state") != DONE]
        return f"not done yet: {', '.join(waiting)}" if waiting else None

    def is_measured(self, model: str, evaluation: str) -> bool:
        """Whether the evaluation of a model is done with the configuration that is recorded."""
        steps = self.record["steps"].values()
        return any(s["model"] == model and s.get("evaluation") == evaluation and s.get("state") == DONE for s in steps)

    def metrics(self, model: str) -> list[dict[str, Any]]:
        """The metrics records of a model's training; [] if there are none."""
        return self.store.read_json_lines(f"{self.record['models'][model]['training']}/{METRICS}")
