"""A study's configuration → its steps, in an order in which they can run. Reads no files, does not use Ray."""

from __future__ import annotations

from collections.abc import Sequence

from raysys.errors import InputError
from raysys.study.config import StudyConfig
from raysys.study.data_steps import caption_steps, encode_steps, sample_steps, set_steps
from raysys.study.layout import Layout
from raysys.study.model_steps import evaluation_steps, generation_steps, training_steps
from raysys.study.shared import Shared
from raysys.study.step import Step


def plan_steps(config: StudyConfig) -> list[Step]:
    """All steps of the study. A step comes after the steps that it needs; steps of one job are consecutive.

    What several models share (samples, captions, latents, text states, sets) is planned once. Raises InputError if a
    job's configuration is invalid.
    """
    shared = Shared(config, Layout(config.run))
    return [
        *sample_steps(shared),
        *caption_steps(shared),
        *encode_steps(shared),
        *set_steps(shared),
        *training_steps(shared),
        *generation_steps(shared),
        *evaluation_steps(shared),
    ]


def selected(steps: Sequence[Step], config: StudyConfig, only: Sequence[str]) -> list[Step]:
    """The steps of the models `only` and the steps that they need; all steps if `only` is empty.

    Raises InputError for an unknown model name.
    """
    if unknown := [name for name in only if name not in config.models]:
        raise InputError(f"--only {unknown[0]}: unknown model", f"give one of: {', '.join(config.models)}")
    if not only:
        return list(steps)
    by_name = {step.name: step for step in steps}
    wanted: set[str] = set()
    todo = [step.name for step in steps if step.model in only]
    while todo:
        name = todo.pop()
        if name not in wanted:
            wanted.add(name)
            todo += by_name[name].needs
    return [step for step in steps if step.name in wanted]
