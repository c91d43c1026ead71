"""SSCD, CLIP and DINOv2 from local files: pinned hashes, and preprocessing against a naive one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from raysys.config import validate
from raysys.errors import InputError
from raysys.similarity import DescriptorConfig, make_descriptor
from raysys.similarity.pretrained import short_side_size, sscd_pixels

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


class Probe(torch.nn.Module):
    """Tells what it was given: channel means, three corner pixels, and the shape. Not normalized on purpose."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n = x.shape[0]
        shape = torch.tensor([float(x.shape[2]), float(x.shape[3])]).expand(n, 2)
        return torch.cat([x.mean([2, 3]), x[:, :, 0, 0], x[:, :, -1, -1], shape / 100], dim=1)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> tuple[Path, str]:
    path = tmp_path_factory.mktemp("sscd") / "probe.torchscript.pt"
    torch.jit.script(Probe()).save(str(path))
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    smooth = [rng.integers(0, 255, (6, 8, 3), dtype=np.uint8) for _ in range(4)]
    sizes = [(400, 300), (300, 411), (224, 224), (90, 500)]
    return [np.asarray(Image.fromarray(s).resize(size, Image.BICUBIC)) for s, size in zip(smooth, sizes, strict=True)]


def naive_pixels(image: np.ndarray, preset: str) -> np.ndarray:
    """The presets as the papers' code states them, written out: [3, H, W]."""
    pil = Image.fromarray(image)
    w, h = pil.size
    if preset == "sscd320":
        pil = pil.resize((320, 320), Image.BILINEAR)
    else:
        side = {"dcr224": 256, "sscd288": 288}[preset]
        pil = pil.resize((side, int(side * h / w)) if w <= h else (int(side * w / h), side), Image.BILINEAR)
    x = np.asarray(pil) / 255.0
    if preset == "dcr224":
        top, left = round((x.shape[0] - 224) / 2.0), round((x.shape[1] - 224) / 2.0)
        x = (x[top : top + 224, left : left + 224] - 0.5) / 0.5
    else:
        x = (x - MEAN) / STD
    return x.transpose(2, 0, 1)


@pytest.mark.parametrize("preset", ["dcr224", "sscd288", "sscd320"])
def test_each_preset_feeds_the_network_what_its_paper_says(weights, images, preset):
    path, sha256 = weights
    descriptor = make_descriptor(
        DescriptorConfig(name="sscd", preset=preset, weights=str(path), sha256=sha256, device="cpu", batch_size=2)
    )
    assert (descriptor.name, descriptor.preset, descriptor.dim) == ("sscd", preset, 11)
    assert descriptor.weights_sha256 == sha256
    features = descriptor(images)
    for image, found in zip(images, features, strict=True):
        x = naive_pixels(image, preset)
        raw = np.concatenate([x.mean((1, 2)), x[:, 0, 0], x[:, -1, -1], np.array(x.shape[1:]) / 100])
        np.testing.assert_allclose(found, raw / np.linalg.norm(raw), atol=2e-6)
    np.testing.assert_array_equal(descriptor.views(features), features[:, None])


def test_the_default_preset_is_the_one_behind_every_published_r(weights):
    path, sha256 = weights
    assert make_descriptor(DescriptorConfig(name="sscd", weights=str(path), sha256=sha256.upper())).preset == "dcr224"


@pytest.mark.parametrize(
    ("size", "expected"), [((400, 300), (341, 256)), ((300, 400), (256, 341)), ((500, 500), (256, 256))]
)
def test_the_longer_side_is_rounded_down_as_torchvision_does(size, expected):
    assert short_side_size(size, 256) == expected
    assert sscd_pixels(Image.new("RGB", size), "dcr224").shape == (3, 224, 224)


def test_a_wrong_or_missing_hash_is_refused_before_loading(weights, tmp_path, monkeypatch):
    path, sha256 = weights
    monkeypatch.setattr(torch.jit, "load", lambda *a, **k: pytest.fail("loaded unchecked weights"))
    with pytest.raises(InputError) as failure:
        make_descriptor(DescriptorConfig(name="sscd", weights=str(path), sha256="0" * 64))
    assert sha256 in str(failure.value)
    assert "0" * 64 in str(failure.value)
    with pytest.raises(InputError, match="need a pinned sha256"):
        make_descriptor(DescriptorConfig(name="sscd", weights=str(path)))
    with pytest.raises(InputError, match="do not exist"):
        make_descriptor(DescriptorConfig(name="sscd", weights=str(tmp_path / "none.pt"), sha256=sha256))


