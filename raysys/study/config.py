"""The configuration of a study: data, models, prompts, evaluations. Its sections are the jobs' configurations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, create_model, field_validator, model_validator

from raysys.captions.caption import ORIGINAL, prompts_of
from raysys.config import Config
from raysys.engine.config import ClusterConfig, TrainClusterConfig
from raysys.generation.generate import GenerateConfig
from raysys.jobs import assemble, caption, dedup, encode, generalize, generate, ingest, scenes, train_diffusion
from raysys.study.evaluations import EVALUATIONS, evaluation
from raysys.study.sections import merged, section_of

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
"""Names of models and prompt sets; they are also used as folder names."""

OWN = "own"
"""Name of the prompt set in which each model gets the captions that it was trained on."""

ScenesSection = section_of(scenes.JobConfig, "output")
IngestSection = section_of(ingest.JobConfig, "input", "output")
DedupSection = section_of(dedup.JobConfig, "samples", "features", "output")
CaptionSection = section_of(caption.JobConfig, "samples", "duplicates", "output")
GeneralizeSection = section_of(generalize.JobConfig, "captions", "duplicates", "output")
EncodeSection = section_of(encode.JobConfig, "samples", "duplicates", "latents", "text_states", "captions")
AssembleSection = section_of(
    assemble.JobConfig,
    *("samples", "duplicates", "latents", "text_states", "which", "required_text_states", "output", "keep_duplicates"),
)
TrainingSection = section_of(
    train_diffusion.JobConfig, "training_set", "validation_set", "output", "vae", "text_encoder", "tokenizer"
)
SamplingSection = section_of(GenerateConfig, "model")
GenerateSection = section_of(
    generate.JobConfig,
    *("prompts", "output", "export"),
    generate=(SamplingSection, Field(SamplingSection(), description="seed, guidance, steps")),
)


class ShardsConfig(Config):
    """Input shards: tars, Parquet, a folder or an index."""

    train: str = Field(description="the images that the models are trained on")
    held_out: str | None = Field(None, description="real images that are not used for training; null = none")
    fusion: str | None = Field(None, description="fusion set: images captioned with their class; null = none")


class DataConfig(Config):
    """The data that all models share. Each section is the configuration of the job of that name, without its paths."""

    shards: ShardsConfig | None = Field(None, description="your own shards; null = draw scenes")
    scenes: ScenesSection = Field(ScenesSection(), description="the drawn world, unless shards are given")
    ingest: IngestSection = Field(IngestSection(), description="decoding limits and licenses")
    fusion_ingest: IngestSection | None = Field(
        None, description="as `ingest`, for the fusion set, whose images a model only sees fused; null = as `ingest`"
    )
    dedup: DedupSection = Field(DedupSection(), description="descriptor and near-duplicate thresholds")
    caption: CaptionSection | None = Field(None, description="captioners; null = no captions are written")
    generalize: GeneralizeSection | None = Field(
        None, description="generalize captions: those named by `which`, or all written, or the originals; null = none"
    )
    encode: EncodeSection = Field(EncodeSection(), description="VAE, resolution, crop; text encoder")
    assemble: AssembleSection = Field(AssembleSection(), description="shuffle and size of parts")
    required_captions: tuple[str, ...] = Field(
        (),
        description="a training image must have a kept caption of each of these kinds, so that training sets with "
        "different captions hold the same images",
    )

    @property
    def written_kinds(self) -> tuple[str, ...]:
        """The kinds of captions that captioners write: `captioner/prompt`."""
        captioners = () if self.caption is None else self.caption.captioners
        return tuple(f"{c.name}/{prompt}" for c in captioners for prompt in prompts_of(c)[0])

    @property
    def generalized_sources(self) -> tuple[str, ...]:
        """The kinds of captions that are generalized."""
        if self.generalize is None:
            return ()
        return (self.generalize.which,) if self.generalize.which is not None else self.written_kinds or (ORIGINAL,)

    @property
    def generalized_kinds(self) -> tuple[str, ...]:
        """The kinds of captions made by generalization: `original/level`, `captioner/prompt/level`."""
        levels = () if self.generalize is None else self.generalize.generalize.levels
        return tuple(f"{source}/{level}" for source in self.generalized_sources for level in levels)

    @property
    def caption_kinds(self) -> tuple[str, ...]:
        """Every kind of caption that a model can be trained on."""
        return (ORIGINAL, *self.written_kinds, *self.generalized_kinds)


class ModelConfig(Config):
    """One model: what it is trained on, how it is trained and how it is sampled."""

    like: str | None = Field(None, description="inherit the settings of this model; settings given here replace them")
    captions: str | tuple[str, ...] = Field(
        ORIGINAL,
        description="captions to train on: original, captioner/prompt or …/level. With several, each training step "
        "draws one of an image's captions",
    )
    duplicates: Literal["drop", "keep"] = Field(
        "drop", description="keep = also train on duplicates, as if there were no dedup"
    )
    training: TrainingSection = Field(
        TrainingSection(),
        description="as `raysys train-diffusion`; diffusion.fusion.set = fusion means the study's fusion split",
    )
    generate: GenerateSection = Field(GenerateSection(), description="as `raysys generate`")

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of captions that the model is trained on, always as a tuple."""
        return (self.captions,) if isinstance(self.captions, str) else self.captions

    @property
    def fuses(self) -> bool:
        """Whether the model is trained with a fusion set."""
        return self.training.diffusion.fusion.level != "none"


