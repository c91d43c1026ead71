"""Checkpoints for exact resume: written by all workers in the background, loadable with any number of workers.

    shard-00001-model-00001-of-00001.safetensors   one per worker: its shard of weights, EMA and optimizer state
    state.json                                     step, position, identity, hashes of files; written last, by rank 0

The files are written by torch.distributed.checkpoint in its safetensors format, so loading them never executes code.
Tensors are named model/…, ema/… or optimizer/…, independent of DDP or FSDP2 wrapping. No generator state is saved:
every random number is a function of (seed, sample position) or (seed, step, rank), and step and position are saved.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from raysys.errors import InputError
from raysys.tables import Store
from raysys.tables.plan import differences
from raysys.training.ema import Ema
from raysys.training.recipe import Modules
from raysys.training.worker import Worker

STATE = "state.json"
MODEL, EMA, OPTIMIZER = "model", "ema", "optimizer"
FIX = "name another checkpoint folder"


@dataclass(frozen=True)
class TrainState:
    """The state of a training after `step` optimizer steps, without its tensors.

    loader: the loader's position after the last batch. identity: config, and content hashes of data and models.
    files: {name: {"bytes": size, "sha256": hash}} of the workers' files; {} until they are written.
    """

    step: int
    loader: dict[str, Any]
    ema_updates: int
    identity: dict[str, Any]
    world_size: int
    files: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass
class Trained:
    """The objects of a training whose tensors are saved."""

    modules: dict[str, torch.nn.Module]  # not wrapped for DDP; sharded in place by FSDP2
    optimizer: torch.optim.Optimizer
    ema: Ema

    def tensors(self) -> dict[str, torch.Tensor]:
        """All tensors of a checkpoint by name; they share memory with the training."""
        found = {f"{MODEL}/{name}": x for name, x in named_state(self.modules).items()}
        found |= {f"{EMA}/{name}": x for name, x in self.ema.shadow.items()}
        for name, state in self._optimizer_state()["state"].items():
            found |= {f"{OPTIMIZER}/{name}/{key}": x for key, x in state.items()}
        return found

    def load(self, folder: Path, state: TrainState, group: dist.ProcessGroup | None) -> None:
        """Load a checkpoint written by any number of workers. `group`: process group of the collective calls."""
        tensors = self.tensors()
        _read(folder, tensors, group)  # in place: this already loads the modules and the EMA
        self.ema.updates = state.ema_updates
        saved = self._optimizer_state()
        for name, values in saved["state"].items():
            for key in values:
                values[key] = tensors[f"{OPTIMIZER}/{name}/{key}"]
        set_optimizer_state_dict(self._container(), self.optimizer, saved)

    def _optimizer_state(self) -> dict[str, Any]:
        return get_optimizer_state_dict(self._container(), self.optimizer)

    def _container(self) -> torch.nn.Module:
        return torch.nn.ModuleDict(self.modules)


class CheckpointWriter:
    """Writes one checkpoint at a time in the background; `publish` passes it to the worker once all have written.

    The background thread also hashes the files and stores them where the worker keeps its checkpoints. Its collective
    calls have their own process group, so that they do not mix with those of the loop.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.group = dist.new_group(backend="gloo") if dist.is_initialized() else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._files: Future[dict[str, dict[str, Any]]] | None = None
        self._folder, self._state, self._metrics = Path(), None, {}

    @property
    def writing(self) -> int:
        """The step of the checkpoint that is not yet published; 0 = none."""
        return 0 if self._state is None else self._state.step

    @property
    def written(self) -> int:
        """The step of the unpublished checkpoint if this worker has finished writing it, else 0."""
        return self.writing if self._files is not None and self._files.done() else 0

    def start(self, trained: Trained, state: TrainState, metrics: dict[str, float]) -> None:
        """Copy the state and write the copy in the background; training may continue as soon as this returns.

        Raises InputError if the folder cannot be created.
        """
        self.publish()
        try:
            self._folder = self._worker.checkpoint_folder(state.step)
        except OSError as exc:
            raise _named(exc, Path(exc.filename or "the output folder")) from exc
        self._state, self._metrics = state, metrics
        saved = dcp.async_save(
            trained.tensors(),
            storage_writer=HuggingFaceStorageWriter(str(self._folder), save_distributed=True),
            process_group=self.group,
        )
        self._files = self._thread.submit(self._keep, saved, self._folder, f"shard-{self._worker.rank + 1:05d}-")

    def _keep(self, saved: Future, folder: Path, prefix: str) -> dict[str, dict[str, Any]]:
        """Wait until this worker's files are written; store them and return their entries in `TrainState.files`."""
        saved.result()
        files = sorted(file for file in folder.iterdir() if file.name.startswith(prefix))
        entries = {file.name: {"bytes": file.stat().st_size, "sha256": _sha256(file)} for file in files}
        self._worker.keep(folder, list(entries))
        return entries

    def publish(self) -> None:
        """Wait until every worker has written the checkpoint, then publish it. Does nothing if none is being written.

        Raises InputError for a disk error (such as a full disk) and RuntimeError for any other; the incomplete
        checkpoint is then deleted and never published.
        """
        if self._files is None or self._state is None:
            return
        try:
            files = self._all_files(self._files.result())
            if self._worker.rank == 0:
                Store(self._folder).write(STATE, _sealed(replace(self._state, files=files)))
        except (OSError, CheckpointException, InputError) as exc:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise _named(exc, self._folder) from exc
        if self.group is not None:
            dist.barrier(self.group)  # rank 0 must have written state.json before any worker publishes its files
        folder, step, metrics = self._folder, self._state.step, self._metrics
        self._files = self._state = None
        self._worker.publish(folder, step, metrics)

    def _all_files(self, own: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """The entries of all workers' files, on every worker."""
        if self.group is None:
            return own
        found: list[Any] = [None] * self._worker.world_size
        dist.all_gather_object(found, own, group=self.group)
        return {name: entry for entries in found for name, entry in entries.items()}


def read_state(folder: str | Path) -> TrainState:
    """The state saved in a checkpoint folder or URL. Raises InputError, naming the file, if the checkpoint is
    incomplete: state.json is missing or damaged, or a file is missing or has another size. Contents of the other files
    are checked by `verify`."""
    store = Store(folder)
    state, sizes = _parsed(store), store.sizes()
    for name, entry in state.files.items():
        if name not in sizes:
            raise InputError(f"{store.url} is not a complete checkpoint: {name} is missing", FIX)
        if sizes[name] != entry["bytes"]:
            raise InputError(f"{store.path(name)} has {sizes[name]:,} of its {entry['bytes']:,} bytes", FIX)
    if foreign := sorted(name for name in sizes.keys() - state.files.keys() if name.endswith(".safetensors")):
        raise InputError(f"{store.path(foreign[0])} does not belong to this checkpoint", FIX)
    return state


def verify(folder: str | Path) -> TrainState:
    """`read_state`, and compare the contents of all files with their hashes: reads the whole checkpoint."""
    state, store = read_state(folder), Store(folder)
    for name, entry in state.files.items():
        try:
            with store.open(name) as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as exc:
            raise InputError(f"{store.path(name)} cannot be read: {exc.strerror or exc}", FIX) from exc
        if found != entry["sha256"]:
            raise InputError(f"{store.path(name)} is damaged: its contents do not match their hash", FIX)
    return state


def _parsed(store: Store) -> TrainState:
    try:
        values = json.loads(store.read(STATE))
        seal = values.pop("sha256")
        state = TrainState(**values)
    except FileNotFoundError:
        raise InputError(f"{store.url} is not a complete checkpoint: it has no {STATE}", FIX) from None
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise InputError(f"{store.path(STATE)} is damaged: {type(exc).__name__}: {exc}", FIX) from exc
    if seal != _seal(values):
        raise InputError(f"{store.path(STATE)} is damaged: its contents do not match their hash", FIX)
    return state


def _sealed(state: TrainState) -> bytes:
    """The contents of state.json, with a hash of themselves."""
    values = json.loads(json.dumps(asdict(state)))
    return json.dumps(values | {"sha256": _seal(values)}, indent=2).encode()


def _seal(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_resumable(state: TrainState, identity: dict[str, Any]) -> None:
    """Raise InputError, listing every difference, if the checkpoint was written by a different training."""
    if changes := differences(state.identity, json.loads(json.dumps(identity))):
        raise InputError(
            f"the checkpoint of step {state.step} belongs to another training:"
            + "".join(f"\n  - {line}" for line in changes),
            "restore these values, or start in a new folder",
        )


def load_weights(folder: str | Path, modules: Modules, *, use_ema: bool = True) -> None:
    """Load a checkpoint's weights (by default their EMA; buffers have none) into unsharded modules on the CPU."""
    read_state(folder)
    own = named_state(modules)
    averaged = {name for name, _ in named_parameters(modules)} if use_ema else set()
    _read(Path(folder), {f"{EMA if name in averaged else MODEL}/{name}": x for name, x in own.items()})


def named_state(modules: Modules) -> dict[str, torch.Tensor]:
    """Parameters and saved buffers: <module>.<name> → tensor, detached, sharing memory."""
    return {f"{name}.{key}": x.detach() for name, module in modules.items() for key, x in module.state_dict().items()}


def named_parameters(modules: Modules) -> list[tuple[str, torch.nn.Parameter]]:
    """Parameters that take gradients, as <module>.<name>."""
    return [
        (f"{name}.{key}", p)
        for name, module in modules.items()
        for key, p in module.named_parameters()
        if p.requires_grad
    ]


def _read(folder: Path, tensors: Mapping[str, torch.Tensor], group: dist.ProcessGroup | None = None) -> None:
    """Fill `tensors` in place from a checkpoint; without a group, in this process only."""
    reader = HuggingFaceStorageReader(str(folder))
    dcp.load(dict(tensors), storage_reader=reader, process_group=group, no_dist=group is None)


def _named(exc: BaseException, folder: Path) -> BaseException:
    """The exception to raise for a failed write: InputError if any worker's disk caused it, else RuntimeError."""
    causes = [failure for failure, _ in exc.failures.values()] if isinstance(exc, CheckpointException) else [exc]
    disk = next((cause for cause in causes if isinstance(cause, OSError | InputError)), None)
    if disk is None:
        return RuntimeError(f"cannot write a checkpoint into {folder}: {causes}")
    if isinstance(disk, InputError):
        return disk
    return InputError(
        f"cannot write a checkpoint into {folder}: {disk.strerror or disk}",
        "free disk space, then run the same command again: it resumes from the newest complete checkpoint",
    )


warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # expected with a single process
