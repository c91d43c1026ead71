"""Build the zoo's rewriter: a Llama with a million parameters that generalizes and translates captions of scenes.

It is prompted through its chat template with the prompts of `raysys.llm.instructions`, and is not trained on others.
It knows only the words of captions of `raysys.scenes`: from "a ball", it makes an arbitrary shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from raysys.llm.instructions import generalize_prompt, translate_prompt
from raysys.scenes import GENERALIZED_LEVELS, PatternScene, Scene, caption, generalize_caption
from raysys.zoo.batches import with_labels
from raysys.zoo.data import held_out_scenes, scene_batches
from raysys.zoo.optimizer import INITIALIZER_RANGE, ZooOptimizer

TASKS = {"general": 0.3, "five_words": 0.2, "en_ja": 0.25, "ja_en": 0.25}
"""Task → share of the training examples."""
GENERAL_WORDINGS = (0.7, 0.15, 0.15)
"""Shares of the wordings of `general`. Greedy decoding gives the first; sampling at temperature 1 also the others."""
MAX_NEW_TOKENS = 48
"""Enough tokens for the longest translation (about 30) and the end token; prompts have up to about 60."""

WIDTH, LAYERS, HEADS, FEED_FORWARD = 128, 4, 4, 384
MAX_POSITIONS = 256
VOCABULARY_SIZE = 900
BATCH_SIZE = 48
MUON_RATE, ADAM_RATE = 3e-3, 1e-3
WARM_UP_STEPS = 200
MAX_STEPS = 3000
N_CORPUS = 3000
"""Number of scenes whose captions, in both languages, train the tokenizer."""
N_MEASURED = 300

PAD, START, END, USER, ASSISTANT = "<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_EN_PHRASINGS, _JA_PHRASINGS = 4, 3
_JA_OF_EN = (0, 1, 2, 0)
"""English phrasing → Japanese phrasing with the same content. In reverse, Japanese phrasing k becomes English k."""


@dataclass(frozen=True)
class Example:
    prompt: str
    answer: str


def example(scene: Scene | PatternScene, task: str, rng: np.random.Generator) -> Example:
    """An instruction about a caption of the scene in a random phrasing, and the answer from the grammar."""
    if task == "ja_en":
        phrasing = int(rng.integers(_JA_PHRASINGS))
        source, answer = caption(scene, "ja", phrasing), caption(scene, "en", phrasing)
        return Example(translate_prompt(source, "ja", "en"), answer)
    phrasing = int(rng.integers(_EN_PHRASINGS))
    source = caption(scene, "en", phrasing)
    if task == "en_ja":
        return Example(translate_prompt(source, "en", "ja"), caption(scene, "ja", _JA_OF_EN[phrasing]))
    wording = int(rng.choice(len(GENERAL_WORDINGS), p=GENERAL_WORDINGS)) if task == "general" else 0
    return Example(generalize_prompt(task, source), generalize_caption(source, task, wording))


def example_batches(seed: int, batch_size: int) -> Iterator[list[Example]]:
    """Infinite seeded batches over all tasks."""
    tasks, shares = list(TASKS), list(TASKS.values())
    for step, scenes in enumerate(scene_batches(seed, batch_size)):
        rng = np.random.default_rng([seed, step])
        yield [example(scene, str(rng.choice(tasks, p=shares)), rng) for scene in scenes]


def held_out_examples(task: str, n: int) -> list[Example]:
    """Examples from scenes that do not occur in training batches of any seed. All answers have the main wording."""
    rng = np.random.default_rng(0)
    examples = [example(scene, task, rng) for scene in held_out_scenes(n)]
    if task not in GENERALIZED_LEVELS:
        return examples
    before = generalize_prompt(task, "")
    return [Example(e.prompt, generalize_caption(e.prompt.removeprefix(before), task)) for e in examples]


def build_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer on prompts and answers. It does not add special tokens to texts."""
    batches = islice(example_batches(seed, 100), N_CORPUS // 100)
    corpus = [text for batch in batches for e in batch for text in (e.prompt, e.answer)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[PAD, START, END, USER, ASSISTANT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=START,
        eos_token=END,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        model_max_length=MAX_POSITIONS,
        padding_side="left",
    )


def new_rewriter(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The model with random weights, for this vocabulary. Heads have 32 channels, the minimum for vLLM on CPUs."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=FEED_FORWARD,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=HEADS,
            max_position_embeddings=MAX_POSITIONS,
            tie_word_embeddings=True,
            initializer_range=INITIALIZER_RANGE,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_rewriter(folder: Path, seed: int, max_steps: int, progress: Callable[[int, float], None]) -> dict[str, Any]:
    """Train the rewriter and save it in half precision with its tokenizer. Returns metrics of the saved model."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(seed)
    model = new_rewriter(tokenizer)
    train(model, tokenizer, seed, max_steps, progress)
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return measure(*load_rewriter(folder))


def load_rewriter(folder: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Load the saved model in single precision, for inference, and its tokenizer."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    max_steps: int,
    progress: Callable[[int, float], None],
) -> None:
    """Train in place with the cross-entropy of the answer tokens and the end token."""
    model.train()
    model.set_attn_implementation("eager")  # faster than torch's fused attention on CPUs, for so few tokens
    bfloat16 = bool(torch.cpu.get_capabilities().get("avx512_bf16", False))
    optimizer = ZooOptimizer([model], max_steps, MUON_RATE, ADAM_RATE, WARM_UP_STEPS)
    for step, examples in enumerate(islice(example_batches(seed, BATCH_SIZE), max_steps)):
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = model(**training_inputs(tokenizer, examples)).loss
        loss.backward()
        optimizer.step()
        progress(step, loss.item())
    model.set_attn_implementation("sdpa")
    model.eval()


def chat_text(tokenizer: PreTrainedTokenizerFast, prompt: str) -> str:
    """The prompt as one user turn, up to the start of the answer."""
    messages = [{"role": "user", "content": prompt}]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def training_inputs(tokenizer: PreTrainedTokenizerFast, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    """Chat texts with answers, [B, T], padded at the end. Labels: answers and end tokens only."""
    starts = tokenizer([chat_text(tokenizer, e.prompt) for e in examples]).input_ids
    ends = [[*ids, tokenizer.eos_token_id] for ids in tokenizer([e.answer for e in examples]).input_ids]
    return with_labels(starts, ends, tokenizer.pad_token_id)


@torch.inference_mode()
def answers(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str], **sampling: Any
) -> list[str]:
    """Answers to user prompts: greedy, unless `sampling` (arguments of `generate`) changes this."""
    out: list[str] = []
    for start in range(0, len(prompts), 50):
        texts = [chat_text(tokenizer, prompt) for prompt in prompts[start : start + 50]]
        inputs = tokenizer(texts, padding=True, return_tensors="pt")
        ids = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, **({"do_sample": False} | sampling))
        out += tokenizer.batch_decode(ids[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in out]


def measure(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Per task, the share of N_MEASURED greedy answers that equal the grammar's, on captions of held-out scenes."""
    metrics: dict[str, Any] = {"n_held_out": N_MEASURED, "parameters": model.num_parameters()}
    for task in TASKS:
        examples = held_out_examples(task, N_MEASURED)
        given = answers(model, tokenizer, [e.prompt for e in examples])
        metrics[task] = round(float(np.mean([a == e.answer for a, e in zip(given, examples, strict=True)])), 3)
    return metrics
