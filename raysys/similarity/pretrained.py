"""Pretrained descriptors from local files: SSCD (TorchScript), CLIP and DINOv2 (transformers folders).

Only this module of the package imports torch and transformers at the top. Nothing is ever downloaded.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from raysys.errors import InputError
from raysys.models.device import torch_device
from raysys.models.loading import BUILDING
from raysys.similarity.images import ImageLike, as_pil
from raysys.similarity.thresholds import NO_CLAIM, SSCD
from raysys.similarity.weights import hash_of_folder, read_pinned

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
SAVE_BOTH = "save model and image processor there with save_pretrained"


@dataclass(frozen=True)
class SscdPreset:
    """Preprocessing of an SSCD network. Resizing is Pillow's antialiased bilinear, as in torchvision."""

    short_side: int | None  # px; resize keeping the aspect ratio
    square: int | None  # px; resize to a square, aspect ratio not kept
    center_crop: int | None  # px, after the resize
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


SSCD_PRESETS = {
    # Used for all published values of R (Somepalli et al. 2023, Li et al. 2024, with weights sscd_disc_large).
    "dcr224": SscdPreset(256, None, 224, HALF, HALF),
    # Recommended by SSCD's README (Pizzi et al. 2022); the square one gives batches of a single shape.
    "sscd288": SscdPreset(288, None, None, IMAGENET_MEAN, IMAGENET_STD),
    "sscd320": SscdPreset(None, 320, None, IMAGENET_MEAN, IMAGENET_STD),
}


class SscdDescriptor:
    """An SSCD TorchScript network: images → float32 [N, dim], L2-normalized."""

    name = "sscd"
    thresholds = SSCD

    def __init__(self, weights: str, sha256: str | None, preset: str, device: str = "auto", batch_size: int = 32):
        """Raises InputError if the file is missing or not TorchScript, or the hash is missing or differs."""
        data, self.weights_sha256 = read_pinned(Path(weights), sha256)
        self.preset, self.batch_size = preset, batch_size
        self.device = torch_device(device)
        try:
            self._network = torch.jit.load(io.BytesIO(data), map_location=self.device).eval()
        except RuntimeError as exc:
            raise InputError(
                f"{weights} is not a TorchScript file: {_first_line(exc)}", "use a .torchscript.pt release of SSCD"
            ) from exc
        self.dim = self([Image.new("RGB", (64, 64))]).shape[1]

    def __call__(self, images: Sequence[ImageLike]) -> np.ndarray:
        pixels = [sscd_pixels(image, self.preset) for image in images]
        return batched(pixels, self._network, self.device, self.batch_size)

    def views(self, features: np.ndarray) -> np.ndarray:
        """[N, 1, D]: SSCD's presets do not compare mirror images, as in all published values of R."""
        return features[:, None]


class TransformersDescriptor:
    """CLIP image embeddings (projected) or DINOv2 pooled class tokens, from a `save_pretrained` folder."""

    thresholds = NO_CLAIM

    def __init__(self, name: str, folder: str, sha256: str | None, device: str = "auto", batch_size: int = 32):
        """name: "clip" or "dinov2". Raises InputError if the folder is missing, incomplete or of another model type."""
        from transformers import AutoConfig, AutoImageProcessor, CLIPVisionModelWithProjection, Dinov2Model

        self.name = self.preset = name
        self.batch_size, self.device = batch_size, torch_device(device)
        self.weights_sha256 = hash_of_folder(Path(folder), sha256)
        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as exc:
            raise InputError(f"{folder} is not a complete {name} folder: {_first_line(exc)}", SAVE_BOTH) from exc
        if config.model_type not in (("clip", "clip_vision_model") if name == "clip" else ("dinov2",)):
            raise InputError(f"{folder} holds a {config.model_type} model", f"give a folder of {name} weights")
        if config.model_type == "clip":  # a full CLIP: the outer config has the projection's width
            config.vision_config.projection_dim = config.projection_dim
            config = config.vision_config
        try:
            cls = CLIPVisionModelWithProjection if name == "clip" else Dinov2Model
            with BUILDING:
                self._model = cls.from_pretrained(folder, config=config, local_files_only=True, use_safetensors=True)
            self._processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        except OSError as exc:
            raise InputError(f"{folder} is not a complete {name} folder: {_first_line(exc)}", SAVE_BOTH) from exc
        self._model.to(self.device).eval()
        self.dim = config.projection_dim if name == "clip" else config.hidden_size

    def __call__(self, images: Sequence[ImageLike]) -> np.ndarray:
        pixels = [self._processor(as_pil(i), return_tensors="pt")["pixel_values"][0] for i in images]
        return batched(pixels, self._features, self.device, self.batch_size)

    def _features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        output = self._model(pixel_values=pixel_values)
        return output.image_embeds if self.name == "clip" else output.pooler_output

    def views(self, features: np.ndarray) -> np.ndarray:
        """[N, 1, D]: features of mirror images cannot be computed from the features."""
        return features[:, None]


def sscd_pixels(image: ImageLike, preset: str) -> torch.Tensor:
    """One image → float32 [3, H, W], preprocessed by the preset, with torchvision's rounding of sizes and crops."""
    p = SSCD_PRESETS[preset]
    pil = as_pil(image)
    if p.square is not None:
        pil = pil.resize((p.square, p.square), Image.Resampling.BILINEAR)
    else:
        pil = pil.resize(short_side_size(pil.size, p.short_side), Image.Resampling.BILINEAR)
    if p.center_crop is not None:
        left, top = (round((side - p.center_crop) / 2) for side in pil.size)
        pil = pil.crop((left, top, left + p.center_crop, top + p.center_crop))
    chw = torch.from_numpy(np.array(pil)).permute(2, 0, 1).float() / 255
    return (chw - torch.tensor(p.mean).view(3, 1, 1)) / torch.tensor(p.std).view(3, 1, 1)


def short_side_size(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """(width, height) with the shorter side equal to `short_side`; the other is rounded down, as in torchvision."""
    width, height = size
    if width <= height:
        return short_side, int(short_side * height / width)
    return int(short_side * width / height), short_side


@torch.inference_mode()
def batched(pixels: Sequence[torch.Tensor], network, device: torch.device, batch_size: int) -> np.ndarray:
    """Run `network` on tensors [3, H, W] in batches of equal shape; return L2-normalized features [N, dim] in order."""
    by_shape: dict[torch.Size, list[int]] = {}
    for i, tensor in enumerate(pixels):
        by_shape.setdefault(tensor.shape, []).append(i)
    out: dict[int, np.ndarray] = {}
    for indices in by_shape.values():
        for start in range(0, len(indices), batch_size):
            part = indices[start : start + batch_size]
            features = network(torch.stack([pixels[i] for i in part]).to(device)).float()
            features = torch.nn.functional.normalize(features, dim=1).cpu().numpy()
            out.update(zip(part, features, strict=True))
    return np.stack([out[i] for i in range(len(pixels))])


def _first_line(exc: Exception) -> str:
    return (str(exc).strip() or type(exc).__name__).splitlines()[0]
