"""`import raysys` offers five functions and loads none of what they need before they are used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import raysys
from raysys.generation.images import generate
from raysys.language.generality import score as score_captions
from raysys.models.families import load_pipeline
from raysys.replication.score import score
from raysys.tables.read import open_table


def test_the_package_is_imported_without_its_dependencies():
    code = """
import sys
import raysys
names = {name.split(".")[0] for name in sys.modules}
print(sorted(names & {"numpy", "torch", "ray", "pyarrow", "pydantic", "transformers", "diffusers", "spacy", "PIL"}))
print(sorted(name for name in sys.modules if name.startswith("raysys.")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "[]"]


def test_the_names_are_the_functions_of_the_rooms():
    assert (raysys.score, raysys.open_table) == (score, open_table)
    assert (raysys.load_pipeline, raysys.generate) == (load_pipeline, generate)
    assert {*raysys.__all__} <= {*dir(raysys)}
    assert all(hasattr(raysys, name) for name in raysys.__all__)
    with pytest.raises(AttributeError, match="no attribute 'scores'"):
        raysys.scores  # noqa: B018


def test_generality_takes_one_caption_or_several():
    captions = ["two dogs on a beach", "Pipe welding stands in action"]
    assert raysys.generality(captions) == list(score_captions(captions))
    assert raysys.generality(captions[0]) == raysys.generality(captions)[0]
