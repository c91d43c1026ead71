"""`raysys submit`: what it uploads, where keys go, what it says when nothing answers, and the job's end."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import yaml

from raysys import cli, signals
from raysys.engine import submit, submitted
from raysys.errors import InputError
from raysys.jobs.options import RunOptions
from raysys.jobs.outputs import refuse_lost_path
from tests.support import processes
from tests.support.job_server import JOB_ID, FakeJobServer

KEY = "sesame-3f1d-canary"

INGEST = {"input": "s3://bucket/photos", "output": "s3://bucket/samples"}


def run_cli(*args: str | Path) -> int:
    """The program's exit code."""
    with pytest.raises(SystemExit) as caught:
        cli.main([str(arg) for arg in args])
    return caught.value.code


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No address and no token from outside; a RAY_ADDRESS that must not matter."""
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "TEST_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")


@pytest.fixture
def config(run_folder: Path, tmp_path: Path) -> Path:
    """A YAML that is not in the working directory."""
    path = tmp_path / "my ingest.yaml"
    path.write_text(yaml.safe_dump(INGEST))
    return path


@pytest.fixture
def server() -> Iterator[FakeJobServer]:
    with FakeJobServer(log="the job's log\n") as running:
        yield running


def submitted_job(server: FakeJobServer, *args: str | Path) -> dict:
    """What the server was asked to run."""
    assert run_cli("submit", *args, "--address", server.url) == 0
    return server.jobs[-1]


def test_one_yaml_from_anywhere_and_the_running_package_are_uploaded(server, config, repo, capsys):
    job = submitted_job(server, "ingest", "--config", config, "chunk_rows=64", "--limit", "10")
    assert shlex.split(job["entrypoint"]) == shlex.split(
        "python -m raysys ingest --config 'my ingest.yaml' chunk_rows=64 --limit 10"
    )
    environment = job["runtime_env"]
    assert set(environment) <= {"working_dir", "py_modules", "_ray_commit"}
    assert server.files(environment["working_dir"]) == {"my ingest.yaml": config.read_bytes()}
    (code,) = environment["py_modules"]
    source = repo / "raysys"
    wanted = {p for p in source.rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    assert set(server.files(code)) == {p.relative_to(repo).as_posix() for p in wanted}
    said = capsys.readouterr()
    assert said.out == "the job's log\n"
    assert f"job {JOB_ID} runs on {server.url}; its log:" in said.err
    before = len(server.puts)
    submitted_job(server, "ingest", "--config", config)
    assert len(server.puts) == before, "the cluster had both packages"


def test_print_only_lists_what_would_be_sent_and_connects_to_nothing(config, capsys):
    assert run_cli("submit", "ingest", "--config", config, "--print-only", "--on-change", "keep") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("upload working directory: 1 file, 0.0 MB")
    assert lines[1].startswith("upload raysys ")
    assert lines[2:] == ["run python -m raysys ingest --config 'my ingest.yaml' --on-change keep"]


def test_without_a_yaml_the_keys_of_the_command_line_are_the_configuration(server):
    job = submitted_job(server, "ingest", "input=s3://a", "output=s3://b", "--allow-local-output")
    assert job["entrypoint"] == "python -m raysys ingest input=s3://a output=s3://b --allow-local-output"
    assert submitted_job(server, "study", "--config", "demo", "--only", "a,b")["entrypoint"] == (
        "python -m raysys study --config demo --only a --only b"
    )


def test_a_folder_of_ones_own_travels_without_what_rayignore_names(server, run_folder, config, capsys):
    for name in ("own.yaml", "prompts.txt", "data/big.bin", ".rayignore", "raysys/__init__.py", "lib/raysys/x.txt"):
        path = run_folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(INGEST) if name == "own.yaml" else "data/\n")
    job = submitted_job(server, "ingest", "--config", "own.yaml", "--working-dir", ".")
    files = server.files(job["runtime_env"]["working_dir"])
    assert set(files) == {"own.yaml", "prompts.txt", ".rayignore", "lib/raysys/x.txt"}
    assert "--config own.yaml" in job["entrypoint"]
    assert run_cli("submit", "ingest", "--config", config, "--working-dir", ".", "--address", server.url) == 2
    assert "my ingest.yaml is not in --working-dir ." in capsys.readouterr().err


def test_a_folder_that_is_too_large_is_refused_here(server, run_folder, monkeypatch, capsys):
    (run_folder / "large").write_bytes(bytes(2**21))
    monkeypatch.setattr(submit, "MAX_PACKAGE_BYTES", 2**20)
    command = ("submit", "ingest", "input=s3://a", "output=s3://b", "--working-dir", ".", "--address", server.url)
    assert run_cli(*command) == 2
    said = capsys.readouterr().err
    assert "2 MiB to upload; a cluster takes 1 MiB" in said
    assert ".rayignore" in said
    assert not server.stored


def captioning(tmp_path: Path) -> Path:
    """A configuration that names two variables; only TEST_KEY is set here."""
    engines = [
        {"name": name, "llm": {"model": "m", "endpoint": {"base_url": "http://h/v1", "api_key_env": variable}}}
        for name, variable in (("a", "TEST_KEY"), ("b", "TEST_KEY_OF_THE_CLUSTER"))
    ]
    path = tmp_path / "caption.yaml"
    path.write_text(yaml.safe_dump({"samples": "s3://b/s", "output": "s3://b/c", "captioners": engines}))
    return path


def test_a_key_travels_apart_from_the_job_and_is_not_shown(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TEST_KEY", KEY)
    job = submitted_job(server, "caption", "--config", captioning(tmp_path))
    words = shlex.split(job["entrypoint"])
    uri = words[words.index("--take-keys") + 1]
    assert json.loads(server.stored.pop(uri)) == {"TEST_KEY": KEY}
    assert server.puts[-1][0] == uri, "after the packages: the cluster keeps it for minutes only"
    said = capsys.readouterr()
    assert KEY not in json.dumps(job) + said.out + said.err
    for package in server.stored:
        assert not [name for name, data in server.files(package).items() if KEY.encode() in data]
    assert "key TEST_KEY: from this environment" in said.err
    assert "note: TEST_KEY_OF_THE_CLUSTER is not set here" in said.err
    again = submitted_job(server, "caption", "--config", tmp_path / "caption.yaml")
    assert uri not in again["entrypoint"], "a name is used once"


def test_the_key_of_a_job_that_was_refused_does_not_stay(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TEST_KEY", KEY)
    with FakeJobServer(refuses="a job with this id exists") as server:
        assert run_cli("submit", "caption", "--config", captioning(tmp_path), "--address", server.url) == 1
    assert not [uri for uri, data in server.stored.items() if KEY.encode() in data]
    assert any(KEY.encode() in data for _, data in server.puts)
    said = capsys.readouterr().err
    assert "did not start the job: ValueError: a job with this id exists" in said
    assert "Traceback" not in said


def test_the_job_takes_its_keys_once(ray_local, monkeypatch):
    from ray.experimental.internal_kv import _internal_kv_exists, _internal_kv_put

    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    uri = "gcs://_raysys_test.zip"
    _internal_kv_put(uri, json.dumps({"TEST_KEY": KEY}))
    monkeypatch.setenv("TEST_KEY", "")
    assert run_cli("--take-keys", uri, "status", "nowhere") == 2
    assert os.environ["TEST_KEY"] == KEY
    assert not _internal_kv_exists(uri)
    with pytest.raises(InputError, match=r"taken once(.|\n)*raysys submit"):
        submitted.take(uri)


def test_what_does_not_answer_is_one_message(config, monkeypatch, capsys):
    monkeypatch.setattr(submit, "CONNECT_S", 1.0)

    def message(address: str) -> str:
        began = time.monotonic()
        assert run_cli("submit", "ingest", "--config", config, "--address", address) == 2
        assert time.monotonic() - began < 15
        said = capsys.readouterr()
        assert said.out == ""
        assert "Traceback" not in said.err
        assert "fix: give the address of the cluster's job server" in said.err
        return said.err

    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert "does not answer within 1 s" in message(f"http://127.0.0.1:{port}")
    assert f"cannot reach http://127.0.0.1:{port}: Connection refused" in message(f"127.0.0.1:{port}")
    assert "is not the address of a job server" in message("ray://127.0.0.1:10001")
    assert "is not valid" in message("http://127.0.0.1:port")


def test_what_answers_is_not_a_job_server(config, monkeypatch, capsys):
    with FakeJobServer() as server:
        address = f"{server.url}/elsewhere"
        assert run_cli("submit", "ingest", "--config", config, "--address", address) == 2
    said = capsys.readouterr().err
    assert f"{address} is not a Ray job server (it answers 404 Not Found)" in said
    assert len(said.splitlines()) == 2


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ({"RAY_AUTH_MODE": "disabled"}, "requires a token, and none was sent"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "wrong"}, "refuses the token"),
    ],
)
def test_a_token_that_is_missing_or_wrong_is_one_message(config, token, said):
    """In a process of its own, because Ray reads the token once per process."""
    with FakeJobServer(token="right") as server:
        ended = processes.raysys("submit", "ingest", "--config", config, "--address", server.url, **token)
    assert (ended.returncode, ended.stdout) == (2, "")
    what, fix = ended.stderr.splitlines()
    assert what == f"raysys: {server.url} {said}"
    assert "export RAY_AUTH_MODE=token" in fix
    assert not server.stored


def test_another_version_of_ray_is_noted(config, capsys):
    with FakeJobServer(ray_version="2.50.1") as server:
        submitted_job(server, "ingest", "--config", config)
    assert (
        f"the cluster runs Ray 2.50.1; raysys here was installed for Ray {ray.__version__}" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("end", "code", "line"),
    [
        ({"status": "FAILED", "exit_code": 2}, 2, f"job {JOB_ID} ended with exit code 2"),
        ({"status": "FAILED", "exit_code": None, "message": "no space"}, 1, f"job {JOB_ID}: failed: no space"),
        ({"status": "STOPPED", "exit_code": None}, 1, f"job {JOB_ID}: stopped"),
    ],
)
def test_the_exit_code_is_the_jobs(config, capsys, end, code, line):
    with FakeJobServer(**end) as server:
        assert run_cli("submit", "ingest", "--config", config, "--address", server.url) == code
    assert line in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_leaves_the_job_running_and_says_how_to_go_on(config, capsys, monkeypatch, number, code):
    monkeypatch.setattr(signals, "_received", False)
    with FakeJobServer(log=lambda: os.kill(os.getpid(), number)) as server:
        assert run_cli("submit", "ingest", "--config", config, "--address", server.url) == code
    said = capsys.readouterr().err
    assert f"job {JOB_ID} goes on" in said
    assert f"ray job logs --follow --address {server.url} {JOB_ID}" in said
    assert f"ray job stop --address {server.url} {JOB_ID}" in said


def test_no_wait_returns_at_once_and_says_how_to_follow(config, capsys):
    with FakeJobServer(log=lambda: pytest.fail("nobody follows")) as server:
        assert run_cli("submit", "ingest", "--config", config, "--address", server.url, "--no-wait") == 0
    assert f"ray job logs --follow --address {server.url} {JOB_ID}" in capsys.readouterr().err


def test_a_lost_connection_says_that_the_job_goes_on(config, capsys):
    with FakeJobServer(log="half of the log\n", breaks=True) as server:
        assert run_cli("submit", "ingest", "--config", config, "--address", server.url) == 1
    said = capsys.readouterr()
    assert said.out == "half of the log\n"
    assert f"the connection to {server.url} was lost" in said.err
    assert "ray job logs --follow" in said.err
    assert "Traceback" not in said.err


def test_a_local_output_is_allowed_on_one_node_and_never_in_the_working_directory(run_folder, monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    allowed = RunOptions(allow_local_output=True)
    for options in (RunOptions(), allowed):
        for path in ("out", "../out", str(run_folder / "out")):
            with pytest.raises(InputError, match="working directory of this job"):
                refuse_lost_path(path, options)
        for path in ("s3://bucket/out", "/mnt/shared/out"):
            refuse_lost_path(path, options)
    with pytest.raises(InputError, match=r"lost with the node(.|\n)*--allow-local-output"):
        refuse_lost_path("/tmp/out", RunOptions())
    monkeypatch.setattr(submitted, "count_nodes", lambda: 1)
    refuse_lost_path("/tmp/out", allowed)
    monkeypatch.setattr(submitted, "count_nodes", lambda: 3)
    with pytest.raises(InputError, match="the cluster has 3 nodes"):
        refuse_lost_path("/tmp/out", allowed)


def test_nodes_are_counted(ray_local, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    assert submitted.count_nodes() == 1
