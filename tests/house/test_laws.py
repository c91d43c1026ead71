"""The laws of the house, checked on the source itself: who may import whom, how long things may be, what must exist."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import re
import tomllib
from pathlib import Path
from typing import get_type_hints

import pytest

from raysys.config import load
from raysys.jobs import JOBS
from raysys.jobs.registry import CONFIGS
from raysys.tables.results import Plan, Summary

REPO = Path(__file__).resolve().parents[2]
PACKAGE = REPO / "raysys"

# fmt: off
BASE_ROOMS = ("rows", "errors", "outcomes", "signals", "config", "progress", "staging", "tables", "language",
              "models", "llm", "similarity", "sampling", "fusion", "scenes", "zoo")
# fmt: on
"""They import no stage, no engine and no job; among themselves only those before them, inside functions too."""

STAGES = ("shards", "captions", "export", "latents", "training", "generation", "replication", "report")
"""In the order of the data: a stage imports base rooms and earlier stages. The order is written here only."""

EDGES = {"engine", "jobs", "study", "cli", "__main__"}

EDGE_MODULES = {
    "vllm": "raysys/llm/vllm.py",
    "faiss": "raysys/similarity/search.py",
    "bitsandbytes": None,
    "spacy": "raysys/language/nlp.py",
    "cv2": "raysys/similarity/verify.py",
}
"""Heavy optional libraries: the one module that may import each of them, inside a function; None = not used yet."""

MODEL_CLASSES = re.compile(r"UNet2D\w*|AutoencoderKL\w*|CLIP[A-Z][a-z]\w*|StableDiffusion\w+")
MODEL_FOLDERS = ("raysys/models/sd/", "raysys/zoo/", "raysys/similarity/")
"""Architectures of diffusers and transformers, and where they may be named: a model family, the builders of the
shipped models, and the embedding models. Everything else speaks raysys/models/family.py."""

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_JOB_LINES = 120
"""A job is wiring: config class → inputs → plan → run. What is longer holds a rule of a room."""


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(REPO).as_posix()


def room_of(path: Path) -> str:
    """raysys/latents/parts.py → latents; raysys/rows.py → rows."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(tree: ast.AST) -> list[tuple[str, ast.stmt]]:
    """Every imported module, as its dotted name; `from raysys import rows` counts as raysys.rows."""
    found: list[tuple[str, ast.stmt]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            if node.module == "raysys":
                found += [(f"raysys.{alias.name}", node) for alias in node.names]
            else:
                found.append((node.module, node))
    return found


def test_relative_imports_are_not_used() -> None:
    """The scans of this file read absolute names; a relative import would slip through them."""
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.ImportFrom) and node.level), f"{relative(path)}:{node.lineno}"


def test_every_room_is_known() -> None:
    rooms = {room_of(p) for p in sources()} - {"__init__"}
    assert rooms <= {*BASE_ROOMS, *STAGES, *EDGES}, "add the new room to the lists above, in its place"


def test_ray_only_in_engine() -> None:
    offenders = [
        f"{relative(path)}:{node.lineno}"
        for path in sources()
        if room_of(path) != "engine"
        for name, node in imports_of(ast.parse(path.read_text()))
        if name.split(".")[0] == "ray"
    ]
    assert offenders == []


@pytest.mark.parametrize("library", EDGE_MODULES)
def test_heavy_libraries_enter_lazily_at_one_edge(library: str) -> None:
    for path in sources():
        tree = ast.parse(path.read_text())
        used = [node for name, node in imports_of(tree) if name.split(".")[0] == library]
        if not used:
            continue
        assert relative(path) == EDGE_MODULES[library]
        at_import = [node for node in tree.body if node in used]
        assert not at_import, f"{relative(path)}:{at_import[0].lineno} imports {library} when the module loads"


