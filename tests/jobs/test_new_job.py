"""What a new job needs: its module, its line in JOBS, its packaged configurations. Nothing else knows of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from raysys.cli import main
from raysys.jobs import JOBS, register
from raysys.jobs.registry import JobInfo

MODULE = '''
"""Job `shout`: captions in capitals."""

import pyarrow as pa
from pydantic import Field

from raysys.config import OPERATIONAL, Config, Place
from raysys.engine.config import ClusterConfig
from raysys.jobs.run_table import run_table
from raysys.outcomes import kept
from raysys.rows import SAMPLES
from raysys.tables import InputPart
from raysys.tables.job import TableJob
from raysys.tables.stage import Stage


class JobConfig(Config):
    """Say it louder."""

    output: Place = Field(description="output table of SAMPLES rows")
    words: tuple[str, ...] = Field(("a", "b", "c"), description="what is said")
    cluster: ClusterConfig = Field(ClusterConfig(), description="use of the cluster")


class Shout(Stage):
    name = "shout"

    def __call__(self, items):
        return [{"row_id": word, "caption": word.upper(), **kept()} for word in items["row_id"].to_pylist()]


class Load:
    def __init__(self, words):
        self.words = words

    def __call__(self, chunk):
        return pa.table({"row_id": list(self.words[chunk.start : chunk.stop])})


def run(config, options):
    part = InputPart("words", "words", len(config.words), "s")
    job = TableJob("shout", config.output, SAMPLES, config.identity(), [part], 2, Load(config.words), Shout, (),
                   config.cluster)
    return run_table(job, config, options)
'''


@pytest.fixture
def shout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The three things, in a folder of their own; the folder."""
    (tmp_path / "raysys_shout.py").write_text(MODULE)
    (tmp_path / "configs/shout").mkdir(parents=True)
    (tmp_path / "configs/shout/demo.yaml").write_text("output: said\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("raysys.jobs.registry.CONFIGS", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    register(JobInfo("shout", "raysys_shout", "Say it louder.", "raysys shout --config demo"))
    yield tmp_path
    del JOBS["shout"]


def raysys(*args: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(args))
    return ended.value.code


def test_three_things_make_a_job_with_everything_that_jobs_have(shout: Path, capsys) -> None:
    assert raysys("shout", "--help") == 0
    assert "what is said" in capsys.readouterr().out
    inline = ("--address", "inline")
    demo = ("shout", "--config", "demo", *inline)
    assert raysys(*demo, "--dry-run") == 0
    assert "pending items   3" in capsys.readouterr().out
    assert raysys(*demo, "--limit", "1") == 0
    assert "1 of 2 chunks are done" in capsys.readouterr().out
    assert raysys(*demo) == 0
    assert "2 of 2 chunks are done, 3 rows: kept 3, rejected 0, error 0" in capsys.readouterr().out
    assert raysys(*demo) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert raysys(*demo, "words=[x]") == 2
    assert "words.0" not in capsys.readouterr().out
    assert raysys("status", "said") == 0
    assert "2 of 2 done" in capsys.readouterr().out
    assert raysys("verify", "said") == 0
    assert raysys("retry", "said", *inline) == 0
    assert raysys("submit", "shout", "--config", "demo", "--print-only") == 0
    assert "python -m raysys shout --config demo" in capsys.readouterr().out
