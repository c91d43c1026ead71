"""Altered copies of images, and damaged files that a reader must reject, for the demo shards.

Nothing here is random, so the shards are reproducible.
"""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageEnhance

NEAR_KINDS = ("recompressed", "resized", "cropped", "brighter")
DAMAGE_REASONS = (
    "truncated",
    "not_image",
    "animated",
    "too_large",
    "no_image",
    "empty_caption",
    "undecodable_text",
    "undecodable_metadata",
)
"""The kinds of damaged samples, named after the reason for which ingest must reject them."""


def encode(pixels: np.ndarray, extension: str, quality: int = 95) -> bytes:
    """Encode uint8 [H, W, 3] as jpg, png or webp. JPEG without chroma subsampling, because the images are small."""
    out = io.BytesIO()
    options = {
        "jpg": {"format": "JPEG", "quality": quality, "subsampling": 0},
        "png": {"format": "PNG"},
        "webp": {"format": "WEBP", "quality": quality},
    }[extension]
    Image.fromarray(pixels).save(out, **options)
    return out.getvalue()


def near_duplicate(pixels: np.ndarray, kind: str) -> np.ndarray:
    """An altered copy, uint8 [h, w, 3], like a re-uploaded image. `kind`: one of NEAR_KINDS."""
    image = Image.fromarray(pixels)
    width, height = image.size
    if kind == "recompressed":
        image = Image.open(io.BytesIO(encode(pixels, "jpg", quality=60)))
    elif kind == "resized":
        image = image.resize((width * 5 // 4, height * 5 // 4), Image.Resampling.BICUBIC)
    elif kind == "cropped":
        dx, dy = max(1, width // 32), max(1, height // 32)
        image = image.crop((dx, dy, width - dx, height - dy)).resize((width, height), Image.Resampling.BICUBIC)
    elif kind == "brighter":
        image = ImageEnhance.Brightness(image).enhance(1.12)
    else:
        raise ValueError(f"kind = {kind!r}: known are {NEAR_KINDS}")
    return np.asarray(image)


def damage(reason: str, members: dict[str, bytes]) -> dict[str, bytes]:
    """Damage a valid sample, so that ingest rejects it for `reason`. members: extension (jpg, txt, json) → bytes."""
    jpg = members["jpg"]
    changes: dict[str, dict[str, bytes | None]] = {
        "truncated": {"jpg": jpg[: len(jpg) * 6 // 10]},
        "not_image": {"jpg": b"<html><body>404 Not Found</body></html>\n"},
        "animated": {"jpg": None, "gif": _animated_gif(jpg)},
        "too_large": {"jpg": None, "png": png_header_bomb(50_000, 50_000)},
        "no_image": {"jpg": None},
        "empty_caption": {"txt": b" \n"},
        "undecodable_text": {"txt": b"a \xff\xfe\xe9 circle"},
        "undecodable_metadata": {"json": b'{"url": "https://example.org/'},
    }
    merged: dict[str, bytes | None] = members | changes[reason]
    image_first = sorted(merged, key=lambda e: e in ("txt", "json"))
    return {e: data for e in image_first if (data := merged[e]) is not None}


def png_header_bomb(width: int, height: int) -> bytes:
    """A PNG of a few hundred bytes whose header claims width × height pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")
    )


def _animated_gif(jpg: bytes) -> bytes:
    frame = Image.open(io.BytesIO(jpg)).convert("RGB")
    out = io.BytesIO()
    mirrored = frame.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    frame.save(out, format="GIF", save_all=True, append_images=[mirrored], duration=100)
    return out.getvalue()
