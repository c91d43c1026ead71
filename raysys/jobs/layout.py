"""Where a pipeline run keeps its things: one place that the pipeline and the report agree on."""

from __future__ import annotations

from dataclasses import dataclass

MODELS = ("baseline", "mitigated")
SPLITS = ("train", "held_out", "fusion")
GENERALIZED = "generalized"
"""Name of the training set whose captions are generalized: the mitigated model's."""


@dataclass(frozen=True)
class Layout:
    """Paths under a run folder."""

    run: str

    def __call__(self, *parts: str) -> str:
        return "/".join((self.run.rstrip("/"), *parts))

    def shards(self, split: str) -> str:
        return self("shards", split)

    def samples(self, split: str) -> str:
        return self("samples", split)

    @property
    def captions(self) -> str:
        return self("captions")

    @property
    def generalized(self) -> str:
        return self(GENERALIZED)

    def latents(self, split: str) -> str:
        return self("latents", split)

    def text_states(self, split: str) -> str:
        return self("text_states", split)

    def assembled(self, split: str) -> str:
        return self("assembled", split)

    @property
    def descriptors(self) -> str:
        return self("descriptors")

    @property
    def duplicates(self) -> str:
        return self("duplicates")

    def model(self, name: str) -> str:
        return self("models", name)

    def generations(self, name: str) -> str:
        return self("generations", name)

    def replication(self, name: str) -> str:
        return self("replication", name)
