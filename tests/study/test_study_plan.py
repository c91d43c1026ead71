"""What a study plans: each shared thing once, each model only its own. Nothing is read or written; no Ray."""

from __future__ import annotations

from typing import Any

import pytest

from raysys.config import validate
from raysys.errors import InputError
from raysys.jobs import JOBS
from raysys.study.config import StudyConfig
from raysys.study.plan import plan_steps, selected
from raysys.study.step import Step

CAPTIONER = {"name": "scenes", "recipe": "scenes", "llm": {"model": "zoo:captioner", "engine": "transformers"}}
CAPTIONS = {"caption": {"captioners": [CAPTIONER]}, "generalize": {"which": "scenes/photo"}}
GENERAL = "scenes/photo/general"
FUSION = {"training": {"diffusion": {"fusion": {"level": "embedding", "set": "fusion"}}}}


def study(models: dict[str, Any] | None = None, **config: Any) -> StudyConfig:
    models = {"a": {}} if models is None else models
    return validate(StudyConfig, {"run": "runs/x", "models": models, **config}, "study.yaml")


def plan(models: dict[str, Any] | None = None, **config: Any) -> dict[str, Step]:
    return {step.name: step for step in plan_steps(study(models, **config))}


def test_each_step_comes_after_those_it_needs_and_after_all_steps_of_earlier_jobs():
    steps = list(plan({"a": {}, "b": {"captions": GENERAL, **FUSION}}, data=CAPTIONS).values())
    names = [step.name for step in steps]
    assert len(set(names)) == len(names)
    jobs = list(dict.fromkeys(step.job for step in steps))
    assert [step.job for step in steps] == sorted((s.job for s in steps), key=jobs.index), (
        "the steps of a job are together"
    )
    place = {step.name: jobs.index(step.job) for step in steps}
    assert all(place[needed] < place[step.name] for step in steps for needed in step.needs)
    assert all(type(step.config) is JOBS[step.job].load().JobConfig for step in steps)


def test_what_models_share_is_planned_once():
    same = {"training": {"training": {"seed": 1}}}
    steps = plan({"a": {}, "b": same, "c": {"captions": GENERAL}, "d": {"captions": GENERAL, **FUSION}}, data=CAPTIONS)
    shared = [name for name, step in steps.items() if step.model is None]
    assert shared == [
        *("scenes", "ingest train", "ingest held_out", "ingest fusion", "dedup", "caption", "generalize"),
        *("encode train", "encode fusion", f"encode {GENERAL}"),
        *("assemble original", f"assemble {GENERAL}", "assemble fusion", "describe held_out images"),
    ]
    sets = {name: steps[f"train {name}"].config.training_set for name in "abcd"}
    assert sets["a"] == sets["b"] != sets["c"] == sets["d"]
    assert plan({"a": {}, "b": {"duplicates": "keep"}})["assemble original with duplicates"].config.keep_duplicates


def test_another_model_adds_only_its_own_steps():
    before = plan({"a": {}, "b": FUSION}, data=CAPTIONS)
    after = plan({"a": {}, "b": FUSION, "c": {"captions": GENERAL}}, data=CAPTIONS)
    assert {name: step for name, step in after.items() if name in before} == before
    assert set(after) - set(before) == {
        *(f"encode {GENERAL}", f"assemble {GENERAL}"),
        *("train c", "generate c", "replicate c"),
    }


def test_only_what_is_needed_is_planned():
    steps = plan(evaluations={})
    assert "ingest fusion" not in steps, "no model fuses"
    assert "ingest held_out" not in steps, "nothing is measured"
    assert not any(step.job == "generate" for step in steps.values())
    own = plan(data={"shards": {"train": "/data/train"}})
    assert own["ingest train"].config.input == "/data/train"
    assert "scenes" not in own
    assert own["replicate a"].config.held_out is None
    assert not any(step.job == "describe" for step in own.values())


def test_images_are_the_same_where_captions_are_required():
    models = {"a": {}, "b": {"captions": GENERAL}}
    steps = plan(models, data={**CAPTIONS, "required_captions": ["original", GENERAL]})
    a, b = steps["assemble original"], steps[f"assemble {GENERAL}"]
    assert a.config.required_text_states == b.config.text_states
    assert b.config.required_text_states == a.config.text_states
    assert f"encode {GENERAL}" in a.needs
    free = plan(models, data=CAPTIONS)
    assert free["assemble original"].config.required_text_states is None


def test_any_number_of_captions_may_be_required():
    """Failed before: with more than two the plan was refused, and a model of several captions required none of them."""
    required = ["original", "scenes/photo", GENERAL]
    models = {"a": {}, "b": {"captions": GENERAL}, "c": {"captions": ["original", GENERAL]}}
    steps = plan(models, data={**CAPTIONS, "required_captions": required})
    of = {
        kind: steps["encode train" if kind == "original" else f"encode {kind}"].config.text_states for kind in required
    }
    found = {name: steps[f"assemble {name}"] for name in ("original", GENERAL, f"original, {GENERAL}")}
    assert [step.config.required_text_states for step in found.values()] == [
        (of["scenes/photo"], of[GENERAL]),
        (of["original"], of["scenes/photo"]),
        tuple(of[kind] for kind in required),  # one of its own two would do for a row
    ]
    for step in found.values():
        assert {"encode train", "encode scenes/photo", f"encode {GENERAL}"} <= set(step.needs)


