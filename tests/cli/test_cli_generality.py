"""`raysys generality` as a user runs it: files of every kind, a table, standard input, results and messages."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from raysys.cli import generality as cli_generality
from raysys.cli.generality import generality
from raysys.errors import InputError
from raysys.language import nlp
from raysys.language.generality import score
from raysys.outcomes import kept, rejected
from raysys.rows import CAPTIONS, GENERATIONS
from raysys.tables import InputPart, commit_part, open_output

CAPTION_LIST = ["a dog in a park", "two red stars", "Paris at night, 1905"]


def run(*args: str, stdin: str | bytes = "") -> SimpleNamespace:
    """The command in this process; an InputError is returned as `error`, as `raysys` would print it."""
    result = CliRunner().invoke(generality, [*args, "--pipeline", "rules"], input=stdin)
    if isinstance(result.exception, InputError):
        return SimpleNamespace(out=result.stdout, error=str(result.exception))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return SimpleNamespace(out=result.stdout, err=result.stderr, code=result.exit_code, error="")


def json_rows(result: SimpleNamespace) -> list[dict]:
    return [json.loads(line) for line in result.out.splitlines()]


def write(folder: Path, kind: str, texts: list[str]) -> str:
    """A file with these captions, of the kind that its suffix says."""
    path = folder / f"captions{kind}"
    if kind == ".txt":
        path.write_text("\ufeff" + "\n\n".join(texts) + "\n", encoding="utf-8")
    elif kind in (".jsonl", ".ndjson"):
        path.write_text("".join(json.dumps({"id": i, "text": t}) + "\n\n" for i, t in enumerate(texts)))
    elif kind == ".parquet":
        pq.write_table(pa.table({"caption": texts, "n": list(range(len(texts)))}), path)
    else:
        with path.open("w", newline="", encoding="utf-8") as out:
            writer = csv.writer(out, delimiter="\t" if kind == ".tsv" else ",")
            writer.writerows([["id", "caption"], *enumerate(texts)])
    return str(path)


@pytest.mark.parametrize("kind", [".txt", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet"])
def test_every_kind_of_file(tmp_path: Path, kind: str) -> None:
    texts = [*CAPTION_LIST, "a star – and a “ring”, 😀"]
    result = run(write(tmp_path, kind, texts), "--json")
    rows = json_rows(result)
    assert list(rows[0]) == ["text", "si", "bt", "tm", "da", "gs", "pipeline"]
    expected = list(score(texts, nlp.load_pipeline("rules")))
    assert rows == [row._asdict() for row in expected]
    assert result.err == ""


def test_standard_input_as_lines_and_as_json() -> None:
    assert [r["text"] for r in json_rows(run("-", "--json", stdin="\n".join(CAPTION_LIST)))] == CAPTION_LIST
    lines = "".join(json.dumps({"caption": t}) + "\n" for t in CAPTION_LIST)
    assert [r["text"] for r in json_rows(run("-", "--json", stdin=lines))] == CAPTION_LIST


def test_its_own_output_is_input(tmp_path: Path) -> None:
    first = run(write(tmp_path, ".txt", CAPTION_LIST), "--json")
    assert run("-", "--json", stdin=first.out).out == first.out


def test_table_mean_and_csv(tmp_path: Path) -> None:
    texts = [f"a dog and {n} cats" for n in range(30)]
    target = tmp_path / "new" / "scores.csv"
    result = run(write(tmp_path, ".txt", texts), "--show", "4", "--csv", str(target))
    lines = result.out.splitlines()
    assert [line.split("  ")[0] for line in lines[2:6]] == texts[:4]
    assert lines[6].startswith("… and 26 more")
    assert "SI" in lines[0]
    assert "GS" in lines[0]
    rows = list(csv.DictReader(io.StringIO(target.read_text(encoding="utf-8"))))
    assert [row["text"] for row in rows] == texts
    mean = sum(float(row["gs"]) for row in rows) / len(rows)
    assert next(line for line in lines if line.startswith("mean of 30")).split()[-1] == f"{mean:.2f}"
    assert "raysys-rules-1" in result.out
    for value in ("5.202", "5.732", "5.846"):
        assert value in result.out
    assert f"wrote {target}" in result.err


def test_captions_with_markup_and_control_characters_are_shown_as_text(tmp_path: Path) -> None:
    out = run(write(tmp_path, ".jsonl", ["[red]a dog[/red]", "a\x1b[31m cat\nruns"])).out
    assert "[red]a dog[/red]" in out
    assert "\x1b" not in out
    assert "a [31m cat runs" in out


def test_limit_counts_captions(tmp_path: Path) -> None:
    rows = json_rows(run(write(tmp_path, ".txt", CAPTION_LIST), "--json", "--limit", "2"))
    assert [row["text"] for row in rows] == CAPTION_LIST[:2]


def test_another_column(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('title,caption\n"a dog, in a park",x\n')
    assert [r["text"] for r in json_rows(run(str(tmp_path / "a.csv"), "--json", "--column", "title"))] == [
        "a dog, in a park"
    ]


def test_only_english_rows_count_and_the_others_are_reported(tmp_path: Path) -> None:
    rows = [
        {"caption": "a dog", "language": "en"},
        {"caption": "a cat", "language": None},
        {"caption": "a cow", "language": "en-GB"},
        {"caption": "赤い星", "language": "ja"},
        {"caption": "", "language": "en"},
        {"caption": None},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    result = run(str(tmp_path / "a.jsonl"), "--json")
    assert [r["text"] for r in json_rows(result)] == ["a dog", "a cat", "a cow"]
    assert "not scored: 1 in other languages, 2 without text" in result.err


def captions_table(path: Path) -> str:
    """Two parts of a captions table: 4 kept in English, 2 in Japanese, 1 rejected."""
    rows = [{"caption_id": f"{i}", "text": f"{i} dogs in a park", "language": "en", **kept()} for i in range(4)]
    rows += [{"caption_id": f"ja{i}", "text": "赤い星", "language": "ja", **kept()} for i in range(2)]
    rows += [{"caption_id": "no", "text": "dog dog dog dog", "language": "en", **rejected("repetition", "")}]
    part = InputPart("in.parquet", "in.parquet", len(rows), "0")
    output = open_output(str(path), CAPTIONS, "caption", {}, [part], 4)
    for chunk in output.chunks:
        commit_part(output.folder, chunk.file, CAPTIONS.table(rows[chunk.start : chunk.stop]))
    return str(path)


def test_long_captions_are_cut_numbers_are_not(tmp_path: Path) -> None:
    file = tmp_path / "long.txt"
    file.write_text("a red star beside a blue ring " * 40 + "\n")
    shown = run(str(file)).out.splitlines()[2]
    assert shown.startswith("a red star beside")
    assert len(re.findall(r"\d+\.\d\d", shown)) == 5


def test_a_table_of_captions(tmp_path: Path) -> None:
    result = run(captions_table(tmp_path / "captions"), "--json")
    assert [r["text"] for r in json_rows(result)] == [f"{i} dogs in a park" for i in range(4)]
    assert "not scored: 2 in other languages" in result.err


def test_a_table_without_captions_names_its_columns(tmp_path: Path) -> None:
    row = {"gen_id": "1", "prompt": "a dog", **kept()}
    part = InputPart("in.parquet", "in.parquet", 1, "0")
    output = open_output(str(tmp_path / "t"), GENERATIONS, "generate", {}, [part], 4)
    commit_part(output.folder, output.chunks[0].file, GENERATIONS.table([row]))
    assert "has no column caption or text; its columns: gen_id, prompt_id" in run(str(tmp_path / "t")).error
    assert [r["text"] for r in json_rows(run(str(tmp_path / "t"), "--column", "prompt", "--json"))] == ["a dog"]


@pytest.mark.parametrize(
    ("name", "content", "args", "words"),
    [
        ("missing.txt", None, [], "missing.txt does not exist"),
        ("a.png", b"x", [], "unknown kind of file"),
        ("a.txt", b"", [], "has no captions to score"),
        ("a.txt", b" \n\n", [], "has no captions to score"),
        ("a.csv", b"", [], "has no captions to score"),
        ("a.csv", b"caption\n", [], "has no captions to score"),
        ("a.txt", b"a dog\n\xff\xfe\n", [], "line 2 is not UTF-8"),
        ("a.csv", b"caption\n\xff\n", [], "line 2 is not UTF-8"),
        ("a.csv", b"title,id\nx,1\n", [], "has no column caption or text; its columns: title, id"),
        ("a.csv", b"caption\nx\n", ["--column", "alt"], "has no column alt; its columns: caption"),
        ("a.txt", b"x\n", ["--column", "alt"], "has no columns"),
        ("a.jsonl", b"a dog\n", [], "line 1 is not JSON"),
        ("a.jsonl", b'{"text": "a"}\n[1]\n', [], "line 2 is not a JSON object"),
        ("a.jsonl", b'{"caption": "a", "language": "ja"}\n', [], "(not scored: 1 in other languages)"),
        ("a.parquet", b"no parquet", [], "is not a readable Parquet file"),
    ],
)
def test_bad_input_is_one_message(
    tmp_path: Path, name: str, content: bytes | None, args: list[str], words: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    result = run(str(tmp_path / name), *args)
    assert words in result.error
    assert "fix: " in result.error


def test_targets_that_cannot_be_written_are_refused_before_the_work(tmp_path: Path) -> None:
    source = write(tmp_path, ".csv", CAPTION_LIST)
    assert "is a folder" in run(source, "--csv", str(tmp_path)).error
    before = Path(source).read_bytes()
    assert "is the file with the captions" in run(source, "--csv", source).error
    assert Path(source).read_bytes() == before
    assert "is not a raysys table" in run(str(tmp_path)).error


def test_many_captions_show_progress_on_standard_error_only(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(cli_generality, "PROGRESS_FROM", 5)
    result = run(write(tmp_path, ".txt", CAPTION_LIST * 4), "--json")
    assert len(json_rows(result)) == 12
    assert "generality  12 captions" in result.err
    few = run(write(tmp_path, ".txt", CAPTION_LIST), "--json")
    assert few.err == ""


def test_the_pipelines_on_offer_are_those_there_are() -> None:
    assert cli_generality.PIPELINES == nlp.PIPELINES


def test_it_starts_without_ray_and_torch_and_survives_a_closed_pipe(tmp_path: Path) -> None:
    source = write(tmp_path, ".txt", CAPTION_LIST * 5000)
    code = (
        "import sys\nfrom raysys.cli.generality import generality\n"
        "try: generality([sys.argv[1], '--json', '--pipeline', 'rules'])\n"
        "finally: print([m for m in ('ray', 'torch', 'transformers') if m in sys.modules], file=sys.stderr)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, source], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert json.loads(process.stdout.readline())["text"] == CAPTION_LIST[0]
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait() == 0, err
    assert err.splitlines()[-1] == "[]"
    assert "Traceback" not in err


def test_help_teaches() -> None:
    out = run("--help").out
    assert "raysys generality captions.txt" in out
    assert "Higher is more general" in out
