"""Job `train-diffusion`: an assembled training set → a pipeline folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from raysys.config import Config
from raysys.engine.config import TrainClusterConfig
from raysys.jobs.options import RunOptions
from raysys.jobs.outputs import refuse_limit, refuse_lost_path
from raysys.latents.parts import read_manifest
from raysys.tables.folder_output import FolderOutput
from raysys.training.diffusion_config import DiffusionConfig
from raysys.training.run_config import RunConfig

if TYPE_CHECKING:
    from raysys.training.diffusion_inputs import DiffusionInputs


class JobConfig(Config):
    """Train or fine-tune the denoiser of a text-to-image model."""

    training_set: str = Field(description="folder of the assembled training set")
    output: str = Field(description="run folder: checkpoints/, metrics.jsonl, pipeline/")
    validation_set: str | None = Field(None, description="folder of an assembled held-out set for the validation loss")
    vae: str = Field(
        "zoo:vae", description="VAE the latents were made with: zoo:vae or a folder; saved in the pipeline"
    )
    text_encoder: str = Field("zoo:text_encoder", description="text encoder that the captions were encoded with")
    tokenizer: str | None = Field(None, description="a tokenizer folder; null = the one beside the text encoder")
    diffusion: DiffusionConfig = Field(DiffusionConfig(), description="what is learned: denoiser, noise, fusion")
    training: RunConfig = Field(RunConfig(), description="how: steps, batches, optimizer, precision, checkpoints")
    cluster: TrainClusterConfig = Field(TrainClusterConfig(), description="workers, failures, trackers")

    @property
    def inputs(self) -> DiffusionInputs:
        """What is trained, from what."""
        from raysys.training.diffusion_inputs import DiffusionInputs

        models = (self.vae, self.text_encoder, self.tokenizer)
        return DiffusionInputs(self.diffusion, self.training, self.training_set, self.validation_set, *models)


def run(config: JobConfig, options: RunOptions) -> dict[str, Any]:
    """Train, then write `<output>/pipeline`. A finished training is not repeated."""
    [result] = run_all([config], options)
    if isinstance(result, Exception):
        raise result
    return result


def run_all(configs: list[JobConfig], options: RunOptions) -> list[dict[str, Any] | Exception]:
    """Several trainings at the same time; for each its summary, or what made it fail: the others go on."""
    from raysys.training.output import is_to_do

    refuse_limit("train-diffusion", options)
    outputs = [_output(c, options) for c in configs]
    todo = [i for i, c in enumerate(configs) if is_to_do(outputs[i], c.training.max_steps)]
    if options.dry_run:
        return [_plan(c, o) for c, o in zip(configs, outputs, strict=True)]
    failed: dict[int, Exception] = {}
    if todo:
        from raysys.engine.cluster import cluster
        from raysys.engine.train import run_trainings

        with cluster(options.address):
            trained = run_trainings([_train_job(configs[i], outputs[i]) for i in todo])
        failed = {i: result for i, result in zip(todo, trained, strict=True) if isinstance(result, Exception)}
        for i, result in zip(todo, trained, strict=True):
            if i not in failed:
                outputs[i].finish(_export(configs[i], outputs[i], result))
    return [failed[i] if i in failed else output.record().summary for i, output in enumerate(outputs)]


def _output(config: JobConfig, options: RunOptions) -> FolderOutput:
    refuse_lost_path(config.output)
    config.training.check_workers(config.cluster.num_workers)
    fields = config.inputs.identity()
    return FolderOutput("train-diffusion", config.output, fields, config, options.on_change, options.dry_run)


def _plan(config: JobConfig, output: FolderOutput) -> dict[str, Any]:
    training, cluster, n_rows = config.training, config.cluster, read_manifest(config.training_set)["rows"]["kept"]
    print(
        "train-diffusion would do (nothing was written):",
        f"  output          {config.output} ({output.state()})",
        f"  steps           {training.max_steps:,} × {training.batch_size} of {n_rows:,} samples",
        f"  fusion          {config.diffusion.fusion.level}",
        f"  workers         {cluster.num_workers} × ({cluster.cpus_per_worker:g} CPU{', 1 GPU' * cluster.use_gpu})",
        sep="\n",
    )
    return {}


def _train_job(config: JobConfig, output: FolderOutput) -> Any:
    from raysys.engine.train import TrainJob

    name = f"train {output.path.rsplit('/', 1)[-1]}"
    settings = (config.inputs, output.fields)
    return TrainJob(name, output.path, train_loop, settings, config.training.max_steps, config.cluster)


def train_loop(worker: Any, settings: tuple[DiffusionInputs, dict[str, Any]]) -> None:
    """What each Ray Train worker runs."""
    from raysys.training.loop import fit

    fit(settings[0].recipe(settings[1], device=str(worker.device)), settings[0].run, worker)


def _export(config: JobConfig, output: FolderOutput, checkpoint: Any) -> dict[str, Any]:
    """Save `<output>/pipeline`; returns the summary."""
    from raysys.engine.train_worker import read_metrics
    from raysys.training.checkpoint import read_state
    from raysys.training.output import export_to

    with checkpoint.as_directory() as folder:
        recipe = config.inputs.recipe(output.fields, to_export=True)
        export_to(output.store, "pipeline", recipe, Path(folder))
        steps = read_state(folder).step
    records = read_metrics(output.store)
    return {"output": output.path, "steps": steps, "loss": records[-1]["loss"] if records else None}
