"""Job `assemble` on small tables written here, without Ray: what it joins, what it rejects, when it is done again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from raysys.errors import InputError
from raysys.jobs import assemble
from raysys.jobs.options import RunOptions
from raysys.latents.parts import MANIFEST, read_manifest, read_tables
from raysys.outcomes import kept, rejected
from raysys.rows import LATENTS, SAMPLES, TEXT_STATES, array_to_bytes
from raysys.tables import InputPart, commit_part, open_output, open_table

IDS = ("a", "b", "c")


def write(path: Path, row_type, rows: list[dict], parts: list[InputPart] | None = None) -> str:
    """A table of one part; `parts` of the table that it descends from."""
    parts = parts or [InputPart("p", "p", len(rows), "s")]
    output = open_output(str(path), row_type, "toy", {}, parts, max(len(rows), 1))
    commit_part(output.folder, output.chunks[0].file, row_type.table(rows))
    return str(path)


def states(path: Path, samples: str, words: str, without: tuple[str, ...] = ()) -> str:
    """TEXT_STATES of `samples`, each with its own caption; those of `without` are rejected."""
    embeds, shape = array_to_bytes(np.zeros((4, 5)))
    rows = [
        {"row_id": i, **rejected("too_specific")}
        if i in without
        else {
            "row_id": i,
            "caption": f"{words} {i}",
            "prompt_embeds": embeds,
            "prompt_embeds_shape": shape,
            **kept(),
        }
        for i in IDS
    ]
    return write(path, TEXT_STATES, rows, open_table(samples).inputs())


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, str]:
    """samples a, b, c with their latents and text states."""
    rows = [{"row_id": i, "sample_id": i, "caption": f"sample's {i}", "licence": "CC0-1.0", **kept()} for i in IDS]
    samples = write(tmp_path / "samples", SAMPLES, rows)
    latents, shape = array_to_bytes(np.zeros((3, 2, 2)))
    encoded = [{"row_id": i, "latents": latents, "latents_shape": shape, **kept()} for i in IDS]
    return {
        "samples": samples,
        "latents": write(tmp_path / "latents", LATENTS, encoded, open_table(samples).inputs()),
        "text_states": states(tmp_path / "states", samples, "encoded"),
        "output": str(tmp_path / "set"),
    }


def run(config: dict[str, str], **options) -> dict:
    return assemble.run(assemble.JobConfig.model_validate(config), RunOptions(**options))


def captions(folder: str) -> dict[str, str]:
    return {row["row_id"]: row["caption"] for table in read_tables(folder) for row in table.to_pylist()}


def test_a_set_that_was_joined_in_an_older_way_is_not_taken_for_a_finished_one(tables, capsys):
    run(tables)
    manifest = Path(tables["output"], MANIFEST)
    run(tables)
    assert "nothing to do" in capsys.readouterr().err
    older = json.loads(manifest.read_text())
    del older["notes"]["joined_as"]
    manifest.write_text(json.dumps(older))
    with pytest.raises(InputError, match="joined_as: None → "):
        run(tables)
    run(tables, on_change="recompute")
    assert "joined_as" in read_manifest(tables["output"])["notes"]
    assert captions(tables["output"]) == {i: f"encoded {i}" for i in IDS}


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
