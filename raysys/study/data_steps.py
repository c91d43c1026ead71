"""The steps that models share: samples, duplicates, captions, latents, text states, assembled sets."""

from __future__ import annotations

from typing import Any

from raysys.captions.caption import ORIGINAL
from raysys.jobs import assemble, caption, dedup, encode, generalize, ingest, scenes
from raysys.study.config import ModelConfig, StudyConfig
from raysys.study.sections import configure, is_set
from raysys.study.shared import Shared, encoded_by, make_step, once, set_step_name
from raysys.study.step import Step


def sample_steps(shared: Shared) -> list[Step]:
    data, at, steps = shared.config.data, shared.at, []
    if data.shards is None:
        config = configure(scenes.JobConfig, data.scenes, "data.scenes", output=at.shards)
        steps.append(make_step("scenes", "scenes", config, at.shards))
    for split in shared.splits:
        section = data.fusion_ingest if split == "fusion" and data.fusion_ingest is not None else data.ingest
        source = f"{at.shards}/{split}" if data.shards is None else getattr(data.shards, split)
        config = shared.row_job(ingest, "data.ingest", section, input=source, output=at.samples(split))
        needs = ("scenes",) if data.shards is None else ()
        steps.append(make_step(f"ingest {split}", "ingest", config, config.output, *needs))
    config = shared.row_job(
        dedup,
        "data.dedup",
        data.dedup,
        samples=at.samples("train"),
        features=at.features("train"),
        output=at.duplicates,
        **({} if is_set(data.dedup, "decode") else {"decode": shared.decode}),
    )
    return [*steps, make_step("dedup", "dedup", config, config.output, "ingest train")]


def caption_steps(shared: Shared) -> list[Step]:
    data, at, steps = shared.config.data, shared.at, []
    if data.caption is not None:
        config = shared.row_job(
            caption,
            "data.caption",
            data.caption,
            samples=at.samples("train"),
            duplicates=at.duplicates,
            output=at.captions,
            limits=data.caption.limits.admitting(shared.decode),
            **shared.seed(data.caption),
        )
        steps.append(make_step("caption", "caption", config, config.output, "dedup"))
    if data.generalize is not None:
        of_samples = ORIGINAL in data.generalized_sources
        config = shared.row_job(
            generalize,
            "data.generalize",
            data.generalize,
            captions=at.samples("train") if of_samples else at.captions,
            duplicates=at.duplicates if of_samples else None,
            output=at.generalized,
        )
        steps.append(make_step("generalize", "generalize", config, config.output, "dedup" if of_samples else "caption"))
    return steps


def _caption_kinds(config: StudyConfig) -> list[str]:
    """The kinds of captions to encode: those that models are trained on, and the required ones."""
    return once(
        [kind for model in config.models.values() for kind in model.kinds] + list(config.data.required_captions)
    )


def encode_steps(shared: Shared) -> list[Step]:
    """Per split: images with their original captions. For other kinds of captions: only the text states."""
    data, at, steps = shared.config.data, shared.at, []
    for split in (s for s in shared.splits if s != "held_out"):
        rule = data.fusion_ingest if split == "fusion" and data.fusion_ingest is not None else data.ingest
        config = shared.row_job(
            encode,
            "data.encode",
            data.encode,
            samples=at.samples(split),
            duplicates=at.duplicates if split == "train" else None,
            latents=at.latents(split),
            text_states=at.text_states(split, ORIGINAL),
            images={"limits": data.encode.images.limits.admitting(rule.ingest.decode)},
        )
        needs = "dedup" if split == "train" else f"ingest {split}"
        steps.append(make_step(f"encode {split}", "encode", config, at.latents(split), needs))
    for kind in _caption_kinds(shared.config):
        if kind != ORIGINAL:
            steps.append(_encoded_captions(shared, kind))
    return steps


def _encoded_captions(shared: Shared, kind: str) -> Step:
    data, at = shared.config.data, shared.at
    generalized = kind in data.generalized_kinds
    states = at.text_states("train", kind)
    config = shared.row_job(
        encode,
        "data.encode",
        data.encode,
        samples=at.samples("train"),
        text_states=states,
        captions={"table": at.generalized if generalized else at.captions, "which": kind},
    )
    return make_step(f"encode {kind}", "encode", config, states, "generalize" if generalized else "caption")


def set_steps(shared: Shared) -> list[Step]:
    """One assembled set per choice of captions and duplicates, and the fusion set if a model needs it."""
    at = shared.at
    # One model represents all that share the same set.
    models = {set_step_name(model): model for model in shared.config.models.values()}
    steps = [_set_step(shared, model) for model in models.values()]
    if "fusion" in shared.splits:
        config = _set_config(
            shared,
            samples=at.samples("fusion"),
            latents=at.latents("fusion"),
            text_states=at.text_states("fusion", ORIGINAL),
            output=at.fusion_set,
        )
        steps.append(make_step("assemble fusion", "assemble", config, config.output, "encode fusion"))
    return steps


def _set_step(shared: Shared, model: ModelConfig) -> Step:
    at = shared.at
    required = shared.config.data.required_captions
    # Of several captions that it learns one is enough for a row; a single one the row must have anyway.
    others = [kind for kind in once(required) if [kind] != list(model.kinds)]
    config = _set_config(
        shared,
        samples=at.samples("train"),
        duplicates=at.duplicates,
        latents=at.latents("train"),
        text_states=_one([at.text_states("train", kind) for kind in model.kinds]),
        which=list(model.kinds) if len(model.kinds) > 1 else None,
        required_text_states=_one([at.text_states("train", kind) for kind in others]),
        keep_duplicates=model.duplicates == "keep",
        output=shared.training_set(model),
    )
    needs = once(["encode train", *(encoded_by(kind) for kind in (*model.kinds, *others))])
    return make_step(set_step_name(model), "assemble", config, config.output, *needs)


def _set_config(shared: Shared, **paths: Any) -> Any:
    section = shared.config.data.assemble
    return configure(assemble.JobConfig, section, "data.assemble", **paths, **shared.seed(section))


def _one(paths: list[str]) -> str | list[str] | None:
    """A single path as a string, the usual form in configurations; several as a list; none as None."""
    return paths[0] if len(paths) == 1 else paths or None
