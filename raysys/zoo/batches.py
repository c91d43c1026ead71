"""Token batches for the zoo's language models: prompts, and the answers to learn."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def with_labels(starts: Sequence[list[int]], ends: Sequence[list[int]], pad_token_id: int) -> dict[str, torch.Tensor]:
    """input_ids, attention_mask and labels [B, T] of start + end, padded at the end. Labels are −100 except on ends."""
    length = max(len(a) + len(b) for a, b in zip(starts, ends, strict=True))
    ids = torch.full((len(starts), length), pad_token_id)
    labels = torch.full((len(starts), length), -100)
    mask = torch.zeros((len(starts), length), dtype=torch.long)
    for row, (a, b) in enumerate(zip(starts, ends, strict=True)):
        ids[row, : len(a) + len(b)] = torch.tensor(a + b)
        labels[row, len(a) : len(a) + len(b)] = torch.tensor(b)
        mask[row, : len(a) + len(b)] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}
