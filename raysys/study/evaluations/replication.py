"""The evaluation `replication`: how similar each model's generations are to the images that it was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from raysys.jobs import replicate
from raysys.study.sections import configure, is_set, section_of
from raysys.study.step import Step

if TYPE_CHECKING:
    from raysys.study.shared import Sampled, Shared

NAME = "replication"

Settings = section_of(
    replicate.JobConfig,
    *("generated", "training", "duplicates", "training_set", "held_out", "features", "output"),
    prompts=(str, Field("own", description="the prompts whose generations are compared")),
)


def steps(settings: Any, shared: Shared, models: Sequence[Sampled]) -> list[Step]:
    """First the features that several models need; then one step per model, which compares its generations with its
    training images and, if the study has them, with held-out images."""
    described = _describe_steps(shared, _config(shared, settings, models[0]))
    needs = tuple(step.name for step in described)
    return [*described, *(_step(shared, settings, model, needs) for model in models)]


def _describe_steps(shared: Shared, config: replicate.JobConfig) -> list[Step]:
    """The training images need a step of their own only if their descriptor is not that of dedup."""
    jobs = replicate.describe_configs(config)
    if config.replication.descriptor == shared.descriptor:
        del jobs["training"]
    return [
        Step(f"describe {role} images", "describe", job, job.output, shared.made_by(job.images))
        for role, job in jobs.items()
        if role != "generated"
    ]


def _step(shared: Shared, settings: Any, model: Sampled, needs: Sequence[str]) -> Step:
    config = _config(shared, settings, model)
    return Step(
        name=f"replicate {model.name}",
        job="replicate",
        config=config,
        output=config.output,
        needs=(*model.needs, *shared.made_by(config.training), *shared.made_by(config.held_out), *needs),
        model=model.name,
        evaluation=NAME,
    )


def _config(shared: Shared, settings: Any, model: Sampled) -> replicate.JobConfig:
    given: dict[str, Any] = {"decode": settings.replication.decode.admitting(shared.decode).model_dump()}
    if not is_set(settings, "replication", "descriptor"):
        given["descriptor"] = shared.descriptor
    images = {role: shared.samples(split) for role, split in (("training", "train"), ("held_out", "held_out"))}
    images["generated"] = model.generations
    return configure(
        replicate.JobConfig,
        settings,
        f"evaluations.{NAME}",
        **images,
        training_set=model.training_set,
        output=shared.at.evaluation(NAME, model.name),
        replication=given,
        # Dedup and all models share these tables: features that one step has computed are read by the others.
        features={role: shared.features(place) for role, place in images.items() if place is not None},
        **({} if is_set(settings, "cluster") else {"cluster": shared.config.cluster}),
    )
