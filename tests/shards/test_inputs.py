"""Which inputs a path means: patterns, several paths, saved datasets, tables of paths, chosen columns and shapes."""

import io
import json
import tarfile

import datasets
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raysys.cli.config_help import format_fields
from raysys.config import load
from raysys.errors import InputError
from raysys.jobs import ingest as job
from raysys.jobs.options import inline
from raysys.rows import SAMPLES
from raysys.shards.columns import ColumnsConfig
from raysys.shards.decode import DecodeConfig
from raysys.shards.images import image_reader, read_images
from raysys.shards.ingest import IngestConfig, ingest_rows
from raysys.shards.inputs import list_inputs
from raysys.tables import open_table


def picture(i, size=(24, 24)):
    """A picture whose color is its number."""
    out = io.BytesIO()
    Image.new("RGB", size, (i % 256, i // 256, 77)).save(out, "PNG")
    return out.getvalue()


def rows_of(path, **config):
    """All rows of an input; every kept row leads back to its own bytes."""
    config = IngestConfig(**{"require_caption": False, "check_licenses": False, **config})
    found = []
    for file in list_inputs(path, columns=config.columns):
        for start in range(0, file.n_items, 3):
            found += list(ingest_rows(file, start, min(start + 3, file.n_items), config))
    SAMPLES.table(found)
    assert len({row["row_id"] for row in found}) == len(found)
    kept = [row for row in found if row["outcome"] == "kept"]
    for row, pixels in zip(kept, read_images(kept, DecodeConfig()), strict=True):
        assert len(image_reader().read(row)) == row["length"]
        assert isinstance(pixels, np.ndarray), pixels
    return found


def ids(path, **config):
    return [row["row_id"] for row in rows_of(path, **config)]


def write_tar(path, numbers):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for i in numbers:
            info = tarfile.TarInfo(f"k{i}.png")
            info.size = len(picture(i))
            tar.addfile(info, io.BytesIO(picture(i)))
    return path


@pytest.fixture(params=["local", "memory"])
def shards(request, tmp_path):
    """A place with data/{00000..00002}.tar, more/00000.tar, photos/{a,b}.png: its path or URL."""
    for i in range(3):
        write_tar(tmp_path / f"data/{i:05d}.tar", [i])
    write_tar(tmp_path / "more/00000.tar", [9])
    (tmp_path / "photos").mkdir()
    for i, name in enumerate(["a.png", "b.png", "c.jpg"]):
        (tmp_path / "photos" / name).write_bytes(picture(i))
    (tmp_path / "photos/b.txt").write_text("caption of b")
    (tmp_path / "data/README.md").write_text("about")
    if request.param == "local":
        return str(tmp_path)
    fs = fsspec.filesystem("memory")
    root = f"/{tmp_path.name}"
    for path in tmp_path.rglob("*.*"):
        fs.pipe(f"{root}/{path.relative_to(tmp_path)}", path.read_bytes())
    return f"memory:/{root}"


def test_patterns_name_their_files_as_their_folder_would(shards):
    data = ["00000.tar/k0", "00001.tar/k1", "00002.tar/k2"]
    assert ids(f"{shards}/data") == data
    assert ids(f"{shards}/data/*.tar") == data
    assert ids(f"{shards}/data/*") == data
    assert ids(shards + "/data/{00000..00002}.tar") == data
    assert ids(shards + "/data/{00000,00002}.tar") == [data[0], data[2]]
    assert ids(shards + "/data/0000[12].tar") == data[1:]
    everywhere = [*(f"data/{name}" for name in data), "more/00000.tar/k9"]
    assert ids(shards + "/{data,more}/*.tar") == everywhere
    assert ids(shards + "/{data,more}") == everywhere
    assert ids(shards + "/**/*.tar") == everywhere


def test_images_by_pattern_keep_their_captions(shards):
    assert ids(f"{shards}/photos/*.png") == ["photos/a.png", "photos/b.png"]
    assert [row["caption"] for row in rows_of(f"{shards}/photos/*.png")] == [None, "caption of b"]
    assert ids(f"{shards}/photos/c.jpg") == ["photos/c.jpg"]


def test_several_inputs_have_names_that_stay(shards):
    first = ["00000.tar/k0", "00001.tar/k1", "00002.tar/k2"]
    assert ids([f"{shards}/data"]) == first
    assert ids([f"{shards}/data", f"{shards}/more"]) == [*first, "input2/00000.tar/k9"]
    assert ids([f"{shards}/data", f"{shards}/more", f"{shards}/photos"])[4:] == [
        f"input3/photos/{name}" for name in ("a.png", "b.png", "c.jpg")
    ]


def test_an_input_that_is_appended_is_only_its_own_work(tmp_path):
    for folder in ("one", "two"):
        write_tar(tmp_path / folder / "0.tar", [1, 2])
    output = str(tmp_path / "samples")

    def run(*inputs):
        values = [f"input=[{','.join(str(tmp_path / i) for i in inputs)}]", f"output={output}"]
        config = load(job.JobConfig, None, [*values, "ingest.require_caption=false", "ingest.check_licenses=false"])
        return job.run(config, inline()).steps["ingest"]

    run("one")
    (part,) = (tmp_path / "samples").glob("*/*.parquet")
    before = part.stat().st_mtime_ns
    assert run("one", "two").rows["kept"] == 4
    assert part.stat().st_mtime_ns == before
    assert [r for t in open_table(output).rows(["row_id"]) for r in t["row_id"].to_pylist()] == [
        "0.tar/k1",
        "0.tar/k2",
        "input2/0.tar/k1",
        "input2/0.tar/k2",
    ]


def test_mistakes_in_patterns_are_named(tmp_path):
    write_tar(tmp_path / "data/00000.tar", [1])

    def refused(path, match):
        with pytest.raises(InputError, match=match) as caught:
            list_inputs(path)
        assert caught.value.fix

    refused(str(tmp_path / "data/*.parquet"), "nothing matches .*parquet")
    refused(str(tmp_path / "data/{00000..00002}.tar"), r"data/00001.tar|00001.tar does not exist \(2 of the 3 paths")
    refused([str(tmp_path / "data"), str(tmp_path / "data/*.tar")], "two inputs have the same files")
    refused([], "no items|input")
    (tmp_path / "data/x.md").write_text("x")
    refused(str(tmp_path / "data/*.md"), "matches 1 files, but no shards and no images")


def saved(n, start=0):
    columns = {"picture": [picture(start + i) for i in range(n)], "text": [f"picture {start + i}" for i in range(n)]}
    features = datasets.Features({"picture": datasets.Image(), "text": datasets.Value("string")})
    rows = {"picture": [{"bytes": b, "path": None} for b in columns["picture"]], "text": columns["text"]}
    return datasets.Dataset.from_dict(rows, features=features)


def check_numbers(rows):
    for row, pixels in zip(rows, read_images(rows, DecodeConfig()), strict=True):
        assert int(pixels[0, 0, 0]) == int(row["caption"].split()[-1])


@pytest.mark.parametrize("place", ["local", "memory"])
def test_a_dataset_saved_by_hugging_face(tmp_path, place):
    saved(7).save_to_disk(tmp_path / "ds", num_shards=2)
    (tmp_path / "ds/cache-0123.arrow").write_bytes(b"a cache that map() left")
    path = str(tmp_path / "ds")
    if place == "memory":
        fs = fsspec.filesystem("memory")
        for file in (tmp_path / "ds").iterdir():
            fs.pipe(f"/{tmp_path.name}/ds/{file.name}", file.read_bytes())
        path = f"memory://{tmp_path.name}/ds"
    rows = rows_of(path)
    assert [row["outcome"] for row in rows] == ["kept"] * 7
    assert [row["caption"] for row in rows] == [f"picture {i}" for i in range(7)]
    assert rows[0]["row_id"] == "data-00000-of-00002.arrow/000000000"
    check_numbers(rows)
    check_numbers(rows[::-1])


def test_a_dataset_dict_with_its_splits(tmp_path):
    datasets.DatasetDict({"train": saved(4), "test": saved(2, start=10)}).save_to_disk(tmp_path / "ds")
    rows = rows_of(str(tmp_path / "ds"))
    assert [row["row_id"].split("/")[0] for row in rows] == ["test"] * 2 + ["train"] * 4
    check_numbers(rows)
    assert len(rows_of(str(tmp_path / "ds/train"))) == 4


def test_damaged_saved_datasets_are_named(tmp_path):
    saved(50).save_to_disk(tmp_path / "ds")
    (file,) = (tmp_path / "ds").glob("*.arrow")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="is not a complete Arrow file"):
        list_inputs(str(tmp_path / "ds"))
    file.write_bytes(b"no arrow at all")
    with pytest.raises(InputError, match="is not an Arrow file"):
        list_inputs(str(tmp_path / "ds"))
    (tmp_path / "ds/state.json").write_text("{")
    with pytest.raises(InputError, match=r"state\.json is not the state of a saved dataset"):
        list_inputs(str(tmp_path / "ds"))


def table_of(path, kind, rows):
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "csv":
        path.write_text("\n".join([",".join(rows[0]), *(",".join(map(str, r.values())) for r in rows)]))
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


@pytest.fixture(params=["parquet", "csv", "jsonl"])
def kind(request):
    return request.param


def test_tables_with_image_paths(tmp_path, kind):
    """Relative to the table, or absolute; what leads out of its folder is refused unless the folder is named."""
    data = tmp_path / "data"
    (data / "img").mkdir(parents=True)
    (data / "img/0.png").write_bytes(picture(0))
    (tmp_path / "secret.png").write_bytes(picture(9))
    names = [
        "img/0.png",
        f"{data}/img/0.png",
        "img/missing.png",
        "../secret.png",
        f"{tmp_path}/secret.png",
        f"{tmp_path}/data/../secret.png",
        "https://x.org/0.png",
        "s3://bucket/0.png",
    ]
    path = table_of(data / f"list.{kind}", kind, [{"file_name": n, "text": "a picture"} for n in names])
    rows = rows_of(path)
    assert [row["reason"] for row in rows] == [
        None,
        None,
        "no_image",
        *["outside_folder"] * 3,
        "image_is_url",
        "outside_folder",
    ]
    assert {row["shard"] for row in rows[:2]} == {str(data / "img/0.png")}
    assert "ingest.columns.image_folder" in rows[3]["detail"]
    assert "raysys does not download images" in rows[6]["detail"]
    wider = [row["reason"] for row in rows_of(path, columns={"image_folder": str(tmp_path)})]
    assert wider == ["no_image", None, "no_image", "outside_folder", None, None, "image_is_url", "outside_folder"]


def test_tables_of_web_addresses_are_refused_at_once(tmp_path, kind):
    path = table_of(tmp_path / f"list.{kind}", kind, [{"image": "https://x.org/0.jpg", "text": "x"}])
    with pytest.raises(InputError, match="its images are web addresses") as caught:
        list_inputs(path)
    assert "img2dataset" in caught.value.fix


def test_columns_are_chosen_by_name(tmp_path, kind):
    """Wrong columns of the default names stand beside the chosen ones."""
    (tmp_path / "0.png").write_bytes(picture(3))
    row = {"Foto": "0.png", "title": "picture 3", "terms": "CC BY 4.0", "page": "https://x.org/p", "number": "n3"}
    row |= {"file_name": "0.txt", "caption": "wrong", "url": "https://x.org/wrong", "id": "wrong"}
    path = table_of(tmp_path / f"list.{kind}", kind, [row])
    columns = {"image": "foto", "caption": "title", "license": "Terms", "url": "page", "key": "number"}
    (found,) = rows_of(path, columns=columns, check_licenses=True)
    assert (found["outcome"], found["caption"], found["url"]) == ("kept", "picture 3", "https://x.org/p")
    assert (found["license"], found["license_evidence"]) == ("CC-BY-4.0", "terms=CC BY 4.0")
    assert found["source_key"] == "n3"


def test_a_chosen_license_column_does_not_hide_a_stricter_statement(tmp_path, kind):
    (tmp_path / "0.png").write_bytes(picture(3))
    row = {"image": "0.png", "terms": "CC BY 4.0", "license": "CC BY-NC 4.0"}
    path = table_of(tmp_path / f"list.{kind}", kind, [row])
    (found,) = rows_of(path, columns={"license": "terms"}, check_licenses=True)
    assert (found["reason"], found["license"]) == ("license_not_allowed", "CC-BY-NC-4.0")


def test_a_chosen_column_of_bytes_is_read_again(tmp_path):
    rows = [{"photo": picture(i), "image": b"another", "text": f"picture {i}"} for i in range(5)]
    path = table_of(tmp_path / "a.parquet", "parquet", rows)
    found = rows_of(path, columns={"image": "photo"})
    assert [row["member"] for row in found] == ["photo"] * 5
    check_numbers(found)


def test_fields_of_json_files_are_chosen_by_name(tmp_path):
    (tmp_path / "a.png").write_bytes(picture(1))
    (tmp_path / "a.txt").write_text("alt text")
    (tmp_path / "a.json").write_text(json.dumps({"blip": "a green field", "terms": "CC0", "page": "https://x.org/p"}))
    columns = {"caption": "blip", "license": "terms", "url": "page"}
    (row,) = rows_of(str(tmp_path), columns=columns, check_licenses=True)
    assert (row["caption"], row["license"], row["url"]) == ("a green field", "CC0-1.0", "https://x.org/p")


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path, kind):
    (tmp_path / "0.png").write_bytes(picture(3))
    path = table_of(tmp_path / f"list.{kind}", kind, [{"foto": "0.png", "text": "x"}])

    def refused(match, **columns):
        with pytest.raises(InputError, match=match) as caught:
            list_inputs(path, columns=ColumnsConfig(**columns))
        return caught.value

    assert "file_name" in refused("has no column .*; its columns: foto").fix  # the accepted names
    assert refused("no column", image="photo").fix
    if kind != "jsonl":
        assert "text" in refused(r"no column 'title' \(ingest.columns.caption\)", image="foto", caption="title").what


def test_the_accepted_names_are_in_the_help():
    text = " ".join(format_fields(job.JobConfig).split())
    for name in ("image_bytes", "file_name", "alt_text", "original_url", "usage_terms", "photo_id"):
        assert name in text


def test_small_and_elongated_images_have_their_own_reasons(tmp_path):
    sizes = {"a": (100, 100), "b": (199, 100), "c": (100, 201), "d": (40, 60)}
    for name, size in sizes.items():
        (tmp_path / f"{name}.png").write_bytes(picture(1, size))
    rows = rows_of(str(tmp_path), decode=DecodeConfig(min_side=64), max_aspect_ratio=2.0)
    assert [row["reason"] for row in rows] == [None, None, "aspect_ratio", "too_small"]
    assert rows[2]["detail"] == "100x201 px, 2.01 > 2"
    assert (rows[2]["width"], rows[2]["height"]) == (100, 201)
