"""Safe decoding: bytes of an unknown file → RGB pixels, or the reason for a rejection. Never raises for bad data.

Accepted: JPEG (of an MPO, the first image), PNG, WebP, HEIF (HEIC; the primary image), and AVIF, GIF, BMP, TIFF with a
single image. AVIF needs a Pillow that is built with it, as Pillow's wheels are; HEIF needs the extra `heif`.
Color profiles are not applied. Transparency is composited on white. 16-bit grays are scaled, not clipped.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError, features
from pydantic import Field

from raysys import outcomes
from raysys.config import Config

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""The Pillow parsers that may read the bytes, besides `CODECS`. No other parser is called."""

CODECS = {
    "AVIF": "this build of Pillow cannot decode AVIF; install Pillow's wheel: pip install --force-reinstall pillow",
    "HEIF": "HEIC and HEIF files need the extra heif: pip install 'raysys[heif]'",
}
"""Formats whose decoder may not be installed, and what to do then."""

_DECODER_ERRORS = (
    OSError,
    SyntaxError,  # raised by Pillow for a broken PNG
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    MemoryError,
    RuntimeError,  # raised by the decoders of AVIF and HEIF
    struct.error,
    zlib.error,
)
"""Exceptions of Pillow's parsers for damaged files. Any other exception is a bug and propagates."""

_ORIENTATION_TAG = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_CONVERTIBLE_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "I;16", "I;16B", "I;16L"}
"""Other modes are rejected: for 32-bit integers (I) and floats (F) white is undefined; Pillow cannot convert LAB."""


class DecodeConfig(Config):
    """Limits that every image must satisfy."""

    max_pixels: int = Field(
        50_000_000, ge=1, le=178_000_000, description="maximum number of pixels, checked in the header before decoding"
    )
    max_bytes: int = Field(64 * 2**20, ge=1, description="maximum bytes of an encoded image")
    min_side: int = Field(16, ge=1, description="minimum width and height, pixels")

    def admitting(self, earlier: DecodeConfig) -> DecodeConfig:
        """These limits, widened to accept everything that `earlier` accepts; explicitly set limits do not change.

        Limits are never narrowed, because other images (generations) need not satisfy the earlier ones.
        """
        default = DecodeConfig()
        wider = {
            "max_pixels": max(default.max_pixels, earlier.max_pixels),
            "max_bytes": max(default.max_bytes, earlier.max_bytes),
            "min_side": min(default.min_side, earlier.min_side),
        }
        unset = {name: limit for name, limit in wider.items() if getattr(self, name) == getattr(default, name)}
        return self.model_copy(update=unset)


@dataclass(frozen=True)
class Rejection:
    """A rejected file. reason: too_large, too_small, truncated, corrupt, not_image, unsupported_format or animated."""

    reason: str
    detail: str | None = None

    def fate(self) -> dict[str, str | None]:
        """The outcome columns of the row."""
        return outcomes.rejected(self.reason, self.detail)


@dataclass(frozen=True)
class ImageFacts:
    """Format, and size in pixels after EXIF orientation, of a file that was fully decoded."""

    format: str
    width: int
    height: int


@dataclass(frozen=True)
class Decoded:
    """A decoded image. pixels: uint8 RGB [height, width, 3], with EXIF orientation applied."""

    pixels: np.ndarray
    format: str
    width: int
    height: int


def decode_image(data: bytes, limits: DecodeConfig) -> Decoded | Rejection:
    """Bytes of one image file → RGB pixels or a rejection. Decodes the whole file, so that late errors are found."""
    loaded = _load(data, limits)
    if isinstance(loaded, Rejection):
        return loaded
    image, orientation = loaded
    pixels = np.asarray(_to_rgb(_upright(image, orientation)))
    return Decoded(pixels, _format(image), pixels.shape[1], pixels.shape[0])


def check_image(data: bytes, limits: DecodeConfig) -> ImageFacts | Rejection:
    """As `decode_image`, with the same checks and full decoding, but without the conversion to RGB."""
    loaded = _load(data, limits)
    if isinstance(loaded, Rejection):
        return loaded
    image, orientation = loaded
    width, height = image.size if orientation < 5 else image.size[::-1]
    return ImageFacts(_format(image), width, height)


