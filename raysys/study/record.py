"""`study.json`, a run folder's record of its study: paths, states of the steps, failures, durations.

The report finds everything through this file; `raysys.report.folder` reads it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from raysys.config import dump
from raysys.report.folder import DONE, FAILED, RECORD, failure_of
from raysys.study.config import StudyConfig, chosen_evaluations
from raysys.study.layout import Layout
from raysys.study.sections import as_set
from raysys.study.shared import Shared
from raysys.study.step import Step
from raysys.tables import Store
from raysys.tables.plan import fingerprint

TABLES = ("ingest", "dedup", "caption", "generalize", "encode", "generate")
"""Jobs whose outputs are tables."""


class Record:
    """study.json of a run folder: written when a run starts, and again after every step."""

    def __init__(self, config: StudyConfig, steps: Sequence[Step], command: str) -> None:
        """`steps`: all steps of the study, including those that are not run now."""
        self._store, self._lock = Store(config.run), threading.Lock()
        self._config, self._digests = config, digests(steps, Layout(config.run)(""))
        before = self._store.read_json(RECORD) or {}
        old = before.get("steps", {})
        self.data = {
            **_facts(config, command),
            **_places(config, steps),
            "seconds": before.get("seconds", {}),
            "steps": {step.name: self._known(step, old.get(step.name, {})) for step in steps},
        }

    def _known(self, step: Step, before: dict[str, Any]) -> dict[str, Any]:
        """The step's entry. The state and reason of another configuration do not apply to this one.

        A digest includes the digests of the steps that it needs: what was made from outdated outputs is outdated, too.
        """
        is_current = before.get("digest") == self._digests[step.name]
        kept = {name: value for name, value in before.items() if is_current or name == "seconds"}
        return kept | {"job": step.job, "model": step.model, "evaluation": step.evaluation, "needs": list(step.needs)}

    def start(self) -> None:
        """Write the record and the resolved configuration."""
        self._store.write("config.yaml", dump(self._config).encode())
        self._save()

    def state_of(self, step: Step) -> str:
        """done, failed or pending according to the record. Jobs still check their outputs themselves."""
        known = self.data["steps"][step.name]
        if "state" not in known:
            return "pending"
        if known["state"] == DONE and not (Store(step.output).names() or Store(step.output).folders()):
            return "pending"
        return known["state"]

    def finish(self, step: Step, seconds: float, failure: str | None = None) -> None:
        """Record how a step ended. Its seconds add up over all runs."""
        with self._lock:
            known = self.data["steps"][step.name]
            known["seconds"] = round(known.get("seconds", 0.0) + seconds, 2)
            known |= {"state": DONE if failure is None else FAILED, "digest": self._digests[step.name]}
            known |= {"reason": failure}
            self._save()

    def spend(self, job: str, seconds: float) -> None:
        """Add wall-clock seconds of a job's steps, which may run at the same time; they add up over all runs."""
        with self._lock:
            self.data["seconds"][job] = round(self.data["seconds"].get(job, 0.0) + seconds, 2)
            self._save()

    def failed_models(self) -> dict[str, str]:
        """{model: failed step and reason}; the step may be one that several models share."""
        found = {name: failure_of(self.data, name) for name in self.data["models"]}
        return {name: f"{failure[0]}: {failure[1]}" for name, failure in found.items() if failure is not None}

    def _save(self) -> None:
        self._store.write_json(RECORD, self.data)


def digests(steps: Sequence[Step], root: str) -> dict[str, str]:
    """Name → hash of the step's configuration and of the steps that it needs.

    Stricter than the identity of outputs, which counts inputs by their contents and not by their paths: a digest only
    decides whether a recorded state is shown as current. Paths are relative to the run folder `root`.
    """
    found: dict[str, str] = {}
    for step in steps:
        asked = _asked(step.config.model_dump(mode="json"), root)
        found[step.name] = fingerprint({"job": step.job, "config": asked, "needs": [found[n] for n in step.needs]})
    return found


def _asked(value: Any, root: str) -> Any:
    """A dumped configuration without the settings of clusters and chunks."""
    if isinstance(value, dict):
        return {k: _asked(v, root) for k, v in value.items() if k not in ("cluster", "chunk_rows")}
    if isinstance(value, list):
        return [_asked(item, root) for item in value]
    return value.removeprefix(root) if isinstance(value, str) else value


def _facts(config: StudyConfig, command: str) -> dict[str, Any]:
    return {
        "title": config.title or f"raysys study {config.run.rstrip('/').rpartition('/')[2]}",
        "seed": config.seed,
        "command": command,
        "full_command": config.full_command,
        "drawn": config.data.shards is None,
    }


def _places(config: StudyConfig, steps: Sequence[Step]) -> dict[str, Any]:
    """Paths relative to the run folder, so that the folder can be moved."""
    root, near = Layout(config.run)(""), Layout("")
    inside = {step.name: step.output.removeprefix(root) for step in steps}
    evaluations = chosen_evaluations(config)
    return {
        "samples": {split: near.samples(split) for split in Shared(config, near).splits},
        "duplicates": near.duplicates,
        "captions": near.captions if config.data.caption is not None else None,
        "generalized": near.generalized if config.data.generalize is not None else None,
        "tables": _tables(steps, root),
        "models": {name: _model(config, name, near) for name in config.models},
        "evaluations": {
            name: {
                "prompts": settings.prompts,
                "models": {s.model: inside[s.name] for s in steps if s.evaluation == name},
            }
            for name, settings in evaluations.items()
        },
    }


def _model(config: StudyConfig, name: str, near: Layout) -> dict[str, Any]:
    model = config.models[name]
    prompts = dict.fromkeys(settings.prompts for settings in chosen_evaluations(config).values())
    return {
        "recipe": {
            "like": model.like,
            "captions": ", ".join(model.kinds),
            "duplicates": model.duplicates,
            "fusion": model.training.diffusion.fusion.model_dump(mode="json"),
            "training": as_set(model.training),
            "generate": as_set(model.generate),
        },
        "training": near.model(name),
        "generations": {p: near.generations(p, name) for p in prompts},
    }


def _tables(steps: Sequence[Step], root: str) -> list[str]:
    """All tables of the study, in data-flow order."""
    found = []
    for step in steps:
        for field in ("features", "latents", "text_states", "output"):
            place = getattr(step.config, field, None)
            if step.job in TABLES and place is not None:
                found.append(place.removeprefix(root))
    return found
