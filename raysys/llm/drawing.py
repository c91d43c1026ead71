"""Independent sampling of the rows of a batch with transformers' `generate`.

Tokens are sampled with the Gumbel-max trick: argmax(logits + Gumbel noise) is a sample from softmax(logits). With one
random generator per row, it depends only on that row's seed and logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from raysys.llm.contract import SamplingConfig


def logits_processors(sampling: SamplingConfig, seeds: Sequence[int], prompt_mask: torch.Tensor) -> LogitsProcessorList:
    """Processors applied to the logits before argmax: penalty, temperature, top-k, top-p, noise, as in vLLM.

    seeds: one per row. prompt_mask: mask [rows, prompt] of the input of `generate`, 0 for padding.
    """
    steps = LogitsProcessorList()
    if sampling.repetition_penalty != 1:
        steps.append(_RepetitionPenalty(sampling.repetition_penalty, prompt_mask))
    if sampling.temperature == 0:
        return steps
    if sampling.temperature != 1:
        steps.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        steps.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        steps.append(TopPLogitsWarper(sampling.top_p))
    steps.append(_Draw(seeds, prompt_mask.device))
    return steps


class _RepetitionPenalty(LogitsProcessor):
    """Keskar et al. 2019 (arXiv 1909.05858), over prompt and answer; transformers' version also counts padding."""

    def __init__(self, penalty: float, prompt_mask: torch.Tensor) -> None:
        self.penalty = penalty
        self.prompt_mask = prompt_mask.bool()

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        rows, length = input_ids.shape
        counts = torch.ones(rows, length, dtype=torch.bool, device=input_ids.device)
        mask = self.prompt_mask.repeat_interleave(rows // len(self.prompt_mask), dim=0)  # beams
        counts[:, : mask.shape[1]] = mask
        seen = torch.zeros_like(scores, dtype=torch.int32).scatter_add_(1, input_ids, counts.int()) > 0
        return torch.where(seen, torch.where(scores < 0, scores * self.penalty, scores / self.penalty), scores)


class _Draw(LogitsProcessor):
    """Adds Gumbel noise (−log of exponential noise) from each row's generator."""

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        noise = torch.empty(scores.shape, dtype=torch.float32, device=scores.device)
        for row, generator in zip(noise, self.generators, strict=True):
            row.exponential_(generator=generator)
        return scores.float() - noise.log()


class RowEnds(StoppingCriteria):
    """Stops each row separately: at its maximum number of tokens, or after a stop string."""

    def __init__(self, tokenizer: Any, start: int, max_tokens: Sequence[int], stop: Sequence[str]) -> None:
        """start: length of the input of `generate`. max_tokens: for each row."""
        self.tokenizer, self.start, self.max_tokens, self.stop = tokenizer, start, list(max_tokens), tuple(stop)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        beams = len(input_ids) // len(self.max_tokens)
        length = input_ids.shape[1] - self.start
        ended = [length >= limit for limit in self.max_tokens for _ in range(beams)]
        if self.stop:
            texts = self.tokenizer.batch_decode(input_ids[:, self.start :], skip_special_tokens=True)
            ended = [e or any(s in text for s in self.stop) for e, text in zip(ended, texts, strict=True)]
        return torch.tensor(ended, dtype=torch.bool, device=input_ids.device)


def finished(
    tokenizer: Any, tokens: Sequence[int], ends: frozenset[int], max_tokens: int, stop: Sequence[str]
) -> tuple[str, str, int]:
    """(text, finish reason, number of tokens) of one generated row; ignores everything after its end.

    ends: the model's end tokens; the first is counted, but not part of the text.
    """
    tokens = list(tokens)[:max_tokens]
    place = next((i for i, token in enumerate(tokens) if token in ends), None)
    reason, n_tokens = ("length", len(tokens)) if place is None else ("stop", place + 1)
    text = tokenizer.decode(tokens[:place], skip_special_tokens=True)
    if any(s in text for s in stop):
        lengths = range(1, len(tokens) + 1)
        decoded = (tokenizer.decode(tokens[:n], skip_special_tokens=True) for n in lengths)
        n_tokens = next(n for n, start in zip(lengths, decoded, strict=True) if any(s in start for s in stop))
        text = text[: min(text.index(s) for s in stop if s in text)]
        reason = "stop"
    # An incomplete character decodes to replacement characters; vLLM omits it.
    return text.rstrip("\ufffd").strip(), reason, n_tokens