def _load(data: bytes, limits: DecodeConfig) -> tuple[Image.Image, int] | Rejection:
    """The loaded Pillow image with its EXIF orientation (1 … 8), or a rejection for the first limit it violates."""
    if len(data) > limits.max_bytes:
        return Rejection("too_large", f"{len(data)} bytes > {limits.max_bytes}")
    # Pillow's WebP reader allocates the canvas when it opens a file, before the size can be checked.
    if (size := _webp_size(data)) is not None and (found := _size_problem(size, limits)) is not None:
        return found
    formats = FORMATS
    if (codec := _sniff(data[:64])) in CODECS:
        if not has_codec(codec):
            return Rejection("unsupported_format", CODECS[codec])
        formats = (codec,)
    # Another library may have enabled this for the process; truncated images would then be accepted.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        return Rejection("too_large", str(exc))
    except _DECODER_ERRORS as exc:
        return _undecodable(data, exc)
    try:
        if (found := _size_problem(image.size, limits)) is not None:
            return found
        if image.format not in ("MPO", "HEIF") and getattr(image, "is_animated", False):
            return Rejection("animated", f"{image.format} with several frames")
        image.load()
    except _DECODER_ERRORS as exc:
        return _undecodable(data, exc)
    if image.mode not in _CONVERTIBLE_MODES:
        return Rejection("unsupported_format", f"{image.format} in mode {image.mode}")
    return image, _orientation(image)


@lru_cache
def has_codec(name: str) -> bool:
    """Whether a format of `CODECS` can be decoded in this process."""
    if name == "AVIF":
        return features.check("avif")
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


def _size_problem(size: tuple[int, int], limits: DecodeConfig) -> Rejection | None:
    width, height = size
    if width * height > limits.max_pixels:
        return Rejection("too_large", f"{width}x{height} px > {limits.max_pixels} px")
    if min(width, height) < limits.min_side:
        return Rejection("too_small", f"{width}x{height} px, sides must be ≥ {limits.min_side} px")
    return None


def _format(image: Image.Image) -> str:
    return "JPEG" if image.format == "MPO" else str(image.format)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 … 8; 1 (upright) if the EXIF data cannot be read, because the pixels are still valid."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except _DECODER_ERRORS:
        return 1
    return value if value in _TRANSPOSE else 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_TRANSPOSE[orientation]) if orientation in _TRANSPOSE else image


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode that `_load` accepts to RGB."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16"):
        gray = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((gray + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _undecodable(data: bytes, exc: BaseException) -> Rejection:
    """The reason why a file cannot be decoded: truncated, unsupported_format, corrupt or not_image."""
    detail = f"{type(exc).__name__}: {exc}" if not isinstance(exc, UnidentifiedImageError) else None
    kind = _sniff(data)
    if kind is None:
        return Rejection("not_image", f"starts with {data[:16]!r}")
    if kind not in (*FORMATS, *CODECS):
        return Rejection("unsupported_format", kind)
    if _end_is_missing(data, kind):
        return Rejection("truncated", f"{kind} of {len(data)} bytes without its end; {detail or 'header unreadable'}")
    return Rejection("corrupt", f"{kind}; {detail or 'header unreadable'}")


def _sniff(data: bytes) -> str | None:
    """The format according to the first bytes; None if unknown."""
    starts = {
        b"\xff\xd8\xff": "JPEG",
        b"\x89PNG\r\n\x1a\n": "PNG",
        b"GIF8": "GIF",
        b"BM": "BMP",
        b"II*\0": "TIFF",
        b"MM\0*": "TIFF",
        b"8BPS": "PSD",
        b"%PDF": "PDF",
        b"<svg": "SVG",
        b"\0\0\1\0": "ICO",
        b"\xff\x0a": "JXL",
        b"\0\0\0\x0cJXL ": "JXL",
    }
    for magic, name in starts.items():
        if data.startswith(magic):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        return _media_kind(data)
    return None


def _media_kind(data: bytes) -> str:
    """AVIF, HEIF or MP4, by the brands in the first box of an ISO media file (ISO/IEC 14496-12, 23008-12)."""
    size = int.from_bytes(data[:4], "big")
    brands = {data[8:12], *(data[i : i + 4] for i in range(16, min(size, len(data)), 4))}
    if brands & {b"avif", b"avis"}:
        return "AVIF"
    return "HEIF" if brands & {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"} else "MP4"


def _end_is_missing(data: bytes, kind: str) -> bool:
    """Whether the format's end marker or length shows that the end of the file is missing (never for TIFF)."""
    tail = data.rstrip(b"\0")[-64:]
    if kind == "JPEG":
        return b"\xff\xd9" not in tail
    if kind == "PNG":
        return b"IEND" not in data[-64:]
    if kind == "GIF":
        return not tail.endswith(b"\x3b")
    if kind == "WEBP":
        return len(data) < 8 + int.from_bytes(data[4:8], "little")
    if kind == "BMP":
        return len(data) < int.from_bytes(data[2:6], "little")
    return False


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """Width and height from a WebP header (VP8X canvas, VP8L or VP8 frame; RFC 9649); None for other files."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return None
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
    return None