def test_a_model_may_learn_several_captions_of_an_image():
    steps = plan({"a": {}, "b": {"captions": ["original", GENERAL]}}, data=CAPTIONS)
    several = steps[f"assemble original, {GENERAL}"]
    states = [steps["encode train"].config.text_states, steps[f"encode {GENERAL}"].config.text_states]
    assert (list(several.config.text_states), several.config.which) == (states, ("original", GENERAL))
    assert steps["assemble original"].config.which is None
    assert {"encode train", f"encode {GENERAL}"} <= set(several.needs)
    assert steps["train b"].config.training_set == several.config.output != steps["train a"].config.training_set


def test_generalized_captions_come_from_where_they_are_said_to_come_from():
    of_samples = plan({"a": {"captions": "original/five_words"}}, data={"generalize": {}})["generalize"]
    assert (of_samples.config.captions, of_samples.config.duplicates) == ("runs/x/samples/train", "runs/x/duplicates")
    written = plan({"a": {"captions": GENERAL}}, data=CAPTIONS)
    assert (written["generalize"].config.captions, written["generalize"].config.duplicates) == ("runs/x/captions", None)
    encoded = written[f"encode {GENERAL}"].config
    assert (encoded.captions.table, encoded.captions.which, encoded.latents) == ("runs/x/generalized", GENERAL, None)


def test_each_model_is_measured_against_what_it_learned_with_prompts_of_its_own():
    steps = plan({"a": {}, "b": {"captions": GENERAL}}, data=CAPTIONS)
    for name in "ab":
        learned = steps[f"train {name}"].config.training_set
        assert steps[f"replicate {name}"].config.training_set == learned
        assert steps[f"generate {name}"].config.prompts == learned
        assert steps[f"replicate {name}"].config.held_out == "runs/x/samples/held_out"
        assert "describe held_out images" in steps[f"replicate {name}"].needs
    described = steps["describe held_out images"]
    assert (described.model, described.config.images) == (None, "runs/x/samples/held_out")
    assert {steps[f"replicate {name}"].config.features.held_out for name in "ab"} == {described.output}


def test_training_images_are_described_again_only_for_another_descriptor():
    other = {"replication": {"replication": {"descriptor": {"name": "clip", "weights": "clip"}}}}
    assert "describe training images" not in plan()
    steps = plan({"a": {}, "b": {}}, evaluations=other)
    assert steps["describe training images"].config.descriptor.name == "clip"
    assert all("describe training images" in steps[f"replicate {name}"].needs for name in "ab")


def test_prompts_of_another_model_or_of_a_file():
    prompts = {"theirs": {"model": "a"}, "mine": {"file": "prompts.txt"}}
    models = {"a": {}, "b": {"captions": GENERAL}}
    steps = plan(models, data=CAPTIONS, prompts=prompts, evaluations={"replication": {"prompts": "theirs"}})
    assert steps["generate b with theirs"].config.prompts == steps["train a"].config.training_set
    assert "assemble original" in steps["generate b with theirs"].needs
    assert steps["replicate b"].config.generated == steps["generate b with theirs"].config.output
    steps = plan(models, data=CAPTIONS, prompts=prompts, evaluations={"replication": {"prompts": "mine"}})
    assert {steps[f"generate {name} with mine"].config.prompts for name in "ab"} == {"prompts.txt"}


def test_seed_and_cluster_of_the_study_hold_where_none_is_set():
    data = {**CAPTIONS, "encode": {"cluster": {"load_cpus": 3}}}
    models = {"a": {}, "b": {"training": {"training": {"seed": 7}, "cluster": {"num_workers": 2}}}}
    steps = plan(models, data=data, seed=5, cluster={"load_cpus": 2}, train_cluster={"cpus_per_worker": 4})
    assert [steps[f"train {name}"].config.training.seed for name in "ab"] == [5, 7]
    assert [steps[f"generate {name}"].config.generate.seed for name in "ab"] == [5, 5]
    assert (steps["caption"].config.seed, steps["assemble original"].config.seed) == (5, 5)
    assert steps["dedup"].config.cluster.load_cpus == 2
    assert steps["encode train"].config.cluster.load_cpus == 3
    assert steps["train a"].config.cluster.cpus_per_worker == 4
    assert steps["train b"].config.cluster.num_workers == 2


