"""The output folder of a whole step: an assembled set, an export, a training, a measurement.

    <folder>/_output.json       the record: job, identity of the result (`fields`), configuration, summary
    <folder>/…                  the files that the step writes
    _<name>.staging/            next to the folder, while `write` runs
    _<name>.old/                the previous folder, between the two renames that publish the new one
    <name>.old-<fingerprint>/   a different result that `begin` has moved aside
    _<name>.lease-00000001.json   who is writing now; on an object store _lease-… inside the folder (tables/lease.py)

An output is finished if its record holds a summary, which is written last.
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
from raysys.tables.lease import Lease
from raysys.tables.plan import OnChange, differences, fingerprint
from raysys.tables.store import Store

RECORD = "_output.json"
LEASE = "_lease"


@dataclass(frozen=True)
class Record:
    """The contents of `_output.json`.

    fields: everything that changes the result; inputs are identified by content.
    config: the resolved configuration, for people and for `raysys status`.
    summary: the step's return value; None until it is finished.
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
        """Identifies this output in the fields of steps that read it, e.g. "assemble-0123456789ab"."""
        return f"{self.job}-{fingerprint(self.fields)}"


def read_record(folder: str | Path) -> Record | None:
    """The record of `folder`; None if there is none. Raises InputError if it is damaged."""
    store = Store(folder)
    data = store.read_json(RECORD)
    if data is None:
        return None
    try:
        return Record(**data)
    except TypeError as exc:
        raise InputError(f"{store.path(RECORD)} is damaged: {exc}", "restore it, or delete its folder") from exc


