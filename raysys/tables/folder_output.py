"""The output folder of a step that is done as a whole: an assembled set, an export, a training, a measurement.

    <folder>/_output.json       the record: which job, from what (`fields`), with which configuration, its summary
    <folder>/…                  whatever the step writes
    _<name>.staging/            beside the folder, while `write` runs
    _<name>.old/                the folder that was there before, between the two renames that publish
    <name>.old-<fingerprint>/   another result that `begin` moved aside

The record decides: an output is finished when its record holds a summary. It is written last.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from raysys import __version__
from raysys.config import Config
from raysys.errors import InputError
from raysys.tables.plan import OnChange, differences, fingerprint
from raysys.tables.store import Store

RECORD = "_output.json"


@dataclass(frozen=True)
class Record:
    """What `_output.json` holds.

    fields: everything that changes the result; inputs count by their contents.
    config: the resolved configuration, for people and for `raysys status`.
    summary: what the step returned; None until it is finished.
    """

    job: str
    fields: dict[str, Any]
    config: dict[str, Any]
    summary: dict[str, Any] | None
    raysys: str = __version__

    @property
    def is_finished(self) -> bool:
        return self.summary is not None

    @property
    def identity(self) -> str:
        """For the fields of steps that read this output, e.g. "assemble-0123456789ab"."""
        return f"{self.job}-{fingerprint(self.fields)}"


def read_record(folder: str | Path) -> Record | None:
    """The record of `folder`; None when there is none. InputError when it is damaged."""
    store = Store(folder)
    data = store.read_json(RECORD)
    if data is None:
        return None
    try:
        return Record(**data)
    except TypeError as exc:
        raise InputError(f"{store.path(RECORD)} is damaged: {exc}", "restore it, or delete its folder") from exc


class FolderOutput:
    """One output folder of one job. Reads the disk at each question; writes only in `write`, `begin` and `finish`.

    Steps that are redone from the start after a crash use `write`. Steps that go on where they stopped (a training has
    checkpoints in its folder) use `begin` and `finish`.
    """

    def __init__(
        self,
        job: str,
        folder: str | Path,
        fields: Mapping[str, Any],
        config: Config | None = None,
        on_change: OnChange = "refuse",
        dry_run: bool = False,
        follows: Collection[str] = (),
    ) -> None:
        """dry_run: `is_to_do` repairs nothing; nobody calls `write` or `begin`.

        follows: top-level names in `fields`; where only these differ the output is done again without being told, such
        as clusters after a part was added to their input. keep still keeps.
        """
        self.job, self.on_change, self.dry_run, self.follows = job, on_change, dry_run, frozenset(follows)
        self.store = Store(folder)
        self.fields: dict[str, Any] = json.loads(json.dumps(fields))
        self._config = {} if config is None else config.model_dump(mode="json")

    @property
    def path(self) -> str:
        """The full path or URL of the folder."""
        return self.store.url

    def record(self) -> Record | None:
        """What the folder holds; None when it is missing or empty. InputError when it holds anything else.

        A folder that was complete when a run was killed between the two renames counts as the output.
        """
        is_file = self.store.is_local and Path(self.path).is_file()
        found = None if is_file else read_record(self.path) or self._interrupted()
        if found is None and (self.store.names() or self.store.folders()):
            raise InputError(
                f"output {self.path} is not empty and not an output of {self.job}", "give a new or empty folder"
            )
        if found is not None and found.job != self.job:
            raise InputError(
                f"output {self.path} was written by {found.job}, not by {self.job}", "give a new or empty folder"
            )
        return found

    def changed(self) -> list[str]:
        """How `fields` differ from those of the output that is there, e.g. ["seed: 0 → 1"]."""
        found = self.record()
        return [] if found is None else differences(found.fields, self.fields)

    def is_to_do(self, redo: Callable[[Record], bool] = lambda _: False) -> bool:
        """Whether there is work: nothing is there, it is not finished, or on_change = recompute and fields differ.

        redo: whether a finished output of the same fields is nevertheless done again, such as a trial with --limit.
        Raises InputError, with the differences, when the folder holds a result of other fields and on_change is refuse;
        keep takes a finished result as it is and refuses an unfinished one.
        """
        if not self.dry_run:
            self._settle()
        found = self.record()
        if found is None:
            return True
        lines = differences(found.fields, self.fields)
        if not lines:
            return not found.is_finished or redo(found)
        if self.on_change == "recompute":
            return True
        if self.on_change == "keep" and found.is_finished:
            return False
        names = self.fields.keys() | found.fields.keys()
        if {name for name in names if found.fields.get(name) != self.fields.get(name)} <= self.follows:
            return True
        raise InputError(
            f"{self.path} was made by {self.job} from something else:" + "".join(f"\n  - {line}" for line in lines),
            "--on-change recompute replaces it, --on-change keep uses it if it is finished; "
            "or give another output folder",
        )

    def state(self) -> str:
        """For plans: what running the step would meet in the folder."""
        found = self.record()
        if found is None:
            return "new"
        if differences(found.fields, self.fields):
            return "kept, made from something else" if self.on_change == "keep" else "replaces another result"
        return "finished" if found.is_finished else "unfinished"

    def write(self, build: Callable[[Path], Mapping[str, Any]]) -> dict[str, Any]:
        """Call `build` with an empty local folder; publish what it wrote there, with the record; return its summary.

        Local folder: the staging folder is renamed into place, and what was there before is deleted after that. A
        crash leaves the old folder or the new one, complete. Object store: an unfinished record, the files, then the
        finished record; a crash leaves a folder that counts as unfinished. An exception in `build` changes nothing.
        """
        if not self.store.is_local:
            with tempfile.TemporaryDirectory(prefix="raysys-") as scratch:
                summary = dict(build(Path(scratch)))
                self._upload(Path(scratch), summary)
            return summary
        with staged(Path(self.path)) as staging:
            summary = dict(build(staging))
            Store(staging).write_json(RECORD, asdict(self._record(summary)))
        return summary

    def begin(self) -> None:
        """Before a step that writes into its folder and can go on there: an unfinished record.

        A result of other fields is moved to `<name>.old-<fingerprint>` (with a number when that exists). Raises
        InputError on an object store, where nothing is moved.
        """
        found = self.record()
        if found is not None and (self.changed() or found.is_finished):
            self._move_aside(fingerprint(found.fields))
        self.store.write_json(RECORD, asdict(self._record(None)))

    def finish(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        """After everything else of a step that called `begin` is written; returns the summary."""
        self.store.write_json(RECORD, asdict(self._record(dict(summary))))
        return dict(summary)

    def _record(self, summary: dict[str, Any] | None) -> Record:
        return Record(self.job, self.fields, self._config, summary)

    def _upload(self, folder: Path, summary: dict[str, Any]) -> None:
        self.store.write_json(RECORD, asdict(self._record(None)))
        for file in sorted(f for f in folder.rglob("*") if f.is_file()):
            self.store.write(file.relative_to(folder).as_posix(), file.read_bytes())
        self.store.write_json(RECORD, asdict(self._record(summary)))

    def _move_aside(self, digest: str) -> None:
        if not self.store.is_local:
            raise InputError(f"{self.path}: folders of an object store are not moved", "give another output folder")
        folder = Path(self.path)
        names = (f"{folder.name}.old-{digest}{suffix}" for suffix in ("", *(f"-{n}" for n in range(2, 1000))))
        free = next(name for name in names if not folder.with_name(name).exists())
        folder.rename(folder.with_name(free))

    def _interrupted(self) -> Record | None:
        """The record of a complete staging folder whose rename is missing."""
        if not self.store.is_local or Path(self.path).exists() or not _old(Path(self.path)).exists():
            return None
        found = read_record(_staging(Path(self.path)))
        return found if found is not None and found.is_finished else read_record(_old(Path(self.path)))

    def _settle(self) -> None:
        """Make up for the renames that a killed run could not make."""
        if self._interrupted() is None:
            return
        folder = Path(self.path)
        found = read_record(_staging(folder))
        (_staging(folder) if found is not None and found.is_finished else _old(folder)).rename(folder)
        shutil.rmtree(_old(folder), ignore_errors=True)


@dataclass(frozen=True)
class FolderStatus:
    """What `raysys status` says of a folder that is not a table, or is one that a whole step wrote."""

    folder: str
    record: Record | None
    is_being_written: bool
    """A staging folder lies beside it: a run is writing now, or was killed."""
    n_files: int
    n_bytes: int


def folder_status(folder: str | Path) -> FolderStatus | None:
    """None when `folder` is not the output of a whole step."""
    store = Store(folder)
    record = read_record(store.url)
    writes = store.is_local and _staging(Path(store.url)).exists()
    if record is None and not writes:
        return None
    sizes = list(store.tree_sizes().values())
    return FolderStatus(store.url, record, writes, len(sizes), sum(sizes))


def _staging(folder: Path) -> Path:
    return folder.with_name(f"_{folder.name}.staging")


def _old(folder: Path) -> Path:
    return folder.with_name(f"_{folder.name}.old")


@contextlib.contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """An empty folder beside `folder` that takes its place at the end of the block; after an exception it is removed.

    A killed process leaves it behind under `_<name>.staging`, and the old `folder` as it was; killed between the two
    renames at the end, it leaves the old folder under `_<name>.old`.
    """
    staging, old = _staging(folder), _old(folder)
    shutil.rmtree(staging, ignore_errors=True)
    with naming_the_disk(folder.parent):
        staging.mkdir(parents=True)
    try:
        yield staging
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    staging.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def naming_the_disk(folder: Path) -> Iterator[None]:
    """An OSError within becomes an InputError: no space, no permission, a file in the way."""
    try:
        yield
    except OSError as exc:
        raise InputError(
            f"cannot write into {folder}: {exc.strerror or exc}", "make room or give another output folder"
        ) from exc
