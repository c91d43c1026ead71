"""New photos in an ingested folder, new tars, new lines of an index: only they are work, downstream too."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from raysys.errors import InputError
from raysys.jobs import caption, dedup, describe, export, ingest
from raysys.jobs.options import RunOptions, inline
from raysys.shards.images import image_reader
from raysys.tables import open_table
from raysys.tables.verify import verify
from tests.support.fake_endpoint import FakeEndpoint
from tests.support.photos import photo_tiles, png_bytes

N = 10


@pytest.fixture(scope="module")
def tiles():
    return [png_bytes(tile) for tile in photo_tiles(128)[: N + 4]]


@pytest.fixture
def photos(tmp_path, tiles):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(N):
        (folder / f"{i:02d}.png").write_bytes(tiles[i])
    return folder


def own(**config):
    return {"require_caption": False, "declared_license": "CC0", **config}


def ingested(root: Path, source: Path, chunk_rows: int = 4, on_change: str = "refuse", **rules):
    config = ingest.JobConfig(
        input=str(source), output=str(root / "samples"), ingest=own(**rules), chunk_rows=chunk_rows
    )
    return ingest.run(config, inline(on_change=on_change)).steps["ingest"]


def rows(table: Path, column: str = "row_id") -> list:
    return [value for part in open_table(str(table)).rows([column], outcome=None) for value in part[column].to_pylist()]


def parts(table: Path) -> dict[str, tuple[bytes, int]]:
    """{file: (bytes, time of the last change)} of the parts of a table."""
    return {str(p.relative_to(table)): (p.read_bytes(), p.stat().st_mtime_ns) for p in table.rglob("*.parquet")}


def all_jobs(root: Path, photos: Path, server: FakeEndpoint) -> dict:
    """The summaries of ingest → describe → dedup → caption → export."""
    at = {name: str(root / name) for name in ("samples", "features", "duplicates", "captions")}
    llm = {"engine": "openai", "model": "tiny", "endpoint": {"base_url": server.base_url}}
    captioner = {"name": "far", "recipe": "blip2", "llm": llm}
    captions = {"samples": at["samples"], "duplicates": at["duplicates"], "output": at["captions"], "chunk_rows": 3}
    deduped = {"samples": at["samples"], "features": at["features"], "output": at["duplicates"], "chunk_rows": 3}
    described = {"images": at["samples"], "output": at["features"], "chunk_rows": 3}
    steps = {"ingest": ingested(root, photos)}
    steps |= describe.run(describe.JobConfig.model_validate(described), inline()).steps
    steps |= dedup.run(dedup.JobConfig.model_validate(deduped), inline()).steps
    captions = caption.JobConfig.model_validate(captions | {"captioners": [captioner]})
    steps |= caption.run(captions, inline()).steps
    exported = {name: at[name] for name in ("samples", "duplicates", "captions")} | {"output": str(root / "tars")}
    return steps | export.run(export.JobConfig.model_validate(exported), inline()).steps


def test_one_more_photo_is_one_more_row_in_every_job(tmp_path, photos, tiles):
    with FakeEndpoint() as server:
        first = all_jobs(tmp_path, photos, server)
        n_asked = len(server.seen)
        (photos / "README.md").write_text("no image")
        (photos / "00b.png").write_bytes(tiles[N])  # in the middle of the sorted names
        before = {name: parts(tmp_path / name) for name in ("samples", "features", "captions")}
        again = all_jobs(tmp_path, photos, server)
        idle = all_jobs(tmp_path, photos, server)
    assert first["ingest"].rows["kept"] == N
    assert [first["export"].values["samples"], again["export"].values["samples"]] == [N, N + 1]
    assert first["duplicates"].values["rows"]["kept"] == N
    assert n_asked == 2 * N
    assert len(server.seen) - n_asked == 2  # the two prompts for the new photo
    for name, at_first in before.items():
        now = parts(tmp_path / name)
        assert {file: now[file] for file in at_first} == at_first, name
        (new,) = [file for file in set(now) - set(at_first) if "_inputs" not in file]
        assert "photos+1.0" in new
    assert rows(tmp_path / "samples")[-1] == "photos/00b.png"
    assert sorted(rows(tmp_path / "features", "image_id")) == sorted(rows(tmp_path / "samples"))
    assert len(rows(tmp_path / "captions", "caption_id")) == 2 * (N + 1)
    assert again["duplicates"].values["rows"]["kept"] == N + 1
    assert {name: step.state for name, step in idle.items()} == dict.fromkeys(idle, "nothing to do")
    for name in before:
        assert verify(str(tmp_path / name)).ok


def test_every_addition_is_a_part_and_the_row_ids_do_not_tell(tmp_path, photos, tiles):
    ingested(tmp_path, photos)
    for k in (1, 2):
        (photos / f"new{k}.png").write_bytes(tiles[N + k])
        assert ingested(tmp_path, photos).rows["kept"] == N + k
    assert [c.name for c in open_table(str(tmp_path / "samples")).outputs[0].chunks] == [
        *(f"photos.{k}" for k in range(3)),
        "photos+1.0",
        "photos+2.0",
    ]
    whole = tmp_path / "at once"
    whole.mkdir()
    ingested(whole, photos)
    assert sorted(rows(tmp_path / "samples")) == sorted(rows(whole / "samples"))
    for part in open_table(str(tmp_path / "samples")).rows():
        for row in part.to_pylist():
            assert image_reader().read(row) == (photos / row["member"]).read_bytes()


def test_a_changed_or_deleted_photo_is_refused_and_only_its_part_is_redone(tmp_path, photos, tiles):
    ingested(tmp_path, photos)
    (photos / "new.png").write_bytes(tiles[N])
    ingested(tmp_path, photos)
    (photos / "new.png").write_bytes(tiles[N + 1] + b"\0")
    (photos / "newer.png").write_bytes(tiles[N + 2])
    with pytest.raises(InputError, match=r"photos\+1 changed"):
        ingested(tmp_path, photos)
    before = parts(tmp_path / "samples")
    assert ingested(tmp_path, photos, on_change="recompute").rows["kept"] == N + 2
    now = parts(tmp_path / "samples")
    unchanged = [name for name in before if "photos." in name]
    assert len(unchanged) == 3
    assert {name: now[name] for name in unchanged} == {name: before[name] for name in unchanged}
    (photos / "newer.png").unlink()
    with pytest.raises(InputError, match=r"photos\+2 is gone"):
        ingested(tmp_path, photos)
    (photos / "03.png").unlink()
    assert ingested(tmp_path, photos, on_change="recompute").rows["kept"] == N
    assert sorted(rows(tmp_path / "samples")) == sorted(f"photos/{p.name}" for p in photos.glob("*.png"))
    assert verify(str(tmp_path / "samples")).ok


def test_a_caption_file_that_is_added_to_an_old_photo_is_a_change(tmp_path, photos):
    ingested(tmp_path, photos)
    (photos / "notes.txt").write_text("of no photo")
    assert ingested(tmp_path, photos).state == "nothing to do"
    (photos / "03.txt").write_text("a caption")
    with pytest.raises(InputError, match="photos changed"):
        ingested(tmp_path, photos)


def test_a_run_that_was_killed_before_it_stored_its_list_goes_on(tmp_path, photos, tiles):
    """The plan is written, the list of its photos is not: the same folder is the same input."""
    config = ingest.JobConfig(input=str(photos), output=str(tmp_path / "samples"), ingest=own())
    ingest.run(config, inline(limit=4))
    (items,) = (tmp_path / "samples/_inputs").iterdir()
    items.unlink()
    for part in (tmp_path / "samples").glob("*/*.parquet"):
        part.unlink()
    assert ingested(tmp_path, photos).rows["kept"] == N
    assert items.exists()
    (photos / "new.png").write_bytes(tiles[N])
    assert ingested(tmp_path, photos).rows["kept"] == N + 1


def test_a_dry_run_and_a_refused_run_leave_no_list(tmp_path, photos, tiles):
    config = ingest.JobConfig(input=str(photos), output=str(tmp_path / "samples"), ingest=own())
    ingest.run(config, inline(dry_run=True))
    assert not (tmp_path / "samples").exists()
    ingested(tmp_path, photos)
    (photos / "new.png").write_bytes(tiles[N])
    with pytest.raises(InputError, match="max_aspect_ratio"):
        ingested(tmp_path, photos, max_aspect_ratio=2.0)
    assert len(list((tmp_path / "samples/_inputs").iterdir())) == 1


def test_one_more_tar_is_only_its_own_work(tmp_path, tiles):
    shards = tmp_path / "shards"
    shards.mkdir()

    def add(name: str, tile: bytes) -> None:
        (tmp_path / "x.png").write_bytes(tile)
        with tarfile.open(shards / name, "w") as tar:
            tar.add(tmp_path / "x.png", "x.png")

    add("1.tar", tiles[0])
    ingested(tmp_path, shards)
    before = parts(tmp_path / "samples")
    add("0.tar", tiles[1])
    assert ingested(tmp_path, shards).rows["kept"] == 2
    assert {name: data for name, data in parts(tmp_path / "samples").items() if name in before} == before


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_lines_that_are_appended_to_an_index_are_only_their_own_work(tmp_path, photos, kind):
    index = tmp_path / f"list.{kind}"

    def line(i: int) -> str:
        row = {"image": f"photos/{i:02d}.png", "caption": f"photo {i}"}
        return json.dumps(row) if kind == "jsonl" else ",".join(row.values())

    header = ["image,caption"] if kind == "csv" else []
    index.write_text("\n".join([*header, *map(line, range(6))]))  # no newline at the end
    assert ingested(tmp_path, index).rows["kept"] == 6
    before = parts(tmp_path / "samples")
    for start in (6, 8):
        with index.open("a") as file:
            file.write("".join(f"\n{line(i)}" for i in range(start, start + 2)) + "\n\n")
        assert ingested(tmp_path, index).rows["kept"] == start + 2
        assert ingested(tmp_path, index).state == "nothing to do"
    now = parts(tmp_path / "samples")
    assert {name: now[name] for name in before} == before
    assert rows(tmp_path / "samples") == [f"list.{kind}/{i:09d}" for i in range(10)]
    assert rows(tmp_path / "samples", "caption") == [f"photo {i}" for i in range(10)]
    index.write_text(index.read_text().replace("photo 1", "photo X"))
    with pytest.raises(InputError, match=f"list.{kind} changed"):
        ingested(tmp_path, index)
    assert ingested(tmp_path, index, on_change="recompute").rows["kept"] == 10
    assert verify(str(tmp_path / "samples")).ok


def test_a_last_line_that_is_continued_is_a_change(tmp_path, photos):
    index = tmp_path / "list.csv"
    index.write_text("image,caption\nphotos/00.png,a")
    ingested(tmp_path, index)
    index.write_text("image,caption\nphotos/00.png,a dog\nphotos/01.png,b")
    with pytest.raises(InputError, match=r"list\.csv changed"):
        ingested(tmp_path, index)


def test_the_plan_of_a_second_run_is_the_new_photo(tmp_path, photos, tiles):
    ingested(tmp_path, photos)
    (photos / "new.png").write_bytes(tiles[N])
    config = ingest.JobConfig(input=str(photos), output=str(tmp_path / "samples"), ingest=own())
    plan = ingest.run(config, inline(dry_run=True)).steps["ingest"]
    assert (plan.items, plan.pending_chunks, plan.pending_items) == (N + 1, 1, 1)


def test_workers_read_a_folder_from_the_list_in_the_table(run_folder, photos, tiles, ray_local):
    """On Ray, with relative paths; a photo that is added while the job runs belongs to the next run."""
    config = ingest.JobConfig(input="../photos", output="samples", ingest=own(), chunk_rows=4)
    assert ingest.run(config, RunOptions(limit=4)).steps["ingest"].rows["kept"] == 4
    (photos / "00b.png").write_bytes(tiles[N])
    assert ingest.run(config, RunOptions()).steps["ingest"].rows["kept"] == N + 1
    names = sorted(f"photos/{i:02d}.png" for i in range(N))
    assert rows(run_folder / "samples") == [*names, "photos/00b.png"]
