"""raysys: license-clean text-to-image models that do not copy their training images, with measurements. Runs on Ray.

For notebooks and scripts, without a cluster:

    import raysys

    raysys.score("generated/", "training/").R                                           # how much is copied
    raysys.score([image_a, "b.png"], "training/").R                                     # Pillow images and paths
    raysys.generality("two dogs on a beach").gs                                         # how general a caption is
    raysys.open_table("runs/demo/captions").counts()                                    # what a job wrote
    raysys.generate("runs/demo/models/baseline/pipeline", ["a red circle"], seed=0)     # images of prompts
    raysys.load_pipeline("runs/demo/models/baseline/pipeline")                          # the parts of a model

Each name is imported when it is first used: `import raysys` itself does not import torch, Ray or Arrow.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raysys.generation.images import generate
    from raysys.language.generality import generality
    from raysys.models.families import load_pipeline
    from raysys.replication.score import score
    from raysys.tables.read import open_table

__version__ = "0.1.0"
__all__ = ["__version__", "generality", "generate", "load_pipeline", "open_table", "score"]

_MODULES = {
    "generality": "raysys.language.generality",
    "generate": "raysys.generation.images",
    "load_pipeline": "raysys.models.families",
    "open_table": "raysys.tables.read",
    "score": "raysys.replication.score",
}
"""Name → the module that defines it."""


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module 'raysys' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
