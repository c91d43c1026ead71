"""What several test files share: one thread per process, a run folder, one local Ray cluster for the whole session."""

from __future__ import annotations

import os

# Before anything imports torch or numpy: the tests' processes share few cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repo() -> Path:
    """The checkout's root."""
    return REPO


@pytest.fixture
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is also the working directory, as a user's project folder is."""
    folder = tmp_path / "run"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def ray_local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One private Ray cluster on this machine for all tests that need one; the folder in which its workers run.

    Four logical CPUs: an actor pool must leave Ray's readers a whole one, and two real cores would not.
    """
    import ray

    folder = tmp_path_factory.mktemp("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        _start(ray)
    yield folder
    ray.shutdown()


def _start(ray: ModuleType) -> None:
    ray.init(
        address="local",
        num_cpus=4,
        num_gpus=0,
        object_store_memory=512 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="WARNING",
        runtime_env={"env_vars": {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}},
    )
