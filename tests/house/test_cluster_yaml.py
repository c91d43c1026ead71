"""cluster.yaml and .rayignore: valid for the installed Ray, private, and with the resources that jobs ask for."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml


@pytest.fixture
def cluster(repo: Path) -> dict[str, Any]:
    return yaml.safe_load((repo / "cluster.yaml").read_text())


def test_ray_accepts_it(cluster: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    filled = prepare_config(copy.deepcopy(cluster))
    validate_config(filled)
    assert filled["available_node_types"]["l4_spot"]["max_workers"] == 32


def test_the_schema_would_refuse_a_typo(cluster: dict[str, Any]) -> None:
    import jsonschema
    from ray.autoscaler._private.util import validate_config

    with pytest.raises(jsonschema.ValidationError, match="max_worker"):
        validate_config({**cluster, "max_worker": 3})


def test_workers_declare_their_l4_and_are_spot(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    assert types["l4_spot"]["resources"] == {"CPU": 8, "GPU": 1, "accelerator_type:L4": 1}
    for name, node in types.items():
        is_spot = node["node_config"].get("scheduling", {}).get("provisioningModel") == "SPOT"
        assert is_spot == (name != cluster["head_node_type"]), "workers are spot, the head is not"
    assert sum(t.get("max_workers", 0) for t in types.values()) == cluster["max_workers"]


def test_nothing_is_public_and_every_start_wants_a_token(cluster: dict[str, Any]) -> None:
    assert cluster["provider"]["use_internal_ips"] is True
    for node in cluster["available_node_types"].values():
        assert all("accessConfigs" not in i for i in node["node_config"]["networkInterfaces"])
    starts = [c for c in cluster["head_start_ray_commands"] + cluster["worker_start_ray_commands"] if "ray start" in c]
    assert len(starts) == 2
    assert all(c.startswith("RAY_AUTH_MODE=token ray start") for c in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]


def test_the_image_has_the_locked_ray(cluster: dict[str, Any], repo: Path) -> None:
    locked = re.search(r"^ray==(.+)$", (repo / "requirements.lock").read_text(), re.M).group(1)
    assert all(f"ray:{locked}-py311" in cluster["docker"][k] for k in ("image", "head_image"))


def test_gpu_nodes_get_what_all_get_and_the_vllm_of_the_extra(cluster: dict[str, Any], repo: Path) -> None:
    """Ray lets a node type's own commands replace the common ones."""
    commands = cluster["available_node_types"]["l4_spot"]["worker_setup_commands"]
    assert commands[: len(cluster["setup_commands"])] == cluster["setup_commands"]
    release = re.search(r'"(vllm==[0-9.]+)"', (repo / "pyproject.toml").read_text()).group(1)
    assert any(release in command.split() for command in commands)


def test_all_nodes_get_what_processors_of_models_need(cluster: dict[str, Any], repo: Path) -> None:
    """The head as well: the driver there loads a model's processor to measure its prompts."""
    extra = re.search(r'^vision = \["torchvision>=([0-9.]+),<([0-9.]+)"\]', (repo / "pyproject.toml").read_text(), re.M)
    (installed,) = re.findall(r"torchvision==([0-9.]+)", " ".join(cluster["setup_commands"]))
    first, beyond, ours = ([int(n) for n in text.split(".")] for text in (*extra.groups(), installed))
    assert first <= ours < beyond


def test_rayignore_keeps_big_and_private_folders_here(repo: Path) -> None:
    ignored = {line for line in (repo / ".rayignore").read_text().splitlines() if not line.startswith("#")}
    assert {".git", ".venv", "runs"} <= ignored
    assert not {"raysys", "jobs", "pyproject.toml"} & ignored
