"""Outputs of whole steps: when they are done, how they replace one another, and what a crash leaves behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from raysys.config import Config
from raysys.errors import InputError
from raysys.tables import folder_output
from raysys.tables.folder_output import RECORD, FolderOutput, folder_status, read_record


class Settings(Config):
    seed: int = 0


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.fixture(params=["disk", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder on the disk or on an object store."""
    return str(tmp_path / "out") if request.param == "disk" else f"memory://{tmp_path}/out"


def output(place, seed: int = 0, **options) -> FolderOutput:
    return FolderOutput("toy", place, {"seed": seed, "inputs": ["a"]}, Settings(seed=seed), **options)


def build(folder: Path, text: str = "text") -> dict[str, int]:
    (folder / "below").mkdir()
    (folder / "below" / "data.txt").write_text(text)
    return {"rows": 3}


def read(out: FolderOutput) -> str:
    return out.store.read("below/data.txt").decode()


def test_written_once_then_there_is_nothing_to_do(place):
    out = output(place)
    assert (out.is_to_do(), out.state()) == (True, "new")
    assert out.write(build) == {"rows": 3}
    assert (out.is_to_do(), out.state(), read(out)) == (False, "finished", "text")
    found = read_record(place)
    assert (found.job, found.summary, found.config) == ("toy", {"rows": 3}, {"seed": 0})
    assert found.identity.startswith("toy-")
    assert out.is_to_do(redo=lambda record: record.summary["rows"] < 4)


def test_other_fields_are_refused_by_name_kept_or_replaced(place):
    output(place).write(build)
    with pytest.raises(InputError, match=r"seed: 0 → 1") as refused:
        output(place, 1).is_to_do()
    assert "--on-change" in refused.value.fix
    assert not output(place, 1, on_change="keep").is_to_do()
    again = output(place, 1, on_change="recompute")
    assert (again.is_to_do(), again.state()) == (True, "replaces another result")
    again.write(lambda folder: build(folder, "other"))
    assert read(again) == "other"
    assert not output(place, 1).is_to_do()


def test_an_output_that_follows_its_inputs_is_done_again_without_being_told(place):
    output(place, follows=["seed"]).write(build)
    assert output(place, 1, follows=["seed"]).is_to_do()
    assert not output(place, 1, follows=["seed"], on_change="keep").is_to_do()
    with pytest.raises(InputError, match="seed: 0 → 1"):
        output(place, 1, follows=["inputs"]).is_to_do()


def test_folders_of_others_are_never_replaced(place):
    out = output(place)
    out.store.write("mine.txt", b"mine")
    with pytest.raises(InputError, match="not empty and is not an output of toy"):
        out.is_to_do()
    other = FolderOutput("another", f"{place}2", {})
    other.write(build)
    with pytest.raises(InputError, match="was written by another, not by toy"):
        FolderOutput("toy", f"{place}2", {}, on_change="recompute").is_to_do()


def test_an_exception_while_writing_changes_nothing(place):
    output(place).write(build)

    def fail(folder: Path) -> dict:
        build(folder, "half")
        raise RuntimeError("no")

    again = output(place, 1, on_change="recompute")
    with pytest.raises(RuntimeError):
        again.write(fail)
    assert read(again) == "text"
    assert not output(place).is_to_do()


def test_a_run_killed_while_an_object_store_is_written_leaves_an_unfinished_output(tmp_path, monkeypatch):
    place = f"memory://{tmp_path}/killed"
    out, write = output(place), folder_output.Store.write

    def killed(store, name: str, data: bytes) -> None:
        if name.endswith("data.txt"):
            raise Killed
        write(store, name, data)

    monkeypatch.setattr(folder_output.Store, "write", killed)
    with pytest.raises(Killed):
        out.write(build)
    monkeypatch.undo()
    assert (out.is_to_do(), out.state()) == (True, "unfinished")
    assert not folder_status(place).record.is_finished
    out.write(build)
    assert not out.is_to_do()


