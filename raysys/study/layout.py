"""The layout of a study's run folder: all of its paths are made here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SPLITS = ("train", "held_out", "fusion")


@dataclass(frozen=True)
class Layout:
    """Paths in a run folder; `Layout("")` gives the same paths relative to it."""

    run: str

    def __call__(self, *parts: str) -> str:
        folder = self.run.rstrip("/")
        return "/".join((folder, *parts) if folder else parts)

    @property
    def shards(self) -> str:
        """The drawn scenes: one folder per split."""
        return self("shards")

    def samples(self, split: str) -> str:
        return self("samples", split)

    def features(self, images: str) -> str:
        """Features of the images of a split or of generations: `train`, `generations/own/baseline` …"""
        return self("features", images)

    @property
    def duplicates(self) -> str:
        return self("duplicates")

    @property
    def captions(self) -> str:
        return self("captions")

    @property
    def generalized(self) -> str:
        return self("generalized")

    def latents(self, split: str) -> str:
        return self("latents", split)

    def text_states(self, split: str, captions: str) -> str:
        """Text states of one kind of captions (`original`, `captioner/prompt/level` …)."""
        return self("text_states", file_name(captions) if split == "train" else split)

    def training_set(self, captions: Sequence[str], keep_duplicates: bool) -> str:
        return self("assembled_with_duplicates" if keep_duplicates else "assembled", ",".join(map(file_name, captions)))

    @property
    def fusion_set(self) -> str:
        return self("assembled_fusion")

    def model(self, name: str) -> str:
        return self("models", name)

    def generations(self, prompts: str, model: str) -> str:
        return self("generations", prompts, model)

    def evaluation(self, evaluation: str, model: str) -> str:
        return self(evaluation, model)


def file_name(captions: str) -> str:
    """`captioner/prompt/level` as one folder name. Names of captioners, prompts and levels never contain "+"."""
    return captions.replace("/", "+")
