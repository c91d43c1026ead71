"""Collect the replication measurements of a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raysys.replication import ReplicationResult
from raysys.replication.saved import load_result
from raysys.report.data import ImageOf
from raysys.report.folder import RunFolder
from raysys.report.text import change, interval, number

NAME = "replication"
REAL_HELD_OUT = "Real held-out images"


@dataclass(frozen=True)
class Measured:
    """One model's measurement. image: returns a generation by id. captions: the kind that it was trained on.

    position: of the model in the study, which determines its color.
    """

    name: str
    result: ReplicationResult
    image: ImageOf
    captions: str = "original"
    position: int = 0


@dataclass(frozen=True)
class ReplicationData:
    """models: in the order of the study; the first is the reference.

    missing_reference: the name of the study's first model if it has no result. Nothing is compared then.
    """

    models: Sequence[Measured]
    training_image: ImageOf
    missing_reference: str | None = None

    @property
    def reference(self) -> Measured:
        return self.models[0]

    @property
    def others(self) -> Sequence[Measured]:
        """The models that are compared with the reference."""
        return self.models[1:] if self.missing_reference is None else ()

    @property
    def against_held_out(self) -> ReplicationResult | None:
        """The reference's generations compared with held-out images, which no model was trained on."""
        return self.reference.result.own_held_out

    @property
    def real_held_out(self) -> ReplicationResult | None:
        """Held-out images compared with the training images of the reference."""
        return self.reference.result.held_out


def collect(run: RunFolder) -> ReplicationData | None:
    """None if no model has been measured yet."""
    places = run.record["evaluations"][NAME]
    models = [
        Measured(
            name,
            load_result(run.path(place)),
            run.images(run.record["models"][name]["generations"][places["prompts"]]).bytes_of,
            run.record["models"][name]["recipe"]["captions"],
            run.models.index(name),
        )
        for name, place in places["models"].items()
        if run.is_measured(name, NAME)
    ]
    if not models:
        return None
    missing = None if models[0].name == run.models[0] else run.models[0]
    return ReplicationData(models, run.training_images().bytes_of, missing)


def measured(data: ReplicationData) -> list[str]:
    return [model.name for model in data.models]


def summary(data: ReplicationData) -> dict[str, Any]:
    """Figures of each model and of the references, named by what was compared."""
    references = {}
    if data.against_held_out is not None and data.missing_reference is None:
        references["first_model_against_held_out"] = data.against_held_out.summary()
    if data.real_held_out is not None:
        references["real_held_out_against_training"] = data.real_held_out.summary()
    return {"models": {model.name: model.result.summary() for model in data.models}, "references": references}


def table(data: ReplicationData) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """For the terminal: R of all models with the change from the first one, and R against held-out images."""
    titles = ("Replication", "R", "95 % interval", "Change", "Held-out", "Mean", "Generated", "Compared with")
    reference = data.reference.result if data.others else None
    rows = [_row(model.name, model.result, reference) for model in data.models]
    if data.real_held_out is not None:
        rows.append(_row(REAL_HELD_OUT, data.real_held_out, None))
    return titles, rows


def references(data: ReplicationData) -> list[tuple[str, ReplicationResult]]:
    """(label, result) of the measurements with which the models are compared."""
    found = []
    if data.against_held_out is not None:
        found.append((f"{data.reference.name} against held-out images", data.against_held_out))
    if data.real_held_out is not None:
        found.append((REAL_HELD_OUT, data.real_held_out))
    return found


def _row(label: str, result: ReplicationResult, reference: ReplicationResult | None) -> tuple[str, ...]:
    difference = change(reference.R, result.R) if reference is not None and result is not reference else ""
    level = "" if result.own_held_out is None else number(result.own_held_out.R)
    return (
        *(label, number(result.R), interval(result.R_ci), difference or "", level, number(result.mean)),
        *(f"{result.n_generated:,}", f"{result.n_training:,}"),
    )
