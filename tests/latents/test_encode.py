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
from raysys.latents.crop import cover_box, nearest_size, resize_cover
from raysys.latents.encode import CaptionEncoder, EncodeLatents, EncodeText, LatentEncoder, LatentsConfig, TextConfig
from raysys.models.families import family
from raysys.models.pixels import images_to_pixel_values
from raysys.rows import LATENTS, SAMPLES, TEXT_STATES, bytes_to_array
from raysys.zoo.data import held_out
from tests.support.toy_family import TOY, use_toy_family

SD = family("sd")


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
    ("width", "height", "size", "box"),
    [
        (64, 64, (64, 64), (0, 0, 64, 64)),
        (100, 50, (64, 64), (25, 0, 75, 50)),
        (50, 101, (64, 64), (0, 25.5, 50, 75.5)),
        (8, 8, (64, 64), (0, 0, 8, 8)),
        (100, 100, (48, 96), (0, 25, 100, 75)),
        (200, 50, (48, 96), (50, 0, 150, 50)),
    ],
)
def test_cover_box_is_the_largest_centered_box(width: int, height: int, size: tuple, box: tuple) -> None:
    assert cover_box(width, height, size) == box


def test_cover_box_refuses_an_empty_image() -> None:
    with pytest.raises(ValueError, match="0x5 px"):
        cover_box(0, 5, (64, 64))


def test_an_image_goes_to_the_size_of_the_nearest_aspect_ratio() -> None:
    sizes = [(64, 64), (48, 96), (96, 48)]
    assert [nearest_size(w, h, sizes) for w, h in [(10, 11), (30, 17), (1, 9), (14, 10)]] == [
        (64, 64),
        (48, 96),
        (96, 48),
        (64, 64),
    ]


def test_resize_cover_keeps_the_center_and_is_exact_at_the_right_size(images: list[np.ndarray]) -> None:
    size = (64, 64)
    assert resize_cover(images[0], size) is images[0]
    wide = np.zeros((64, 128, 3), np.uint8)
    wide[:, 32:96] = images[0]
    np.testing.assert_array_equal(resize_cover(wide, size), images[0])
    tall = np.full((300, 100, 3), 200, np.uint8)
    tall[:90], tall[210:] = 0, 0
    assert resize_cover(tall, size).shape == (64, 64, 3)
    assert (resize_cover(tall, size) == 200).all()
    assert resize_cover(tall, (96, 48)).shape == (96, 48, 3)


def test_latents_equal_one_image_at_a_time(images: list[np.ndarray]) -> None:
    encoder = LatentEncoder(LatentsConfig(batch_size=2))
    latents = encoder(images)
    assert [x.shape for x in latents] == [encoder.latents_shape((64, 64))] * 5 == [(12, 8, 8)] * 5
    autoencoder = SD.load_autoencoder("zoo:vae")
    for image, got in zip(images, latents, strict=True):
        assert got.dtype == np.float32
        expected = autoencoder.encode(images_to_pixel_values([image]))[0].numpy()
        np.testing.assert_allclose(got, expected, atol=1e-4)


def test_images_of_different_shapes_keep_their_places(images: list[np.ndarray]) -> None:
    """Batches are cut per size; the latents come back in the order of the images."""
    config = LatentsConfig(batch_size=2, buckets=((64, 64), (48, 96)))
    encoder = LatentEncoder(config)
    wide = np.concatenate([images[0], images[1]], axis=1)
    mixed = [images[0], wide, images[1], wide[:, ::-1].copy(), images[2]]
    latents = encoder(mixed)
    assert [x.shape[1:] for x in latents] == [(8, 8), (6, 12), (8, 8), (6, 12), (8, 8)]
    for image, got in zip(mixed, latents, strict=True):
        np.testing.assert_array_equal(encoder([image])[0], got)
    with pytest.raises(InputError, match="a side of buckets = 50 is not a multiple"):
        LatentEncoder(LatentsConfig(buckets=((50, 64),)))


def test_latents_do_not_depend_on_neighbors(images: list[np.ndarray]) -> None:
    encoder = LatentEncoder(LatentsConfig(batch_size=4))
    whole = encoder(images)
    np.testing.assert_array_equal(encoder(images[3:4])[0], whole[3])
    np.testing.assert_array_equal(np.stack(encoder(images[::-1])[::-1]), np.stack(whole))
    assert encoder([]) == []


