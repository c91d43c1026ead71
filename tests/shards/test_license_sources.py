"""No license statement is lost on the way from a source to the row: structures, columns, keys given twice."""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raysys.shards.ingest import IngestConfig, ingest_rows
from raysys.shards.inputs import list_inputs

IMAGE = io.BytesIO()
Image.fromarray(np.full((24, 24, 3), 77, np.uint8)).save(IMAGE, "PNG")


def ingested(path, **config) -> list[tuple[str, str | None, str | None]]:
    """(outcome, reason, evidence) of every row."""
    rows = [
        row for file in list_inputs(str(path)) for row in ingest_rows(file, 0, file.n_items, IngestConfig(**config))
    ]
    return [(row["outcome"], row["reason"], row["license_evidence"]) for row in rows]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"license": "CC BY 4.0"}', ("kept", None, "license=CC BY 4.0")),
        ('{"licence": "CC BY 4.0"}', ("kept", None, "licence=CC BY 4.0")),
        (
            '{"license": {"name": "CC BY-NC"}, "rights": "CC BY 4.0"}',
            ("rejected", "license_not_allowed", "license.name=CC BY-NC"),
        ),
        (
            '{"license": "CC BY 4.0", "License": "editorial"}',
            ("rejected", "license_unknown", "License=editorial"),
        ),
        (
            '{"license": "CC BY-NC 4.0", "license": "CC BY 4.0"}',
            ("rejected", "license_not_allowed", "license.0=CC BY-NC 4.0"),
        ),
        (
            '{"license": "CC BY 4.0", "about": {"rights": "CC BY-ND", "rights": "CC0"}}',
            ("rejected", "license_not_allowed", "about.rights.0=CC BY-ND"),
        ),
        (
            '{"license": "CC BY 4.0", "dc:license": "CC BY-ND", "dc:license": "CC0"}',
            ("rejected", "license_not_allowed", "dc:license.0=CC BY-ND"),
        ),
    ],
)
def test_json_beside_a_picture(tmp_path, text: str, expected):
    (tmp_path / "a.png").write_bytes(IMAGE.getvalue())
    (tmp_path / "a.txt").write_text("a gray square")
    (tmp_path / "a.json").write_text(text)
    assert ingested(tmp_path) == [expected]
    (tmp_path / "a.json").unlink()
    listed = tmp_path / "list.jsonl"
    listed.write_text('{"path": "a.png", "caption": "a gray square", ' + text[1:])
    assert ingested(listed) == [expected]


def test_a_number_is_a_statement_that_a_declaration_does_not_overrule(tmp_path):
    (tmp_path / "a.png").write_bytes(IMAGE.getvalue())
    (tmp_path / "a.json").write_text(json.dumps({"license": 2}))  # BY-NC in COCO's list
    found = ingested(tmp_path, require_caption=False, declared_license="CC BY 4.0")
    assert found == [("rejected", "license_unknown", "license=2")]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([{"name": "CC BY-NC 4.0"}]),
        pa.array([["CC0", "CC BY-NC 4.0"]]),
        pa.array(["CC BY-NC 4.0"]).dictionary_encode(),
    ],
)
def test_license_columns_of_any_type_are_read_from_parquet(tmp_path, column: pa.Array):
    table = pa.table({"image": [IMAGE.getvalue()], "caption": ["a gray square"], "license": column, "rights": ["CC0"]})
    pq.write_table(table, tmp_path / "a.parquet")
    ((outcome, reason, evidence),) = ingested(tmp_path)
    assert (outcome, reason) == ("rejected", "license_not_allowed")
    assert evidence is not None
    assert evidence.endswith("=CC BY-NC 4.0")


@pytest.mark.parametrize("name", ["image_license", "exif.copyright"])
def test_related_columns_of_any_type_can_refuse(tmp_path, name: str):
    columns = {"image": [IMAGE.getvalue()], "caption": ["a gray square"], "license": ["CC0"], name: [["CC BY-NC 4.0"]]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert ingested(tmp_path) == [("rejected", "license_not_allowed", f"{name}.0=CC BY-NC 4.0")]


def test_a_declaration_does_not_overrule_a_rights_statement_in_any_script(tmp_path):
    (tmp_path / "a.png").write_bytes(IMAGE.getvalue())
    (tmp_path / "a.json").write_text(json.dumps({"copyright": "保留所有权利"}))
    found = ingested(tmp_path, require_caption=False, declared_license="CC BY 4.0")
    assert found == [("rejected", "license_unknown", "copyright=保留所有权利")]


def test_a_license_column_that_is_not_utf8_is_unknown(tmp_path):
    broken = pa.Array.from_buffers(pa.string(), 1, pa.array([b"CC BY \xe9"], pa.binary()).buffers())
    lists = pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), broken)
    table = pa.table({"image": [IMAGE.getvalue()], "caption": ["a gray square"], "license": lists, "rights": ["CC0"]})
    pq.write_table(table, tmp_path / "a.parquet")
    assert [found[:2] for found in ingested(tmp_path)] == [("rejected", "license_unknown")]
