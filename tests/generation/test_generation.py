"""Generation: seeded rows whose bytes do not depend on neighbors, fates of bad prompts, sizes."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from raysys.errors import InputError
from raysys.generation.generate import Generate, GenerateConfig
from raysys.generation.images import SamplingConfig, generate, png_bytes
from raysys.models.families import load_pipeline
from raysys.models.loading import model_hash
from raysys.rows import GENERATIONS
from raysys.sampling.guidance import ClassifierFreeGuidance
from raysys.sampling.noise import initial_noise
from raysys.sampling.sample import sample
from tests.support.tiny_models import save_tiny_pipeline

PROMPTS = ["a red circle", "a star on a blue background", "", "a green ring"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("models") / "pipeline"
    return str(save_tiny_pipeline(folder))


def config(model: str, **changes) -> GenerateConfig:
    return GenerateConfig(model=model, **({"num_inference_steps": 3, "guidance_scale": 3.0, "batch_size": 4} | changes))


def table(prompts: list[str | None]) -> pa.Table:
    ids = [f"p{i}" for i in range(len(prompts))]
    return pa.table({"prompt_id": ids, "prompt": pa.array(prompts, pa.string())})


def test_rows_are_complete_in_order_and_fit_the_schema(model: str) -> None:
    rows = Generate(config(model, num_images_per_prompt=2, seed=5))(table(PROMPTS))
    out = GENERATIONS.table(rows)
    assert out["gen_id"].to_pylist() == [f"p{i}-{k}" for i in range(4) for k in range(2)]
    assert out["outcome"].to_pylist() == ["kept"] * 8
    assert set(out["model_hash"].to_pylist()) == {model_hash(model)}
    assert set(out["seed"].to_pylist()) == {5}
    images = [np.asarray(Image.open(io.BytesIO(data))) for data in out["image"].to_pylist()]
    assert {image.shape for image in images} == {(64, 64, 3)}
    assert len({image.tobytes() for image in images}) == 8


def test_bytes_do_not_depend_on_neighbors_or_the_number_of_rows(model: str) -> None:
    generate = Generate(config(model))
    whole = {row["gen_id"]: row["image"] for row in generate(table(PROMPTS * 2))}
    alone = generate(table(PROMPTS * 2).slice(5, 1))
    reverse = generate(table(PROMPTS * 2).take(list(range(7, -1, -1))))
    assert alone[0]["image"] == whole["p5-0"]
    assert {row["gen_id"]: row["image"] for row in reverse} == whole
    again = Generate(config(model))(table(PROMPTS * 2))
    assert {row["gen_id"]: row["image"] for row in again} == whole
    other = Generate(config(model, seed=1))(table(PROMPTS[:1]))
    assert other[0]["image"] != whole["p0-0"]


def test_an_image_is_what_sample_and_decode_give(model: str) -> None:
    row = Generate(config(model, batch_size=1, negative_prompt="a star"))(table(PROMPTS[:1]))[0]
    parts = load_pipeline(model)
    states = parts.text_encoder.encode([PROMPTS[0], "a star"]).conditioning
    noise = initial_noise(0, "p0", 0, (12, 8, 8))[None]
    latents = sample(parts.denoiser, states[:1], noise, ClassifierFreeGuidance(3.0, states[1:]), 3)
    expected = parts.autoencoder.decode(latents)[0].astype(int)
    assert np.abs(np.asarray(Image.open(io.BytesIO(row["image"]))).astype(int) - expected).max() <= 1


def test_a_null_prompt_is_rejected_and_the_others_go_on(model: str) -> None:
    rows = Generate(config(model, num_images_per_prompt=2))(table(["a star", None, "a ring"]))
    assert [row["outcome"] for row in rows] == ["kept", "kept", "rejected", "rejected", "kept", "kept"]
    assert rows[2]["reason"] == "no_prompt"
    assert rows[2]["image"] is None
    GENERATIONS.table(rows)


def test_latents_that_are_not_finite_are_error_rows(model: str) -> None:
    generate = Generate(config(model, guidance_scale=1.0))
    with torch.no_grad():
        generate.generator.pipeline.denoiser.unet.conv_out.bias[0] = float("nan")
    rows = generate(table(PROMPTS[:2]))
    assert [(row["outcome"], row["stage"], row["reason"]) for row in rows] == [("error", "generate", "not_finite")] * 2
    GENERATIONS.table(rows)


def test_no_prompts_give_no_rows(model: str) -> None:
    assert Generate(config(model))(table([])) == []


def test_size_is_the_models_or_a_multiple_it_can_make(model: str) -> None:
    row = Generate(config(model, height=32, width=96))(table(PROMPTS[:1]))[0]
    assert Image.open(io.BytesIO(row["image"])).size == (96, 32)
    assert (row["width"], row["height"]) == (96, 32)
    with pytest.raises(InputError, match="height = 72 is not a multiple of 16"):
        Generate(config(model, height=72))


def test_png_holds_the_pixels_and_nothing_else() -> None:
    image = np.arange(64 * 3, dtype=np.uint8).reshape(8, 8, 3)
    data = png_bytes(image)
    assert data == png_bytes(image.copy())
    opened = Image.open(io.BytesIO(data))
    np.testing.assert_array_equal(np.asarray(opened), image)
    assert opened.info == {}
    assert [chunk for chunk in (b"tIME", b"tEXt", b"iTXt") if chunk in data] == []


def test_images_from_python_equal_the_jobs(model: str) -> None:
    sampling = SamplingConfig(num_inference_steps=3, guidance_scale=3.0, batch_size=4, num_images_per_prompt=2)
    images = generate(model, PROMPTS[:2], seed=5, config=sampling)
    prompts = pa.table({"prompt_id": ["0", "1"], "prompt": PROMPTS[:2]})
    rows = Generate(config(model, num_images_per_prompt=2, seed=5))(prompts)
    assert [png_bytes(np.asarray(image)) for image in images] == [row["image"] for row in rows]
    assert generate(load_pipeline(model), PROMPTS[0], 5, sampling)[1] == images[1]