def names_of(tree: ast.AST) -> list[tuple[str, int]]:
    """Every name that code uses, assigns or imports, also under another name, with its line. Strings do not count."""
    found: list[tuple[str, int]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            found.append((node.id, node.lineno))
        elif isinstance(node, ast.Attribute):
            found.append((node.attr, node.lineno))
        elif isinstance(node, ast.alias):
            found += [(part, node.lineno) for part in node.name.split(".")]
    return found


def test_architectures_are_named_by_their_family_only() -> None:
    offenders = [
        f"{relative(path)}:{line} names {name}"
        for path in sources()
        if not relative(path).startswith(MODEL_FOLDERS)
        for name, line in names_of(ast.parse(path.read_text()))
        if MODEL_CLASSES.fullmatch(name)
    ]
    assert offenders == []


def test_the_scan_of_names_sees_imports_in_functions_and_attributes() -> None:
    source = """
def f(x):
    from transformers import CLIPModel as M
    return diffusers.UNet2DConditionModel.from_pretrained(x)
"""
    found = {name for name, _ in names_of(ast.parse(source)) if MODEL_CLASSES.fullmatch(name)}
    assert found == {"CLIPModel", "UNet2DConditionModel"}


def test_rooms_import_only_what_stands_before_them() -> None:
    """A stage: base rooms and earlier stages; a base room: earlier base rooms. So nothing imports in a circle."""
    offenders = []
    for path in sources():
        room = room_of(path)
        if room in EDGES or room == "__init__":
            continue
        if room in STAGES:
            allowed = {room, *BASE_ROOMS, *STAGES[: STAGES.index(room)]}
        else:
            allowed = {room, *BASE_ROOMS[: BASE_ROOMS.index(room)]}
        for name, node in imports_of(ast.parse(path.read_text())):
            parts = name.split(".")
            if parts[0] == "raysys" and len(parts) > 1 and parts[1] not in {*allowed, "__version__"}:
                offenders.append(f"{relative(path)}:{node.lineno} imports {name}")
    assert offenders == []


def test_files_and_functions_are_short() -> None:
    offenders = []
    for path in sources():
        text = path.read_text()
        if (lines := len(text.splitlines())) > MAX_FILE_LINES:
            offenders.append(f"{relative(path)}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = node.end_lineno - node.lineno + 1
                if length > MAX_FUNCTION_LINES:
                    offenders.append(f"{relative(path)}:{node.lineno} {node.name}: {length} lines")
    assert offenders == []


def test_jobs_are_short() -> None:
    lengths = {relative(path): len(path.read_text().splitlines()) for path in (PACKAGE / "jobs").glob("*.py")}
    assert {path: n for path, n in lengths.items() if n > MAX_JOB_LINES} == {}, "move the rule into its room"


def test_every_module_says_what_it_is() -> None:
    missing = [
        relative(p) for p in sources() if p.read_text().strip() and not ast.get_docstring(ast.parse(p.read_text()))
    ]
    assert missing == []


@pytest.mark.parametrize("job", JOBS.values(), ids=lambda j: j.name)
def test_every_job_has_a_module_and_packaged_configs(job) -> None:
    assert importlib.util.find_spec(job.module) is not None
    assert job.example.split()[:2] == ["raysys", job.name]
    for name in ("demo", "full"):
        path = job.packaged_config(name)
        load(job.load().JobConfig, path)
        assert f"raysys {job.name} --config" in path.read_text().split("\n\n")[0], f"no launch command heads {path}"


@pytest.mark.parametrize("job", JOBS.values(), ids=lambda j: j.name)
def test_every_job_returns_a_plan_or_a_summary(job) -> None:
    assert get_type_hints(job.load().run)["return"] == Plan | Summary


def test_no_packaged_config_without_a_job() -> None:
    assert {p.parent.name for p in CONFIGS.rglob("*.yaml")} <= set(JOBS)


@pytest.mark.parametrize("job", JOBS.values(), ids=lambda j: j.name)
def test_every_config_field_is_described(job) -> None:
    from raysys.cli.config_help import fields_of

    assert [f.key for f in fields_of(job.load().JobConfig) if not f.description] == []


def test_readme_tree_has_one_line_per_file() -> None:
    block = re.search(r"^```text\n(raysys/\n.*?)^```", (REPO / "README.md").read_text(), re.S | re.M).group(1)
    folders: list[str] = []
    named = []
    for line in block.splitlines():
        name = line.strip().split("  ")[0].strip()
        depth = (len(line) - len(line.lstrip())) // 2
        folders[depth:] = [name] if name.endswith("/") else []
        named.append(REPO / "".join(folders[:depth]) / name)
    gone = [relative(p) for p in named if not p.exists()]
    modules = {p for p in sources() if p.name != "__init__.py" and p.stat().st_size}
    missing = [f"{relative(p)}: {summary(p)}" for p in sorted(modules - set(named))]
    assert (gone, missing) == ([], []), "take out the lines of the first list, write lines for the second"


def summary(path: Path) -> str:
    """The first sentence of a module's docstring."""
    return re.split(r"\n\n|\. ", ast.get_docstring(ast.parse(path.read_text())) or "")[0].replace("\n", " ")


def test_lock_holds_every_direct_dependency_in_its_range() -> None:
    from packaging.requirements import Requirement

    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    pins = dict(
        line.split("==") for line in (REPO / "requirements.lock").read_text().splitlines() if not line.startswith("#")
    )
    pins = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    for text in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        requirement = Requirement(text)
        version = pins[requirement.name.lower().replace("_", "-")]
        assert requirement.specifier.contains(version, prereleases=True), f"{text} against {version}"


def test_wheels_carry_every_file_that_is_no_module() -> None:
    patterns = tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["raysys"]
    packed = {path for pattern in patterns for path in PACKAGE.glob(pattern)}
    data = {p for p in PACKAGE.rglob("*") if p.is_file() and p.suffix not in {".py", ".pyc"}}
    assert sorted(relative(p) for p in data - packed) == []


def test_license_is_the_unmodified_apache_text() -> None:
    digest = hashlib.sha256((REPO / "LICENSE").read_bytes()).hexdigest()
    assert digest == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
