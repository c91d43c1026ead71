"""Encoding: the crop rule, latents and text states against single-image references, fates of bad rows."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from raysys.errors import InputError
from raysys.latents.encode import (
    EncodeLatents,
    EncodeText,
    LatentEncoder,
    LatentsConfig,
    TextConfig,
    TextEncoder,
    cover_box,
    resize_cover,
)
from raysys.models.loading import load_text_encoder, load_vae
from raysys.models.vae import encode_pixel_values, images_to_pixel_values
from raysys.models.zoo_data import held_out
from raysys.rows import LATENTS, SAMPLES, TEXT_STATES, bytes_to_array


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    return list(held_out(5)[0])


def samples(images: list[bytes | None], captions: list[str | None]) -> pa.Table:
    """Kept SAMPLES rows that carry their bytes."""
    rows = [
        {
            "row_id": f"r{i}",
            "sample_id": hashlib.sha256(data).hexdigest(),
            "image": data,
            "caption": caption,
            "outcome": "kept",
        }
        for i, (data, caption) in enumerate(zip(images, captions, strict=True))
    ]
    return SAMPLES.table(rows)


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("width", "height", "box"),
    [
        (64, 64, (0, 0, 64, 64)),
        (100, 50, (25, 0, 75, 50)),
        (50, 101, (0, 25.5, 50, 75.5)),
        (8, 8, (0, 0, 8, 8)),
    ],
)
def test_cover_box_is_the_largest_centred_square(width: int, height: int, box: tuple) -> None:
    assert cover_box(width, height, 64) == box


def test_cover_box_refuses_an_empty_image() -> None:
    with pytest.raises(ValueError, match="0x5 px"):
        cover_box(0, 5, 64)


def test_resize_cover_keeps_the_centre_and_is_exact_at_the_right_size(images: list[np.ndarray]) -> None:
    assert resize_cover(images[0], 64) is images[0]
    wide = np.zeros((64, 128, 3), np.uint8)
    wide[:, 32:96] = images[0]
    np.testing.assert_array_equal(resize_cover(wide, 64), images[0])
    tall = np.full((300, 100, 3), 200, np.uint8)
    tall[:90], tall[210:] = 0, 0
    assert resize_cover(tall, 64).shape == (64, 64, 3)
    assert (resize_cover(tall, 64) == 200).all()


def test_latents_equal_one_image_at_a_time(images: list[np.ndarray]) -> None:
    encoder = LatentEncoder(LatentsConfig(batch_size=2))
    latents = encoder(images)
    assert latents.shape == (5, *encoder.latents_shape) == (5, 12, 8, 8)
    assert latents.dtype == np.float32
    vae = load_vae("zoo:vae")
    for image, got in zip(images, latents, strict=True):
        expected = encode_pixel_values(vae, images_to_pixel_values([image]))[0].numpy()
        np.testing.assert_allclose(got, expected, atol=1e-4)


def test_latents_do_not_depend_on_neighbours(images: list[np.ndarray]) -> None:
    encoder = LatentEncoder(LatentsConfig(batch_size=4))
    whole = encoder(images)
    np.testing.assert_array_equal(encoder(images[3:4])[0], whole[3])
    np.testing.assert_array_equal(encoder(images[::-1])[::-1], whole)
    assert encoder([]).shape == (0, 12, 8, 8)


def test_a_sampled_posterior_belongs_to_the_image(images: list[np.ndarray]) -> None:
    encoder = LatentEncoder(LatentsConfig(posterior="sample", seed=1))
    first = encoder(images[:2], ["a", "b"])
    np.testing.assert_array_equal(encoder(images[1::-1], ["b", "a"])[::-1], first)
    assert not np.array_equal(encoder(images[:1], ["c"])[0], first[0])
    assert not np.array_equal(LatentEncoder(LatentsConfig(posterior="sample"))(images[:1], ["a"])[0], first[0])
    with pytest.raises(ValueError, match="sample_ids"):
        encoder(images)


def test_a_resolution_the_vae_cannot_make_is_named() -> None:
    with pytest.raises(InputError, match=r"resolution = 60 .*\n.*use 64"):
        LatentEncoder(LatentsConfig(resolution=60))


def test_text_states_do_not_depend_on_neighbours_and_count_tokens() -> None:
    encoder = TextEncoder(TextConfig(batch_size=2))
    captions = ["a red circle", "", "a star " * 60]
    states = encoder(captions)
    tokenizer, text_encoder = load_text_encoder("zoo:text_encoder")
    assert states.n_tokens == [len(ids) for ids in tokenizer(captions).input_ids]
    assert states.n_tokens[1] == 2
    assert states.truncated == [False, False, True]
    torch.testing.assert_close(encoder(captions[2:]).prompt_embeds[0], states.prompt_embeds[2], atol=0, rtol=0)
    length, width = text_encoder.config.max_position_embeddings, text_encoder.config.hidden_size
    assert states.prompt_embeds.shape == (3, length, width)
    assert encoder([]).prompt_embeds.shape == (0, length, width)


def test_latents_stage_gives_one_row_per_sample_and_names_the_bad_ones(images: list[np.ndarray]) -> None:
    good = [png(image) for image in images[:3]]
    table = samples([good[0], b"not an image", good[1], good[2][:60]], ["a", "b", "c", "d"])
    rows = EncodeLatents(LatentsConfig())(table)
    out = LATENTS.table(rows)
    assert out["row_id"].to_pylist() == ["r0", "r1", "r2", "r3"]
    assert out["sample_id"].to_pylist() == table["sample_id"].to_pylist()
    assert out["outcome"].to_pylist() == ["kept", "rejected", "kept", "rejected"]
    assert rows[1]["reason"] == "not_image"
    expected = LatentEncoder(LatentsConfig())(images[:2])
    for row, latents in zip((rows[0], rows[2]), expected, strict=True):
        stored = bytes_to_array(row["latents"], row["latents_shape"])
        np.testing.assert_array_equal(stored, latents.astype(np.float16))


def test_an_image_that_is_gone_is_an_error_row_that_can_be_retried(tmp_path: Path) -> None:
    row = {"row_id": "r", "sample_id": "s", "shard": str(tmp_path / "gone.tar"), "member": "a.png", "offset": 0}
    table = SAMPLES.table([{**row, "length": 10, "outcome": "kept"}])
    out = EncodeLatents(LatentsConfig())(table)
    assert [(r["outcome"], r["stage"]) for r in out] == [("error", "read")]
    LATENTS.table(out)


def test_latents_that_are_not_finite_are_error_rows(images: list[np.ndarray]) -> None:
    stage = EncodeLatents(LatentsConfig())
    with torch.no_grad():
        stage.encoder.vae.quant_conv.bias[0] = float("inf")
    out = stage(samples([png(images[0])], ["a"]))
    assert [(r["outcome"], r["reason"]) for r in out] == [("error", "not_finite")]
    LATENTS.table(out)


def test_text_stage_gives_one_row_per_sample() -> None:
    captions = ["a red circle", None, "", "赤い円"]
    out = TEXT_STATES.table(EncodeText(TextConfig())(samples([b"x"] * 4, captions)))
    assert out["row_id"].to_pylist() == ["r0", "r1", "r2", "r3"]
    assert out["outcome"].to_pylist() == ["kept", "rejected", "kept", "kept"]
    assert out["reason"].to_pylist()[1] == "no_caption"
    assert out["caption"].to_pylist() == captions
    expected = TextEncoder(TextConfig())(["a red circle", "", "赤い円"])
    stored = [row for row in out.to_pylist() if row["outcome"] == "kept"]
    for row, embeds, n_tokens in zip(stored, expected.prompt_embeds, expected.n_tokens, strict=True):
        np.testing.assert_array_equal(
            bytes_to_array(row["prompt_embeds"], row["prompt_embeds_shape"]), embeds.numpy().astype(np.float16)
        )
        assert row["n_tokens"] == n_tokens
