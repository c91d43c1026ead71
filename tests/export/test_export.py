"""Exports: every kept sample once, with its own picture, captions, license and URL; other tools open the files."""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import sys
import tarfile
from pathlib import Path

import datasets
import duckdb
import numpy as np
import pandas
import pytest
import webdataset
import yaml
from PIL import Image
from pillow_heif import register_heif_opener

from raysys.errors import InputError, RunFailed
from raysys.export.files import EXTENSIONS
from raysys.jobs.export import JobConfig, run
from raysys.jobs.options import RunOptions
from raysys.outcomes import error, kept, rejected
from raysys.rows import CAPTIONS, DUPLICATES, SAMPLES
from raysys.shards.decode import CODECS, FORMATS
from raysys.shards.ingest import IngestConfig, ingest_rows
from raysys.shards.inputs import list_inputs
from raysys.tables import InputPart, commit_part, open_output, open_table
from raysys.tables.folder_output import RECORD
from raysys.tables.results import FolderPlan
from tests.support.processes import finish, start, wait_for

N_TARS, PER_TAR = 3, 8
N = N_TARS * PER_TAR
FORBIDDEN, NO_BETA = {7, 15}, {3}
KEPT = [i for i in range(N) if i not in FORBIDDEN]


def url(i):
    return f"https://photos.example/{i}"


def encoded(i):
    """A picture whose color is its number, JPEG or PNG in turn."""
    out = io.BytesIO()
    Image.fromarray(np.full((32, 48, 3), (10 * i, 255 - 10 * i, 77), np.uint8)).save(out, ("JPEG", "PNG")[i % 2])
    return out.getvalue()


def japanese(i):
    return f"{i}番目の写真：「赤い円」と“青い四角”、絵文字🎨"


