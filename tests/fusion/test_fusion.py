"""Dual fusion and the baseline mitigations: equations on numbers, identities bit for bit, distributions counted."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from raysys.errors import InputError
from raysys.fusion import (
    FusionConfig,
    FusionSet,
    draw_fusion,
    fuse_conditioning,
    fuse_latents,
    gaussian_noise,
    join_captions,
    random_caption,
    random_tokens,
    word_repetition,
)
from raysys.models.family import Conditioning
from raysys.outcomes import kept, rejected
from raysys.rows import TRAINING_SET, array_to_bytes


class LetterTokenizer:
    """26 letters, one blank, and an end token that must never be drawn."""

    all_special_ids = (27,)

    def __len__(self) -> int:
        return 28

    def decode(self, token_ids):
        return "".join(" " if i == 26 else "<end>" if i == 27 else chr(97 + i) for i in token_ids)


def test_equations_on_numbers():
    own, other = torch.full((1, 2, 2, 2), 10.0), torch.full((1, 2, 2, 2), 20.0)
    torch.testing.assert_close(fuse_latents(own, other, 0.1), torch.full((1, 2, 2, 2), 11.0))
    own, other = torch.tensor([[[1.0, -2.0]]]), torch.tensor([[[3.0, 4.0]]])
    fused = fuse_conditioning(Conditioning(own), Conditioning(other), 0.5)
    torch.testing.assert_close(fused.states, torch.tensor([[[2.0, 1.0]]]))
    assert fused.mask is None
    torch.testing.assert_close(fuse_conditioning(Conditioning(own), Conditioning(other), 1.0).states, other)


def test_captions_of_different_lengths_fuse_over_both():
    """Beyond its end the shorter caption counts as zeros; what either caption has is attended to."""
    own, other = Conditioning(torch.full((2, 1, 1), 4.0)), Conditioning(torch.full((2, 3, 1), 8.0))
    fused = fuse_conditioning(own, other, 0.25)
    assert fused.states[0, :, 0].tolist() == [5.0, 2.0, 2.0]
    assert fused.mask is None, "every position belongs to one of the two"
    mask = torch.tensor([[True, False, False], [True, True, False]])
    fused = fuse_conditioning(own, Conditioning(other.states, mask), 0.25)
    assert fused.mask.tolist() == mask.tolist()


def embedding_level(own, other, weight):
    return fuse_conditioning(Conditioning(own[None]), Conditioning(other[None]), weight).states


@pytest.mark.parametrize("fuse", [fuse_latents, embedding_level])
def test_weight_zero_is_the_identity_bit_for_bit(fuse):
    own = torch.tensor([[-0.0, 1e-40, 3.0]])
    other = torch.tensor([[float("inf"), float("nan"), 1.0]])
    result = fuse(own, other, 0.0)
    assert result.numpy().tobytes() == own.numpy().tobytes()


@pytest.mark.parametrize("fuse", [fuse_latents, embedding_level])
def test_wrong_weights_and_shapes_are_refused(fuse):
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="outside"):
        fuse(x, x, 1.5)
    with pytest.raises(ValueError, match="cannot fuse shapes"):
        fuse(x, x[:, :1], 0.5)


def test_join_captions():
    assert join_captions("a red circle.", "with goldfish") == "a red circle with goldfish"
    assert join_captions("a red circle", " with goldfish ") == "a red circle with goldfish"
    assert join_captions("a red circle.", "") == "a red circle."
    assert join_captions("", "with goldfish") == "with goldfish"


def test_classes_are_drawn_uniformly_whatever_their_size():
    classes = [[0], [1, 2, 3], list(range(4, 20))]
    rng = np.random.default_rng(0)
    drawn = Counter(draw_fusion(rng, classes) for _ in range(30_000))
    by_class = [sum(drawn[i] for i in images) for images in classes]
    # Binomial(30000, 1/3): standard deviation 82.
    assert all(abs(n - 10_000) < 400 for n in by_class), by_class
    assert set(drawn) == set(range(20))
    assert max(drawn[i] for i in classes[2]) < 2 * min(drawn[i] for i in classes[2])


def test_a_draw_takes_two_numbers_whatever_the_set():
    after = []
    for classes in ([[0]], [[0, 1, 2], [3]]):
        rng = np.random.default_rng(7)
        draw_fusion(rng, classes)
        after.append(rng.random())
    assert after[0] == after[1]


def fusion_row(i: int, caption: str, width: int = 2, **fate) -> dict:
    latents, shape = array_to_bytes(np.full((1, 2, width), i))
    states, states_shape = array_to_bytes(np.full((3, 2), ord(caption[-1])))
    return {
        "row_id": f"f{i}",
        "copy": 0,
        "captions": [caption],
        "bucket": f"2x{width}",
        "latents": latents,
        "latents_shape": shape,
        "text_states": states,
        "text_states_shapes": [states_shape],
        "text_states_dtype": "float16",
        **(fate or kept()),
    }


def test_fusion_set_groups_by_bucket_and_caption():
    rows = [fusion_row(i, f"class {'ab'[i % 2]}") for i in range(5)]
    rows += [fusion_row(9, "class c", width=3), fusion_row(7, "class a", **rejected("bad"))]
    fusion_set = FusionSet.from_tables([TRAINING_SET.table(rows[3:]), TRAINING_SET.table(rows[:3])])
    bucket = fusion_set.bucket("2x2")
    assert bucket.captions == ("class a", "class b")
    assert bucket.latents[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert [c.tolist() for c in bucket.class_index] == [[0, 2, 4], [1, 3]]
    assert bucket.conditioning.states[:, 0, 0].tolist() == [ord("a"), ord("b")]
    assert fusion_set.bucket("2x3").captions == ("class c",)
    with pytest.raises(InputError, match="no images of latent size 4x4"):
        fusion_set.bucket("4x4")
    with pytest.raises(InputError, match="no kept row"):
        FusionSet.from_tables([])


def test_fusion_needs_a_set():
    assert FusionConfig().level == "none"
    assert (FusionConfig().w_lat, FusionConfig().w_emb) == (0.1, 0.5)
    with pytest.raises(ValidationError, match="needs a fusion set"):
        FusionConfig(level="embedding")


def test_gaussian_noise_is_added_at_all_positions():
    embeds, noise = torch.ones(2, 3, 4), torch.full((2, 3, 4), 2.0)
    torch.testing.assert_close(gaussian_noise(embeds, noise, 0.1), torch.full((2, 3, 4), 1.2))
    assert gaussian_noise(embeds, noise, 0.0) is embeds


@pytest.mark.parametrize("transform", [random_caption, random_tokens, word_repetition])
def test_caption_transforms_happen_with_their_probability(transform):
    rng, caption = np.random.default_rng(0), "one two three"
    changed = sum(transform(caption, rng, LetterTokenizer(), 0.4) != caption for _ in range(5000))
    assert abs(changed - 2000) < 150
    assert transform(caption, rng, LetterTokenizer(), 0.0) == caption


def test_random_caption_is_four_letters():
    rng = np.random.default_rng(0)
    words = [random_caption("one two", rng, LetterTokenizer(), 1.0).split() for _ in range(300)]
    assert all(len(w) == 4 for w in words)
    assert {letter for w in words for letter in w} == set("abcdefghijklmnopqrstuvwxyz"), "blanks and <end> never drawn"


def test_random_tokens_keeps_the_words_and_adds_two_anywhere():
    rng = np.random.default_rng(0)
    places = Counter()
    for _ in range(500):
        words = random_tokens("ONE TWO", rng, LetterTokenizer(), 1.0).split()
        assert [w for w in words if w.isupper()] == ["ONE", "TWO"]
        assert len(words) == 4
        places[tuple(w.isupper() for w in words)] += 1
    assert len(places) == 6, "all places, ends included"


def test_word_repetition_adds_two_of_the_captions_own_words():
    rng = np.random.default_rng(0)
    for _ in range(200):
        counts = Counter(word_repetition("one two three", rng, LetterTokenizer(), 1.0).split())
        assert set(counts) == {"one", "two", "three"}
        assert sum(counts.values()) == 5
    assert word_repetition("", rng, LetterTokenizer(), 1.0) == ""
