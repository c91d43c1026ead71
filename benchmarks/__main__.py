"""Run every benchmark and check its results against gates.yaml: `python -m benchmarks` (`--check`: check only)."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import reduce
from pathlib import Path
from typing import Any

import yaml

from benchmarks.common import RESULTS

HERE = Path(__file__).resolve().parent


def check(results: dict[str, Any], gates: dict[str, dict[str, float]]) -> list[str]:
    """One line per gate that is not met."""
    missed = []
    for key, gate in gates.items():
        value = reduce(lambda node, part: node[part], key.split("."), results)
        if "min" in gate and value < gate["min"]:
            missed.append(f"{key} = {value:.3f} is below {gate['min']}")
        if "max" in gate and value > gate["max"]:
            missed.append(f"{key} = {value:.3f} is above {gate['max']}")
        if "exact" in gate and value != gate["exact"]:
            missed.append(f"{key} = {value} is not {gate['exact']}")
    return missed


def main() -> int:
    failed = False
    gates = yaml.safe_load((HERE / "gates.yaml").read_text())
    for name, wanted in gates.items():
        if "--check" not in sys.argv[1:]:
            subprocess.run([sys.executable, str(HERE / f"bench_{name}.py")], check=True)
        missed = check(json.loads((RESULTS / f"{name}.json").read_text())["results"], wanted)
        failed = failed or bool(missed)
        print(f"{name}: {'; '.join(missed) or 'gates met'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
