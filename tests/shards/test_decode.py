"""Safe decoding: every kind of file people have becomes upright RGB, every bad one a reason."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from raysys.scenes.planted import png_header_bomb
from raysys.shards.decode import DecodeConfig, Decoded, Rejection, check_image, decode_image

LIMITS = DecodeConfig()
RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8)


def encode(image, fmt, **options):
    out = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(out, fmt, **options)
    return out.getvalue()


def decoded(data, limits=LIMITS):
    result = decode_image(data, limits)
    assert isinstance(result, Decoded), result
    facts = check_image(data, limits)
    assert (facts.format, facts.width, facts.height) == (result.format, result.width, result.height)
    assert result.pixels.shape == (result.height, result.width, 3)
    assert result.pixels.dtype == np.uint8
    return result


def reason(data, limits=LIMITS):
    result = decode_image(data, limits)
    assert isinstance(result, Rejection)
    assert check_image(data, limits) == result
    return result.reason


@pytest.mark.parametrize(("fmt", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("BMP", {}), ("TIFF", {})])
def test_lossless_formats_keep_every_pixel(fmt, options):
    result = decoded(encode(NOISE, fmt, **options))
    np.testing.assert_array_equal(result.pixels, NOISE)
    assert result.format == fmt


def test_jpeg_is_close_and_progressive_too():
    smooth = np.asarray(Image.fromarray(NOISE[:6, :8]).resize((64, 48), Image.Resampling.BICUBIC))
    for options in ({"quality": 95}, {"quality": 95, "progressive": True}):
        assert np.abs(decoded(encode(smooth, "JPEG", **options)).pixels.astype(int) - smooth).mean() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_makes_the_picture_upright(orientation):
    """The stored pixels are the upright ones transformed back; decoding must undo it (EXIF 2.3, tag 0x0112)."""
    stored_from_upright = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(np.ascontiguousarray(stored_from_upright(NOISE)), "PNG", exif=exif)
    result = decoded(data)
    np.testing.assert_array_equal(result.pixels, NOISE)
    assert (result.width, result.height) == (64, 48)


def test_broken_exif_does_not_cost_the_picture():
    data = encode(NOISE, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert decoded(data).width == 64


def test_cmyk_jpeg():
    solid = Image.new("CMYK", (32, 32), (0, 255, 255, 0))  # no cyan, full magenta and yellow: red
    red = decoded(encode(solid, "JPEG", quality=95)).pixels
    assert np.abs(red.astype(int) - [255, 0, 0]).max() < 8


def test_16_bit_gray_is_scaled_not_clipped():
    ramp = np.linspace(0, 65535, 64 * 48).astype(np.uint16).reshape(48, 64)
    pixels = decoded(encode(ramp, "PNG")).pixels
    np.testing.assert_array_equal(pixels[..., 0], np.rint(ramp / 257.0).astype(np.uint8))
    assert decoded(encode(ramp, "TIFF")).pixels[24, 0, 0] == pixels[24, 0, 0]


def test_16_bit_rgb_png_keeps_the_high_byte():
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    wide = (NOISE.astype(">u2") * 257).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in wide)
    header = struct.pack(">IIBBBBB", 64, 48, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    np.testing.assert_array_equal(decoded(png).pixels, NOISE)


def test_transparency_is_composited_on_white():
    rgba = np.zeros((32, 32, 4), np.uint8)
    rgba[:, :16] = (200, 0, 0, 255)
    rgba[:, 16:] = (0, 0, 200, 0)
    pixels = decoded(encode(rgba, "PNG")).pixels
    assert tuple(pixels[0, 0]) == (200, 0, 0)
    assert tuple(pixels[0, 31]) == (255, 255, 255)
    half = np.full((32, 32, 2), (100, 128), np.uint8)  # LA: gray 100, half transparent
    assert abs(int(decoded(encode(Image.fromarray(half, "LA"), "PNG")).pixels[0, 0, 0]) - (100 + 255) // 2) <= 1


def test_palette_with_and_without_transparency():
    palette = Image.new("P", (32, 32), 1)
    palette.putpalette([0, 255, 0, 10, 20, 30])
    palette.paste(0, (0, 0, 16, 32))
    assert tuple(decoded(encode(palette, "PNG")).pixels[0, 0]) == (0, 255, 0)
    pixels = decoded(encode(palette, "PNG", transparency=0)).pixels
    assert tuple(pixels[0, 0]) == (255, 255, 255)
    assert tuple(pixels[0, 31]) == (10, 20, 30)
    assert tuple(decoded(encode(palette, "GIF")).pixels[0, 31]) == (10, 20, 30)


def test_rgb_png_with_a_transparent_color():
    pixels = decoded(encode(np.full((32, 32, 3), 7, np.uint8), "PNG", transparency=(7, 7, 7))).pixels
    assert (pixels == 255).all()


@pytest.mark.parametrize("mode", ["1", "L"])
def test_gray_and_bilevel(mode):
    image = Image.new("L", (32, 32), 255).convert(mode)
    assert (decoded(encode(image, "PNG")).pixels == 255).all()


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("fraction", [0.3, 0.6, 0.95])
def test_truncated_files(fmt, fraction):
    data = encode(NOISE, fmt)
    assert reason(data[: int(len(data) * fraction)]) == "truncated"


def test_another_library_cannot_switch_truncated_images_on(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = encode(NOISE, "JPEG")
    assert reason(data[: len(data) // 2]) == "truncated"


def test_damage_inside_a_whole_file_is_corrupt():
    data = bytearray(encode(NOISE, "PNG"))
    data[len(data) // 2] ^= 0xFF
    assert reason(bytes(data)) == "corrupt"


def test_not_images_and_refused_formats():
    assert reason(b"") == "not_image"
    assert reason(b"<html>404</html>") == "not_image"
    assert reason(bytes(1000)) == "not_image"
    assert reason(b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(100)) == "unsupported_format"
    assert reason(b"8BPS" + bytes(100)) == "unsupported_format"
    assert reason(b"<svg xmlns='http://www.w3.org/2000/svg'/>") == "unsupported_format"
    assert reason(encode(NOISE, "PPM")) == "not_image"  # Pillow could, but the parser is not allowed
    for mode in ("F", "I", "LAB"):  # no defined white, or no conversion
        assert reason(encode(Image.new(mode, (32, 32)), "TIFF")) == "unsupported_format"


@pytest.mark.parametrize("fmt", ["GIF", "PNG", "WEBP", "TIFF"])
def test_several_frames_are_rejected(fmt):
    frames = [Image.fromarray(NOISE), Image.fromarray(NOISE[::-1].copy())]
    assert reason(encode(frames[0], fmt, save_all=True, append_images=frames[1:])) == "animated"


def test_mpo_from_a_phone_is_its_first_picture():
    other = Image.fromarray(255 - NOISE)
    result = decoded(encode(Image.fromarray(NOISE), "MPO", save_all=True, append_images=[other], quality=95))
    assert result.format == "JPEG"
    assert np.abs(result.pixels.astype(int) - NOISE).mean() < np.abs(result.pixels.astype(int) - 255 + NOISE).mean()


def test_pixel_cap_is_read_from_the_header():
    assert reason(png_header_bomb(50_000, 50_000)) == "too_large"
    assert reason(png_header_bomb(9_000, 9_000)) == "too_large"  # below Pillow's own limit, above ours
    small = DecodeConfig(max_pixels=64 * 48 - 1)
    for fmt in ("JPEG", "PNG", "WEBP"):
        result = decode_image(encode(NOISE, fmt), small)
        assert result == Rejection("too_large", "64x48 px > 3071 px")
        decoded(encode(NOISE, fmt), DecodeConfig(max_pixels=64 * 48))
    assert reason(encode(NOISE, "WEBP", lossless=True), small) == "too_large"
    alpha = Image.fromarray(np.dstack([NOISE, NOISE[..., :1]]), "RGBA")
    assert reason(encode(alpha, "WEBP"), small) == "too_large"  # extended header


def test_bytes_and_least_side():
    data = encode(NOISE, "PNG")
    assert reason(data, DecodeConfig(max_bytes=len(data) - 1)) == "too_large"
    assert reason(encode(NOISE[:10], "PNG")) == "too_small"
    decoded(encode(NOISE[:10], "PNG"), DecodeConfig(min_side=10))


def test_random_damage_never_raises():
    """Flip and cut bytes of every format at random: a picture or a reason, never an exception."""
    rng = np.random.default_rng(1)
    outcomes = set()
    for fmt in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        data = encode(NOISE, fmt)
        for _ in range(60):
            broken = bytearray(data[: rng.integers(1, len(data) + 1)] if rng.random() < 0.3 else data)
            for _ in range(rng.integers(1, 6)):
                broken[rng.integers(len(broken))] = rng.integers(256)
            result = decode_image(bytes(broken), LIMITS)
            outcomes.add(result.reason if isinstance(result, Rejection) else "decoded")
    assert {"decoded", "truncated", "corrupt"} <= outcomes
