"""The model families by name. The modules of a family are imported when it is first used.

To add a family, add a folder next to `models/sd/` with the same file names, and an entry in each table below.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from raysys.errors import InputError
from raysys.models import places
from raysys.models.family import DTYPES, Family, Pipeline
from raysys.models.loading import PIPELINE_INDEX
from raysys.models.sd.config import SdDenoiserConfig

FAMILIES = {"sd": "raysys.models.sd.family"}
"""Family name → module with the attribute FAMILY."""

PIPELINE_CLASSES = {"StableDiffusionPipeline": "sd"}
"""`_class_name` in a saved pipeline's model_index.json → family name."""

DenoiserConfig = SdDenoiserConfig
"""The shape of a new denoiser: a union of the configs of all families, selected by the field `family`."""


def _known(name: str) -> str:
    if name not in FAMILIES:
        raise ValueError(f"model family {name!r} is not known; allowed: {', '.join(FAMILIES)}")
    return name


FamilyName = Annotated[str, AfterValidator(_known)]
"""A family's name, as a config field."""


def family(name: str) -> Family:
    """The loaders of the family `name`. Raises InputError if the name is unknown."""
    if name not in FAMILIES:
        raise InputError(f"model family {name!r} is not known", f"use one of {', '.join(FAMILIES)}")
    return importlib.import_module(FAMILIES[name]).FAMILY


def family_of(folder: str | Path) -> Family:
    """The family of a saved pipeline, determined by the pipeline class in its model_index.json.

    Raises InputError if `folder` is not a pipeline of a known family.
    """
    index = Path(folder) / PIPELINE_INDEX
    if not index.is_file():
        raise InputError(
            f"{folder} is not a pipeline folder: {PIPELINE_INDEX} is missing", "give the folder of a saved pipeline"
        )
    contents = places.read_json(index)
    class_name = contents.get("_class_name") if isinstance(contents, dict) else None
    if class_name not in PIPELINE_CLASSES:
        known = ", ".join(PIPELINE_CLASSES)
        raise InputError(
            f"{folder} contains a {class_name}, which no model family supports", f"supported pipelines: {known}"
        )
    return family(PIPELINE_CLASSES[class_name])


def load_pipeline(folder: str | Path, dtype: str = "float32", device: str = "cpu") -> Pipeline:
    """The parts of a saved pipeline of any family, frozen, on `device`."""
    return family_of(folder).load_pipeline(folder, dtype=DTYPES[dtype], device=device)
