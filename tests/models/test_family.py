"""Conditioning: slices, padding and per-sample choice keep states and masks together."""

from __future__ import annotations

import torch

from raysys.models.family import Conditioning


def of(batch: int, length: int, value: float, mask: bool = False) -> Conditioning:
    return Conditioning(
        torch.full((batch, length, 2), value), torch.ones(batch, length, dtype=torch.bool) if mask else None
    )


def test_equal_lengths_need_no_mask() -> None:
    joined = Conditioning.cat([of(2, 3, 1.0), of(1, 3, 2.0)])
    assert joined.states[:, 0, 0].tolist() == [1, 1, 2]
    assert joined.mask is None


def test_the_padding_of_shorter_captions_is_masked() -> None:
    joined = Conditioning.cat([of(1, 4, 1.0), of(1, 2, 2.0)])
    assert joined.states[1, :, 0].tolist() == [2, 2, 0, 0]
    assert joined.mask.tolist() == [[True] * 4, [True, True, False, False]]


def test_where_chooses_sample_by_sample() -> None:
    chosen = Conditioning.where(torch.tensor([True, False]), of(1, 2, 0.0), of(2, 4, 5.0, mask=True))
    assert chosen.states[:, 0, 0].tolist() == [0, 5]
    assert chosen.mask.tolist() == [[True, True, False, False], [True] * 4]
    assert chosen[1:].states.shape == (1, 4, 2)
    assert chosen.to("cpu", torch.float16).mask.dtype == torch.bool
