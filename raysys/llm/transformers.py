"""The transformers engine, for models that vLLM does not support, or if vLLM is not installed.

Requests with the same sampling are processed in padded batches. An answer depends only on its request and seed
(`raysys.llm.drawing`), except for rounding of the last bits.
"""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, StoppingCriteriaList
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from raysys.errors import InputError
from raysys.llm.config import LlmConfig
from raysys.llm.contract import Completion, EngineDied, Failure, Reply, Request
from raysys.llm.drawing import RowEnds, finished, logits_processors
from raysys.llm.folder import context_length, load_config, may_run_code, model_folder
from raysys.llm.render import Renderer, redacted, too_long, unknown_adapter
from raysys.llm.seeds import draw_seed
from raysys.models.device import torch_device
from raysys.models.places import naming_damaged_files

_NOT_FROM_THE_MODEL = {
    "do_sample": False,
    "num_beams": 1,
    "temperature": None,
    "top_p": None,
    "top_k": None,
    "repetition_penalty": None,
    # It would replace the last token by an end token, so that a truncated answer would look complete.
    "forced_eos_token_id": None,
}
"""Overrides of the model's generation_config.json, because the request's sampling applies."""


class _Refused(Exception):
    """The model's processor raised `__cause__` for a prompt of the batch."""


@dataclass(frozen=True)
class _Row:
    """One answer to be generated: the index of its request, the number of the answer, the prompt string."""

    place: int
    answer: int
    request: Request
    prompt: str

    @property
    def group(self) -> tuple[str, str, bool]:
        """Rows with the same key may share a batch."""
        return self.request.sampling.model_dump_json(), self.request.adapter or "", self.request.image is not None


class TransformersGenerator:
    """A `Generator` on transformers: causal language models, and image-text models such as BLIP-2 and Florence-2."""

    def __init__(self, config: LlmConfig) -> None:
        """Load model, processor and adapters. Raises InputError if one is missing or does not fit."""
        folder = model_folder(config.model)
        trust = may_run_code(config, folder)
        self._settings = config.transformers
        self._model_config = load_config(folder, trust)
        self._renderer = Renderer(config, folder, trust)
        self._context = context_length(self._model_config, config.max_model_len)
        with naming_damaged_files(folder):
            model = _load_model(config, folder, self._model_config, trust)
        self._model = model.to(torch_device(self._settings.device)).eval()
        # Answers continue the padded prompt, so padding is on the left; encoders count positions from the left.
        self._renderer.tokenizer.padding_side = "right" if self._model_config.is_encoder_decoder else "left"
        self._ends = _end_tokens(self._model, self._renderer.tokenizer)
        self._lock = threading.Lock()

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """One reply per request, in order. A batch that fails is halved until only the culprit is left."""
        rows: list[_Row] = []
        found: dict[int, list[Completion | Failure]] = {place: [] for place in range(len(requests))}
        for place, request in enumerate(requests):
            prompt = self._prompt(request)
            if isinstance(prompt, Failure):
                found[place].append(prompt)
                continue
            n = 1 if request.sampling.temperature == 0 else request.n  # greedy answers would all be the same
            rows += [_Row(place, answer, request, prompt) for answer in range(n)]
        # Prompts of similar length need little padding; the sort is stable, so answers stay in order.
        rows.sort(key=lambda row: (row.group, len(row.prompt)))
        for _, group in groupby(rows, key=lambda row: row.group):
            for batch in _batches(list(group), self._settings.batch_size):
                with self._lock:
                    for row, result in zip(batch, self._halving(batch), strict=True):
                        found[row.place].append(result)
        return [_reply(request, found[place]) for place, request in enumerate(requests)]

    def close(self) -> None:
        """Free the model."""
        with self._lock:
            self._model = None
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _prompt(self, request: Request) -> str | Failure:
        if request.adapter is not None and request.adapter not in self._settings.adapters:
            return unknown_adapter(request, self._settings.adapters)
        try:
            return self._renderer.prompt(request)
        except Exception as exc:
            return Failure("prompt_refused", redacted(exc, request), bad_input=True)

    def _halving(self, batch: Sequence[_Row]) -> list[Completion | Failure]:
        try:
            return self._answer(batch)
        except EngineDied:
            raise
        except torch.AcceleratorError as exc:
            raise EngineDied("the accelerator failed, this process cannot use it any more") from exc
        except Exception as exc:
            if len(batch) == 1:
                return [_failure(exc, batch[0].request)]
        # Outside the handler: the traceback would keep the failed batch's tensors alive.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        half = len(batch) // 2
        return self._halving(batch[:half]) + self._halving(batch[half:])

    def _answer(self, batch: Sequence[_Row]) -> list[Completion | Failure]:
        if self._model is None:
            raise EngineDied("the model was closed")
        try:
            inputs = self._renderer.inputs([row.prompt for row in batch], [row.request.image for row in batch])
        except Exception as exc:
            raise _Refused from exc
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        if self._context is None or max(lengths) < self._context:
            return self._generate(batch, inputs, lengths)
        fitting = [row for row, length in zip(batch, lengths, strict=True) if length < self._context]
        answers = iter(self._answer(fitting) if fitting else [])
        return [next(answers) if length < self._context else too_long(length, self._context) for length in lengths]

    @torch.inference_mode()
    def _generate(self, batch: Sequence[_Row], inputs: Any, lengths: Sequence[int]) -> list[Completion | Failure]:
        """Completions of rows with the same sampling. lengths: of their prompts, without padding."""
        device, sampling = self._model.device, batch[0].request.sampling
        inputs = {k: v.to(self._model.dtype) if v.is_floating_point() else v for k, v in inputs.to(device).items()}
        if self._model_config.is_encoder_decoder:  # the answer starts anew, in a context of its own
            mask, taken = torch.ones(len(batch), 1, device=device), [1] * len(batch)
        else:
            mask, taken = inputs["attention_mask"], lengths
        context = self._context or max(taken) + sampling.max_tokens
        limits = [min(sampling.max_tokens, context - n) for n in taken]
        start = mask.shape[1]
        seeds = [draw_seed(row.request.seed, row.answer) for row in batch]
        ends = RowEnds(self._renderer.tokenizer, start, limits, sampling.stop)
        settings = _NOT_FROM_THE_MODEL | self._settings.generate_kwargs
        if sampling.temperature > 0:
            settings["num_beams"] = 1  # beam search is only for greedy decoding
        with self._adapter(batch[0].request.adapter):
            tokens = self._model.generate(
                **inputs,
                **settings,
                max_new_tokens=max(limits),
                eos_token_id=sorted(self._ends),
                pad_token_id=self._renderer.tokenizer.pad_token_id,
                logits_processor=logits_processors(sampling, seeds, mask),
                stopping_criteria=StoppingCriteriaList([ends]),
            )
        return [
            self._completion(row, answer, length, limit)
            for row, answer, length, limit in zip(batch, tokens[:, start:].tolist(), lengths, limits, strict=True)
        ]

    def _completion(self, row: _Row, tokens: list[int], n_prompt: int, limit: int) -> Completion:
        text, reason, n = finished(self._renderer.tokenizer, tokens, self._ends, limit, row.request.sampling.stop)
        if self._model_config.model_type == "florence2":
            text = self._task_answer(row, self._renderer.tokenizer.decode(tokens[:n], skip_special_tokens=False))
        return Completion(text, reason, n_prompt, n)

    def _task_answer(self, row: _Row, raw: str) -> str:
        """Florence-2 answers tasks, "<OD>" or "<REGION_TO_CATEGORY><loc_1>…": a text, or boxes and the like as JSON."""
        task = row.prompt.partition(">")[0] + ">"
        height, width = row.request.image.shape[:2]
        processor = self._renderer.processor
        answer = processor.post_process_generation(text=raw, task=task, image_size=(width, height))[task]
        return answer.strip() if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)

    def _adapter(self, name: str | None) -> AbstractContextManager[Any]:
        if not self._settings.adapters:
            return nullcontext()
        if name is None:
            return self._model.disable_adapter()
        self._model.set_adapter(name)
        return nullcontext()


