"""`raysys dedup` on a folder of pictures: the table at its end, the list of pairs, the page of clusters."""

from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raysys import cli
from raysys.outcomes import error, kept, rejected
from raysys.rows import DUPLICATES
from raysys.shards.duplicates_summary import pairs, summarize
from raysys.shards.images import image_reader
from raysys.tables import InputPart, commit_part, open_output, open_table
from tests.support.html_page import Page
from tests.support.screenshot import HINT, chromium, measure

N_ORIGINALS = 6


def run_cli(*args: str) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main(list(args))
    return caught.value.code


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six different pictures; of the first two exact copies and a smaller JPEG, of the second one smaller JPEG."""
    root = tmp_path_factory.mktemp("dedup")
    photos = root / "photos"
    photos.mkdir()
    for i in range(N_ORIGINALS):
        noise = np.random.default_rng(i).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        image = Image.fromarray(noise).resize((128, 128), Image.Resampling.BICUBIC)
        image.save(photos / f"{i}.png")
        if i < 2:
            image.resize((96, 96)).save(photos / f"{i}_small.jpg", quality=80)
    for name in ("0_copy", "0_<b>copy"):
        shutil.copy(photos / "0.png", photos / f"{name}.png")
    settings = ["ingest.require_caption=false", "ingest.declared_license=CC0-1.0", "--address", "inline"]
    assert run_cli("ingest", "--config", "demo", f"input={photos}", f"output={root}/samples", *settings) == 0
    return root


def dedup(folder: Path, *more: str) -> int:
    places = [f"{name}={folder}/{name}" for name in ("samples", "features")]
    return run_cli("dedup", "--config", "demo", *places, f"output={folder}/duplicates", "--address", "inline", *more)


PAIRS = {("0_copy.png", "exact"), ("0_<b>copy.png", "exact"), ("0_small.jpg", "near"), ("1_small.jpg", "near")}


def test_it_ends_with_a_table_also_when_there_is_nothing_to_do(folder: Path, capsys) -> None:
    for _ in range(2):
        assert dedup(folder) == 0
        lines = capsys.readouterr().out.splitlines()
        facts = dict(re.split(r" {2,}", line.strip(), maxsplit=1) for line in lines if line.startswith("  "))
        assert facts["images"] == "10"
        assert facts["unique"] == "4"
        assert facts["clusters of two or more"] == "2"
        assert facts["duplicates"] == "4 (exact 2, near 2)"
        assert re.fullmatch(r"lowest (0\.9\d\d|1\.000), median (0\.9\d\d|1\.000)", facts["similarity of near ones"])
        start = lines.index("largest clusters")
        assert [line.split()[:2] for line in lines[start + 3 :]] == [["photos/0.png", "4"], ["photos/1.png", "2"]]


def test_pairs_as_csv_and_clusters_as_images(folder: Path, tmp_path: Path, capsys) -> None:
    page, table = tmp_path / "new" / "out.html", tmp_path / "pairs.csv"
    assert dedup(folder, "--report", str(page), "--csv", str(table)) == 0
    assert f"wrote {page}" in capsys.readouterr().err
    rows = list(csv.DictReader(table.open()))
    assert {(row["row_id"].removeprefix("photos/"), row["how"]) for row in rows} == PAIRS
    assert {row["row_id"][7] == row["representative"][7] for row in rows} == {True}
    assert all(0.9 < float(row["similarity"]) <= 1 for row in rows)
    found = Page(page.read_text())
    headings = [text for kind, text in found.headings if kind == "h2"]
    assert headings[:2] == ["Closest to the threshold", "The largest clusters"]
    # Two pairs beside their representatives, then clusters of four and of two.
    assert len(found.all("img")) == 2 * 2 + 4 + 2
    assert all(image["src"].startswith("data:image/png;base64,") for image in found.all("img"))
    assert found.row("exact duplicates (same bytes)")[0] == "2"
    assert found.row("near-duplicates")[0] == "2"
    assert "<b>copy" not in page.read_text()


@pytest.mark.skipif(chromium() is None, reason=HINT)
def test_the_page_fits_a_phone(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "out.html"
    assert dedup(folder, "--report", str(page)) == 0
    width, _, n_broken = measure(page, 390)
    assert (width, n_broken) == (390, 0)


def test_pictures_that_are_gone_leave_the_page_readable(folder: Path, tmp_path: Path) -> None:
    assert dedup(folder) == 0
    (folder / "photos/1_small.jpg").rename(tmp_path / "away.jpg")
    image_reader.cache_clear()  # files that are open can still be read
    page = tmp_path / "out.html"
    try:
        assert dedup(folder, "--report", str(page)) == 0
    finally:
        (tmp_path / "away.jpg").rename(folder / "photos/1_small.jpg")
    found = Page(page.read_text())
    assert len(found.all("span", "missing")) == 2
    assert len(found.all("img")) == 8


def test_a_dry_run_writes_no_page(folder: Path, tmp_path: Path) -> None:
    assert dedup(folder, "--dry-run", "--report", str(tmp_path / "x.html"), "--csv", str(tmp_path / "x.csv")) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_is_a_folder_is_refused_before_any_work(tmp_path: Path, capsys) -> None:
    assert run_cli("dedup", "samples=nowhere", "--report", str(tmp_path)) == 2
    assert f"--report {tmp_path} is a folder" in capsys.readouterr().err


def test_summary_of_many_parts_conflicts_and_undescribed_rows(tmp_path: Path) -> None:
    """Cluster k of 5 has k + 2 rows in several parts; cluster 4 conflicts with a license; row x was not described."""
    rows: list[dict] = []
    for k in range(5):
        for i in range(k + 2):
            fate = rejected("license_conflict:9" if k == 4 else f"duplicate_of:{k}-0") if i or k == 4 else kept()
            how = ("exact" if i == 1 else "near") if i else "near"
            similarity = 1.0 if i < 2 else 0.99 - 0.01 * k - 0.001 * i
            cluster = {"cluster_size": k + 2, "representative": f"{k}-0", "cluster_id": f"{k}-0"}
            rows.append({"row_id": f"{k}-{i}", "kind": how, "similarity": similarity, **cluster, **fate})
    rows.append({"row_id": "x", **error("describe", "OSError")})
    alone = {"cluster_size": 1, "representative": "u", "kind": "unique", "similarity": 1.0}
    rows.append({"row_id": "u", **alone, **kept()})
    rows = rows[::-1]
    output = open_output(str(tmp_path / "d"), DUPLICATES, "dedup", {}, [InputPart("a", "/a", len(rows), "s")], 4)
    for chunk in output.chunks:
        commit_part(output.folder, chunk.file, DUPLICATES.table(rows[chunk.start : chunk.stop]))
    view = open_table(str(tmp_path / "d"))
    found = summarize(view, n_clusters=2, n_members=2, n_pairs=3)
    assert (found.rows, found.unique, found.clusters, found.exact, found.near) == (22, 1, 5, 5, 10)
    assert (found.not_described, found.conflicts) == (1, 6)
    assert found.rows == found.unique + found.clusters + found.duplicates + found.not_described
    assert [(c.representative, c.size, [m.row_id for m in c.members]) for c in found.largest] == [
        ("4-0", 6, ["4-5", "4-4"]),
        ("3-0", 5, ["3-4", "3-3"]),
    ]
    assert [pair.row_id for pair in found.closest_to_threshold] == ["4-5", "4-4", "4-3"]
    near = sorted(row["similarity"] for row in rows if row.get("kind") == "near" and not row["row_id"].endswith("-0"))
    assert found.lowest_similarity == pytest.approx(near[0])
    assert found.median_similarity == pytest.approx((near[4] + near[5]) / 2, abs=0.01)
    assert [(p["row_id"], p["representative"]) for p in pairs(view)] == [
        (row["row_id"], row["representative"]) for row in rows if row.get("representative") not in (None, row["row_id"])
    ]
