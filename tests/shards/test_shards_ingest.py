"""Ingest: one row per item, whatever the source; counts equal the planted truth; bytes are referenced exactly."""

import csv
import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image

from raysys.config import load
from raysys.errors import InputError
from raysys.jobs import ingest as job
from raysys.jobs.options import inline
from raysys.outcomes import Counts
from raysys.rows import SAMPLES
from raysys.scenes import ScenesConfig, write_demo_shards
from raysys.scenes.planted import encode
from raysys.shards import webdataset as tars
from raysys.shards.decode import DecodeConfig, Rejection
from raysys.shards.images import ReadFailure, image_reader, read_images
from raysys.shards.ingest import IngestConfig, ingest_rows
from raysys.shards.inputs import list_inputs
from raysys.shards.references import ImageReader

CC_BY = "https://creativecommons.org/licenses/by/4.0/"


def picture(i, side=24):
    """A picture whose color is its number."""
    return encode(np.full((side, side, 3), (i % 256, i // 256, 77), np.uint8), "png")


def number_of(pixels):
    return int(pixels[0, 0, 0]) + 256 * int(pixels[0, 0, 1])


def ingest(path, config=None, chunk=7, known=()):
    """All rows of an input, read in small chunks as a job does; checked against the schema and the law of counts."""
    rows = []
    for file in list_inputs(str(path), known):
        for start in range(0, file.n_items, chunk):
            rows += list(ingest_rows(file, start, min(start + chunk, file.n_items), config or IngestConfig()))
    table = SAMPLES.table(rows)
    assert table.num_rows == sum(f.n_items for f in list_inputs(str(path)))
    assert len(set(table["row_id"].to_pylist())) == table.num_rows
    return rows


def one(row_or_path, **config):
    (row,) = ingest(row_or_path, IngestConfig(**config))
    return row


@pytest.mark.parametrize(
    ("stated", "license", "evidence"),
    [
        (None, "CC-BY-4.0", "declared_license=CC BY 4.0"),
        ("CC0", "CC0-1.0", "license=CC0"),
        ("see website", "unknown", "license=see website"),  # a statement, even an unclear one, is not overruled
    ],
)
def test_a_license_can_be_declared_for_items_that_state_none(tmp_path, stated, license, evidence):
    (tmp_path / "a.png").write_bytes(picture(1))
    if stated is not None:
        (tmp_path / "a.json").write_text(json.dumps({"license": stated}))
    row = one(tmp_path, require_caption=False, declared_license="CC BY 4.0")
    assert (row["license"], row["license_evidence"]) == (license, evidence)
    assert (row["outcome"] == "kept") == (license != "unknown")


def test_a_declared_license_must_be_known():
    with pytest.raises(ValueError, match="known families"):
        IngestConfig(declared_license="mine")


def check_pictures(rows):
    """Kept rows lead back to their own picture: the caption says which number it must show."""
    kept = [r for r in rows if r["outcome"] == "kept"]
    for row, pixels in zip(kept, read_images(kept, DecodeConfig()), strict=True):
        assert number_of(pixels) == int(row["caption"].split()[-1])
        assert hashlib.sha256(image_reader().read(row)).hexdigest() == row["sample_id"]
        assert row["length"] == len(image_reader().read(row))
    return kept


def write_tar(path, samples):
    """samples: [(key, {extension: bytes})]"""
    with tarfile.open(path, "w") as tar:
        for key, parts in samples:
            for extension, data in parts.items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


def sample(i=1, license=CC_BY, **parts):
    """A good sample; parts overrides members, None removes one."""
    metadata = json.dumps({"url": f"https://x.org/{i}", "license": license}).encode()
    merged = {"png": picture(i), "txt": f"picture {i}".encode(), "json": metadata} | parts
    return {e: d for e, d in merged.items() if d is not None}


def test_demo_shards_every_item_meets_its_planted_fate(tmp_path):
    config = ScenesConfig(image_size=32, n_train=30, n_held_out=5, samples_per_shard=20, n_near=4, truncated_shard=True)
    truth = write_demo_shards(tmp_path, config)
    for split in ("train", "held_out", "fusion"):
        rows = ingest(tmp_path / split)
        assert Counts.of(rows).as_dict() == truth["counts"][split]
        for row in rows:
            planted = truth["items"][row["source_key"]]
            assert (row["outcome"], row["reason"]) == (planted["outcome"], planted["reason"]), row
            if row["outcome"] == "kept":
                assert row["license"] == planted["license"]
                assert row["url"].startswith("https://")
                assert row["width"] >= 32
    sizes = {r["source_key"]: r["sample_id"] for r in ingest(tmp_path / "train")}
    for group in truth["duplicate_groups"]:
        assert len({sizes[k] for k in group["keys"]}) == (1 if group["kind"] == "exact" else 2)


def test_tars_written_by_webdataset(tmp_path):
    with webdataset.TarWriter(str(tmp_path / "000.tar")) as writer:
        for i in range(25):
            pixels = np.full((24, 24, 3), (i, 0, 77), np.uint8)
            metadata = {"url": f"https://x.org/{i}", "license": "CC0"}
            writer.write({"__key__": f"k{i}", "png": pixels, "txt": f"picture {i}", "json": metadata})
    rows = ingest(tmp_path)
    assert len(check_pictures(rows)) == 25
    assert [r["row_id"] for r in rows] == [f"000.tar/k{i}" for i in range(25)]
    expected = {
        "url": "https://x.org/3",
        "license": "CC0-1.0",
        "license_evidence": "license=CC0",
        "format": "PNG",
        "width": 24,
        "member": "k3.png",
        "shard": str(tmp_path / "000.tar"),
        "image": None,
    }
    assert {k: rows[3][k] for k in expected} == expected


def test_img2dataset_folder_with_its_parquet_and_stats_beside_the_tars(tmp_path):
    for shard in range(2):
        write_tar(tmp_path / f"{shard:05d}.tar", [(f"{shard:05d}{i:04d}", sample(i)) for i in range(3)])
        pq.write_table(pa.table({"url": ["https://x.org"]}), tmp_path / f"{shard:05d}.parquet")
        (tmp_path / f"{shard:05d}_stats.json").write_text("{}")
    assert [r["source_key"] for r in check_pictures(ingest(tmp_path))] == [
        f"{s:05d}{i:04d}" for s in range(2) for i in range(3)
    ]


REASONS = {
    "no_image": {"png": None},
    "empty_caption": {"txt": b"  \n"},
    "undecodable_text": {"txt": b"caf\xe9"},
    "undecodable_metadata": {"json": b"{"},
    "license_not_allowed": {"json": b'{"license": "CC BY-NC 4.0"}'},
    "license_unknown": {"json": b"{}"},
    "text_too_large": {"txt": b"x" * (4 * 2**20 + 1)},
    "not_image": {"png": b"hello"},
    "truncated": {"png": picture(1)[:60]},
    "too_small": {"png": picture(1, side=8)},
    "unsupported_format": {"png": None, "jxl": b"\xff\x0a" + bytes(50)},
}


@pytest.mark.parametrize("reason", REASONS)
def test_each_reason(tmp_path, reason):
    write_tar(tmp_path / "a.tar", [("before", sample(1)), ("bad", sample(2, **REASONS[reason])), ("after", sample(3))])
    rows = ingest(tmp_path)
    assert [r["outcome"] for r in rows] == ["kept", "rejected", "kept"]
    assert rows[1]["reason"] == reason
    assert rows[1]["detail"]


def test_more_metadata_damage(tmp_path):
    for bad in (b"[1]", b'{"a": "\xff"}', b"[" * 100_000, b'"text"'):
        write_tar(tmp_path / "a.tar", [("bad", sample(1, json=bad))])
        assert one(tmp_path)["reason"] == "undecodable_metadata"
    surrogate = b'{"caption": "\\ud800", "url": "\\ud800", "license": "CC0"}'
    write_tar(tmp_path / "a.tar", [("bad", sample(1, json=surrogate, txt=None))])
    assert one(tmp_path)["reason"] == "undecodable_text"


def test_caption_from_json_and_from_a_file_with_byte_order_mark(tmp_path):
    inside = json.dumps({"caption": " from json ", "license": "CC0"}).encode()
    write_tar(tmp_path / "a.tar", [("a", sample(1, txt=None, json=inside)), ("b", sample(1, txt=b"\xef\xbb\xbfbom 1"))])
    assert [r["caption"] for r in ingest(tmp_path)] == ["from json", "bom 1"]


def test_links_and_path_tricks_reject_their_sample_only(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        info = tarfile.TarInfo("../../etc/x.png")
        info.size = len(picture(1))
        tar.addfile(info, io.BytesIO(picture(1)))
        for extension, data in sample(5).items():
            info = tarfile.TarInfo(f"good.{extension}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    rows = ingest(tmp_path)
    assert [r["reason"] for r in rows] == ["unsafe_member", "unsafe_member", None]
    assert [r["sample_id"] is None for r in rows] == [True, True, False]
    check_pictures(rows)


def test_options_of_ingest(tmp_path):
    write_tar(tmp_path / "a.tar", [("a", sample(1, license="CC BY-SA 4.0", txt=None))])
    assert one(tmp_path)["reason"] == "empty_caption"
    assert one(tmp_path, require_caption=False)["reason"] == "license_not_allowed"
    assert one(tmp_path, require_caption=False, check_licenses=False)["outcome"] == "kept"
    row = one(tmp_path, require_caption=False, allowed_licenses=("CC-BY-SA",), materialize=True)
    assert row["image"] == picture(1)
    assert image_reader().read(row | {"shard": "/nowhere.tar"}) == picture(1)
    assert one(tmp_path, decode=DecodeConfig(max_bytes=10))["reason"] == "too_large"
    with pytest.raises(InputError, match=r"unknown licenses \['CC-BYE'\]"):
        load(IngestConfig, None, ["allowed_licenses=[CC-BYE]"])


def write_parquet(path, n, image_type="bytes", **options):
    images = [picture(i) if i != 3 else None for i in range(n)]
    if image_type == "struct":
        images = [{"bytes": b, "path": f"{i}.png"} for i, b in enumerate(images)]
    table = pa.table(
        {
            "id": [f"id{i}" for i in range(n)],
            "image": images,
            "text": [f"picture {i}" for i in range(n)],
            "url": [f"https://x.org/{i}" for i in range(n)],
            "license": [CC_BY if i != 5 else None for i in range(n)],
            "score": [i / 2 for i in range(n)],
        }
    )
    pq.write_table(table, path, **options)


@pytest.mark.parametrize("image_type", ["bytes", "struct"])
def test_parquet_with_image_bytes(tmp_path, image_type):
    write_parquet(tmp_path / "a.parquet", 150, image_type, row_group_size=40)
    rows = ingest(tmp_path, chunk=33)
    assert Counts.of(rows).as_dict()["rejected"] == {"license_unknown": 1, "no_image": 1}
    assert [r["offset"] for r in rows] == list(range(150))
    assert rows[10]["row_id"] == "a.parquet/000000010"
    assert rows[10]["source_key"] == "id10"
    assert json.loads(rows[10]["metadata"])["score"] == 5.0
    kept = check_pictures(rows)
    assert len(kept) == 148
    back = read_images(kept[::-1], DecodeConfig())
    assert [number_of(p) for p in back] == [int(r["caption"].split()[-1]) for r in kept[::-1]]
    reader = ImageReader()  # one row after the other, forwards and jumping back
    for i in (0, 1, 64, 70, 147, 2, 80):
        assert hashlib.sha256(reader.read(kept[i])).hexdigest() == kept[i]["sample_id"]


def test_parquet_text_that_is_not_utf8_is_one_rejected_row(tmp_path):
    bad = pa.Array.from_buffers(pa.string(), 2, pa.array([b"ok", b"caf\xe9"], pa.binary()).buffers())
    table = pa.table({"jpg": [picture(1), picture(2)], "caption": bad, "license": ["CC0", "CC0"]})
    pq.write_table(table, tmp_path / "a.parquet")
    assert [r["reason"] for r in ingest(tmp_path)] == [None, "undecodable_text"]


def test_plain_folder_with_sidecars(tmp_path):
    root = tmp_path / "photos"
    (root / "sub.dir").mkdir(parents=True)
    (root / ".cache").mkdir()
    (root / ".cache" / "x.png").write_bytes(picture(9))
    (root / "README.txt").write_text("about")
    for i, name in enumerate(["b.png", "a.png", "sub.dir/c.png"]):
        (root / name).write_bytes(picture(i))
        (root / name).with_suffix(".txt").write_text(f"picture {i}")
        (root / name).with_suffix(".json").write_text(json.dumps({"licence": "CC BY 4.0"}))
    (root / "alone.jpeg").write_bytes(picture(7))
    rows = ingest(root, chunk=2)
    assert [r["row_id"] for r in rows] == [f"photos/{n}" for n in ("a.png", "alone.jpeg", "b.png", "sub.dir/c.png")]
    assert [r["reason"] for r in rows] == [None, "empty_caption", None, None]
    assert len(check_pictures(rows)) == 3
    (file,) = list_inputs(str(root))
    (root / "a.txt").write_text("another text")
    assert list_inputs(str(root))[0].signature != file.signature


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_index_of_pictures(tmp_path, kind):
    (tmp_path / "img").mkdir()
    rows = []
    for i in range(10):
        (tmp_path / "img" / f"{i}.png").write_bytes(picture(i))
        caption = f'a "quoted",\nlong picture {i}'
        rows.append({"path": f"img/{i}.png", "caption": caption, "url": f"https://x.org/{i}", "licence": "CC0"})
    rows[4]["path"] = "img/missing.png"
    rows[6]["path"] = str(tmp_path / "img" / "6.png")
    index = tmp_path / f"list.{kind}"
    if kind == "jsonl":
        index.write_text("\n".join(json.dumps(r) for r in rows) + "\n\nnot json\n")
    else:
        with index.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], delimiter="\t" if kind == "tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
            file.write("too,few\tvalues\n")
    found = ingest(index, chunk=4)
    assert Counts.of(found).as_dict()["rejected"] == {"no_image": 1, "undecodable_metadata": 1}
    assert len(check_pictures(found)) == 9
    assert found[2]["url"] == "https://x.org/2"
    assert found[2]["source_key"] == "img/2.png"


def test_index_bytes_that_are_not_utf8_spoil_one_row(tmp_path):
    (tmp_path / "1.png").write_bytes(picture(1))
    (tmp_path / "list.csv").write_bytes(
        b"\xef\xbb\xbfimage,caption,license\n1.png,picture 1,CC0\n1.png,caf\xe9,CC0\n\xff.png,picture,CC0\n"
    )
    assert [r["reason"] for r in ingest(tmp_path / "list.csv")] == [None, "undecodable_text", "undecodable_text"]


def test_folder_with_a_metadata_index_as_imagefolder_has_it(tmp_path):
    (tmp_path / "5.png").write_bytes(picture(5))
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "5.png", "text": "picture 5", "license": "CC0"}\n')
    (file,) = list_inputs(str(tmp_path))
    assert file.kind == "index"
    check_pictures(ingest(tmp_path))


def test_remote_input_gives_the_same_rows(tmp_path):
    write_tar(tmp_path / "a.tar", [(f"k{i}", sample(i)) for i in range(5)])
    write_parquet(tmp_path / "b.parquet", 8)
    fs = fsspec.filesystem("memory")
    for name in ("a.tar", "b.parquet"):
        fs.pipe(f"/bucket/{name}/{name}", (tmp_path / name).read_bytes())
        fs.pipe("/bucket/img/x.png", picture(3))
        fs.pipe("/bucket/img/x.txt", b"picture 3")
        local, remote = ingest(tmp_path / name), ingest(f"memory://bucket/{name}")
        assert [r | {"shard": ""} for r in remote] == [r | {"shard": ""} for r in local]
        assert remote[0]["shard"] == f"memory://bucket/{name}/{name}"
        check_pictures(remote)
    (row,) = ingest("memory://bucket/img", IngestConfig(check_licenses=False))
    check_pictures([row])
    assert row["row_id"] == "img/x.png"


def test_listing_is_stable_and_does_not_count_known_files_again(tmp_path, monkeypatch):
    (tmp_path / "b").mkdir()
    for name in ("z.tar", "b/a.tar"):
        write_tar(tmp_path / name, [(name.replace("/", ""), sample(1))])
    files = list_inputs(str(tmp_path))
    assert [f.name for f in files] == ["b/a.tar", "z.tar"]
    assert files == list_inputs(str(tmp_path))
    monkeypatch.setattr("raysys.shards.webdataset.count_items", lambda path, signature: pytest.fail("counted again"))
    assert list_inputs(str(tmp_path), known=files) == files
    monkeypatch.undo()
    write_tar(tmp_path / "z.tar", [("z", sample(1)), ("y", sample(2))])
    again = list_inputs(str(tmp_path), known=files)
    assert [f.n_items for f in again] == [1, 2]
    assert again[1].signature != files[1].signature


def test_a_run_that_goes_on_counts_new_and_changed_files_only(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    for name in ("a.tar", "b.tar"):
        write_tar(tmp_path / "in" / name, [(name[0], sample(1))])
    config = job.JobConfig(input=str(tmp_path / "in"), output=str(tmp_path / "samples"))
    assert job.run(config, inline()).steps["ingest"].rows["in"] == 2
    write_tar(tmp_path / "in/c.tar", [("c", sample(3)), ("d", sample(4))])
    counted, count = [], tars.count_items
    monkeypatch.setattr(tars, "count_items", lambda path, s: counted.append(Path(path).name) or count(path, s))
    assert job.run(config, inline()).steps["ingest"].rows["in"] == 4
    assert counted == ["c.tar"]
    job.run(config, inline(on_change="recompute"))
    assert sorted(counted[1:]) == ["a.tar", "b.tar", "c.tar"]


def test_input_mistakes_are_named(tmp_path):
    def refused(path, match):
        with pytest.raises(InputError, match=match) as caught:
            list_inputs(str(path))
        assert caught.value.fix

    refused(tmp_path / "nothing", "does not exist")
    refused("memory://no/such/place", "does not exist")
    refused(tmp_path, "the folder is empty")
    (tmp_path / "notes.md").write_text("x")
    refused(tmp_path, "no shards and no images; it holds 1 other files")
    refused(tmp_path / "notes.md", "is not of a known kind")
    write_tar(os.fsencode(tmp_path) + b"/caf\xe9.tar", [("a", sample(1))])
    refused(tmp_path, "is not UTF-8")
    os.unlink(os.fsencode(tmp_path) + b"/caf\xe9.tar")
    (tmp_path / "a.tar.gz").write_bytes(b"")
    refused(tmp_path, "compressed tar")
    (tmp_path / "a.tar.gz").rename(tmp_path / "a.tar")
    (tmp_path / "a.tar").write_bytes(b"\x1f\x8b" + bytes(2000))
    refused(tmp_path, "gzip stream")
    write_tar(tmp_path / "a.tar", [])
    refused(tmp_path, "but no items in them")
    write_tar(tmp_path / "a.tar", [("a", sample(1))])
    (tmp_path / "x.png").write_bytes(picture(1))
    refused(tmp_path, "tars and images")
    (tmp_path / "b.parquet").write_bytes(b"PAR1 broken")
    refused(tmp_path / "b.parquet", "not a complete Parquet file")
    pq.write_table(pa.table({"url": ["x"], "photo": ["path.png"]}), tmp_path / "b.parquet")
    refused(tmp_path / "b.parquet", r"no column of image bytes or paths; its columns: url \(string\)")
    (tmp_path / "c.csv").write_text("a,b\n1,2\n")
    refused(tmp_path / "c.csv", "no column for the image; its columns: a, b")


def test_a_source_that_changed_after_ingest_is_noticed(tmp_path):
    path = write_tar(tmp_path / "a.tar", [("a", sample(1)), ("b", sample(2))])
    (file,) = list_inputs(str(tmp_path))
    rows = list(ingest_rows(file, 0, 2, IngestConfig()))
    write_tar(path, [("a", sample(9)), ("b", sample(2))])
    first, second = read_images(rows, DecodeConfig())
    assert isinstance(first, ReadFailure)
    assert first.fate()["outcome"] == "error"
    assert number_of(second) == 2
    with pytest.raises(ValueError, match="changed since it was ingested"):
        image_reader().read(rows[0])
    with pytest.raises(ValueError, match="changed since it was listed"):
        list(ingest_rows(file, 0, 2, IngestConfig()))
    write_parquet(tmp_path / "p.parquet", 8)
    (listed,) = list_inputs(str(tmp_path / "p.parquet"))
    write_parquet(tmp_path / "p.parquet", 6)
    with pytest.raises(ValueError, match="has changed since it was listed with 8 items"):
        list(ingest_rows(listed, 0, 8, IngestConfig()))
    gone = dict(rows[0], shard=str(tmp_path / "gone.tar"))
    assert read_images([gone], DecodeConfig())[0].reason == "FileNotFoundError"


def test_read_images_of_rejected_content_gives_the_reason(tmp_path):
    write_tar(tmp_path / "a.tar", [("a", sample(1, png=b"hello"))])
    row = one(tmp_path)
    (result,) = read_images([row], DecodeConfig())
    assert isinstance(result, Rejection)
    assert result.fate()["reason"] == "not_image"


def test_exif_orientation_decides_width_and_height(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    out = io.BytesIO()
    Image.new("RGB", (40, 20)).save(out, "JPEG", exif=exif)
    write_tar(tmp_path / "a.tar", [("a", sample(1, png=None, jpg=out.getvalue()))])
    row = one(tmp_path)
    assert (row["width"], row["height"], row["format"]) == (20, 40, "JPEG")
    assert read_images([row], DecodeConfig())[0].shape == (40, 20, 3)