def test_a_sampled_posterior_belongs_to_the_image(images: list[np.ndarray]) -> None:
    encoder = LatentEncoder(LatentsConfig(posterior="sample", seed=1))
    first = encoder(images[:2], ["a", "b"])
    np.testing.assert_array_equal(np.stack(encoder(images[1::-1], ["b", "a"])[::-1]), np.stack(first))
    assert not np.array_equal(encoder(images[:1], ["c"])[0], first[0])
    assert not np.array_equal(LatentEncoder(LatentsConfig(posterior="sample"))(images[:1], ["a"])[0], first[0])
    with pytest.raises(ValueError, match="sample_ids"):
        encoder(images)


def test_a_resolution_the_vae_cannot_make_is_named() -> None:
    with pytest.raises(InputError, match=r"resolution = 60 .*\n.*use 64"):
        LatentEncoder(LatentsConfig(resolution=60))


def test_text_states_do_not_depend_on_neighbors_and_count_tokens() -> None:
    encoder = CaptionEncoder(TextConfig(batch_size=2))
    captions = ["a red circle", "", "a star " * 60]
    found = encoder(captions)
    sd = SD.load_text_encoder("zoo:text_encoder")
    assert [x.n_tokens for x in found] == [len(ids) for ids in sd.tokenizer(captions).input_ids]
    assert found[1].n_tokens == 2
    assert found[2].n_tokens > sd.max_length
    np.testing.assert_array_equal(encoder(captions[2:])[0].states, found[2].states)
    assert {x.states.shape for x in found} == {(sd.max_length, sd.model.config.hidden_size)}
    assert encoder([]) == []


def test_padding_that_a_mask_tells_is_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """States beyond float16 are kept as bfloat16, and n_tokens counts what was cut off."""
    use_toy_family(monkeypatch)
    captions = ["one", "one two three", "one two three four five six"]
    rows = [{"caption_id": f"r{i}/original", "row_id": f"r{i}", "caption": c} for i, c in enumerate(captions)]
    out = TEXT_STATES.table(EncodeText(TextConfig(family=TOY))(pa.Table.from_pylist(rows))).to_pylist()
    assert [row["text_states_shape"] for row in out] == [[1, 3], [3, 3], [4, 3]]
    assert [row["n_tokens"] for row in out] == [1, 3, 6]
    assert {row["outcome"] for row in out} == {"kept"}
    states = bytes_to_array(out[1]["text_states"], out[1]["text_states_shape"], out[1]["text_states_dtype"])
    # bfloat16 has 8 significant bits: 1e5 is stored as 99840.
    np.testing.assert_array_equal(states, [[0, 3, 1], [99840, 3, 1], [199680, 5, 1]])


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
        stage.encoder.autoencoder.model.quant_conv.bias[0] = float("inf")
    out = stage(samples([png(images[0])], ["a"]))
    assert [(r["outcome"], r["reason"]) for r in out] == [("error", "not_finite")]
    LATENTS.table(out)


def test_text_stage_gives_one_row_per_caption() -> None:
    captions = ["a red circle", None, "", "赤い円"]
    rows = [{"caption_id": f"r{i // 2}/{i % 2}", "row_id": f"r{i // 2}", "caption": c} for i, c in enumerate(captions)]
    out = TEXT_STATES.table(EncodeText(TextConfig())(pa.Table.from_pylist(rows)))
    assert out["caption_id"].to_pylist() == ["r0/0", "r0/1", "r1/0", "r1/1"]
    assert out["row_id"].to_pylist() == ["r0", "r0", "r1", "r1"]
    assert out["outcome"].to_pylist() == ["kept", "rejected", "kept", "kept"]
    assert out["reason"].to_pylist()[1] == "no_caption"
    assert out["caption"].to_pylist() == captions
    expected = CaptionEncoder(TextConfig())(["a red circle", "", "赤い円"])
    stored = [row for row in out.to_pylist() if row["outcome"] == "kept"]
    for row, caption in zip(stored, expected, strict=True):
        states = bytes_to_array(row["text_states"], row["text_states_shape"], row["text_states_dtype"])
        np.testing.assert_array_equal(states, caption.states.astype(np.float16))
        assert row["n_tokens"] == caption.n_tokens