def test_a_file_that_is_no_torchscript_is_named(tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(b"not a network")
    sha256 = hashlib.sha256(b"not a network").hexdigest()
    with pytest.raises(InputError, match=r"weights\.pt is not a TorchScript file"):
        make_descriptor(DescriptorConfig(name="sscd", weights=str(path), sha256=sha256))


def test_configs_that_do_not_fit_together_are_refused(weights):
    with pytest.raises(InputError, match="'dcr224' is not one of embedded's"):
        make_descriptor(DescriptorConfig(preset="dcr224"))
    with pytest.raises(InputError, match="embedded descriptor has none"):
        make_descriptor(DescriptorConfig(weights=str(weights[0])))
    with pytest.raises(InputError, match="clip needs weights"):
        make_descriptor(DescriptorConfig(name="clip"))
    with pytest.raises(InputError, match="sha256"):
        validate(DescriptorConfig, {"name": "sscd", "sha256": "abc"}, "test")
    with pytest.raises(InputError, match="unknown"):
        make_descriptor(
            DescriptorConfig(name="sscd", weights=str(weights[0]), sha256=weights[1], device="no-such-device")
        )


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory) -> Path:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    folder = tmp_path_factory.mktemp("clip")
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        vision_config={**tower, "image_size": 32, "patch_size": 8},
        text_config={**tower, "vocab_size": 64, "max_position_embeddings": 16},
        projection_dim=24,
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def dino_folder(tmp_path_factory) -> Path:
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    folder = tmp_path_factory.mktemp("dino")
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14)
    Dinov2Model(config).save_pretrained(folder)
    BitImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28}).save_pretrained(folder)
    return folder


def test_clip_gives_the_projected_image_embeddings_of_the_saved_model(clip_folder, images):
    from transformers import CLIPImageProcessor, CLIPModel

    descriptor = make_descriptor(DescriptorConfig(name="clip", weights=str(clip_folder), device="cpu", batch_size=3))
    features = descriptor(images)
    assert features.shape == (4, 24) == (4, descriptor.dim)
    model, processor = CLIPModel.from_pretrained(clip_folder).eval(), CLIPImageProcessor.from_pretrained(clip_folder)
    with torch.no_grad():
        pixels = processor([Image.fromarray(i) for i in images], return_tensors="pt")["pixel_values"]
        expected = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
    expected = torch.nn.functional.normalize(expected, dim=1).numpy()
    np.testing.assert_allclose(features, expected, atol=1e-5)
    stored = hashlib.sha256((clip_folder / "model.safetensors").read_bytes()).hexdigest()
    assert descriptor.weights_sha256 == stored


def test_dinov2_gives_the_normalized_class_token(dino_folder, images):
    from transformers import BitImageProcessor, Dinov2Model

    descriptor = make_descriptor(DescriptorConfig(name="dinov2", weights=str(dino_folder), device="cpu"))
    features = descriptor(images)
    model, processor = Dinov2Model.from_pretrained(dino_folder).eval(), BitImageProcessor.from_pretrained(dino_folder)
    with torch.no_grad():
        pixels = processor([Image.fromarray(i) for i in images], return_tensors="pt")["pixel_values"]
        expected = torch.nn.functional.normalize(model(pixel_values=pixels).last_hidden_state[:, 0], dim=1).numpy()
    np.testing.assert_allclose(features, expected, atol=1e-5)
    assert descriptor.dim == 32


def test_transformers_folders_that_do_not_fit_are_named(clip_folder, dino_folder, tmp_path):
    with pytest.raises(InputError, match="holds a dinov2 model"):
        make_descriptor(DescriptorConfig(name="clip", weights=str(dino_folder)))
    with pytest.raises(InputError, match="do not exist"):
        make_descriptor(DescriptorConfig(name="dinov2", weights=str(tmp_path)))
    with pytest.raises(InputError, match="expected " + "0" * 64):
        make_descriptor(DescriptorConfig(name="clip", weights=str(clip_folder), sha256="0" * 64))
    (tmp_path / "model.safetensors").write_bytes((clip_folder / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match="is not a complete clip folder"):
        make_descriptor(DescriptorConfig(name="clip", weights=str(tmp_path)))
