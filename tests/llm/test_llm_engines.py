"""Local engines: what they answer against naive references and against each other, and what a bad request costs."""

from __future__ import annotations

import collections
import contextlib
import importlib.util
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from transformers import Blip2ForConditionalGeneration, LlamaForCausalLM

from raysys.llm.build import build_generator
from raysys.llm.config import LlmConfig
from raysys.llm.contract import Completion, EngineDied, Failure, Request, SamplingConfig
from tests.support import tiny_llm
from tests.support.processes import start

TEXTS = (
    "a red circle",
    "Convert this caption: two yellow stars above a green triangle in the middle of the picture",
    "黒い背景に赤い円",
    "x",
    "a small blue square beside it, and three orange rings",
)
GREEDY = SamplingConfig(max_tokens=24)
WARM = SamplingConfig(max_tokens=16, temperature=1.2, top_p=0.95, top_k=50, repetition_penalty=1.1)

needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A Llama with two LoRA adapters, a BLIP-2, a Florence-2, a LLaVA."""
    folder = tmp_path_factory.mktemp("models")
    tiny_llm.write_llama(folder / "llama")
    tiny_llm.write_lora(folder / "first", folder / "llama", seed=1)
    tiny_llm.write_lora(folder / "second", folder / "llama", seed=2)
    tiny_llm.write_blip2(folder / "blip2")
    tiny_llm.write_florence2(folder / "florence2")
    tiny_llm.write_llava(folder / "llava")
    return folder


def config(engine: str, models: Path, model: str = "llama", **more) -> LlmConfig:
    return LlmConfig(engine=engine, model=str(models / model), **more)


def adapters(models: Path) -> dict[str, str]:
    return {name: str(models / name) for name in ("first", "second")}


@pytest.fixture(scope="module")
def text_model(models):
    settings = {"adapters": adapters(models), "batch_size": 4}
    return build_generator(config("transformers", models, transformers=settings))


@pytest.fixture(scope="module")
def vision_model(models):
    return build_generator(config("transformers", models, "blip2"))


def requests(sampling: SamplingConfig = GREEDY, **more) -> list[Request]:
    return [Request(f"r{i}", text, sampling, seed=i, **more) for i, text in enumerate(TEXTS)]


def pictures(n: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (32 + 8 * i, 48, 3), dtype=np.uint8) for i in range(n)]


def image_requests(sampling: SamplingConfig = GREEDY) -> list[Request]:
    prompts = ("", "a photo of", "a picture of a red")
    images = pictures(len(prompts))
    return [Request(f"i{k}", text, sampling, seed=k, image=images[k]) for k, text in enumerate(prompts)]


def pixels(image: np.ndarray) -> dict[str, torch.Tensor]:
    """What the tiny BLIP-2's image processor makes of a picture."""
    side = tiny_llm.IMAGE_SIZE
    small = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
    return {"pixel_values": torch.from_numpy(np.asarray(small) / 127.5 - 1).permute(2, 0, 1)[None].float()}


def chat_ids(text: str) -> list[int]:
    """What the chat template of the tiny Llama makes of a user's message, in tokens."""
    return tiny_llm.tokenizer()(f"[user] {text}\n[assistant]")["input_ids"]


def decoded(words, tokens: list[int]) -> str:
    """An answer's text: no special tokens, no white space around it, no half character at its end."""
    return words.decode(tokens, skip_special_tokens=True).rstrip("\ufffd").strip()


def greedy_by_hand(model: LlamaForCausalLM, ids: list[int], max_tokens: int) -> tuple[str, str, int]:
    """(text, finish reason, tokens): the largest logit again and again, no cache, no batch."""
    words, answer = tiny_llm.tokenizer(), []
    while len(answer) < max_tokens:
        with torch.no_grad():
            answer.append(int(model(torch.tensor([ids + answer])).logits[0, -1].argmax()))
        if answer[-1] == words.eos_token_id:
            return decoded(words, answer), "stop", len(answer)
    return decoded(words, answer), "length", max_tokens


# --- transformers ---


