"""`raysys submit` from an installed wheel to a real head that wants a token; nothing there or here sees a checkout."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml
from PIL import Image

from raysys.rows import SAMPLES
from raysys.tables import open_table
from tests.support import processes
from tests.support.fake_endpoint import FakeEndpoint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

for needed in ("aiohttp_cors", "opencensus"):
    pytest.importorskip(needed, reason="a head needs ray[default]: pip install 'raysys[cluster]'")

TOKEN = "0123456789abcdef" * 4
KEY = "sesame-3f1d-canary"
VERSION = "9.8.0"
"""Of the wheel under test, so that its tables tell whose code wrote them."""

N = 5


@dataclass(frozen=True)
class Head:
    """A running head: its job server, and the folder in which it keeps everything."""

    url: str
    folder: Path

    def asks(self, path: str) -> str:
        """What the dashboard's API says."""
        request = urllib.request.Request(f"{self.url}/api/{path}", headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read().decode()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """Its ports are its own, and only its own processes are ended: others may run Ray on this machine."""
    folder = Path(tempfile.mkdtemp(prefix="raysys-", dir="/tmp"))  # short: Ray's sockets are in it
    port = free_port()
    options = {
        "port": free_port(),
        "dashboard-port": port,
        "ray-client-server-port": free_port(),
        "dashboard-agent-listen-port": 0,
        "min-worker-port": 0,
        "max-worker-port": 0,
        "num-cpus": 4,
        "object-store-memory": 300_000_000,
        "temp-dir": folder,
        "include-dashboard": "true",
    }
    log = (folder / "head.log").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
        + [f"--{name}={value}" for name, value in options.items()],
        cwd=folder,
        env={
            **{name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "RAY_ADDRESS")},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": TOKEN,
        },
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        wait_until_it_says_so(process, folder / "head.log")
        yield Head(f"http://127.0.0.1:{port}", folder)
    finally:
        everything = [process, *psutil.Process(process.pid).children(recursive=True)]
        for one in everything:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait()
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def wait_until_it_says_so(process: subprocess.Popen, log: Path) -> None:
    began = time.monotonic()
    while "Ray runtime started" not in (text := log.read_text()):
        assert process.poll() is None, text
        assert time.monotonic() - began < processes.DEADLINE_S, text
        time.sleep(0.2)


@pytest.fixture
def out() -> Iterator[Path]:
    """A folder below /tmp, wherever pytest keeps its own."""
    with tempfile.TemporaryDirectory(prefix="raysys-out-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, repo: Path) -> Path:
    """A folder with the installed wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(repo / "raysys", source / "raysys", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(repo / name, source)
    package = source / "raysys/__init__.py"
    text = package.read_text()
    assert '__version__ = "' in text
    package.write_text(text + f'\n__version__ = "{VERSION}"\n')
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", source, "-w", folder], check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "-q", "--no-deps", "--target", folder / "site", wheel], check=True)
    shutil.rmtree(source)
    return folder / "site"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(N):
        Image.effect_noise((64, 48), 40 + number).convert("RGB").save(folder / f"{number}.jpg")
        (folder / f"{number}.txt").write_text(f"noise number {number}")
    return folder


def submit(head: Head, site: Path, folder: Path, job: str, config: dict, *flags: str, **environment: str):
    """`raysys submit` of the wheel, in a folder that holds one YAML."""
    folder.mkdir(exist_ok=True)
    (folder / f"{job}.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "raysys", "submit", job, "--config", f"{job}.yaml", "--address", head.url, *flags]
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    process = processes.start(command, folder, PYTHONPATH=str(site), **token, **environment)
    out, err = processes.communicate(process)
    return process.returncode, out, err


def test_a_wheel_and_a_yaml_are_enough_and_the_key_is_nowhere(head, site, photos, tmp_path, out):
    samples = {"input": str(photos), "output": f"{out}/samples", "ingest": {"check_licenses": False}}

    code, log, err = submit(head, site, tmp_path / "here", "ingest", samples)
    assert code == 2, log + err
    assert "on the disk of the node that runs this job" in log
    assert not list(out.iterdir())

    code, log, err = submit(head, site, tmp_path / "here", "ingest", samples, "--allow-local-output")
    assert code == 0, log + err
    rows = [row for table in open_table(f"{out}/samples", SAMPLES).rows() for row in table.to_pylist()]
    assert sorted(row["caption"] for row in rows) == [f"noise number {number}" for number in range(N)]
    (plan,) = (out / "samples").glob("*/_plan.json")
    assert '"raysys": "9.8"' in plan.read_text(), "the uploaded package wrote it"

    with FakeEndpoint() as endpoint:
        llm = {"model": "tiny", "endpoint": {"base_url": endpoint.base_url, "api_key_env": "TEST_SUBMITTED_KEY"}}
        captions = {
            "samples": f"{out}/samples",
            "output": f"{out}/captions",
            "min_captions": 1,
            "captioners": [{"name": "far", "llm": llm}],
        }
        flags = ("--allow-local-output", "--submission-id", "with-a-key")
        code, log, err = submit(head, site, tmp_path / "here", "caption", captions, *flags, TEST_SUBMITTED_KEY=KEY)
        assert code == 0, log + err
        assert [post.headers.get("Authorization") for post in endpoint.seen] == [f"Bearer {KEY}"] * N
    assert "--take-keys gcs://" in head.asks("jobs/with-a-key")
    for place in ("jobs/", "jobs/with-a-key", "jobs/with-a-key/logs", "v0/tasks?detail=1", "v0/actors?detail=1"):
        assert KEY not in head.asks(place)
    assert KEY not in log + err
    files = [f for folder in (head.folder, out, tmp_path, site) for f in folder.rglob("*") if f.is_file()]
    assert any("with-a-key" in f.name for f in files), "Ray's folder of this session is searched"
    assert not [f for f in files if KEY.encode() in f.read_bytes()]
