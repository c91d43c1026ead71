"""Job `assemble` on small tables written here, without Ray: what it joins, what it rejects, when it is done again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from raysys.errors import InputError
from raysys.jobs import assemble
from raysys.jobs.options import RunOptions
from raysys.latents.parts import read_manifest, read_tables
from raysys.outcomes import kept, rejected
from raysys.rows import LATENTS, SAMPLES, TEXT_STATES, array_to_bytes
from raysys.tables import InputPart, commit_part, open_output, open_table
from raysys.tables.folder_output import RECORD
from raysys.tables.results import Summary

IDS = ("a", "b", "c")


def write(
    path: Path, row_type, rows: list[dict], parts: list[InputPart] | None = None, fields: dict | None = None
) -> str:
    """A table of one part; `parts` of the table that it descends from."""
    parts = parts or [InputPart("p", "p", len(rows), "s")]
    output = open_output(str(path), row_type, "toy", fields or {}, parts, max(len(rows), 1))
    commit_part(output.folder, output.chunks[0].file, row_type.table(rows))
    return str(path)


def states(
    path: Path,
    samples: str,
    words: str,
    without: tuple[str, ...] = (),
    ways: tuple[str, ...] = ("original",),
    fields: dict | None = None,
) -> str:
    """TEXT_STATES of `samples`, each with its own caption in each of `ways`; those of `without` are rejected."""
    data, shape = array_to_bytes(np.zeros((4, 5)))
    rows = []
    for i, way in ((i, way) for i in IDS for way in ways):
        row = {"caption_id": f"{i}/{way}", "row_id": i}
        if i in without:
            rows.append(row | rejected("too_specific"))
            continue
        arrays = {"text_states": data, "text_states_shape": shape, "text_states_dtype": "float16", "n_tokens": 4}
        rows.append(row | {"caption": f"{words} {i}" if len(ways) == 1 else f"{way} {i}", **arrays, **kept()})
    return write(path, TEXT_STATES, rows, open_table(samples).inputs(), fields)


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, str]:
    """samples a, b, c with their latents and text states."""
    rows = [{"row_id": i, "sample_id": i, "caption": f"sample's {i}", "license": "CC0-1.0", **kept()} for i in IDS]
    samples = write(tmp_path / "samples", SAMPLES, rows)
    latents, shape = array_to_bytes(np.zeros((3, 2, 2)))
    encoded = [{"row_id": i, "latents": latents, "latents_shape": shape, **kept()} for i in IDS]
    return {
        "samples": samples,
        "latents": write(tmp_path / "latents", LATENTS, encoded, open_table(samples).inputs()),
        "text_states": states(tmp_path / "states", samples, "encoded"),
        "output": str(tmp_path / "set"),
    }


def run(config: dict[str, str], **options) -> Summary:
    return assemble.run(assemble.JobConfig.model_validate(config), RunOptions(**options))


def captions(folder: str) -> dict[str, str]:
    return {row["row_id"]: row["caption"] for t in read_tables(folder, ["row_id", "caption"]) for row in t.to_pylist()}


def all_captions(folder: str) -> dict[str, list[str]]:
    return {row["row_id"]: row["captions"] for table in read_tables(folder) for row in table.to_pylist()}


def test_a_set_that_was_joined_in_an_older_way_is_not_taken_for_a_finished_one(tables):
    run(tables)
    assert run(tables).steps["assemble"].state == "nothing to do"
    record = Path(tables["output"], RECORD)
    older = json.loads(record.read_text())
    older["fields"]["joined_as"] = 2
    record.write_text(json.dumps(older))
    with pytest.raises(InputError, match="joined_as: 2 → "):
        run(tables)
    run(tables, on_change="recompute")
    assert captions(tables["output"]) == {i: f"encoded {i}" for i in IDS}


def test_a_set_that_cannot_be_made_leaves_the_old_one(tables, tmp_path):
    run(tables)
    nothing = states(tmp_path / "nothing", tables["samples"], "x", without=IDS)
    with pytest.raises(InputError, match="no kept row"):
        run(tables | {"text_states": nothing}, on_change="recompute")
    assert captions(tables["output"]) == {i: f"encoded {i}" for i in IDS}
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("_")] == []


def test_several_captions_of_an_image_are_named(tables, tmp_path):
    """Of one table or of several; in the order in which they are named; a row has those that were kept."""
    machine = states(tmp_path / "machine", tables["samples"], "", ("b",), ("blip2/photo", "llava/photo"))
    several = tables | {"text_states": (tables["text_states"], machine)}
    with pytest.raises(InputError, match=r"a has 3 captions: original, blip2/photo, llava/photo"):
        run(several)
    run(several | {"which": ("llava/photo", "original")})
    assert all_captions(tables["output"]) == {
        "a": ["llava/photo a", "encoded a"],
        "b": ["encoded b"],
        "c": ["llava/photo c", "encoded c"],
    }
    assert read_manifest(tables["output"])["captions"] == 5
    run(several | {"which": "blip2/photo"}, on_change="recompute")
    assert all_captions(tables["output"]) == {"a": ["blip2/photo a"], "c": ["blip2/photo c"]}
    assert read_manifest(tables["output"])["rows"]["rejected"] == {"no_text_states": 1}


def test_the_set_says_which_encoders_made_it(tables, tmp_path):
    hashes = {"text_encoder_hash": "T" * 64, "tokenizer_hash": "W" * 64}
    first = states(tmp_path / "first", tables["samples"], "x", fields=hashes)
    run(tables | {"text_states": first})
    encoders = read_manifest(tables["output"])["encoders"]
    assert {name: encoders[name] for name in hashes} == hashes
    assert encoders["vae_hash"] is None, "a table that was not written by encode says nothing"
    other = states(tmp_path / "other", tables["samples"], "", ways=("blip2/photo",), fields={"tokenizer_hash": "V"})
    with pytest.raises(InputError, match="differ in tokenizer_hash: V, WWWWWWWWWWWW"):
        run(tables | {"text_states": (first, other), "which": ("original", "blip2/photo")}, on_change="recompute")


def test_several_tables_may_be_required(tables, tmp_path):
    """An image needs a kept caption in each of them."""
    photo = states(tmp_path / "photo", tables["samples"], "photo", without=("a",))
    general = states(tmp_path / "general", tables["samples"], "general", without=("b",))
    run(tables | {"required_text_states": (photo, general)})
    assert captions(tables["output"]) == {"c": "encoded c"}
    rejections = {"no_required_text_states": 2}
    assert read_manifest(tables["output"])["rows"] == {"in": 3, "kept": 1, "rejected": rejections, "error": {}}
    with pytest.raises(InputError, match=r"inputs\.required_text_states"):
        run(tables | {"required_text_states": photo})


def test_sets_with_different_captions_hold_the_same_images(tables, tmp_path):
    """A caption that was rejected for one model takes the image out of both sets, and is counted in both."""
    general = states(tmp_path / "general", tables["samples"], "general", without=("b",))
    run(tables | {"required_text_states": general})
    other = {"text_states": general, "output": str(tmp_path / "other"), "required_text_states": tables["text_states"]}
    run(tables | other)
    assert captions(tables["output"]) == {i: f"encoded {i}" for i in ("a", "c")}
    assert captions(other["output"]) == {i: f"general {i}" for i in ("a", "c")}
    reasons = {tables["output"]: "no_required_text_states", other["output"]: "no_text_states"}
    for folder, reason in reasons.items():
        counts = {"in": 3, "kept": 2, "rejected": {reason: 1}, "error": {}}
        assert read_manifest(folder)["rows"] == counts
    with pytest.raises(InputError, match=r"inputs\.required_text_states"):
        run(tables)
