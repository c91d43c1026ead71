"""The command line through its real entry point: commands and flags, help that teaches, exit codes, interruption."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import click
import pytest
from pydantic import Field

from raysys import cli, signals
from raysys.config import Config
from raysys.errors import InputError, RunFailed
from raysys.jobs import JOBS, register
from raysys.jobs.options import RunOptions
from raysys.jobs.registry import JobInfo
from raysys.tables.results import Summary

JOB_FLAGS = {
    "--config",
    "--limit",
    "--dry-run",
    "--on-change",
    "--allow-local-output",
    "--address",
    "--print-config",
    "KEY=VALUE",
}

FROZEN = {
    "study": JOB_FLAGS | {"--only"},
    "scenes": JOB_FLAGS,
    "ingest": JOB_FLAGS,
    "describe": JOB_FLAGS,
    "dedup": JOB_FLAGS | {"--report", "--csv"},
    "caption": JOB_FLAGS,
    "translate": JOB_FLAGS,
    "generalize": JOB_FLAGS,
    "export": JOB_FLAGS,
    "encode": JOB_FLAGS,
    "assemble": JOB_FLAGS,
    "train-diffusion": JOB_FLAGS,
    "generate": JOB_FLAGS,
    "replicate": JOB_FLAGS,
    "report": JOB_FLAGS,
    "status": {"path"},
    "failed": {"path", "--rejected", "--limit", "--csv", "--json"},
    "retry": {"path", "--limit", "--dry-run", "--address"},
    "verify": {"path"},
    "generality": {"FILE|TABLE|-", "--csv", "--json", "--limit", "--pipeline", "--column", "--show"},
    "replication": {
        "generated",
        "training",
        "--held-out",
        "--report",
        "--json",
        "--csv",
        "--descriptor",
        "--weights",
        "--sha256",
        "--preset",
        "--top",
    },
    "zoo list": {"--folder"},
    "zoo build": {"vae|clip|captioner|rewriter", "--folder", "--seed", "--max-steps"},
    "submit": (JOB_FLAGS - {"--print-config"})
    | {"JOB", "--only", "--working-dir", "--submission-id", "--no-wait", "--print-only"},
}
"""Every command and flag. A new knob belongs into a config; a new flag is written down here, on purpose."""


class FakeConfig(Config):
    output: str = Field(description="table to write")
    photos: str = Field("", description="images to read")
    rows: int = Field(3, ge=1, description="how many rows to pretend")


@pytest.fixture
def fake_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> types.ModuleType:
    """A job in the public registry that records how it was called; `fails_with` makes it raise."""
    module = types.ModuleType("raysys_fake_job")
    module.JobConfig = FakeConfig
    module.calls = []
    module.fails_with = None

    def run(config: FakeConfig, options: RunOptions) -> Summary:
        module.calls.append((config, options))
        if module.fails_with is not None:
            raise module.fails_with
        return Summary({}, facts={"rows": config.rows})

    module.run = run
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr("raysys.jobs.registry.CONFIGS", tmp_path / "configs")
    demo = tmp_path / "configs" / "fake" / "demo.yaml"
    demo.parent.mkdir(parents=True)
    demo.write_text("output: runs/fake\nphotos: runs/photos\nrows: 5\n")
    register(JobInfo("fake", module.__name__, "Pretends.", "raysys fake --config demo"))
    yield module
    del JOBS["fake"]


def run_cli(*args: str) -> int:
    """The program's exit code."""
    with pytest.raises(SystemExit) as caught:
        cli.main(list(args))
    return caught.value.code


def test_commands_and_flags_are_frozen() -> None:
    context = click.Context(cli.cli)
    found = {}
    for name in cli.cli.list_commands(context):
        command = cli.cli.get_command(context, name)
        if isinstance(command, click.Group):
            found |= {f"{name} {sub}": names_of(part) for sub, part in command.commands.items()}
        else:
            found[name] = names_of(command)
    assert found == FROZEN


def names_of(command: click.Command) -> set[str]:
    names = set()
    for param in command.params:
        if isinstance(param, click.Option):
            names |= {o for o in param.opts if o.startswith("--")}
        else:
            names.add((param.metavar or param.name).strip("[]."))
    return names


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; from raysys.cli import cli\n"
        "try: cli.main(['--help'], prog_name='raysys')\n"
        "except SystemExit: pass\n"
        "print(sorted({'ray', 'torch', 'pyarrow', 'numpy', 'pydantic', 'diffusers', 'rich'} & set(sys.modules)))"
    )
    began = time.monotonic()
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.endswith("[]\n")
    assert time.monotonic() - began < 5  # 0.2 s on an idle machine; a heavy import would take longer than this
    assert all(name.split()[0] in out for name in FROZEN)


