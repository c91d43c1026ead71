"""Every image in a tar ends in a row: the second of a sample, dotted and repeated names, AVIF and HEIC."""

import io
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image
from pillow_heif import register_heif_opener

from raysys.outcomes import Counts
from raysys.shards import decode
from raysys.shards.decode import DecodeConfig, Decoded, Rejection, decode_image
from raysys.shards.ingest import IngestConfig, ingest_rows
from raysys.shards.inputs import list_inputs
from raysys.shards.raw import IMAGE_EXTENSIONS
from tests.support.photos import photo_tiles

register_heif_opener()
CONFIG = IngestConfig(require_caption=False, check_licenses=False)


def encode(pixels, form, **options):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, form, **options)
    return out.getvalue()


@pytest.fixture(scope="module")
def tile():
    return photo_tiles(96)[0]


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def rows_of(path):
    return [row for file in list_inputs(str(path)) for row in ingest_rows(file, 0, file.n_items, CONFIG)]


def test_every_image_member_of_a_tar_is_one_row(tmp_path, tile):
    """Counted from the tar itself: its image members and the rows' members are the same, each once."""
    jpg, png, avif = (encode(tile, form) for form in ("JPEG", "PNG", "AVIF"))
    members = [
        ("a.jpg", jpg),
        ("a.png", png),
        ("a.txt", b"two images"),
        ("b.jpg", jpg),
        ("b.seg.png", png),
        ("b.mask.png", png),
        ("c.d.jpg", jpg),
        ("e.avif", avif),
        ("f.jpg", jpg),
        ("f.jpg", png),
        ("g.png", png),
        ("g.jpg", jpg),
        ("h.v1.jpg", jpg),
        ("h.v2.jpg", jpg),
        ("h.v2.jpg", jpg),
        ("dir.x/i.JPG", jpg),
    ]
    path = write_tar(tmp_path / "a.tar", members)
    rows = rows_of(path)
    images = [name for name, _ in members if name.lower().endswith(IMAGE_EXTENSIONS)]
    assert sorted(row["member"] for row in rows) == sorted(images)
    assert len({row["row_id"] for row in rows}) == len(rows) == len(images)
    assert Counts.of(rows).as_dict()["rejected"] == {"second_image": 5}
    second = [(r["row_id"], r["source_key"]) for r in rows if r["reason"] == "second_image"]
    assert second == [
        ("a.tar/a.png", "a"),
        ("a.tar/b.seg.png", "b"),
        ("a.tar/b.mask.png", "b"),
        ("a.tar/g.png", "g"),
        ("a.tar/h.v2.jpg", "h"),
    ]
    (detail,) = [r["detail"] for r in rows if r["row_id"] == "a.tar/h.v2.jpg"]
    assert "h.v1.jpg is the image of sample 'h'; a key ends at the first dot" in detail
    assert {r["row_id"]: r["format"] for r in rows}["a.tar/e"] == "AVIF"


def test_the_same_second_image_twice_has_two_rows(tmp_path, tile):
    png = encode(tile, "PNG")
    names = ["a.jpg", "a.png", "b.jpg", "a.jpg", "a.png"]
    rows = rows_of(write_tar(tmp_path / "a.tar", [(name, png) for name in names]))
    assert [r["row_id"] for r in rows] == [f"a.tar/{k}" for k in ("a", "a.png", "b", "a#2", "a.png#2")]


def test_the_second_image_of_a_cut_sample_is_not_lost(tmp_path, tile):
    png = encode(tile, "PNG")
    path = write_tar(tmp_path / "a.tar", [("a.jpg", png), ("a.png", png), ("a.txt", b"x" * 600)])
    path.write_bytes(path.read_bytes()[: 2 * (512 + -(-len(png) // 512) * 512) + 700])
    assert [(r["reason"], r["row_id"]) for r in rows_of(path)] == [
        ("truncated_shard", "a.tar/a"),
        ("second_image", "a.tar/a.png"),
    ]


@pytest.mark.parametrize("form", ["AVIF", "HEIF"])
def test_avif_and_heic_are_decoded(tile, form):
    assert decode.has_codec(form)
    data = encode(tile, form, quality=95)
    result = decode_image(data, DecodeConfig())
    assert isinstance(result, Decoded)
    assert (result.format, result.width, result.height) == (form, 96, 96)
    assert np.abs(result.pixels.astype(int) - tile).mean() < 6
    assert decode_image(data, DecodeConfig(max_pixels=100)).reason == "too_large"
    for cut in (40, len(data) // 2, len(data) - 8):
        assert decode_image(data[:cut], DecodeConfig()).reason == "corrupt"
    for at in range(60, len(data), max(1, len(data) // 40)):  # whatever is overwritten: an image or a reason
        broken = data[:at] + bytes(16) + data[at + 16 :]
        assert isinstance(decode_image(broken, DecodeConfig()), Decoded | Rejection)


def test_a_heic_with_several_images_is_its_primary_one_and_a_film_is_refused(tile):
    options = {"save_all": True, "append_images": [Image.new("RGB", (64, 32))]}
    several = encode(tile, "HEIF", **options)
    assert (decode_image(several, DecodeConfig()).width, decode_image(several, DecodeConfig()).height) == (96, 96)
    film = encode(tile, "AVIF", save_all=True, append_images=[Image.fromarray(tile[::-1])])
    assert decode_image(film, DecodeConfig()).reason == "animated"
    mp4 = b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + bytes(100)
    assert decode_image(mp4, DecodeConfig()) == Rejection("unsupported_format", "MP4")


def test_without_the_codec_the_row_names_the_extra(tile, tmp_path, monkeypatch):
    path = write_tar(tmp_path / "a.tar", [("a.heic", encode(tile, "HEIF")), ("b.avif", encode(tile, "AVIF"))])
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr("PIL.features.check", lambda name: False)
    decode.has_codec.cache_clear()
    try:
        heic, avif = rows_of(path)
    finally:
        decode.has_codec.cache_clear()
    assert (heic["reason"], avif["reason"]) == ("unsupported_format", "unsupported_format")
    assert "pip install 'raysys[heif]'" in heic["detail"]
    assert "install Pillow's wheel" in avif["detail"]
