"""The endpoint engine against a real vLLM server on loopback: answers, seeds, adapters, refusals."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from raysys.errors import InputError
from raysys.llm.config import LlmConfig
from raysys.llm.contract import Completion, Failure, Request, SamplingConfig
from raysys.llm.endpoint import EndpointGenerator
from raysys.llm.endpoint_session import check_endpoint
from tests.support.tiny_llm import write_llama, write_lora
from tests.support.vllm_server import KEY, VllmServer

pytestmark = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")

CONTEXT = 128
GREEDY = SamplingConfig(max_tokens=12)
WARM = SamplingConfig(temperature=1.0, max_tokens=12)
PROMPTS = ("a red circle", "two yellow stars above a green triangle", "黒い背景に赤い円と青い四角があります。")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    folder = tmp_path_factory.mktemp("vllm")
    model = write_llama(folder / "llama", context=CONTEXT)
    server = VllmServer(folder, model, wide=write_lora(folder / "wide", model, seed=1))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_ENDPOINT_KEY", KEY)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def ask(config: LlmConfig, *requests: Request) -> list:
    generator = EndpointGenerator(config)
    try:
        return generator.generate(requests)
    finally:
        generator.close()


def greedy_reference(model: Path, prompt: str, chat: bool, max_tokens: int) -> tuple[str, int, int]:
    """(text, tokens of the prompt, tokens of the answer) by transformers' own generate()."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    if chat:
        messages = [{"role": "user", "content": prompt}]
        prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=not chat)
    net = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    ids = net.generate(**inputs, max_new_tokens=max_tokens, do_sample=False)[0, inputs.input_ids.shape[1] :]
    # vLLM's server holds the bytes of an unfinished character back.
    text = tokenizer.decode(ids, skip_special_tokens=True).strip().rstrip("\ufffd")
    return text, inputs.input_ids.shape[1], len(ids)


@pytest.mark.parametrize("prompt_format", ["chat", "completion"])
def test_greedy_answers_are_those_of_transformers(server: VllmServer, prompt_format: str) -> None:
    replies = ask(server.config(prompt_format=prompt_format), *[Request(p, p, GREEDY) for p in PROMPTS])
    for prompt, reply in zip(PROMPTS, replies, strict=True):
        text, n_prompt, n_answer = greedy_reference(server.model, prompt, prompt_format == "chat", GREEDY.max_tokens)
        reason = "length" if n_answer == GREEDY.max_tokens else "stop"
        assert reply == [Completion(text, reason, n_prompt, n_answer)]


def test_seeds_candidates_and_adapters(server: VllmServer) -> None:
    requests = [Request(str(seed), PROMPTS[0], WARM, seed=seed, n=n) for seed, n in ((1, 3), (2, 3), (1, 1))]
    requests += [Request("base", PROMPTS[0], GREEDY, n=2), Request("wide", PROMPTS[0], GREEDY, adapter="wide")]
    once, again = ask(server.config(), *requests), ask(server.config(), *reversed(requests))[::-1]
    assert once == again
    texts = [[completion.text for completion in reply] for reply in once]
    assert [len(each) for each in texts] == [3, 3, 1, 2, 1]
    assert len(set(texts[0] + texts[1])) == 6  # neither seeds nor candidates share answers
    assert texts[2] == texts[0][:1]
    assert texts[3] == [greedy_reference(server.model, PROMPTS[0], True, GREEDY.max_tokens)[0]] * 2
    assert texts[4] != texts[3][:1]


def test_what_the_server_refuses(server: VllmServer) -> None:
    long = " ".join(["a red circle"] * CONTEXT)
    requests = [
        Request("long", long, GREEDY),
        Request("good", PROMPTS[0], GREEDY),
        Request("lost", PROMPTS[0], GREEDY, adapter="lost"),
        Request("greed", PROMPTS[0], SamplingConfig(max_tokens=CONTEXT * 2)),
    ]
    for prompt_format in ("chat", "completion"):
        too_long, good, lost, greed = ask(server.config(prompt_format=prompt_format), *requests)
        assert isinstance(good, list)
        assert isinstance(too_long, Failure)
        assert (too_long.reason, too_long.bad_input) == ("prompt_too_long", True)
        assert (lost.reason, lost.bad_input) == ("unknown_adapter", True)
        assert (greed.reason, greed.bad_input) == ("bad_request", False)
        assert "max_tokens=256 cannot be greater than max_model_len" in greed.detail


def test_check_before_a_run(server: VllmServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_endpoint(server.config()) is None
    with pytest.raises(InputError, match="it has: tiny, wide"):
        check_endpoint(server.config(model="huge"))
    monkeypatch.setenv("TEST_ENDPOINT_KEY", "wrong")
    with pytest.raises(InputError, match="TEST_ENDPOINT_KEY"):
        check_endpoint(server.config())
    with pytest.raises(InputError, match="TEST_ENDPOINT_KEY"):
        ask(server.config(), Request("1", PROMPTS[0], GREEDY))