class FolderOutput:
    """One output folder of one job. Every query reads the disk; only `write`, `begin` and `finish` write.

    Steps that start over after a crash use `write`. Steps that resume (a training has checkpoints in its folder) use
    `begin` and `finish`, inside one `alone` block.
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
        """dry_run: `is_to_do` repairs nothing; `write` and `begin` must not be called.

        follows: top-level names in `fields`. If only these differ, the output is redone without `on_change`, such as
        clusters after a part was added to their input; `on_change="keep"` still keeps the old result.
        """
        self.job, self.on_change, self.dry_run, self.follows = job, on_change, dry_run, frozenset(follows)
        self.store = Store(folder)
        self.fields: dict[str, Any] = json.loads(json.dumps(fields))
        self._config = {} if config is None else config.model_dump(mode="json")
        self._is_alone = False

    @property
    def path(self) -> str:
        """The full path or URL of the folder."""
        return self.store.url

    def record(self) -> Record | None:
        """The folder's record; None if the folder is missing or empty. Raises InputError if it holds anything else.

        If a run was killed between the two renames, this is the record of the folder that will be renamed back.
        """
        is_file = self.store.is_local and Path(self.path).is_file()
        found = None if is_file else read_record(self.path) or self._interrupted()
        files = (name for name in self.store.names() if not name.startswith(LEASE))
        if found is None and (next(files, None) is not None or self.store.folders()):
            raise InputError(
                f"output {self.path} is not empty and is not an output of {self.job}", "give a new or empty folder"
            )
        if found is not None and found.job != self.job:
            raise InputError(
                f"output {self.path} was written by {found.job}, not by {self.job}", "give a new or empty folder"
            )
        return found

    def changed(self) -> list[str]:
        """How `fields` differ from those of the existing output, e.g. ["seed: 0 → 1"]; [] if there is none."""
        found = self.record()
        return [] if found is None else differences(found.fields, self.fields)

    def is_to_do(self, redo: Callable[[Record], bool] = lambda _: False) -> bool:
        """Whether there is work: the output is missing or unfinished, or fields differ and on_change is "recompute".

        redo: whether a finished output with the same fields is redone nevertheless, such as a trial with --limit.
        Raises InputError, listing the differences, if fields differ and on_change is "refuse". With "keep", a finished
        result is used as it is; an unfinished one raises InputError.
        """
        if not self.dry_run and self._interrupted() is not None:
            with self.alone():
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
            f"{self.path} was made by {self.job} from other settings or inputs:"
            + "".join(f"\n  - {line}" for line in lines),
            "--on-change recompute replaces it, --on-change keep uses it if it is finished; "
            "or give another output folder",
        )

    def state(self) -> str:
        """For plans: the state in which the step would find the folder."""
        found = self.record()
        if found is None:
            return "new"
        if differences(found.fields, self.fields):
            return "kept, made from other settings" if self.on_change == "keep" else "replaces another result"
        return "finished" if found.is_finished else "unfinished"

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """No other run writes this output during the block. Raises InputError, naming the other run, if one does.

        Blocks of one object may be nested. Ask `is_to_do` inside the block again: another run may have done the work.
        """
        if self._is_alone:
            yield
            return
        folder = Path(self.path)
        place = (Store(folder.parent), f"_{folder.name}.lease") if self.store.is_local else (self.store, LEASE)
        with Lease(*place, self.path, self.job):
            self._is_alone = True
            try:
                yield
            finally:
                self._is_alone = False

    def write(self, build: Callable[[Path], Mapping[str, Any]]) -> dict[str, Any]:
        """Call `build` with an empty local folder, publish its files and the record, and return its summary.

        On a local disk, the staging folder is renamed into place, then the previous folder is deleted; a crash leaves
        either the old or the new folder, complete. On an object store, an unfinished record is written, then the files,
        then the finished record; a crash leaves an unfinished output. An exception in `build` changes nothing.
        """
        if not self.store.is_local:
            with self.alone(), tempfile.TemporaryDirectory(prefix="raysys-") as scratch:
                summary = dict(build(Path(scratch)))
                self._upload(Path(scratch), summary)
            return summary
        with self.alone(), staged(Path(self.path)) as staging:
            summary = dict(build(staging))
            Store(staging).write_json(RECORD, asdict(self._record(summary)))
        return summary

    def begin(self) -> None:
        """Write an unfinished record, before a step that can resume in its folder.

        A finished result, or one with other fields, is first moved to `<name>.old-<fingerprint>` (with a number if that
        exists). Raises InputError if this is necessary on an object store, where folders cannot be moved.
        """
        found = self.record()
        if found is not None and (self.changed() or found.is_finished):
            self._move_aside(fingerprint(found.fields))
        self.store.write_json(RECORD, asdict(self._record(None)))

    def finish(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        """Write the finished record of a step that called `begin`, after all of its files; return the summary."""
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
            raise InputError(
                f"{self.path} holds another result, and folders on an object store cannot be moved aside",
                "give another output folder",
            )
        folder = Path(self.path)
        names = (f"{folder.name}.old-{digest}{suffix}" for suffix in ("", *(f"-{n}" for n in range(2, 1000))))
        free = next(name for name in names if not folder.with_name(name).exists())
        folder.rename(folder.with_name(free))

    def _interrupted(self) -> Record | None:
        """The record that counts after a run was killed between the two renames of `staged`; None otherwise."""
        if not self.store.is_local or Path(self.path).exists() or not _old(Path(self.path)).exists():
            return None
        found = read_record(_staging(Path(self.path)))
        return found if found is not None and found.is_finished else read_record(_old(Path(self.path)))

    def _settle(self) -> None:
        """Complete or undo the renames of a killed run."""
        if self._interrupted() is None:
            return
        folder = Path(self.path)
        found = read_record(_staging(folder))
        (_staging(folder) if found is not None and found.is_finished else _old(folder)).rename(folder)
        shutil.rmtree(_old(folder), ignore_errors=True)


@dataclass(frozen=True)
class FolderStatus:
    """What `raysys status` prints about the output folder of a whole step."""

    folder: str
    record: Record | None
    is_being_written: bool
    """There is a staging folder: a run is writing now, or was killed."""
    n_files: int
    n_bytes: int


def folder_status(folder: str | Path) -> FolderStatus | None:
    """The status of `folder`; None if it is not the output of a whole step."""
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
    """An empty folder that replaces `folder` at the end of the block; it is removed after an exception.

    A killed process leaves `_<name>.staging` behind and does not change `folder`; if it is killed between the two
    renames at the end, the old folder is `_<name>.old`.
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
    """Turn an OSError (no space, no permission, a file in the way) into an InputError."""
    try:
        yield
    except OSError as exc:
        raise InputError(
            f"cannot write into {folder}: {exc.strerror or exc}", "free disk space or give another output folder"
        ) from exc
