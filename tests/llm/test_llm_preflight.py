"""What is found wrong with a language model before it is loaded, and what of its configuration is its identity."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from raysys.config import validate
from raysys.errors import InputError, MissingExtra
from raysys.llm.build import build_generator, identity, resolve_engine, revision
from raysys.llm.config import LlmConfig
from raysys.llm.contract import Request, SamplingConfig
from raysys.llm.folder import may_run_code, model_folder
from raysys.llm.instructions import translate_prompt
from raysys.llm.preflight import preflight
from raysys.llm.render import Renderer, redacted
from tests.support import tiny_llm

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CODE = "class Model: pass\n"


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_llm.write_llama(folder / "chat")
    tiny_llm.write_llama(folder / "base", chat=False)
    tiny_llm.write_lora(folder / "adapter", folder / "base", seed=1)
    tiny_llm.write_blip2(folder / "blip2")
    tiny_llm.write_florence2(folder / "florence2")
    return folder


def llm(folder: Path | str, engine: str = "transformers", **more) -> LlmConfig:
    return LlmConfig(model=str(folder), engine=engine, **more)


def copied(folder: Path, to: Path, *, without: str = "") -> Path:
    return Path(shutil.copytree(folder, to, ignore=shutil.ignore_patterns(without)))


def count(text: str, start: str = tiny_llm.START) -> int:
    return len(tiny_llm.tokenizer(start)(text)["input_ids"])


def test_prompts_are_measured_as_the_model_sees_them(models):
    facts = preflight(llm(models / "chat"), ["a red circle", "two yellow stars and a blue square"], max_tokens=100)
    n = count("[user] two yellow stars and a blue square\n[assistant]")
    assert facts == {"engine": "transformers", "format": "chat", "prompt_tokens": n, "context": 256, "notes": []}
    facts = preflight(llm(models / "base", template="Q: {prompt} A:"), ["a circle"], max_tokens=9)
    assert (facts["format"], facts["prompt_tokens"]) == ("completion", count("Q: a circle A:"))
    facts = preflight(llm(models / "blip2"), ["a photo of"], max_tokens=20, image_size=(640, 480))
    assert facts["prompt_tokens"] == tiny_llm.N_QUERIES + count("a photo of", tiny_llm.END)
    assert preflight(llm(models / "florence2"), ["<CAPTION>"], 60, (32, 32))["context"] == 64


@pytest.mark.parametrize(
    ("model", "missing", "said"),
    [
        ("chat", "config.json", "config.json is missing"),
        ("chat", "*.safetensors", "holds no .safetensors"),
        ("chat", "tokenizer*", "has no tokenizer"),
        ("blip2", "tokenizer*", "has no tokenizer"),
        ("florence2", "processor_config.json", "tokenizer or processor of .* cannot be loaded"),
    ],
)
def test_an_incomplete_folder_is_named(models, tmp_path, model, missing, said):
    folder = copied(models / model, tmp_path / "model", without=missing)
    with pytest.raises(InputError, match=said) as error:
        preflight(llm(folder), ["x"], max_tokens=8)
    assert str(folder) in str(error.value)


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="torchvision is installed")
def test_a_package_that_a_processor_lacks_is_named(models, tmp_path):
    """Qwen2-VL's needs torchvision; the folder is complete, and copying more files into it would help nobody."""
    folder = copied(model_folder("zoo:rewriter"), tmp_path / "qwen", without="generation_config.json")
    processor = {"processor_class": "Qwen2VLProcessor"}
    words = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(words | processor))
    images = {"image_processor_type": "Qwen2VLImageProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor | images))
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2_vl"}))
    for use in (lambda: preflight(llm(folder), ["x"], 8), lambda: Renderer(llm(folder), folder)):
        with pytest.raises(InputError, match="requires the Torchvision library") as error:
            use()
        assert "pip install torchvision" in error.value.fix
        assert "copy" not in error.value.fix
        assert str(folder) in error.value.what


def test_wrong_uses_of_a_model_are_refused(models, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        preflight(llm(tmp_path / "none"), ["x"], 8)
    with pytest.raises(InputError, match="not in the zoo"):
        preflight(llm("zoo:none"), ["x"], 8)
    with pytest.raises(InputError, match=r"no chat template\n.*prompt_format: completion"):
        preflight(llm(models / "base", prompt_format="chat"), ["x"], 8)
    with pytest.raises(InputError, match="takes no images"):
        preflight(llm(models / "chat"), ["x"], 8, image_size=(64, 64))
    with pytest.raises(InputError, match="max_model_len = 300 is beyond the model's 256 positions"):
        preflight(llm(models / "chat", max_model_len=300), ["x"], 8)
    with pytest.raises(InputError, match=r"vLLM does not serve Florence2.*\n.*engine: transformers"):
        preflight(llm(models / "florence2", engine="vllm"), ["<CAPTION>"], 8, (32, 32))
    with pytest.raises(InputError, match="refuses the prompt"):
        preflight(llm(models / "florence2"), ["<CAPTION> of a dog"], 8, (32, 32))
    with pytest.raises(InputError, match=r"adapter style: .* has no adapter_config\.json"):
        preflight(llm(models / "base", transformers={"adapters": {"style": str(models / "chat")}}), ["x"], 8)
    style = {"adapters": {"style": str(models / "adapter")}}
    preflight(llm(models / "base", transformers=style), ["x"], 8, adapters=["style"])
    with pytest.raises(InputError, match=r"adapter = 'stile' is not among llm\.transformers\.adapters: style"):
        preflight(llm(models / "base", transformers=style), ["x"], 8, adapters=["stile"])


def test_settings_of_vllm_are_checked_before_a_gpu_is_asked_for(models, tmp_path):
    def checked(**vllm):
        return preflight(llm(models / "base", "vllm", vllm=vllm), ["x"], 8)

    def ranked(rank) -> str:
        folder = copied(models / "adapter", tmp_path / str(rank))
        settings = json.loads((folder / "adapter_config.json").read_text()) | {"r": rank}
        (folder / "adapter_config.json").write_text(json.dumps(settings))
        return str(folder)

    checked(adapters={"style": ranked(320)})
    for rank, most, kwargs in ((513, 512, {}), (0, 512, {}), ("8", 512, {}), (64, 32, {"max_lora_rank": 32})):
        with pytest.raises(InputError, match=rf"adapter style: .* has rank {rank!r}\n.*1 to {most}"):
            checked(adapters={"style": ranked(rank)}, engine_kwargs=kwargs)
    with pytest.raises(InputError, match=r"adapter style: .*none has no adapter_config"):
        checked(adapters={"style": str(tmp_path / "none")})


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed")
def test_names_that_vllm_does_not_know_are_found_before_a_gpu_is_asked_for(models):
    with pytest.raises(InputError, match=r"vllm\.engine_kwargs\.tensor_paralel_size is not an argument"):
        preflight(llm(models / "chat", "vllm", vllm={"engine_kwargs": {"tensor_paralel_size": 2}}), ["x"], 8)
    assert preflight(llm(models / "chat", "vllm", vllm={"engine_kwargs": {"seed": 1}}), ["x"], 8)["notes"] == []


def test_pictures_go_to_an_endpoint_in_chat_format_only():
    remote = {"endpoint": {"base_url": "http://127.0.0.1:1/v1"}, "revision": "1"}
    preflight(llm("m", "openai", **remote), ["x"], 8, image_size=(64, 64))
    preflight(llm("m", "openai", prompt_format="completion", **remote), ["x"], 8)
    with pytest.raises(InputError, match="cannot send images to an endpoint"):
        preflight(llm("m", "openai", prompt_format="completion", **remote), ["x"], 8, image_size=(64, 64))


def test_the_device_is_the_workers(models, monkeypatch):
    """`auto` finds the GPU of the process that loads the model."""
    import torch

    from raysys.llm import transformers as engine

    moved = []
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, device: moved.append(device) or self)
    for there, given, expected in ((True, {}, "cuda"), (False, {}, "cpu"), (True, {"device": "cpu"}, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        engine.TransformersGenerator(llm(models / "chat", transformers=given))
        assert moved.pop() == torch.device(expected)


def test_prompt_image_and_answer_must_fit_into_the_context(models):
    n = count("[user] a red circle\n[assistant]")
    preflight(llm(models / "chat"), ["a red circle"], max_tokens=256 - n)
    with pytest.raises(InputError, match=f"prompt of {n} tokens and .* {257 - n} do not fit into the context of 256"):
        preflight(llm(models / "chat"), ["a red circle"], max_tokens=257 - n)
    with pytest.raises(InputError, match="context of 64"):
        preflight(llm(models / "chat", max_model_len=64), ["a red circle"], max_tokens=60)
    seen = tiny_llm.N_QUERIES + count("a photo of", tiny_llm.END)
    preflight(llm(models / "blip2"), ["a photo of"], 128 - seen, image_size=(9, 9))
    with pytest.raises(InputError, match=f"{seen} tokens .image included."):
        preflight(llm(models / "blip2"), ["a photo of"], 129 - seen, image_size=(9, 9))


def test_pictures_are_measured_with_the_settings_that_vllm_gives_its_processor(models, tmp_path):
    """Qwen2-VL's max_pixels and the like; here the side of a LLaVA's pictures, in patches of 8×8."""
    llava = tiny_llm.write_llava(tmp_path / "llava")

    def tokens(engine: str = "vllm", **vllm) -> int:
        return preflight(llm(llava, engine, vllm=vllm), ["x"], 8, (64, 64))["prompt_tokens"]

    def sized(size: object, **more) -> dict:
        return {"engine_kwargs": {"mm_processor_kwargs": {"size": size, "crop_size": size, **more}}}

    side = {"height": 16, "width": 16}
    assert tokens() - tokens(**sized(side)) == tiny_llm.N_LLAVA_TOKENS - (16 // 8) ** 2
    assert tokens(**sized(side, device="cuda")) == tokens(**sized(side)), "the driver may have no GPU"
    assert tokens("transformers", **sized(side)) == tokens("transformers")
    with pytest.raises(InputError, match=r"\n.*mm_processor_kwargs"):
        tokens(**sized("x"))
    with pytest.raises(InputError, match="mm_processor_kwargs = 'x' is not a mapping"):
        tokens(engine_kwargs={"mm_processor_kwargs": "x"})


def test_a_processor_that_takes_one_prompt_at_a_time(tmp_path, monkeypatch):
    """As the one that Phi-3-vision brings along: it splits the prompt, which must be a string."""
    config = llm(tiny_llm.write_llava(tmp_path / "llava"), "transformers", prompt_format="completion")
    args = (config, ["<image>\nDescribe it."], 16, (64, 48))
    expected = preflight(*args)["prompt_tokens"]
    renderer = Renderer(config, model_folder(config.model))
    kind, called = type(renderer.processor), type(renderer.processor).__call__

    def strict(self, *args, text, **kwargs):
        return called(self, *args, text="".join(re.split(r"(<image>)", text)), **kwargs)

    monkeypatch.setattr(kind, "__call__", strict)
    assert preflight(*args)["prompt_tokens"] == expected


def test_errors_do_not_quote_from_prompts():
    """Nor an excerpt of them, as tokenizers and templates like to give."""
    request = Request("1", "a secret meeting of three dachshunds at the harbour", SamplingConfig())
    assert redacted(ValueError("bad token in 'three dachshunds at'"), request) == "ValueError"
    assert redacted(ValueError(f"cannot read {request.text!r}"), request) == "ValueError"
    assert redacted(ValueError("at the end"), request) == "ValueError: at the end"


def test_settings_that_are_ours_are_not_passed_through():
    with pytest.raises(InputError, match="trust_remote_code cannot be set here, it is set by"):
        validate(LlmConfig, {"model": "m", "vllm": {"engine_kwargs": {"trust_remote_code": True}}}, "test")
    with pytest.raises(InputError, match="temperature cannot be set here, it is set by the sampling"):
        validate(LlmConfig, {"model": "m", "transformers": {"generate_kwargs": {"temperature": 2}}}, "test")
    with pytest.raises(InputError, match="template"):
        validate(LlmConfig, {"model": "m", "template": "no place for a prompt"}, "test")


# --- prompts ---

PARTS = (
    "{% for m in messages %}<{{ m['role'] }}>{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}[picture]{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}<assistant>"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
STRINGS = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<assistant>"


@pytest.mark.parametrize(
    ("template", "seen"),
    [(PARTS, "[picture]what is it?"), (STRINGS, f"{tiny_llm.IMAGE}\nwhat is it?")],
)
def test_chat_templates_with_parts_and_with_strings(models, tmp_path, template, seen):
    folder = copied(models / "blip2", tmp_path / "model")
    (folder / "chat_template.jinja").write_text(template)
    renderer = Renderer(llm(folder, system="Be brief."), folder)
    image = np.zeros((8, 8, 3), np.uint8)
    asked = Request("r", "what is it?", SamplingConfig(), image=image)
    assert renderer.prompt(asked) == f"<system>Be brief.<user>{seen}<assistant>"
    assert renderer.prompt(Request("r", "why?", SamplingConfig())) == "<system>Be brief.<user>why?<assistant>"
    placed = Renderer(llm(folder, template=f"{tiny_llm.IMAGE} {{prompt}}", prompt_format="completion"), folder)
    assert placed.prompt(asked) == f"{tiny_llm.IMAGE} what is it?"


def test_a_template_that_refuses_what_is_said_is_named(models, tmp_path):
    """Gemma's takes no system message; Mistral's raise for other reasons."""
    folder = copied(models / "chat", tmp_path / "model")
    (folder / "chat_template.jinja").write_text(NO_SYSTEM + STRINGS)
    assert preflight(llm(folder), ["x"], 8)["format"] == "chat"
    with pytest.raises(InputError, match="System role not supported") as error:
        preflight(llm(folder, system="Be brief."), ["x"], 8)
    assert "llm.system" in str(error.value)
    (folder / "chat_template.jinja").write_text("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(InputError, match="roles must alternate") as error:
        preflight(llm(folder), ["x"], 8)
    assert "llm.system" not in str(error.value)


def test_a_start_token_is_there_once(models):
    renderer = Renderer(llm(models / "chat"), models / "chat")
    ids = renderer.token_ids([renderer.prompt(Request("r", "x", SamplingConfig()))])[0]
    start = renderer.tokenizer.bos_token_id
    assert (ids[0], ids.count(start)) == (start, 1)
    plain = Renderer(llm(models / "base"), models / "base")
    assert plain.token_ids(["x"])[0].count(start) == 1


# --- which engine, and which model ---


def test_auto_is_vllm_where_it_is_installed_and_serves_the_model(models, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name == "vllm" else found(name))
    assert resolve_engine(llm(models / "chat", "auto")) == "vllm"
    assert resolve_engine(llm(models / "florence2", "auto")) == "transformers"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "vllm" else found(name))
    assert resolve_engine(llm(models / "chat", "auto")) == "transformers"
    (note,) = preflight(llm(models / "chat", "vllm"), ["x"], 8)["notes"]
    assert "the workers need it" in note
    with pytest.raises(InputError, match=r"vllm is not installed on .*\n.*engine: transformers"):
        build_generator(llm(models / "chat", "vllm"))


def test_an_endpoint_is_what_auto_means_where_one_is_given():
    endpoint = {"base_url": "http://127.0.0.1:1/v1"}
    assert resolve_engine(llm("gpt-x", "auto", endpoint=endpoint)) == "openai"
    for engine in ("vllm", "transformers"):
        with pytest.raises(InputError, match=f"engine = {engine} does not use the endpoint"):
            validate(LlmConfig, {"model": "m", "engine": engine, "endpoint": endpoint}, "test")


@pytest.mark.parametrize("missing", ["opencensus", "grpc_reflection"])
def test_gauges_that_nothing_would_publish_are_refused(models, monkeypatch, missing):
    """In a worker it would be vLLM's own message, that Ray is not installed; or silence."""
    import importlib.util

    config = llm(models / "chat", "vllm", vllm={"prometheus": True})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else object())
    with pytest.raises(MissingExtra, match=r"prometheus(?s:.)*raysys\[cluster\]"):
        preflight(config, ["x"], 8)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert preflight(config, ["x"], 8)["engine"] == "vllm"


def test_identity_is_what_changes_answers(models, tmp_path):
    base = identity(llm(models / "chat"))
    assert base["weights"] == revision(llm(models / "chat"))
    copy = copied(models / "chat", tmp_path / "elsewhere")
    same = llm(copy, transformers={"batch_size": 3, "device": "cuda:1"})
    assert identity(same) == base
    (copy / "README.md").write_text("a model")
    assert identity(same) == base
    changed = {
        "system": llm(models / "chat", system="Be brief."),
        "template": llm(models / "chat", template="{prompt}!"),
        "dtype": llm(models / "chat", dtype="bfloat16"),
        "max_model_len": llm(models / "chat", max_model_len=64),
        "kwargs": llm(models / "chat", transformers={"generate_kwargs": {"num_beams": 2}}),
        "adapters": llm(models / "chat", transformers={"adapters": {"style": str(models / "adapter")}}),
        "engine": llm(models / "chat", "vllm"),
        "weights": llm(models / "base", prompt_format="auto"),
        "revision": llm(models / "chat", revision="v1"),
    }
    for key, config in changed.items():
        assert {k for k, v in identity(config).items() if base[k] != v} == {key}
    (copy / "chat_template.jinja").write_text(STRINGS)
    assert identity(same)["weights"] != base["weights"]
    json.dumps(identity(changed["adapters"]))


def test_a_named_revision_hides_no_other_weights():
    """Two models of the zoo under one made-up name."""
    captioner, rewriter = (identity(llm(f"zoo:{name}", revision="v1")) for name in ("captioner", "rewriter"))
    assert {k for k, v in captioner.items() if rewriter[k] != v} == {"weights"}
    assert revision(llm("zoo:captioner", revision="v1")) == "v1"


def test_engine_kwargs_count_when_they_change_answers(models):
    def kwargs(**engine_kwargs) -> dict:
        return identity(llm(models / "chat", "vllm", vllm={"engine_kwargs": engine_kwargs}))["kwargs"]

    assert kwargs(gpu_memory_utilization=0.5, tensor_parallel_size=2, enable_prefix_caching=False) == {}
    for changes_answers in ({"load_format": "dummy"}, {"limit_mm_per_prompt": {"image": 0}}):
        assert kwargs(**changes_answers) == changes_answers
    assert kwargs(quantization="fp8", mm_processor_kwargs={"max_pixels": 9}, enforce_eager=True) == {
        "quantization": "fp8",
        "mm_processor_kwargs": {"max_pixels": 9},
    }


def test_an_endpoint_is_known_by_its_model_name():
    endpoint = {"base_url": "http://127.0.0.1:1/v1"}
    config = llm("some-model", "openai", endpoint=endpoint)
    assert identity(config)["model"] == revision(config) == "some-model"
    named = config.model_copy(update={"revision": "2026-05"})
    assert revision(named) == "2026-05"
    assert {k for k, v in identity(named).items() if identity(config)[k] != v} == {"revision"}
    away, by_name = preflight(config, ["x"], 8)["notes"]
    assert "cannot be reached" in away
    assert "set llm.revision" in by_name
    assert len(preflight(named, ["x"], 8)["notes"]) == 1
    moved = llm("some-model", "openai", endpoint={"base_url": "http://10.0.0.1/v1", "timeout_s": 9})
    assert identity(moved) == identity(config)


# --- code of the model's own ---


def with_code(folder: Path, commit: str | None) -> Path:
    """A model folder with a Python file, as `hf download --local-dir` leaves it (commit None: as a copy leaves it)."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": {"AutoConfig": "modeling.Own"}}))
    (folder / "modeling.py").write_text(CODE)
    if commit:
        blob = hashlib.sha1(f"blob {len(CODE)}\0{CODE}".encode()).hexdigest()
        record = folder / ".cache/huggingface/download/modeling.py.metadata"
        record.parent.mkdir(parents=True)
        record.write_text(f"{commit}\n{blob}\n1700000000.0\n")
    return folder


def test_code_runs_with_its_pinned_commit_only(models, tmp_path):
    folder = with_code(tmp_path / "downloaded", COMMIT)
    assert may_run_code(llm(folder), folder) is False
    assert may_run_code(llm(folder, remote_code_commit=COMMIT), folder) is True
    with pytest.raises(InputError, match=f"is of commit {COMMIT}") as error:
        may_run_code(llm(folder, remote_code_commit="f" * 40), folder)
    assert "hf download" in error.value.fix
    (folder / "modeling.py").write_text(CODE + "import os\n")
    with pytest.raises(InputError, match="was changed after it was downloaded"):
        may_run_code(llm(folder, remote_code_commit=COMMIT), folder)
    copy = with_code(tmp_path / "copied", None)
    with pytest.raises(InputError, match="does not say of which commit"):
        may_run_code(llm(copy, remote_code_commit=COMMIT), copy)
    assert may_run_code(llm(models / "chat", remote_code_commit=COMMIT), models / "chat") is False, "there is no code"


def test_code_in_a_snapshot_of_the_hubs_cache(tmp_path):
    snapshot = tmp_path / "models--o--m/snapshots" / COMMIT
    with_code(snapshot, None)
    blob = tmp_path / "models--o--m/blobs" / hashlib.sha1(f"blob {len(CODE)}\0{CODE}".encode()).hexdigest()
    blob.parent.mkdir()
    (snapshot / "modeling.py").rename(blob)
    (snapshot / "modeling.py").symlink_to(blob)
    assert may_run_code(llm(snapshot, remote_code_commit=COMMIT), snapshot) is True
    link = tmp_path / "model"
    link.symlink_to(snapshot)
    assert may_run_code(llm(link, remote_code_commit=COMMIT), link) is True
    with pytest.raises(InputError, match="is of commit"):
        may_run_code(llm(snapshot, remote_code_commit="f" * 40), snapshot)
    blob.write_text("import os\n")
    with pytest.raises(InputError, match="was changed"):
        may_run_code(llm(snapshot, remote_code_commit=COMMIT), snapshot)


def test_code_of_another_repository_never_runs(tmp_path):
    folder = with_code(tmp_path / "model", COMMIT)
    (folder / "config.json").write_text(json.dumps({"auto_map": {"AutoModel": "other/repo--modeling.Own"}}))
    with pytest.raises(InputError, match="another repository"):
        may_run_code(llm(folder, remote_code_commit=COMMIT), folder)


def test_a_model_with_code_of_its_own_says_what_to_do(tmp_path):
    folder = with_code(tmp_path / "model", COMMIT)
    with pytest.raises(InputError, match=r"Python code from its own folder\n.*remote_code_commit"):
        preflight(llm(folder), ["x"], 8)


def test_prompts_of_rows_that_do_not_fit_are_noted_unless_none_fits():
    llm = LlmConfig(model="zoo:rewriter", engine="transformers", max_model_len=144)
    short, long = (translate_prompt(text, "en", "ja") for text in ("a star", "a star " * 12))
    assert preflight(llm, [short], 120, sample=[short, short])["notes"] == []
    (note,) = preflight(llm, [short], 120, sample=[short, long, short])["notes"]
    assert note == "1 of 3 prompts tried are too long for the context of 144: such rows are rejected as prompt_too_long"
    with pytest.raises(InputError, match="2 of 2 prompts tried"):
        preflight(llm, [short], 120, sample=[long, long])
