"""What all models of a study share, and how a step's configuration is made from a section of the study's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from raysys.captions.caption import ORIGINAL
from raysys.config import Config
from raysys.shards.decode import DecodeConfig
from raysys.similarity import DescriptorConfig
from raysys.study.config import ModelConfig, StudyConfig, chosen_evaluations
from raysys.study.layout import SPLITS, Layout
from raysys.study.sections import configure, is_set
from raysys.study.step import Step


@dataclass(frozen=True)
class Sampled:
    """A model as an evaluation sees it: what it was trained on, and what it generated."""

    name: str
    training_set: str
    generations: str
    needs: tuple[str, ...]


@dataclass(frozen=True)
class Shared:
    """What all models have in common: the samples of each split, and how images are compared."""

    config: StudyConfig
    at: Layout

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that the study uses."""
        shards = self.config.data.shards
        used = {
            "train": True,
            "held_out": bool(chosen_evaluations(self.config)),
            "fusion": any(model.fuses for model in self.config.models.values()),
        }
        return tuple(s for s in SPLITS if used[s] and (shards is None or getattr(shards, s) is not None))

    def samples(self, split: str) -> str | None:
        """The table of SAMPLES rows of a split; None when the study has no such images."""
        return self.at.samples(split) if split in self.splits else None

    def features(self, images: str) -> str:
        """The table of FEATURES rows of a table of samples or generations of this study."""
        split = next((s for s in SPLITS if self.at.samples(s) == images), None)
        return self.at.features(split or images.removeprefix(self.at.run.rstrip("/") + "/"))

    def made_by(self, samples: str | None) -> tuple[str, ...]:
        """The steps that make a table of samples."""
        return tuple(f"ingest {split}" for split in self.splits if self.at.samples(split) == samples)

    @property
    def decode(self) -> DecodeConfig:
        """The limits that training images were let through with: no later step refuses what passed."""
        return self.config.data.ingest.ingest.decode

    @property
    def descriptor(self) -> DescriptorConfig:
        """What dedup compares images by: evaluations use the same, unless they set their own."""
        return self.config.data.dedup.descriptor

    def training_set(self, model: ModelConfig) -> str:
        """What a model is trained on: models with the same captions and duplicates share one set."""
        return self.at.training_set(model.kinds, model.duplicates == "keep")

    def seed(self, section: Config, *path: str) -> dict[str, int]:
        """The study's seed as `seed` of the section at `path`; {} where that sets its own."""
        return {} if is_set(section, *path, "seed") else {"seed": self.config.seed}

    def row_job(self, job: Any, place: str, section: Config, **given: Any) -> Any:
        """The configuration of a row job from the section at `place`, with the study's cluster settings unless it
        sets its own."""
        if not is_set(section, "cluster"):
            given["cluster"] = self.config.cluster
        return configure(job.JobConfig, section, place, **given)


def make_step(name: str, job: str, config: Config, output: str, *needs: str, model: str | None = None) -> Step:
    """A step that belongs to no evaluation."""
    return Step(name, job, config, output, needs, model)


def set_step_name(model: ModelConfig) -> str:
    """The step that assembles what a model is trained on."""
    return f"assemble {', '.join(model.kinds)}" + (" with duplicates" if model.duplicates == "keep" else "")


def encoded_by(captions: str) -> str:
    """The step that makes the text states of a kind of captions."""
    return "encode train" if captions == ORIGINAL else f"encode {captions}"


def once(items: Iterable[Any]) -> list[Any]:
    """Each item once, in the order of first appearance."""
    return list(dict.fromkeys(items))