def test_greedy_answers_equal_a_loop_by_hand(models, text_model):
    reference = LlamaForCausalLM.from_pretrained(models / "llama")
    asked = [Request(f"r{i}", f"{text} {i}", GREEDY) for i in range(4) for text in TEXTS]
    reasons = set()
    for request, reply in zip(asked, text_model.generate(asked), strict=True):
        ids = chat_ids(request.text)
        text, reason, n = greedy_by_hand(reference, ids, GREEDY.max_tokens)
        assert reply == [Completion(text, reason, len(ids), n)]
        reasons.add(reason)
    assert reasons == {"stop", "length"}


def test_draws_follow_the_models_distribution(models):
    """Temperature, top-k and top-p as defined, and every answer a draw of its own."""
    wide = build_generator(config("transformers", models, transformers={"batch_size": 1000}))
    n, sampling = 3000, SamplingConfig(max_tokens=1, temperature=1.5, top_k=12, top_p=0.8)
    reference, words = LlamaForCausalLM.from_pretrained(models / "llama"), tiny_llm.tokenizer()
    with torch.no_grad():
        logits = reference(torch.tensor([chat_ids("a red circle")])).logits[0, -1] / 1.5
    values, tokens = logits.topk(12)
    p = values.softmax(0)
    p[1:][p.cumsum(0)[:-1] >= 0.8] = 0  # the smallest set that holds 0.8
    expected: collections.Counter[str] = collections.Counter()
    for token, share in zip(tokens.tolist(), (p / p.sum()).tolist(), strict=True):
        expected[decoded(words, [token])] += share
    assert len([q for q in expected.values() if q > 0.01]) >= 4, "a distribution that is worth a test"
    drawn = [c.text for c in wide.generate([Request("r", "a red circle", sampling, seed=9, n=n)])[0]]
    counts = collections.Counter(drawn)
    assert {text for text, q in expected.items() if q > 0.01} <= set(counts)
    assert all(expected[text] > 0 for text in counts), "nothing that top-k or top-p left out"
    for text, q in expected.items():
        assert counts[text] / n == pytest.approx(q, abs=4.5 * (q * (1 - q) / n) ** 0.5 + 1e-9)


def test_answers_do_not_depend_on_neighbors(text_model):
    for sampling in (GREEDY, WARM):
        together = text_model.generate(requests(sampling, n=2))
        alone = [text_model.generate([request])[0] for request in requests(sampling, n=2)]
        assert together == alone
        assert all(len(reply) == 2 for reply in together)
    assert together[0][0] != together[0][1]
    assert text_model.generate([Request("r0", TEXTS[0], WARM, seed=77)])[0][0] != together[0][0]


def test_repetition_penalty_counts_the_prompt_and_not_the_padding(models, text_model):
    sampling = SamplingConfig(max_tokens=12, repetition_penalty=1.5)
    reference, words = LlamaForCausalLM.from_pretrained(models / "llama"), tiny_llm.tokenizer()
    ids, answer = chat_ids(TEXTS[0]), []
    for _ in range(12):
        with torch.no_grad():
            logits = reference(torch.tensor([ids + answer])).logits[0, -1]
        for token in set(ids + answer):
            logits[token] = logits[token] / 1.5 if logits[token] > 0 else logits[token] * 1.5
        answer.append(int(logits.argmax()))
    answer = answer[: answer.index(words.eos_token_id)] if words.eos_token_id in answer else answer
    expected = decoded(words, answer)
    beside_a_long_one = text_model.generate(requests(sampling))[0][0].text
    assert beside_a_long_one == expected != text_model.generate(requests(GREEDY))[0][0].text[: len(expected)]


def test_adapters_equal_merged_weights(models, text_model):
    plain = text_model.generate(requests())
    for name in ("first", "second"):
        from peft import PeftModel

        merged = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(models / "llama"), models / name)
        merged = merged.merge_and_unload()
        replies = text_model.generate(requests(adapter=name))
        for text, reply in zip(TEXTS, replies, strict=True):
            assert reply[0].text == greedy_by_hand(merged, chat_ids(text), GREEDY.max_tokens)[0]
        assert replies != plain
    mixed = [Request(str(i), TEXTS[0], GREEDY, adapter=[None, "first", "second"][i % 3]) for i in range(6)]
    replies = text_model.generate(mixed)
    assert replies[:3] == replies[3:]
    assert len({reply[0].text for reply in replies}) == 3
    assert text_model.generate(requests()) == plain


