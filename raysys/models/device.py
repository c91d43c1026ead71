"""The device of a model: one rule for every job that loads one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from raysys.config import OPERATIONAL
from raysys.errors import InputError

if TYPE_CHECKING:
    import torch

Device = Annotated[str, OPERATIONAL]
"""The type of a configuration field that names a device; its default is AUTO."""

AUTO = "auto"
DEVICE_HELP = "torch device: cpu, cuda, cuda:0 …; auto = cuda if the worker finds a GPU, else cpu"


def torch_device(name: str) -> torch.device:
    """The torch device, resolved where the model runs, because the driver may not have the workers' GPU.

    Raises InputError for an unknown or unavailable device.
    """
    import torch

    if name == AUTO:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as exc:
        reason = (str(exc).strip() or type(exc).__name__).splitlines()[0]
        raise InputError(f"device {name!r} is unknown: {reason}", "use auto, cpu or cuda") from exc
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError("device cuda was requested, but torch finds no CUDA device", "use device: auto or cpu")
    return device