def write_tars(folder):
    """Sample i of tar t is number 8 t + i."""
    folder.mkdir()
    for t in range(N_TARS):
        with tarfile.open(folder / f"{t:05d}.tar", "w") as tar:
            for i in range(t * PER_TAR, (t + 1) * PER_TAR):
                license = "all rights reserved" if i in FORBIDDEN else ("CC0", "CC BY 4.0")[i % 2]
                facts = {"url": url(i), "license": license, "author": f"photographer {i}"}
                members = {("jpg", "png")[i % 2]: encoded(i), "txt": f"alt {i}".encode(), "json": json.dumps(facts)}
                for extension, data in members.items():
                    data = data if isinstance(data, bytes) else data.encode()
                    info = tarfile.TarInfo(f"photo{i:03d}.{extension}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))


def write_samples(path, tars, config=None, chunk_rows=5):
    files = {f.name: f for f in list_inputs(str(tars))}
    parts = [InputPart(f.name, f.path, f.n_items, f.signature) for f in files.values()]
    output = open_output(str(path), SAMPLES, "ingest", {}, parts, chunk_rows)
    for chunk in output.chunks:
        rows = list(ingest_rows(files[chunk.part.name], chunk.start, chunk.stop, config or IngestConfig()))
        commit_part(output.folder, chunk.file, SAMPLES.table(rows))


def derive(path, row_type, producer, source, make, chunk_rows=3, version=0):
    """A table made from the kept rows of another one, chunk by chunk, as jobs do."""
    view = open_table(str(source))
    parts = {part.as_input().name: part for part in view.parts}
    output = open_output(str(path), row_type, producer, {"v": version}, view.inputs(), chunk_rows, "recompute")
    for chunk in output.chunks:
        rows = parts[chunk.part.name].read().slice(chunk.start, chunk.stop - chunk.start).to_pylist()
        made = [make(row) for row in rows if row["outcome"] == "kept"]
        commit_part(output.folder, chunk.file, row_type.table(made))
    return output


def number(row):
    return int(row["row_id"][-3:])


def caption(row, captioner, text, fate=None, **more):
    return {
        "caption_id": f"{row['row_id']}/{captioner}/p",
        "row_id": row["row_id"],
        "sample_id": row["sample_id"],
        "text": text,
        "language": "en",
        "captioner": captioner,
        "model": f"models/{captioner}",
        "revision": f"rev-{captioner}",
        "prompt_name": "p",
        "prompt_hash": "0123456789ab",
        **(fate or kept()),
        **more,
    }


def alpha(row):
    return caption(row, "alpha", f"alpha sees {number(row)}")


def beta(row):
    fate = error("caption", "Boom") if number(row) in NO_BETA else None
    return caption(row, "beta", f"beta | sees {number(row)}", fate, gs=5.2)


def made_from(row, step, text, **more):
    source = {"caption_id": f"{row['caption_id']}/{step}", "source_caption_id": row["caption_id"]}
    return caption(row, step, text, **{**source, **more})


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Tars → samples → captions by two captioners → translated, generalized."""
    root = tmp_path_factory.mktemp("world")
    write_tars(root / "tars")
    write_samples(root / "samples", root / "tars")
    derive(root / "captions", CAPTIONS, "alpha", root / "samples", alpha)
    derive(root / "captions", CAPTIONS, "beta", root / "samples", beta, chunk_rows=4)
    derive(
        root / "translated",
        CAPTIONS,
        "ja",
        root / "captions",
        lambda row: made_from(row, "ja", japanese(number(row)), language="ja"),
        chunk_rows=2,
    )
    derive(
        root / "generalized",
        CAPTIONS,
        "five",
        root / "captions",
        lambda row: made_from(row, "five", "a picture", level="five_words"),
    )
    return root


def config(world, output, **more):
    tables = [str(world / name) for name in ("captions", "translated", "generalized")]
    return JobConfig.model_validate(
        {"samples": str(world / "samples"), "captions": tables, "output": str(output), **more}
    )


def export(world, output, options=None, **more):
    """The summary of the export, or the facts of its plan."""
    step = run(config(world, output, **more), options or RunOptions()).steps["export"]
    return step.facts if isinstance(step, FolderPlan) else step.values


def files_of(folder):
    """Without the record of the run, which names the output folder."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != RECORD)
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def read_tars(folder):
    """The samples of an export as the webdataset library reads them: undecoded bytes."""
    urls = sorted(map(str, folder.glob("*.tar")))
    return list(webdataset.WebDataset(urls, shardshuffle=False, nodesplitter=None, empty_check=False))


MAIN = {"main": [{"captioner": "nobody"}, {"language": "ja"}]}


def test_webdataset_tars_hold_every_sample_with_its_own_bytes(world, tmp_path):
    summary = export(world, tmp_path / "out", select=MAIN, rows_per_shard=10)
    assert summary["rows"] == {"in": N, "kept": len(KEPT), "rejected": {"sample_rejected": 2}, "error": {}}
    # alpha and beta, each translated and generalized; three less where beta failed
    assert summary["captions"] == 6 * len(KEPT) - 3
    assert summary["licenses"] == {"CC0-1.0": 12, "CC-BY-4.0": 10}
    assert sorted(files_of(tmp_path / "out")) == ["00000.tar", "00001.tar", "00002.tar", "README.md", "manifest.json"]
    found = read_tars(tmp_path / "out")
    assert [s["__url__"][-9:-4] for s in found] == ["00000"] * 10 + ["00001"] * 10 + ["00002"] * 2
    for order, (i, sample) in enumerate(zip(KEPT, found, strict=True)):
        extension = ("jpg", "png")[i % 2]
        facts = json.loads(sample["json"])
        assert sample["__key__"] == f"{order:09d}-{facts['sample_id'][:12]}"
        assert sample[extension] == encoded(i)
        assert sample["txt"] == japanese(i).encode()
        row_id = f"{i // PER_TAR:05d}.tar/photo{i:03d}"
        expected = {
            "row_id": row_id,
            "url": url(i),
            "license": ("CC0-1.0", "CC-BY-4.0")[i % 2],
            "license_evidence": f"license={('CC0', 'CC BY 4.0')[i % 2]}",
            "original_caption": f"alt {i}",
            "caption_id": f"{row_id}/alpha/p/ja",
            "width": 48,
            "height": 32,
            "sources": [],
        }
        assert {k: facts[k] for k in expected} == expected
        assert json.loads(facts["metadata"])["author"] == f"photographer {i}"
        captions = {c["caption_id"]: c for c in facts["captions"]}
        assert len(captions) == len(facts["captions"]) == (3 if i in NO_BETA else 6)
        assert captions[f"{row_id}/alpha/p/ja"] == {
            "caption_id": f"{row_id}/alpha/p/ja",
            "text": japanese(i),
            "language": "ja",
            "level": None,
            "captioner": "ja",
            "model": "models/ja",
            "revision": "rev-ja",
            "prompt_name": "p",
            "prompt_hash": "0123456789ab",
            "source_caption_id": f"{row_id}/alpha/p",
            "gs": None,
        }
        if i not in NO_BETA:
            assert captions[f"{row_id}/beta/p"]["gs"] == 5.2
            assert captions[f"{row_id}/beta/p/five"]["level"] == "five_words"


@pytest.mark.parametrize("layout", ["webdataset", "datasets"])
def test_our_own_ingest_reads_an_export_back(world, tmp_path, layout):
    export(world, tmp_path / "out", layout=layout, rows_per_shard=9)
    write_samples(tmp_path / "again", tmp_path / "out", IngestConfig(materialize=True))
    rows = [row for table in open_table(str(tmp_path / "again")).rows() for row in table.to_pylist()]
    first = [row for table in open_table(str(world / "samples")).rows() for row in table.to_pylist()]
    same = ("sample_id", "license", "url", "width", "height", "format", "length")
    assert [[row[k] for k in same] for row in rows] == [[row[k] for k in same] for row in first]
    assert [row["image"] for row in rows] == [encoded(i) for i in KEPT]
    assert [row["caption"] for row in rows] == [f"alpha sees {i}" for i in KEPT]


def test_a_folder_for_hugging_face_datasets(world, tmp_path):
    export(world, tmp_path / "out", layout="datasets", rows_per_shard=9, select=MAIN)
    names = [f"data/train-{k:05d}-of-00003.parquet" for k in range(3)]
    assert sorted(files_of(tmp_path / "out")) == ["README.md", *names, "manifest.json"]
    header = yaml.safe_load((tmp_path / "out/README.md").read_text(encoding="utf-8").split("---\n")[1])
    assert header["license"] == ["cc-by-4.0", "cc0-1.0"]
    assert header["language"] == ["en", "ja"]
    loaded = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert isinstance(loaded.features["image"], datasets.Image)
    assert loaded.features == datasets.Features._from_yaml_list(header["dataset_info"]["features"])
    assert len(loaded) == len(KEPT)
    for i, row in zip(KEPT, loaded, strict=True):
        assert np.abs(np.asarray(row["image"]).astype(int) - (10 * i, 255 - 10 * i, 77)).max() <= 3  # JPEG
        assert row["caption"] == japanese(i)
        assert (row["url"], row["original_caption"]) == (url(i), f"alt {i}")
        assert len(row["captions"]) == (3 if i in NO_BETA else 6)
        assert {c["revision"] for c in row["captions"]} <= {"rev-alpha", "rev-beta", "rev-ja", "rev-five"}
    raw = loaded.cast_column("image", datasets.Image(decode=False))
    assert [row["image"]["bytes"] for row in raw] == [encoded(i) for i in KEPT]
    # The Parquet files alone, without the card, still hold pictures.
    alone = datasets.Dataset.from_parquet(str(tmp_path / "out" / names[0]), cache_dir=str(tmp_path / "cache"))
    assert isinstance(alone.features["image"], datasets.Image)


def test_the_card_counts_what_is_there(world, tmp_path):
    export(world, tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert "22 images with 129 captions, in 1 files." in card
    assert "| CC-BY-4.0 | 10 |" in card
    assert "| beta | models/beta | rev-beta | en |  | 21 |" in card
    assert "| five | models/five | rev-five | en | five_words | 43 |" in card
    assert "| sample_rejected | 2 |" in card


def test_tars_of_one_image_format_open_in_datasets_too(world, tmp_path):
    export(world, tmp_path / "out", RunOptions(limit=1))
    (row,) = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert (row["txt"], row["json"]["url"], row["jpg"].size) == ("alpha sees 0", url(0), (48, 32))


@pytest.mark.parametrize("layout", ["webdataset", "datasets"])
def test_the_same_input_gives_the_same_bytes_in_shards_of_the_right_size(world, tmp_path, layout):
    limit = {"webdataset": 35_000, "datasets": 14_000}[layout]
    for name in ("a", "b"):
        export(world, tmp_path / name, layout=layout, rows_per_shard=6, max_shard_bytes=limit)
    files = files_of(tmp_path / "a")
    assert files == files_of(tmp_path / "b")
    shards = json.loads(files["manifest.json"])["shards"]
    assert [len(files[s["name"]]) for s in shards] == [s["bytes"] for s in shards]
    assert sum(s["rows"] for s in shards) == len(KEPT)
    sizes = [s.get("raw_bytes", s["bytes"]) for s in shards]
    assert max(sizes) <= limit
    assert max(s["rows"] for s in shards) <= 6
    # None was cut too early: every sample is smaller than half a shard, so all but the last are more than half full.
    assert all(size > limit / 2 or s["rows"] == 6 for size, s in zip(sizes[:-1], shards, strict=False))
    assert any(s["rows"] < 6 for s in shards[:-1]), "the limit of bytes was never reached"
    export(world, tmp_path / "c", layout=layout, max_shard_bytes=1)
    assert [s["rows"] for s in json.loads(files_of(tmp_path / "c")["manifest.json"])["shards"]] == [1] * len(KEPT)


@pytest.mark.parametrize(
    ("select", "samples", "captions", "main"),
    [
        ({"captioners": ["beta"]}, 21, 21, "beta | sees 0"),
        ({"languages": ["ja"]}, 22, 43, japanese(0)),
        ({"levels": ["five_words"]}, 22, 43, "a picture"),
        ({"levels": ["none"], "languages": ["en"]}, 22, 43, "alpha sees 0"),
        ({"levels": ["none"], "languages": ["en"], "min_captions": 2}, 21, 42, "alpha sees 0"),
        ({"main": [{"level": "none", "language": "en", "captioner": "beta"}]}, 22, 129, "beta | sees 0"),
        ({"main": [{"level": "general"}, {"level": "five_words"}]}, 22, 129, "a picture"),
    ],
)
def test_selected_captions(world, tmp_path, select, samples, captions, main):
    summary = export(world, tmp_path / "out", select=select)
    assert (summary["samples"], summary["captions"]) == (samples, captions)
    assert summary["rows"]["rejected"].get("too_few_captions", 0) == len(KEPT) - samples
    assert read_tars(tmp_path / "out")[0]["txt"].decode() == main


def test_a_selection_of_nothing_is_refused(world, tmp_path):
    with pytest.raises(InputError, match=r"no sample to export.*'too_few_captions': 22"):
        export(world, tmp_path / "out", select={"captioners": ["gamma"]})
    assert list(tmp_path.iterdir()) == []


def test_representatives_only_with_the_strictest_license_of_their_copies(world, tmp_path):
    """Sample 2 is a copy of sample 0 that came under another license; sample 4 is not in the table."""

    def cluster(row):
        i = number(row)
        sources = [{"row_id": f"r{k}", "url": url(k), "license": ("CC0-1.0", "CC-BY-4.0")[k // 2]} for k in (0, 2)]
        base = {"row_id": row["row_id"] if i != 4 else "elsewhere", "cluster_size": 1, "license": row["license"]}
        if i in (0, 2):
            base |= {"cluster_size": 2, "license": "CC-BY-4.0", "sources": sources}
        return base | (rejected("duplicate_of:r0") if i == 2 else kept())

    derive(tmp_path / "duplicates", DUPLICATES, "dedup", world / "samples", cluster)
    summary = export(world, tmp_path / "out", duplicates=str(tmp_path / "duplicates"))
    assert summary["rows"]["rejected"] == {"duplicate_of": 1, "not_deduplicated": 1, "sample_rejected": 2}
    facts = [json.loads(sample["json"]) for sample in read_tars(tmp_path / "out")]
    assert [number(f) for f in facts] == [i for i in KEPT if i not in (2, 4)]
    assert facts[0]["license"] == "CC-BY-4.0"
    assert facts[0]["license_evidence"] == "the strictest of 2 copies; this one: license=CC0"
    assert [s["url"] for s in facts[0]["sources"]] == [url(0), url(2)]
    assert facts[1]["license_evidence"] == "license=CC BY 4.0"


def test_an_unknown_license_never_leaves(world, tmp_path):
    """Not even when it was let in on purpose."""
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars/0.tar", "w") as tar:
        for i, license in enumerate(["CC0", "see website", None]):
            facts = json.dumps({"license": license, "url": url(i)}).encode()
            for name, data in ((f"photo{i:03d}.png", encoded(i)), (f"photo{i:03d}.json", facts)):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    lax = IngestConfig(check_licenses=False, require_caption=False)
    write_samples(tmp_path / "samples", tmp_path / "tars", lax)
    derive(tmp_path / "captions", CAPTIONS, "alpha", tmp_path / "samples", alpha)
    summary = export(tmp_path, tmp_path / "out", captions=[str(tmp_path / "captions")])
    assert summary["rows"] == {"in": 3, "kept": 1, "rejected": {"license_unknown": 2}, "error": {}}
    assert [json.loads(s["json"])["url"] for s in read_tars(tmp_path / "out")] == [url(0)]


def test_a_finished_export_is_left_alone_and_a_changed_one_is_asked_about(world, tmp_path, capsys):
    out = tmp_path / "out"
    summary = export(world, out)
    stamp = (out / "00000.tar").stat().st_mtime_ns
    assert export(world, out) == summary
    assert run(config(world, out), RunOptions()).steps["export"].state == "nothing to do"
    with pytest.raises(InputError, match=r"select\.min_captions: 1 → 2"):
        export(world, out, select={"min_captions": 2})
    assert export(world, out, RunOptions(on_change="keep"), select={"min_captions": 6})["samples"] == 22
    assert (out / "00000.tar").stat().st_mtime_ns == stamp
    assert export(world, out, RunOptions(on_change="recompute"), select={"min_captions": 6})["samples"] == 21
    assert len(read_tars(out)) == 21
    assert os.listdir(tmp_path) == ["out"]


def test_more_captions_are_a_change(world, tmp_path):
    derive(tmp_path / "captions", CAPTIONS, "alpha", world / "samples", alpha)
    tables = [str(tmp_path / "captions")]
    export(world, tmp_path / "out", captions=tables)
    derive(tmp_path / "captions", CAPTIONS, "beta", world / "samples", beta)
    with pytest.raises(InputError, match="contents"):
        export(world, tmp_path / "out", captions=tables)


def test_a_trial_is_replaced_by_the_whole(world, tmp_path, capsys):
    out = tmp_path / "out"
    assert export(world, out, RunOptions(limit=9))["samples"] == 9
    assert [number(json.loads(s["json"])) for s in read_tars(out)] == KEPT[:9]
    assert export(world, out, RunOptions(limit=5))["samples"] == 9
    assert export(world, out)["samples"] == len(KEPT)
    assert export(world, out, RunOptions(limit=5))["samples"] == len(KEPT)


def test_dry_run_counts_and_writes_nothing(world, tmp_path, capsys):
    plan = export(world, tmp_path / "out", RunOptions(dry_run=True), select={"min_captions": 6})
    assert (plan["rows"], plan["samples"], plan["captions"], plan["left out: too_few_captions"]) == (24, 21, 126, 1)
    assert list(tmp_path.iterdir()) == []


def test_bad_places_and_tables_are_refused(world, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("years of work")
    (tmp_path / "mine/manifest.json").write_text('{"parts": []}')
    with pytest.raises(InputError, match="is not empty and is not an output of export"):
        export(world, tmp_path / "mine")
    with pytest.raises(InputError, match="is not empty and is not an output of export"):
        export(world, tmp_path / "mine/thesis.tex")
    with pytest.raises(InputError, match="local or mounted"):
        export(world, "s3://bucket/out")
    with pytest.raises(InputError, match="twice"):
        export(world, tmp_path / "out", captions=[str(world / "captions")] * 2)
    with pytest.raises(InputError, match="holds samples rows, expected captions rows"):
        export(world, tmp_path / "out", captions=[str(world / "samples")])
    derive(tmp_path / "copy", CAPTIONS, "alpha", world / "samples", alpha)
    with pytest.raises(InputError, match="captions with the same id in two"):
        export(world, tmp_path / "out", captions=[str(world / "captions"), str(tmp_path / "copy")])
    assert (tmp_path / "mine/thesis.tex").read_text() == "years of work"
    assert sorted(os.listdir(tmp_path)) == ["copy", "mine"]


def test_captions_of_other_samples_are_refused(world, tmp_path):
    (tmp_path / "tars").mkdir()
    (world / "tars/00000.tar").rename(tmp_path / "tars/other.tar")
    try:
        write_samples(tmp_path / "samples", tmp_path / "tars")
    finally:
        (tmp_path / "tars/other.tar").rename(world / "tars/00000.tar")
    with pytest.raises(InputError, match="were not made from"):
        export(tmp_path, tmp_path / "out", captions=[str(world / "captions")])


@pytest.fixture
def own(tmp_path):
    """Samples and captions of one's own, whose tars may be damaged."""
    write_tars(tmp_path / "tars")
    write_samples(tmp_path / "samples", tmp_path / "tars")
    derive(tmp_path / "captions", CAPTIONS, "alpha", tmp_path / "samples", alpha)
    return tmp_path


def test_lost_images_are_counted_and_tried_again_when_asked(own, capsys):
    tables = {"captions": [str(own / "captions")]}
    (own / "tars/00001.tar").rename(own / "away.tar")
    data = bytearray((own / "tars/00002.tar").read_bytes())
    data[600] ^= 1  # inside the first picture
    (own / "tars/00002.tar").write_bytes(data)
    summary = export(own, own / "out", **tables)
    assert summary["rows"]["error"] == {"FileNotFoundError": 7, "ValueError": 1}
    errors = json.loads((own / "out/manifest.json").read_text())["errors"]
    assert [number(e) for e in errors] == [*range(8, 15), 16]
    assert "other bytes at photo016.jpg" in errors[-1]["detail"]
    found = [number(json.loads(s["json"])) for s in read_tars(own / "out")]
    assert found == [i for i in KEPT if i < 8 or i > 16]
    (own / "away.tar").rename(own / "tars/00001.tar")
    again = run(config(own, own / "out", **tables), RunOptions())
    assert again.steps["export"].values["samples"] == 14
    assert again.notes == ("8 images could not be read; --on-change recompute tries again",)
    assert export(own, own / "out", RunOptions(on_change="recompute"), **tables)["samples"] == 21


def test_too_many_lost_images_stop_the_run_and_the_old_export_stays(own):
    tables = {"captions": [str(own / "captions")]}
    export(own, own / "out", RunOptions(limit=3), **tables)
    before = files_of(own / "out")
    (own / "tars").rename(own / "away")
    with pytest.raises(RunFailed, match=r"the images of 20 samples cannot be read.*00000\.tar/photo000"):
        export(own, own / "out", **tables)
    assert files_of(own / "out") == before
    assert sorted(os.listdir(own)) == ["away", "captions", "out", "samples"]


@pytest.mark.parametrize("layout", ["webdataset", "datasets"])
def test_a_full_disk_is_named_and_leaves_nothing(world, tmp_path, layout):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(InputError, match="cannot write into"):
            export(world, tmp_path / "out", layout=layout)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_killed_export_leaves_no_half_one_and_is_done_again(own):
    """The second tar is a pipe that nobody writes to: the run surely hangs in the middle, where it is killed."""
    settings = {"captions": [str(own / "captions")], "rows_per_shard": 3}
    export(own, own / "expected", **settings)
    (own / "tars/00001.tar").rename(own / "away.tar")
    os.mkfifo(own / "tars/00001.tar")
    program = (
        "import sys; from raysys.jobs.export import JobConfig, run; from raysys.jobs.options import RunOptions\n"
        "run(JobConfig.model_validate_json(sys.argv[1]), RunOptions())"
    )
    wanted = config(own, own / "out", **settings)
    process = start([sys.executable, "-c", program, wanted.model_dump_json()])
    wait_for((own / "_out.staging/00002.tar").exists, process)
    os.kill(process.pid, signal.SIGKILL)
    assert finish(process)[0] == -signal.SIGKILL
    assert not (own / "out").exists()
    os.unlink(own / "tars/00001.tar")
    (own / "away.tar").rename(own / "tars/00001.tar")
    run(wanted, RunOptions())
    assert files_of(own / "out") == files_of(own / "expected")
    assert not [name for name in os.listdir(own) if name.startswith("_")]


def test_tables_are_read_by_pandas_and_duckdb_alone(world, tmp_path):
    """The recipe of the documentation: the folder that `raysys status` prints, and `outcome = 'kept'`."""
    derive(tmp_path / "captions", CAPTIONS, "beta", world / "samples", lambda row: alpha(row), version=1)
    output = derive(tmp_path / "captions", CAPTIONS, "beta", world / "samples", beta, version=2)
    part = next(p for p in open_table(str(tmp_path / "captions")).parts if "00000.tar/photo003" in str(p.read()))
    (row,) = [r for r in part.read().to_pylist() if r["outcome"] == "error"]
    fixed = CAPTIONS.table([{**row, "text": japanese(3), "language": "ja", **kept()}])
    commit_part(output.folder, part.chunk.retry_file(1), fixed)
    output.folder.write("_run/summary.json", b"{}")

    folder = output.folder.url
    frame = pandas.read_parquet(folder, filters=[("outcome", "==", "kept")])
    query = f"SELECT row_id, text FROM read_parquet('{folder}/*.parquet') WHERE outcome = 'kept' ORDER BY row_id"
    expected = [(f"{i // PER_TAR:05d}.tar/photo{i:03d}", japanese(3) if i == 3 else f"beta | sees {i}") for i in KEPT]
    assert duckdb.sql(query).fetchall() == expected
    assert sorted(zip(frame["row_id"], frame["text"], strict=True)) == expected
    assert list(frame.columns) == CAPTIONS.schema.names
    # Which folder is current, without raysys:
    records = [tmp_path / "captions/_table.json", *sorted(tmp_path.glob("captions/_table/*.json"))]
    current = json.loads(records[-1].read_text())["current"]
    assert [f"{name}-{digest}" for name, digest in current.items()] == [Path(folder).name]


def test_avif_and_heic_are_exported_as_they_are(tmp_path):
    register_heif_opener()
    picture = Image.fromarray(np.full((32, 48, 3), (200, 30, 77), np.uint8))
    (tmp_path / "photos").mkdir()
    for name, form in (("a.avif", "AVIF"), ("b.heic", "HEIF")):
        picture.save(tmp_path / "photos" / name, form)
    write_samples(
        tmp_path / "samples", tmp_path / "photos", IngestConfig(declared_license="CC0", require_caption=False)
    )
    derive(
        tmp_path / "captions", CAPTIONS, "alpha", tmp_path / "samples", lambda row: caption(row, "alpha", "a red field")
    )
    assert export(tmp_path, tmp_path / "out", captions=[str(tmp_path / "captions")])["rows"]["kept"] == 2
    first, second = read_tars(tmp_path / "out")
    assert first["avif"] == (tmp_path / "photos/a.avif").read_bytes()
    assert second["heic"] == (tmp_path / "photos/b.heic").read_bytes()


def test_every_format_that_can_be_ingested_has_an_extension():
    assert set(EXTENSIONS) == {*FORMATS, *CODECS}
