"""What the pipeline gives to its jobs, seen in the place of the jobs: no table is made, and Ray is not asked for."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest

from raysys.jobs import assemble, caption, dedup, encode, generalize, generate, ingest, pipeline, replicate, scenes
from raysys.jobs import train_diffusion as train
from raysys.jobs.options import RunOptions

CAPTIONER = {"name": "scenes", "recipe": "scenes", "llm": {"model": "zoo:captioner", "engine": "transformers"}}


@pytest.fixture
def given(monkeypatch, tmp_path):
    """config → {job: the configurations it is given}; those of jobs that run at once are in any order."""

    def of(**config: Any) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = defaultdict(list)
        for job in (assemble, caption, dedup, encode, generalize, generate, ingest, replicate, scenes):
            name = job.__name__.rpartition(".")[2]
            monkeypatch.setattr(job, "run", lambda config, options, name=name: found[name].append(config) or {})
        monkeypatch.setattr(train, "run_all", lambda configs, options: found["train"].extend(configs))
        config = pipeline.JobConfig.model_validate({"run": str(tmp_path), **config})
        pipeline.run(config, RunOptions(dry_run=True))
        return found

    return of


def test_both_models_learn_the_same_images_in_different_words(given):
    train_set, _, generalized = given(captions={})["assemble"]
    assert train_set.text_states != generalized.text_states
    assert train_set.required_text_states == generalized.text_states
    assert generalized.required_text_states == train_set.text_states
    assert [c.required_text_states for c in given()["assemble"]] == [None, None]


def test_each_model_is_measured_against_what_it_learnt(given):
    for config in ({}, {"captions": {}}):
        found = given(**config)
        *models, chance = found["replicate"]
        assert [c.training_set for c in models] == [c.training_set for c in found["train"]]
        assert sorted(c.prompts for c in found["generate"]) == sorted(c.training_set for c in models)
        assert (chance.training_set, chance.duplicates) == (None, None)
        assert len({c.training_set for c in models}) == (2 if config else 1)


def test_what_ingest_let_through_is_let_through_by_every_step_after_it(given):
    """Also by those that have limits of their own, unless they were set; generations need not be as large."""
    wide, wider = {"max_pixels": 60_000_000, "min_side": 200}, {"max_pixels": 70_000_000, "min_side": 8}
    config = {"ingest": {"decode": wide}, "fusion_ingest": {"decode": wider}, "captions": {"captioners": [CAPTIONER]}}
    found = given(**config, replication={"decode": {"max_bytes": 1000}})
    limits = {c.latents.rpartition("/")[2]: c.images.limits for c in found["encode"] if c.latents is not None}
    train_limits, fusion_limits = limits["train"], limits["fusion"]
    assert (train_limits.max_pixels, train_limits.min_side) == (60_000_000, 16)
    assert (fusion_limits.max_pixels, fusion_limits.min_side) == (70_000_000, 8)
    assert found["caption"][0].limits == train_limits
    for job in found["replicate"]:
        decode = job.replication.decode
        assert (decode.max_pixels, decode.min_side, decode.max_bytes) == (60_000_000, 16, 1000)
    own = given(ingest={"decode": wide}, images={"limits": {"max_pixels": 40_000_000}})["encode"]
    assert {c.images.limits.max_pixels for c in own} == {40_000_000}
