"""What all models of a study share, and how a step's configuration is made from a section of the study."""

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
    """A model as an evaluation sees it: its training set and its generations."""

    name: str
    training_set: str
    generations: str
    needs: tuple[str, ...]


@dataclass(frozen=True)
class Shared:
    """What all models share: the samples of each split, decoding limits, descriptor, seed, cluster settings."""

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
        """The SAMPLES table of a split; None if the study does not use the split."""
        return self.at.samples(split) if split in self.splits else None

    def features(self, images: str) -> str:
        """The FEATURES table of one of this study's tables of samples or generations."""
        split = next((s for s in SPLITS if self.at.samples(s) == images), None)
        return self.at.features(split or images.removeprefix(self.at.run.rstrip("/") + "/"))

    def made_by(self, samples: str | None) -> tuple[str, ...]:
        """The steps that make a table of samples."""
        return tuple(f"ingest {split}" for split in self.splits if self.at.samples(split) == samples)

    @property
    def decode(self) -> DecodeConfig:
        """The limits that training images were ingested with, so that no later step rejects an accepted image."""
        return self.config.data.ingest.ingest.decode

    @property
    def descriptor(self) -> DescriptorConfig:
        """The descriptor of dedup; evaluations use the same one unless they set their own."""
        return self.config.data.dedup.descriptor

    def training_set(self, model: ModelConfig) -> str:
        """The assembled set of a model. Models with the same captions and duplicates share one set."""
        return self.at.training_set(model.kinds, model.duplicates == "keep")

    def seed(self, section: Config, *path: str) -> dict[str, int]:
        """{"seed": the study's seed}; {} if the section at `path` sets its own."""
        return {} if is_set(section, *path, "seed") else {"seed": self.config.seed}

    def row_job(self, job: Any, place: str, section: Config, **given: Any) -> Any:
        """The configuration of a row job from `section` (at key `place`), with the study's cluster settings unless the
        section sets its own."""
        if not is_set(section, "cluster"):
            given["cluster"] = self.config.cluster
        return configure(job.JobConfig, section, place, **given)


def make_step(name: str, job: str, config: Config, output: str, *needs: str, model: str | None = None) -> Step:
    """A step outside of evaluations."""
    return Step(name, job, config, output, needs, model)


def set_step_name(model: ModelConfig) -> str:
    """The name of the step that assembles a model's training set."""
    return f"assemble {', '.join(model.kinds)}" + (" with duplicates" if model.duplicates == "keep" else "")


def encoded_by(captions: str) -> str:
    """The name of the step that encodes a kind of captions."""
    return "encode train" if captions == ORIGINAL else f"encode {captions}"


def once(items: Iterable[Any]) -> list[Any]:
    """Each item once, in the order of first appearance."""
    return list(dict.fromkeys(items))