class PromptsConfig(Config):
    """A named set of prompts: the captions of a model, or a file."""

    model: str | None = Field(
        None, description="the captions that this model was trained on; own = those of each model itself"
    )
    file: str | None = Field(None, description="a .txt (one prompt per line) or .jsonl file, or a table with captions")

    @model_validator(mode="after")
    def _one_source(self) -> PromptsConfig:
        if (self.model is None) == (self.file is None):
            raise ValueError("give either model or file")
        return self


EvaluationsConfig = create_model(
    "EvaluationsConfig",
    __base__=Config,
    __doc__="Name → the configuration of the evaluation; null = it is not run.",
    **{name: (evaluation(name).Settings | None, Field(None, description="null = not run")) for name in EVALUATIONS},
)


class StudyConfig(Config):
    """A study: named models, trained on shared data and measured by the same evaluations."""

    run: str = Field("runs/demo", description="run folder; the study writes only here")
    title: str | None = Field(None, description="title of the report; null = the name of the run folder")
    seed: int = Field(
        0, ge=0, description="seed of weights, sample order, noise, captions and generations in sections without one"
    )
    data: DataConfig = Field(DataConfig(), description="data that all models share")
    models: dict[Name, ModelConfig] = Field(
        min_length=1, description="name → model; the first is the reference with which the others are compared"
    )
    prompts: dict[Name, PromptsConfig] = Field(
        {OWN: PromptsConfig(model=OWN)}, description="name → prompts to sample the models with"
    )
    evaluations: EvaluationsConfig = Field(
        EvaluationsConfig(replication={}), description="evaluations to run; each has a section in the report"
    )
    concurrent: int | None = Field(
        None, ge=1, description="steps of one job that run at once; null = as many as fit into the cluster"
    )
    cluster: ClusterConfig = Field(
        ClusterConfig(), description="cluster settings of row jobs in sections without their own"
    )
    train_cluster: TrainClusterConfig = Field(
        TrainClusterConfig(), description="cluster settings of each training, for models without their own"
    )
    full_command: str = Field("", description="command that the report shows for the published recipe")

    @field_validator("models", mode="before")
    @classmethod
    def _inherit(cls, models: Any) -> Any:
        return with_likes(models) if isinstance(models, dict) else models

    @model_validator(mode="after")
    def _names_are_known(self) -> StudyConfig:
        for problem in _problems(self):
            raise ValueError(problem)
        return self


def _problems(config: StudyConfig) -> Iterator[str]:
    """One message per unknown name and per model that cannot be trained."""
    if OWN in config.models:
        yield f"models.{OWN}: this name is reserved for prompts, rename the model"
    shards = config.data.shards
    for name, model in config.models.items():
        if model.fuses and shards is not None and shards.fusion is None:
            yield f"models.{name}: the model uses fusion, but data.shards.fusion is not set"
    kinds = config.data.caption_kinds
    for where, captions in [
        *((f"models.{name}.captions", kind) for name, model in config.models.items() for kind in model.kinds),
        *(("data.required_captions", kind) for kind in config.data.required_captions),
    ]:
        if captions not in kinds:
            yield f"{where} = {captions!r}: `data` does not make these captions; it makes: {', '.join(kinds)}"
    for name, prompts in config.prompts.items():
        if prompts.model not in (None, OWN, *config.models):
            yield f"prompts.{name}.model = {prompts.model!r}: must be {OWN} or one of: {', '.join(config.models)}"
    for name, settings in chosen_evaluations(config).items():
        if settings.prompts not in config.prompts:
            there = ", ".join(config.prompts)
            yield f"evaluations.{name}.prompts = {settings.prompts!r}: unknown prompts; known are: {there}"


def chosen_evaluations(config: StudyConfig) -> dict[str, Config]:
    """The evaluations to run, with their settings, in the order of the registry."""
    found = {name: getattr(config.evaluations, name) for name in EVALUATIONS}
    return {name: settings for name, settings in found.items() if settings is not None}


def with_likes(models: dict[str, Any]) -> dict[str, Any]:
    """The settings of every model, merged recursively over those of its `like`.

    Raises ValueError for an unknown model name and for a cycle.
    """
    return {name: _resolved(name, models, ()) for name in models}


def _resolved(name: str, models: dict[str, Any], seen: tuple[str, ...]) -> Any:
    model = models[name]
    if isinstance(model, ModelConfig) or not isinstance(model or {}, dict):
        return model
    like = (model or {}).get("like")
    if like is None:
        return model or {}
    if like not in models:
        raise ValueError(f"models.{name}.like = {like!r}: unknown model; known are: {', '.join(models)}")
    if like in (*seen, name):
        raise ValueError(f"models inherit from each other in a cycle: {' → '.join((*seen, name, like))}")
    return merged(_resolved(like, models, (*seen, name)), model)