def _load_model(config: LlmConfig, folder: Path, model_config: Any, trust_remote_code: bool) -> torch.nn.Module:
    sees = type(model_config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    kind = AutoModelForImageTextToText if sees else AutoModelForCausalLM
    try:
        model = kind.from_pretrained(
            folder,
            dtype=config.dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=trust_remote_code,
        )
    except (OSError, ValueError, KeyError, SafetensorError) as exc:
        raise InputError(
            f"model folder {folder} cannot be loaded: {str(exc).strip().splitlines()[0]}",
            "it needs config.json and .safetensors weights",
        ) from exc
    if not config.transformers.adapters:
        return model
    from peft import PeftModel

    (first, place), *others = config.transformers.adapters.items()
    model = PeftModel.from_pretrained(model, place, adapter_name=first)
    for name, place in others:
        model.load_adapter(place, adapter_name=name)
    return model


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """The end tokens of the tokenizer and of the model's generation_config.json, as in vLLM."""
    configured = model.generation_config.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(token for token in [tokenizer.eos_token_id, *ids] if token is not None)


def _failure(exc: Exception, request: Request) -> Failure:
    if isinstance(exc, _Refused) and exc.__cause__ is not None:
        return Failure("prompt_refused", redacted(exc.__cause__, request), bad_input=True)
    return Failure(type(exc).__name__, redacted(exc, request))


def _reply(request: Request, answers: list[Completion | Failure]) -> Reply:
    """One failed answer fails its request; the single answer of greedy decoding is repeated `n` times."""
    failure = next((answer for answer in answers if isinstance(answer, Failure)), None)
    return failure or (answers if len(answers) == request.n else answers * request.n)


def _batches(rows: list[_Row], size: int) -> Iterator[list[_Row]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