def test_configurations_are_checked_without_ray_and_model_libraries() -> None:
    """`raysys JOB --help`, a dry run and a submission load configurations, and wait for what that imports."""
    code = (
        "import sys\n"
        "from raysys.config import load\n"
        "from raysys.jobs import JOBS\n"
        "for job in JOBS.values(): load(job.load().JobConfig, job.packaged_config('demo'))\n"
        "print(sorted({'ray', 'diffusers', 'transformers', 'vllm', 'spacy', 'faiss'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == "[]\n"


def test_job_help_teaches_every_key_and_how_to_resume(fake_job, capsys) -> None:
    assert run_cli("fake", "--help") == 0
    out = capsys.readouterr().out
    assert "output  (text; required)" in out
    assert "rows  (whole number, ≥ 1; default 3)" in out
    assert "how many rows to pretend" in out
    assert "raysys fake --config demo" in out
    assert "same command again" in " ".join(out.split())


def test_a_job_gets_its_config_and_options(fake_job, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("output: here\n")
    flags = ["--limit", "7", "--dry-run", "--on-change", "keep", "--address", "local"]
    assert run_cli("fake", "--config", str(path), "rows=2", *flags) == 0
    assert fake_job.calls == [
        (
            FakeConfig(output="here", rows=2),
            RunOptions(7, True, "keep", "local"),
        )
    ]


def test_the_demo_runs_only_where_it_is_asked_for(fake_job, capsys) -> None:
    """A stranger's data must not run under the demo's settings unnoticed."""
    assert run_cli("fake", "output=mine") == 0
    assert fake_job.calls[0][0] == FakeConfig(output="mine", rows=3)
    assert "default configuration" in capsys.readouterr().err
    assert run_cli("fake", "--config", "demo") == 0
    assert fake_job.calls[1][0].rows == 5
    said = capsys.readouterr().err
    assert "fake/demo.yaml" in said
    assert "note:" not in said
    assert run_cli("fake", "--config", "demo", "photos=mine", "output=there") == 0
    assert "note: photos=mine is not the demo's, but all other settings are" in capsys.readouterr().err
    assert run_cli("fake") == 2
    said = capsys.readouterr().err
    assert "raysys fake needs output" in said
    assert "--config demo runs the demo" in said


def test_print_config_prints_yaml_that_loads_again(fake_job, capsys, tmp_path: Path) -> None:
    assert run_cli("fake", "output=runs/fake", "rows=9", "--print-config") == 0
    assert fake_job.calls == []
    (tmp_path / "again.yaml").write_text(capsys.readouterr().out)
    assert run_cli("fake", "--config", str(tmp_path / "again.yaml")) == 0
    assert fake_job.calls[0][0] == FakeConfig(output="runs/fake", rows=9)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["fake", "output=x", "rows=0", "color=1"], ["2 mistakes", "rows = 0", "color: unknown key"]),
        (["fake", "--config", "missing.yaml"], ["missing.yaml does not exist"]),
        (["fake", "--config", "full"], ["no packaged config 'full' (it has: demo)"]),
        (["fake", "my.yaml"], ["raysys fake --config my.yaml"]),
        (["fake", "rows"], ["is not key=value"]),
        (["fake", "--limit", "0"], ["--limit"]),
        (["fake", "--on-change", "wipe"], ["'refuse', 'recompute', 'keep'"]),
        (["fak"], ["No such command 'fak'", "Did you mean fake?"]),
        (["submit", "ingst"], ["unknown job 'ingst'", "raysys submit ingest"]),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(fake_job, capsys, args: list[str], words: list[str]) -> None:
    assert run_cli(*args) == 2
    err = capsys.readouterr().err
    assert all(w in err for w in words), err
    assert "Traceback" not in err
    assert fake_job.calls == []


class Wrapped(Exception):
    """As an engine hands over what a worker raised."""

    def __init__(self, cause: Exception) -> None:
        super().__init__("a long remote traceback")
        self.cause = cause


@pytest.mark.parametrize(
    ("exc", "code", "words", "traceback"),
    [
        (InputError("no input at /data", "give a folder"), 2, "no input at /data\n  fix: give a folder", False),
        (Wrapped(InputError("no input", "give one")), 2, "raysys: no input\n  fix: give one", False),
        (RunFailed("40 of 100 rows failed"), 1, "raysys: 40 of 100 rows failed", False),
        (OSError(errno.ENOSPC, "No space left on device", "part.parquet"), 1, "while writing part.parquet", False),
        (KeyboardInterrupt(), 130, "run the same command again to resume", False),
        (KeyError("surprise"), 1, "KeyError: 'surprise'", True),
    ],
)
def test_every_ending_has_its_exit_code(fake_job, capsys, exc, code: int, words: str, traceback: bool) -> None:
    fake_job.fails_with = exc
    assert run_cli("fake", "output=x") == code
    err = capsys.readouterr().err
    assert words in err
    assert ("Traceback" in err) == traceback


SLEEPER = """
import sys, time, types
from pydantic import Field
from raysys.config import Config
from raysys.jobs import JOBS, register
from raysys.jobs.registry import JobInfo

class JobConfig(Config):
    output: str = Field("x", description="-")

def run(config, options):
    try:
        print("running", flush=True)
        time.sleep(60)
    finally:
        print("cleaned up", flush=True)

module = types.ModuleType("sleeper")
module.JobConfig, module.run = JobConfig, run
sys.modules["sleeper"] = module
register(JobInfo("sleep", "sleeper", "Sleeps.", "raysys sleep"))
from raysys.cli import main
main(["sleep", "--config", sys.argv[1]])
"""


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_stop_gracefully_and_say_how_to_resume(tmp_path: Path, signum: int, code: int) -> None:
    config = tmp_path / "empty.yaml"
    config.write_text("")
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEPER, str(config)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "running\n"
    os.kill(process.pid, signum)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (code, "cleaned up\n")
    assert "run the same command again to resume" in err
    assert "Traceback" not in err


def test_sigterm_is_only_caught_in_the_main_thread() -> None:
    from concurrent.futures import ThreadPoolExecutor

    before = signal.getsignal(signal.SIGTERM)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(signals.install).result()
    assert signal.getsignal(signal.SIGTERM) is before


def test_submit_checks_before_it_sends(fake_job, capsys, run_folder: Path) -> None:
    (run_folder / "my conf.yaml").write_text("output: s3://bucket/x\n")
    assert run_cli("submit", "fake", "--config", "my conf.yaml", "rows=4", "--print-only") == 0
    assert "run python -m raysys fake --config 'my conf.yaml' rows=4\n" in capsys.readouterr().out
    assert run_cli("submit", "fake", "--config", "my conf.yaml", "rows=none") == 2
    assert "rows = 'none'" in capsys.readouterr().err
    assert run_cli("submit", "fake") == 2
    assert "raysys fake needs output" in capsys.readouterr().err


def test_the_module_runs_like_the_program() -> None:
    out = subprocess.run([sys.executable, "-m", "raysys", "--version"], capture_output=True, text=True, check=True)
    assert out.stdout.startswith("raysys, version")


def test_a_job_name_is_taken_once() -> None:
    with pytest.raises(ValueError, match=r"'ingest' is already registered by raysys\.jobs\.ingest"):
        register(JobInfo("ingest", "other", "", ""))


def test_zoo_commands_offer_what_can_be_built() -> None:
    from raysys.cli import zoo as cli_zoo
    from raysys.zoo import build as zoo_build

    assert cli_zoo.MEMBERS == zoo_build.MEMBERS


def test_zoo_build_passes_its_options_on(run_folder: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    from raysys.zoo import build as zoo_build

    calls = []
    monkeypatch.setattr(zoo_build, "build", lambda *args: calls.append(args) or {"members": {"vae": {}}})
    assert run_cli("zoo", "build", "vae", "--folder", "mine", "--seed", "3", "--max-steps", "9") == 0
    assert run_cli("zoo", "build", "--folder", "mine") == 0
    assert calls == [(Path("mine"), ("vae",), 3, 9), (Path("mine"), zoo_build.MEMBERS, 0, None)]
    assert "mine holds vae" in capsys.readouterr().out


def test_zoo_list_names_members_and_checks_their_files(run_folder: Path, capsys) -> None:
    config = run_folder / "zoo" / "vae" / "config.json"
    config.parent.mkdir(parents=True)
    config.write_text("{}")
    entry = {"bytes": 1_500_000, "seed": 3, "max_steps": 2400, "metrics": {"psnr_db": 31.25}}
    files = {"config.json": hashlib.sha256(b"{}").hexdigest()}
    (run_folder / "zoo" / "manifest.json").write_text(json.dumps({"members": {"vae": entry | {"files": files}}}))
    assert run_cli("zoo", "list", "--folder", "zoo") == 0
    out = capsys.readouterr().out
    assert all(words in out for words in ("zoo:vae", "1.50 MB", "seed 3", "2,400 steps", "psnr_db: 31.25"))
    config.write_text("[]")
    assert run_cli("zoo", "list", "--folder", "zoo") == 2
    assert "is damaged" in capsys.readouterr().err
