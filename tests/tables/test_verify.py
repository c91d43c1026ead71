"""`verify` names what is wrong with a table, whatever was planted in it, and nothing in a whole one."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysys.errors import InputError
from raysys.outcomes import Counts, error, kept, rejected
from raysys.rows import CAPTIONS, MATCHES, SAMPLES
from raysys.tables import Chunk, InputPart, Output, commit_part, open_output, open_table
from raysys.tables import check as check_module
from raysys.tables.commit import META, counts_of, part_info
from raysys.tables.keys import KeyHashes, hashes_of
from raysys.tables.read import error_rows
from raysys.tables.verify import status, verify

PARTS = [InputPart("a.tar", "/in/a.tar", 40, "s1"), InputPart("b.tar", "/in/b.tar", 12, "s2")]
FATES = (kept(), kept(), rejected("too_small", "12 px"), error("read", "Broken"))


def write(output: Output, *chunks: Chunk) -> None:
    for chunk in chunks or output.chunks:
        rows = [
            {"row_id": f"{chunk.part.name}/{i}", "caption": f"a caption {i}" * 9, "metadata": "{}", **FATES[i % 4]}
            for i in range(chunk.start, chunk.stop)
        ]
        commit_part(output.folder, chunk.file, SAMPLES.table(rows), {"start": chunk.start, "stop": chunk.stop})


def table(path: Path, chunk_rows: int = 10, **more) -> Output:
    output = open_output(str(path), SAMPLES, "toy", {"x": 1}, PARTS, chunk_rows, **more)
    write(output)
    return output


def folder_of(output: Output) -> Path:
    return Path(output.folder.url)


def problems_of(output: Output) -> str:
    return "\n".join(verify(output.table.url).problems)


@pytest.mark.parametrize("url", ["disk", "memory"])
def test_a_whole_table_has_no_problems(tmp_path, url):
    output = table(tmp_path / "t" if url == "disk" else "memory://raysys-test-verify/t")
    found = verify(output.table.url)
    assert (found.problems, found.notes) == ([], [])
    assert found.counts.as_dict() == {"in": 52, "kept": 26, "rejected": {"too_small": 13}, "error": {"Broken": 13}}


def test_parts_of_another_chunk_size_hold_the_same_rows_twice(tmp_path):
    """What two jobs wrote into one new table when each used its own chunk_rows: parts of both under one plan."""
    output, other = table(tmp_path / "t", 10), table(tmp_path / "other", 15)
    shutil.copy(folder_of(other) / "a.tar.1.parquet", folder_of(output) / "a.tar.1.parquet")  # rows 15 to 30
    found = problems_of(output)
    assert "1 parts hold other rows of their input than the plan requires, e.g. a.tar.1.parquet: rows 15 to 30" in found
    assert "rows 20 to 30 of a.tar are in a.tar.1.parquet and a.tar.2.parquet" in found
    assert "10 keys occur in more than one part, e.g. a.tar/2" in found
    assert "in a.tar.1.parquet and a.tar.2.parquet" in found


def test_a_part_that_leaves_rows_of_its_chunk_out(tmp_path):
    output, other = table(tmp_path / "t", 10), table(tmp_path / "other", 7)
    shutil.copy(folder_of(other) / "a.tar.0.parquet", folder_of(output) / "a.tar.0.parquet")
    assert problems_of(output) == (
        "toy: 1 parts hold other rows of their input than the plan requires, e.g. a.tar.0.parquet: "
        "rows 0 to 7 of a.tar instead of 0 to 10"
    )


def test_the_same_keys_in_parts_that_claim_different_rows(tmp_path):
    output = table(tmp_path)
    chunk = output.chunks[3]
    rows = pq.read_table(folder_of(output) / "a.tar.0.parquet").replace_schema_metadata(None)
    commit_part(output.folder, chunk.file, rows, {"start": chunk.start, "stop": chunk.stop})
    assert problems_of(output).startswith(
        "10 keys occur in more than one part, e.g. a.tar/0 in a.tar.0.parquet and a.ta"
    )


def test_two_producers_with_the_same_keys(tmp_path):
    for name in ("one", "two"):
        output = open_output(str(tmp_path), CAPTIONS, name, {}, [InputPart("a", "a", 3, "s")], 9)
        rows = [{"caption_id": f"{i if i else name}", **kept()} for i in range(3)]
        commit_part(output.folder, output.chunks[0].file, CAPTIONS.table(rows))
    assert problems_of(output).startswith("2 keys occur in more than one part, e.g. ")


def test_a_plan_whose_chunks_overlap(tmp_path):
    output = table(tmp_path)
    plan = output.folder.read_json("_plan.json")
    for change, said in (
        ({"inputs": [*plan["inputs"], plan["inputs"][0]]}, "input 'a.tar' is planned 2 times"),
        ({"inputs": [plan["inputs"][0] | {"n_items": -1}]}, "input 'a.tar' has -1 items"),
        ({"chunk_rows": 0}, "chunk_rows is 0"),
    ):
        output.folder.write_json("_plan.json", plan | change)
        with pytest.raises(InputError, match=said):
            verify(str(tmp_path))


def test_a_flipped_bit_anywhere_in_the_data(tmp_path):
    output = table(tmp_path)
    file = folder_of(output) / "a.tar.1.parquet"
    whole, n_data = file.read_bytes(), part_info(output.folder, file.name)["data_bytes"]
    assert n_data > 1000
    for at in [4, n_data - 1, *random.Random(0).sample(range(4, n_data), 60)]:
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        file.write_bytes(damaged)
        found = verify(str(tmp_path)).problems
        assert len(found) == 1, at
        assert f"{file} is damaged: its bytes have changed since it was written" in found[0]
        assert "run the job that wrote it again" in found[0]
    file.write_bytes(whole)
    assert verify(str(tmp_path)).ok


def test_readers_refuse_a_page_with_a_flipped_bit(tmp_path):
    output = table(tmp_path)
    file = folder_of(output) / "a.tar.1.parquet"
    whole = file.read_bytes()
    column = next(
        group
        for group in (pq.read_metadata(file).row_group(0).column(i) for i in range(len(SAMPLES.schema)))
        if group.path_in_schema == "caption"
    )
    end = (column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size
    file.write_bytes(whole[: end - 1] + bytes([whole[end - 1] ^ 16]) + whole[end:])
    with pytest.raises(InputError, match=r"a\.tar\.1\.parquet is damaged"):
        list(open_table(str(tmp_path)).rows(["caption"]))
    assert sum(map(len, open_table(str(tmp_path)).rows(["row_id"], None))) == 52, "other columns are whole"


def test_a_damaged_footer_never_ends_in_an_exception(tmp_path):
    output = table(tmp_path)
    file = folder_of(output) / "a.tar.1.parquet"
    whole, n_data = file.read_bytes(), part_info(output.folder, file.name)["data_bytes"]
    places = random.Random(1).sample(range(n_data, len(whole)), 60)
    seen = 0
    for at in places:
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        file.write_bytes(damaged)
        seen += not verify(str(tmp_path)).ok
    assert seen > 0, "a footer has no checksum: what is used of it is compared with the rows"


def rewrite(file: Path, rows: pa.Table | None = None, checksum: bool = True, **footer) -> None:
    """The part with other rows, or with a changed footer, as a plain Parquet writer would leave it."""
    old = pq.read_table(file).replace_schema_metadata(None)
    stored = json.loads(pq.read_metadata(file).metadata[META]) | footer
    stored = {k: v for k, v in stored.items() if k not in ("data_bytes", "data_crc32")}
    with pq.ParquetWriter(file, (rows or old).schema) as writer:
        writer.write_table(rows or old)
        writer.add_key_value_metadata({META: json.dumps(stored).encode()})


def test_counts_rows_fates_keys_and_columns_that_do_not_fit(tmp_path):
    output = table(tmp_path)
    folder = folder_of(output)
    files = [folder / chunk.file for chunk in output.chunks]
    rewrite(files[0], counts={"in": 10, "kept": 10, "rejected": {}, "error": {}})
    rows = pq.read_table(files[1]).replace_schema_metadata(None)
    rewrite(files[1], rows.slice(0, 9))
    outcome = pa.array(["lost"] * len(rows), pa.string())
    i = rows.schema.get_field_index("outcome")
    rewrite(files[2], rows.set_column(i, rows.schema.field(i), outcome))
    rewrite(files[3], rows.drop_columns("caption"))
    twice = pq.read_table(files[4]).replace_schema_metadata(None)
    rewrite(files[4], pa.concat_tables([twice.slice(0, 9), twice.slice(0, 1)]))
    pq.write_table(rows, files[5])
    found = verify(str(tmp_path)).problems
    assert "a.tar.0.parquet: its footer counts {'in': 10, 'kept': 10," in found[0]
    assert "a.tar.1.parquet is damaged: 9 rows but 10 fates" in found[1]
    assert "a.tar.2.parquet: outcomes ['lost'] are not in" in found[2]
    assert "a.tar.3.parquet is damaged: the schema is not that of samples" in found[3]
    assert "b.tar.0.parquet: 1 keys occur twice" in found[4]
    assert "b.tar.1.parquet is damaged: it was not written by raysys" in found[-1]


def test_parts_of_an_older_raysys_are_whole_but_unprotected(tmp_path):
    output = table(tmp_path)
    rewrite(folder_of(output) / "a.tar.0.parquet")
    found = verify(str(tmp_path))
    assert found.problems == []
    assert found.notes == ["toy: 1 parts of an older raysys have no checksum"]


def test_retries_are_verified_too(tmp_path):
    output = table(tmp_path)
    chunk, bad = output.chunks[0], error_rows(open_table(str(tmp_path)).parts[0])
    fixed = SAMPLES.table([{"row_id": key[0], **kept()} for key in bad.values()])
    commit_part(output.folder, chunk.retry_file(1), fixed, {"start": 0, "stop": 10, "replaces": sorted(bad)})
    found = verify(str(tmp_path))
    assert found.ok
    assert found.counts.kept == 26 + len(bad)
    file = folder_of(output) / chunk.retry_file(1)
    file.write_bytes(file.read_bytes()[:40] + b"\0" + file.read_bytes()[41:])
    assert "a.tar.0.r1.parquet is damaged" in problems_of(output)


def test_leftovers_of_a_replaced_input_are_harmless(tmp_path):
    late = table(tmp_path)
    newer = [InputPart("a.tar", "/in/a.tar", 40, "other"), PARTS[1]]
    write(open_output(str(tmp_path), SAMPLES, "toy", {"x": 1}, newer, 10, "recompute"))
    write(late, late.chunks[0])
    found = verify(str(tmp_path))
    assert found.problems == []
    assert found.notes == ["toy: 1 parts of inputs that were replaced since (harmless)"]


def test_equal_hashes_of_different_keys_are_not_a_problem(tmp_path, monkeypatch):
    output = table(tmp_path)
    monkeypatch.setattr(check_module, "hashes_of", lambda rows, key: hashes_of(rows, key) % np.uint64(7))
    assert verify(str(tmp_path)).problems == []
    chunk = output.chunks[1]
    write(output, Chunk(chunk.name, chunk.part, 5, 15))
    assert "5 keys occur in more than one part" in problems_of(output)


def test_hashes_are_equal_exactly_for_equal_keys():
    rng = random.Random(0)
    texts = [
        "",
        "a",
        "a\0",
        "\0a",
        "aaaaaaaa",
        "aaaaaaaa\0",
        "ä",
        "写真",
        None,
        *(rng.randbytes(20).hex() for _ in range(500)),
    ]
    texts += [text[:n] for text in texts[-9:] for n in range(40)]
    pairs = [(text, rank) for text in dict.fromkeys(texts) for rank in (0, 1, -1, None)]
    rows = pa.table(
        {"generated": pa.array([p[0] for p in pairs], pa.string()), "rank": pa.array([p[1] for p in pairs], pa.int32())}
    )
    hashes = hashes_of(rows, MATCHES.key)
    assert len(set(hashes.tolist())) == len(pairs) > 2000
    shuffled = rng.sample(range(len(pairs)), len(pairs))
    assert np.array_equal(hashes_of(rows.take(shuffled), MATCHES.key), hashes[shuffled])
    assert np.array_equal(hashes_of(rows.slice(100, 50), MATCHES.key), hashes[100:150]), "an offset does not matter"
    assert np.array_equal(hashes_of(pa.concat_tables([rows, rows]), MATCHES.key), np.tile(hashes, 2))
    assert len(hashes_of(rows.slice(0, 0), MATCHES.key)) == 0


def test_hashes_of_consecutive_numbers_do_not_collide():
    """Keys are mostly counters: the worst case for a weak hash."""
    rows = pa.table({"row_id": [f"{shard:05}.tar/{i:09}" for shard in range(20) for i in range(10_000)]})
    hashes = hashes_of(rows, ["row_id"])
    assert len(np.unique(hashes)) == len(rows)
    for shift in (0, 16, 32, 48):  # every 16 bits alone look random: 200,000 draws of 65,536 values leave 4.7 % out
        values = len(np.unique(hashes >> np.uint64(shift) & np.uint64(0xFFFF)))
        assert 0.951 * 65536 < values < 0.955 * 65536


def test_repeated_hashes_in_more_rows_than_were_planned():
    seen = KeyHashes(2)
    seen.add(np.array([5, 1, 9], np.uint64))
    seen.add(np.array([9, 5, 9], np.uint64))
    assert seen.repeated().tolist() == [5, 9, 9]
    assert KeyHashes(0).repeated().tolist() == []


def test_counts_are_those_of_the_rows():
    rng = random.Random(0)
    fates = [kept(), rejected("a"), rejected("b:1"), rejected("b:2:3"), error("s", "Boom", "x"), error("s", "a")]
    fates += [{"outcome": "error", "stage": None, "reason": None, "detail": None}, rejected("two\nlines: c\nd")]
    rows = [{"row_id": str(i), **rng.choice(fates)} for i in range(300)]
    assert counts_of(SAMPLES.table(rows)) == Counts.of(rows)
    assert counts_of(SAMPLES.table([])) == Counts()


def test_status_does_not_read_rows(tmp_path):
    """Its time at 50,000 parts is that of their footers."""
    output = table(tmp_path)
    for chunk in output.chunks:
        file, n_data = folder_of(output) / chunk.file, part_info(output.folder, chunk.file)["data_bytes"]
        file.write_bytes(b"PAR1" + bytes(n_data - 4) + file.read_bytes()[n_data:])
    assert status(str(tmp_path))[0].counts.total == 52
    assert len(verify(str(tmp_path)).problems) == len(output.chunks)
