"""The steps of individual models: training, generation, evaluation."""

from __future__ import annotations

from typing import Any

from raysys.jobs import generate, train_diffusion
from raysys.study.config import OWN, ModelConfig, PromptsConfig, chosen_evaluations
from raysys.study.evaluations import evaluation
from raysys.study.sections import configure, is_set
from raysys.study.shared import Sampled, Shared, make_step, once, set_step_name
from raysys.study.step import Step

FUSION = "fusion"
"""The value of a model's `fusion.set` that means the study's fusion split."""


def training_steps(shared: Shared) -> list[Step]:
    return [_training(shared, name, model) for name, model in shared.config.models.items()]


def _training(shared: Shared, name: str, model: ModelConfig) -> Step:
    settings, encode = model.training, shared.config.data.encode
    diffusion: dict[str, Any] = {}
    needs = [set_step_name(model)]
    if model.fuses and settings.diffusion.fusion.set == FUSION:
        diffusion["fusion"] = {"set": shared.at.fusion_set}
        needs.append("assemble fusion")
    given = {} if is_set(settings, "cluster") else {"cluster": shared.config.train_cluster}
    config = configure(
        train_diffusion.JobConfig,
        settings,
        f"models.{name}.training",
        training_set=shared.training_set(model),
        output=shared.at.model(name),
        vae=encode.images.vae,
        text_encoder=encode.text.text_encoder,
        tokenizer=encode.text.tokenizer,
        diffusion=diffusion,
        training=shared.seed(settings, "training"),
        **given,
    )
    return make_step(_trained_by(name), "train-diffusion", config, config.output, *needs, model=name)


def _trained_by(model: str) -> str:
    return f"train {model}"


def generation_steps(shared: Shared) -> list[Step]:
    """One step per model and prompt set that an evaluation uses."""
    config = shared.config
    used = once(settings.prompts for settings in chosen_evaluations(config).values())
    return [_generation(shared, name, prompts) for prompts in used for name in config.models]


def _generation(shared: Shared, name: str, prompts: str) -> Step:
    config, at = shared.config, shared.at
    settings = config.models[name].generate
    source, needs = _prompts(shared, name, config.prompts[prompts])
    job_config = shared.row_job(
        generate,
        f"models.{name}.generate",
        settings,
        prompts=source,
        output=at.generations(prompts, name),
        generate={"model": f"{at.model(name)}/pipeline"} | shared.seed(settings, "generate"),
    )
    step = _generated_by(name, prompts)
    return make_step(step, "generate", job_config, job_config.output, _trained_by(name), *needs, model=name)


def _generated_by(model: str, prompts: str) -> str:
    return f"generate {model}" + ("" if prompts == OWN else f" with {prompts}")


def _prompts(shared: Shared, model: str, prompts: PromptsConfig) -> tuple[str, tuple[str, ...]]:
    """(path of the prompts, names of the steps that make them)."""
    if prompts.file is not None:
        return prompts.file, ()
    learned = shared.config.models[model if prompts.model == OWN else prompts.model]
    return shared.training_set(learned), (set_step_name(learned),)


def evaluation_steps(shared: Shared) -> list[Step]:
    steps = []
    for name, settings in chosen_evaluations(shared.config).items():
        models = [
            Sampled(
                model,
                shared.training_set(shared.config.models[model]),
                shared.at.generations(settings.prompts, model),
                (_generated_by(model, settings.prompts),),
            )
            for model in shared.config.models
        ]
        steps += evaluation(name).steps(settings, shared, models)
    return steps