def test_answers_end_before_a_stop_string(text_model):
    check_stop_strings(text_model)


def check_stop_strings(generator) -> None:
    request = requests(SamplingConfig(max_tokens=24))[4]
    whole = generator.generate([request])[0][0]
    middle = len(whole.text) // 2
    stop = whole.text[middle : middle + 3]
    stopped = Request(request.id, request.text, SamplingConfig(max_tokens=24, stop=("never there", stop)))
    answer = generator.generate([requests()[0], stopped])[1][0]
    assert answer.finish_reason == "stop"
    assert answer.text == whole.text[: whole.text.index(stop)].strip()
    assert 0 < answer.completion_tokens < whole.completion_tokens


def test_bad_requests_fail_alone(text_model):
    check_bad_requests(text_model)


def check_bad_requests(generator) -> None:
    good = requests()
    bad = [
        Request("long", "word " * 300, GREEDY),
        Request("adapter", "x", GREEDY, adapter="third"),
        Request("eyes", "secret words", GREEDY, image=pictures(1)[0]),
    ]
    replies = generator.generate([bad[0], *good, *bad[1:]])
    assert replies[1:-2] == generator.generate(good)
    too_long, adapter, eyes = replies[0], *replies[-2:]
    assert (too_long.reason, too_long.bad_input) == ("prompt_too_long", True)
    assert "the context holds 256" in too_long.detail
    assert (adapter.reason, adapter.bad_input) == ("unknown_adapter", True)
    assert "first, second" in adapter.detail
    assert (eyes.reason, eyes.bad_input) == ("prompt_refused", True)
    assert "secret words" not in eyes.detail
    assert generator.generate([]) == []


def test_answers_stop_where_the_context_ends(text_model):
    check_context_end(text_model)


def check_context_end(generator) -> None:
    endless = SamplingConfig(max_tokens=5000, temperature=1.0)
    text = "circle " * 100
    n_prompt = len(chat_ids(text))
    answers = generator.generate([Request("r", text, endless, n=8), *requests()])[0]
    longest = max(answers, key=lambda a: a.completion_tokens)
    assert longest.finish_reason == "length"
    assert longest.prompt_tokens + longest.completion_tokens == 256
    assert longest.prompt_tokens == n_prompt


def test_threads_share_one_model(text_model):
    check_threads(text_model)


def check_threads(generator, n_threads: int = 4) -> None:
    expected = generator.generate(requests(WARM))
    with ThreadPoolExecutor(n_threads) as pool:
        found = list(pool.map(lambda _: generator.generate(requests(WARM)), range(2 * n_threads)))
    assert all(replies == expected for replies in found)


def test_beams_find_answers_that_greedy_decoding_misses(models, text_model):
    beams = build_generator(config("transformers", models, transformers={"generate_kwargs": {"num_beams": 4}}))
    sampling = SamplingConfig(max_tokens=8)
    answers = [reply[0] for reply in beams.generate(requests(sampling))]
    assert answers == [beams.generate([request])[0][0] for request in requests(sampling)]
    assert answers != [reply[0] for reply in text_model.generate(requests(sampling))]
    assert beams.generate(requests(WARM)) == text_model.generate(requests(WARM)), "drawn answers have no beams"


def test_blip2_continues_the_picture_and_the_prompt(models, vision_model):
    reference = Blip2ForConditionalGeneration.from_pretrained(models / "blip2").eval()
    words = tiny_llm.tokenizer(start=tiny_llm.END)
    replies = vision_model.generate(image_requests())
    for request, reply in zip(image_requests(), replies, strict=True):
        ids, answer = words(request.text)["input_ids"], []
        with torch.no_grad():
            seen = reference.get_image_features(**pixels(request.image)).pooler_output
            while len(answer) < GREEDY.max_tokens and words.eos_token_id not in answer:
                read = reference.get_input_embeddings()(torch.tensor([ids + answer]))
                logits = reference.language_model(inputs_embeds=torch.cat([seen, read], dim=1)).logits
                answer.append(int(logits[0, -1].argmax()))
        text = decoded(words, answer)
        assert (reply[0].text, reply[0].completion_tokens) == (text, len(answer))
        assert reply[0].prompt_tokens == tiny_llm.N_QUERIES + len(ids)
    same_prompt = [Request(str(i), "a photo of", GREEDY, image=image) for i, image in enumerate(pictures(3))]
    assert len({reply[0].text for reply in vision_model.generate(same_prompt)}) > 1, "the picture matters"


