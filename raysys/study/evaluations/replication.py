"""The evaluation `replication`: how similar each model's generations are to the images that it was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from raysys.jobs import replicate
from raysys.study.sections import configure, is_set, section_of
from raysys.study.step import Step

if TYPE_CHECKING:
    from raysys.study.plan import Sampled, Shared

NAME = "replication"

HELD_OUT = "held_out"
"""The reference: the first model's generations compared with held-out images, which no model was trained on."""

Settings = section_of(
    replicate.JobConfig,
    *("generated", "training", "duplicates", "training_set", "held_out", "features", "output"),
    prompts=(str, Field("own", description="the prompts whose generations are compared")),
)


def steps(settings: Any, shared: Shared, models: Sequence[Sampled]) -> list[Step]:
    """One step per model, comparing it with its training images (and held-out images), then the reference step."""
    held_out = shared.samples("held_out")
    found = [
        _step(
            shared,
            settings,
            model,
            output=shared.at.evaluation(NAME, model.name),
            training=shared.samples("train"),
            training_set=model.training_set,
            held_out=held_out,
        )
        for model in models
    ]
    if held_out is not None:
        output = shared.at.reference(NAME, HELD_OUT)
        found.append(_step(shared, settings, models[0], reference=HELD_OUT, output=output, training=held_out))
    return found


def _step(shared: Shared, settings: Any, model: Sampled, reference: str | None = None, **paths: Any) -> Step:
    given: dict[str, Any] = {"decode": settings.replication.decode.admitting(shared.decode).model_dump()}
    if not is_set(settings, "replication", "descriptor"):
        given["descriptor"] = shared.descriptor
    paths |= {"generated": model.generations, "replication": given}
    if not is_set(settings, "cluster"):
        paths["cluster"] = shared.config.cluster
    # Dedup and all models share these tables: features that one step has computed are read by the others.
    roles = {role: paths.get(role) for role in ("generated", "training", "held_out")}
    paths["features"] = {role: shared.features(place) for role, place in roles.items() if place is not None}
    config = configure(replicate.JobConfig, settings, f"evaluations.{NAME}", **paths)
    what = model.name if reference is None else f"{model.name} against {reference}"
    return Step(
        name=f"replicate {what}",
        job="replicate",
        config=config,
        output=config.output,
        needs=(*model.needs, *shared.made_by(config.training), *shared.made_by(config.held_out)),
        model=model.name,
        evaluation=NAME,
        reference=reference,
    )
