"""Modules on several workers (none | DDP | FSDP2), and agreement between workers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from raysys.errors import InputError
from raysys.training.recipe import Built
from raysys.training.run_config import Parallel
from raysys.training.worker import Request, Worker


def parallelize(built: Built, kind: Parallel, worker: Worker) -> dict[str, torch.nn.Module]:
    """Move all modules to the worker's device; return the trainable ones in training mode, wrapped for `kind`.

    With one worker nothing is wrapped. FSDP2 shards block by block, then the rest of each module. It keeps float32
    weights (mixed precision comes from autocast), so that all kinds compute the same.
    """
    for module in built.frozen.values():
        module.to(worker.device).eval().requires_grad_(False)
    modules = {name: module.to(worker.device).train() for name, module in built.trainable.items()}
    if worker.world_size == 1:
        return modules
    if kind == "none":
        raise InputError(
            f"training.parallel = none, but there are {worker.world_size} workers", "set it to ddp, fsdp2 or auto"
        )
    if kind == "fsdp2":
        mesh = init_device_mesh(worker.device.type, (worker.world_size,))
        for block in built.blocks:
            fully_shard(block, mesh=mesh)
        return {name: fully_shard(module, mesh=mesh) for name, module in modules.items()}
    devices = [worker.device] if worker.device.type == "cuda" else None
    return {name: DistributedDataParallel(module, device_ids=devices) for name, module in modules.items()}


def unwrapped(modules: dict[str, torch.nn.Module]) -> dict[str, torch.nn.Module]:
    """The modules without DDP wrappers, so that parameter names do not depend on the wrapping."""
    return {n: m.module if isinstance(m, DistributedDataParallel) else m for n, m in modules.items()}


@contextmanager
def gradients_stay_local(modules: Iterable[torch.nn.Module], local: bool) -> Iterator[None]:
    """If `local`, DDP does not reduce gradients over workers in this backward pass: once per step is enough.

    FSDP2 still reduces in every micro step; otherwise it would have to keep unsharded gradients in memory.
    """
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(
                module.no_sync() if local and isinstance(module, DistributedDataParallel) else nullcontext()
            )
        yield


def reshard(modules: Iterable[torch.nn.Module]) -> None:
    """Free the parameters that FSDP2 has gathered: after a forward pass without a backward pass they stay in memory and
    would be used again, although the weights have changed."""
    for module in modules:
        for part in module.modules():
            if isinstance(part, FSDPModule):
                part.reshard()


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """This worker's shard of a sharded tensor, sharing its memory; other tensors are returned as they are."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Gather a sharded tensor from all workers (all must call this); other tensors are returned as they are."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def mean_over_ranks(values: list[float], world_size: int, device: torch.device) -> list[float]:
    """Mean of each value over the workers of the default process group."""
    if world_size == 1:
        return values
    tensor = torch.tensor(values, dtype=torch.float64, device=device if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(tensor)
    return (tensor / world_size).tolist()


class Agreement:
    """Makes all workers see the same values at the same step: the strongest request, and the newest checkpoint that all
    have written.

    With several workers, one small asynchronous all-reduce runs per step. Its result is used one step later, so that no
    worker waits for it.
    """

    def __init__(self, world_size: int) -> None:
        self._group = dist.new_group(backend="gloo") if world_size > 1 else None
        self._votes: torch.Tensor | None = None
        self._work: dist.Work | None = None

    def turn(self, request: Request, written: int) -> tuple[Request, int]:
        """Submit this worker's request and the step of its newest written checkpoint (0 = none).

        Returns the strongest request and the smallest such step of all workers. With several workers, these are the
        values submitted at the previous step.
        """
        if self._group is None:
            return request, written
        agreed = self._result()
        self._votes = torch.tensor([int(request), -written])
        self._work = dist.all_reduce(self._votes, dist.ReduceOp.MAX, group=self._group, async_op=True)
        return agreed

    def _result(self) -> tuple[Request, int]:
        if self._work is None or self._votes is None:
            return Request.NOTHING, 0
        self._work.wait()
        self._work = None
        return Request(int(self._votes[0])), -int(self._votes[1])

    def close(self) -> None:
        """Wait for the pending all-reduce, whose result is no longer needed."""
        self._result()