def test_florence2_takes_tasks_and_a_failing_batch_is_halved(models):
    florence = build_generator(config("auto", models, "florence2"))  # vLLM does not serve it: transformers does
    image = pictures(1)[0]
    sampling = SamplingConfig(max_tokens=6)
    asked = ["<MORE_DETAILED_CAPTION>", "<CAPTION> and more", "<CAPTION>", "<DETAILED_CAPTION>"]
    replies = florence.generate([Request(text, text, sampling, image=image) for text in asked])
    assert isinstance(replies[1], Failure)
    assert (replies[1].reason, replies[1].bad_input) == ("prompt_refused", True)
    assert "and more" not in replies[1].detail
    for place in (0, 2, 3):
        assert replies[place] == florence.generate([Request("r", asked[place], sampling, image=image)])[0]
        # The model's generation config forces an end token on the last place; the answer is still a truncated one.
        assert (replies[place][0].finish_reason, replies[place][0].completion_tokens) == ("length", 6)


def test_llava_is_asked_by_its_chat_template(models):
    """Any image-text model that transformers has; the picture's place is in the template."""
    llava = build_generator(config("transformers", models, "llava", transformers={"batch_size": 2}))
    asked = [Request(str(i), text, GREEDY, image=pictures(5)[i]) for i, text in enumerate(TEXTS)]
    replies = llava.generate(asked)
    assert replies == [llava.generate([request])[0] for request in asked]
    for request, reply in zip(asked, replies, strict=True):
        around = tiny_llm.tokenizer()(f"USER: \n{request.text} ASSISTANT:")["input_ids"]
        assert reply[0].prompt_tokens == len(around) + tiny_llm.N_LLAVA_TOKENS
    other = Request("r", TEXTS[0], GREEDY, image=pictures(5)[1])
    assert llava.generate([other])[0] != replies[0], "the picture matters"


# --- vLLM, one engine for text and one for pictures ---


@pytest.fixture(scope="module")
def text_engine(models):
    vllm = {"adapters": adapters(models), "max_num_seqs": 32}
    generator = build_generator(config("vllm", models, vllm=vllm))
    yield generator
    generator.close()


@needs_vllm
def test_vllm_answers_as_transformers_does(text_engine, text_model):
    for name in (None, "first", "second"):
        asked = requests(adapter=name)
        assert text_engine.generate(asked) == text_model.generate(asked)
    mixed = [Request(str(i), TEXTS[0], GREEDY, n=2, adapter=[None, "first", "second"][i % 3]) for i in range(6)]
    assert text_engine.generate(mixed) == text_model.generate(mixed)


@needs_vllm
def test_vllm_draws_by_seed(text_engine):
    together = text_engine.generate(requests(WARM, n=3))
    assert [text_engine.generate([request])[0] for request in requests(WARM, n=3)] == together
    assert all(len({completion.text for completion in reply}) == 3 for reply in together)
    again, next_seed = (text_engine.generate([Request("r", "x", WARM, seed=seed, n=3)])[0] for seed in (3, 4))
    assert again == together[3]
    assert not {c.text for c in again} & {c.text for c in next_seed}, "n answers do not run into the next seed's"


@needs_vllm
def test_vllm_ends_answers_as_transformers_does(text_engine):
    check_stop_strings(text_engine)
    check_context_end(text_engine)


@needs_vllm
def test_vllm_bad_requests_fail_alone(text_engine):
    check_bad_requests(text_engine)


@needs_vllm
def test_vllm_batches_what_threads_ask(text_engine):
    check_threads(text_engine)