def test_what_ingest_let_through_is_let_through_by_every_step_after_it():
    """Also by those that have limits of their own, unless they were set; generations need not be as large."""
    wide, wider = {"max_pixels": 60_000_000, "min_side": 200}, {"max_pixels": 70_000_000, "min_side": 8}
    data = {"ingest": {"ingest": {"decode": wide}}, "fusion_ingest": {"ingest": {"decode": wider}}, **CAPTIONS}
    evaluations = {"replication": {"replication": {"decode": {"max_bytes": 1000}}}}
    steps = plan({"a": FUSION}, data=data, evaluations=evaluations)
    train, fusion = (steps[f"encode {split}"].config.images.limits for split in ("train", "fusion"))
    assert (train.max_pixels, train.min_side) == (60_000_000, 16)
    assert (fusion.max_pixels, fusion.min_side) == (70_000_000, 8)
    assert steps["caption"].config.limits == train
    assert steps["dedup"].config.decode.min_side == 200
    for decode in (steps["replicate a"].config.replication.decode, steps["describe held_out images"].config.decode):
        assert (decode.max_pixels, decode.min_side, decode.max_bytes) == (60_000_000, 16, 1000)
    own = {**data, "encode": {"images": {"limits": {"max_pixels": 40_000_000}}}}
    steps = plan({"a": FUSION}, data=own)
    assert {steps[f"encode {split}"].config.images.limits.max_pixels for split in ("train", "fusion")} == {40_000_000}


def test_evaluations_compare_images_as_dedup_does_unless_told_otherwise():
    sscd = {"name": "sscd", "weights": "/models/sscd.pt", "sha256": "ab" * 32}
    dedup = {"dedup": {"descriptor": sscd}}
    assert plan(data=dedup)["replicate a"].config.replication.descriptor.name == "sscd"
    own = {"replication": {"replication": {"descriptor": {"name": "embedded"}}}}
    assert plan(data=dedup, evaluations=own)["replicate a"].config.replication.descriptor.name == "embedded"


def test_like_takes_the_settings_of_another_model_mapping_by_mapping():
    models = {
        "a": {"training": {"training": {"max_steps": 10, "optimizer": {"learning_rate": 0.5, "warmup_steps": 3}}}},
        "b": {"like": "a", "training": {"training": {"optimizer": {"warmup_steps": 4}}}, "duplicates": "keep"},
        "c": {"like": "b", "captions": GENERAL, "duplicates": "drop"},
    }
    config = study(models, data=CAPTIONS)
    for name, warmup, duplicates in (("a", 3, "drop"), ("b", 4, "keep"), ("c", 4, "drop")):
        training = config.models[name].training.training
        assert (training.max_steps, training.optimizer.learning_rate) == (10, 0.5)
        assert (training.optimizer.warmup_steps, config.models[name].duplicates) == (warmup, duplicates)
    assert config.models["c"].captions == GENERAL


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"models": {"a": {"like": "b"}}}, "models.a.like = 'b': unknown model; known are: a"),
        (
            {"models": {"a": {"like": "b"}, "b": {"like": "c"}, "c": {"like": "b"}}},
            "models inherit from each other in a cycle: a → b → c → b",
        ),
        ({"models": {"a": {"like": "a"}}}, "in a cycle: a → a"),
        ({"models": {"a": {"captions": "blip2/photo"}}}, "models.a.captions = 'blip2/photo': `data` does not make"),
        ({"models": {"a": {}}, "data": {"required_captions": ["x"]}}, "data.required_captions = 'x'"),
        ({"models": {"a": {}}, "prompts": {"p": {"model": "z"}}}, "prompts.p.model = 'z': must be own or one of: a"),
        ({"models": {"a": {}}, "prompts": {"p": {}}}, "give either model or file"),
        ({"models": {"a": {}}, "evaluations": {"replication": {"prompts": "q"}}}, "unknown prompts; known are: own"),
        ({"models": {"a": {}}, "evaluations": {"replicatoin": {}}}, "did you mean replication"),
        (
            {"models": {"a": {"training": {"training": {"max_stps": 1}}}}},
            "models.a.training.training.max_stps: unknown",
        ),
        ({"models": {"a b": {}}}, "should match pattern"),
        ({"models": {"own": {}}}, "models.own: this name is reserved"),
        ({"models": {}}, "at least 1"),
        ({"models": {"a": FUSION}, "data": {"shards": {"train": "/data"}}}, "models.a: the model uses fusion, but"),
    ],
)
def test_mistakes_are_named(config, words):
    with pytest.raises(InputError) as caught:
        study(**config)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 600, "the message does not repeat the whole configuration"


def test_chosen_models_bring_what_they_need():
    config = study({"a": {}, "b": {"captions": GENERAL, **FUSION}}, data=CAPTIONS)
    steps = plan_steps(config)
    a = [step.name for step in selected(steps, config, ["a"])]
    assert a == [
        *("scenes", "ingest train", "ingest held_out", "dedup", "encode train", "assemble original"),
        *("train a", "generate a", "describe held_out images", "replicate a"),
    ]
    b = {step.name for step in selected(steps, config, ["b"])}
    assert {"caption", "generalize", "assemble fusion", "train b", "ingest held_out"} <= b
    assert not any(step.model == "a" for step in steps if step.name in b)
    assert selected(steps, config, ["a", "b"]) == selected(steps, config, []) == steps
    with pytest.raises(InputError, match="--only c: unknown model"):
        selected(steps, config, ["c"])