def test_a_run_killed_while_it_writes_leaves_the_older_result(tmp_path, monkeypatch):
    out = output(tmp_path / "out")
    out.write(build)

    def killed(folder: Path) -> dict:
        build(folder, "half")
        raise Killed

    monkeypatch.setattr(folder_output.shutil, "rmtree", lambda *args, **options: None)
    with pytest.raises(Killed):
        output(tmp_path / "out", 1, on_change="recompute").write(killed)
    monkeypatch.undo()
    assert (read(out), out.is_to_do()) == ("text", False)
    assert folder_status(tmp_path / "out").is_being_written
    output(tmp_path / "out", 1, on_change="recompute").write(build)
    assert not folder_status(tmp_path / "out").is_being_written


def test_a_run_killed_between_the_two_renames_has_written_its_result(tmp_path, monkeypatch):
    place = tmp_path / "out"
    output(place).write(build)
    rename, done = Path.rename, []

    def killed(path: Path, target: Path) -> Path:
        if done:
            raise Killed
        done.append(path)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", killed)
    again = output(place, 1, on_change="recompute")
    with pytest.raises(Killed):
        again.write(lambda folder: build(folder, "other"))
    monkeypatch.undo()
    assert not place.exists()
    assert not output(place, 1, dry_run=True).is_to_do()
    assert not place.exists(), "a dry run moves nothing"
    assert not output(place, 1).is_to_do()
    assert read(output(place)) == "other"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


def test_a_step_that_goes_on_in_its_folder(place):
    out = output(place)
    assert out.is_to_do()
    out.begin()
    out.store.write("checkpoint", b"10 steps")
    assert (out.is_to_do(), out.state()) == (True, "unfinished")
    out.begin()
    assert out.store.read("checkpoint") == b"10 steps"
    with pytest.raises(InputError, match="seed: 0 → 1"):
        output(place, 1, on_change="keep").is_to_do()
    out.finish({"steps": 20})
    assert not out.is_to_do()
    assert read_record(place).summary == {"steps": 20}


def test_an_older_result_is_moved_aside_again_and_again(tmp_path):
    """Failed before: the second recompute of the same fields met `<name>.old-<hash>` and ended in an OSError."""
    for seed in (0, 1, 0, 1):
        out = output(tmp_path / "run", seed, on_change="recompute")
        assert out.is_to_do()
        out.begin()
        out.finish({})
    names = sorted(p.name for p in tmp_path.iterdir())
    assert [name.count("-") for name in names] == [0, 1, 2, 1]
    assert [read_record(tmp_path / name).fields["seed"] for name in names].count(0) == 2


def test_object_stores_are_not_moved(tmp_path):
    out = output(f"memory://{tmp_path}/aside")
    out.begin()
    with pytest.raises(InputError, match="cannot be moved aside"):
        output(f"memory://{tmp_path}/aside", 1, on_change="recompute").begin()


def test_a_full_disk_or_a_file_in_the_way_is_one_message(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*file/_out"):
        output(tmp_path / "file" / "out").write(build)


def test_status_of_folders(tmp_path):
    assert folder_status(tmp_path) is None
    output(tmp_path / "out").write(build)
    status = folder_status(tmp_path / "out")
    assert (status.record.summary, status.n_files) == ({"rows": 3}, 2)
    assert status.n_bytes > len("text")
    (tmp_path / "out" / RECORD).write_text("{}")
    with pytest.raises(InputError, match="damaged"):
        folder_status(tmp_path / "out")


def test_two_runs_do_not_write_one_output(place):
    """Failed before: both wrote into one staging folder, and both ended well."""
    seen = []

    def build_beside_another(folder: Path) -> dict[str, int]:
        other = output(place, 1, on_change="recompute")
        with pytest.raises(InputError, match=r"another run is writing .*out: toy on "):
            other.write(lambda folder: build(folder, "other"))
        seen.append(True)
        return build(folder)

    assert output(place).write(build_beside_another) == {"rows": 3}
    assert (seen, read(output(place))) == ([True], "text")
    assert output(place, 1, on_change="recompute").write(lambda folder: build(folder, "other")) == {"rows": 3}
    assert read(output(place, 1)) == "other"


def test_a_step_that_resumes_in_its_folder_is_alone(place):
    one, two = output(place), output(place)
    with one.alone():
        assert one.is_to_do(), "the lease is no content of the folder"
        one.begin()
        with one.alone(), pytest.raises(InputError, match="another run"), two.alone():
            pass
        one.finish({"steps": 1})
    with two.alone():
        assert not two.is_to_do()