@needs_vllm
def test_a_killed_engine_is_reported_to_all_who_wait(text_engine):
    """The last test with this engine."""
    endless = SamplingConfig(max_tokens=200, temperature=1.0, stop=("never there",))
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(text_engine.generate, requests(endless, n=40)) for _ in range(2)]
        while not text_engine._running.llm.output_processor.has_unfinished_requests():
            assert not any(future.done() for future in waiting)
        engine_processes()[0].kill()
        for future in waiting:
            with pytest.raises(EngineDied):
                future.result(timeout=60)
    with pytest.raises(EngineDied):
        text_engine.generate(requests())
    text_engine.close()
    psutil.wait_procs(engine_processes(), timeout=20)
    assert engine_processes() == []


@needs_vllm
def test_vllm_sees_as_transformers_does(models, vision_model):
    engine = build_generator(config("vllm", models, "blip2"))
    try:
        assert engine.generate(image_requests()) == vision_model.generate(image_requests())
        broken = Request("b", "a photo of", GREEDY, image=np.zeros((4, 4), np.float64))
        long = Request("l", "word " * 200, GREEDY, image=pictures(1)[0])
        replies = engine.generate([broken, *image_requests(), long])
        assert replies[1:-1] == vision_model.generate(image_requests())
        assert [(r.reason, r.bad_input) for r in (replies[0], replies[-1])] == [
            ("prompt_refused", True),
            ("prompt_too_long", True),
        ]
    finally:
        engine.close()
    with pytest.raises(EngineDied):
        engine.generate(image_requests())
    assert engine_processes() == []


def engine_processes(pid: int | None = None) -> list[psutil.Process]:
    """vLLM's processes below one (this one): the engine core first, then its workers."""
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it ended just now
            if "multiprocessing.spawn" in " ".join(child.cmdline()) or "VLLM" in child.name():
                found.append(child)
    return found


OWNER = """
import sys
from raysys.llm.build import build_generator
from raysys.llm.config import LlmConfig

generator = build_generator(LlmConfig(engine="vllm", model=sys.argv[1]))
print("ready", flush=True)
sys.stdin.read()
"""


@needs_vllm
@pytest.mark.slow
def test_no_engine_outlives_a_killed_owner(models):
    owner = start([sys.executable, "-c", OWNER, models / "llama"])
    assert owner.stdout.readline() == "ready\n", owner.stderr.read()
    engine = engine_processes(owner.pid)
    assert len(engine) >= 2, "a core and a worker"
    owner.kill()
    owner.wait()
    _, alive = psutil.wait_procs(engine, timeout=20)
    for process in alive:
        process.kill()
    assert alive == []


# --- on a GPU ---


@pytest.mark.gpu
@pytest.mark.parametrize("engine", ["vllm", "transformers"])
def test_engines_on_a_gpu(models, engine):
    """Half precision on the GPU: the same shape of answers, the same seeds, and a bad request fails alone."""
    settings = {"adapters": adapters(models)}
    extra = {"vllm": settings | {"engine_kwargs": {"gpu_memory_utilization": 0.3}}}
    extra |= {"transformers": settings | {"device": "cuda"}}
    generator = build_generator(config(engine, models, dtype="bfloat16", **{engine: extra[engine]}))
    try:
        check_bad_requests(generator)
        check_threads(generator)
        assert [len(reply) for reply in generator.generate(requests(WARM, n=3))] == [3] * len(TEXTS)
        assert generator.generate(requests(adapter="first")) != generator.generate(requests())
    finally:
        generator.close()


@pytest.mark.gpu
@pytest.mark.parametrize("engine", ["vllm", "transformers"])
def test_pictures_on_a_gpu(models, engine):
    extra = {"vllm": {"engine_kwargs": {"gpu_memory_utilization": 0.3}}, "transformers": {"device": "cuda"}}
    generator = build_generator(config(engine, models, "blip2", dtype="float32", **{engine: extra[engine]}))
    on_cpu = build_generator(config("transformers", models, "blip2"))
    try:
        found, expected = generator.generate(image_requests()), on_cpu.generate(image_requests())
        assert [r[0].prompt_tokens for r in found] == [r[0].prompt_tokens for r in expected]
        assert sum(f[0].text[:8] == e[0].text[:8] for f, e in zip(found, expected, strict=True)) >= 2
    finally:
        generator.close()
