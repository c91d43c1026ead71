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
from raysys.tables.results import FolderPlan, FolderSummary, Plan, State, Summary
from raysys.training.diffusion_config import DiffusionConfig
from raysys.training.run_config import RunConfig

if TYPE_CHECKING:
    from raysys.training.diffusion_inputs import DiffusionInputs

NAME = "train-diffusion"


class JobConfig(Config):
    """Train or fine-tune the denoiser of a text-to-image model."""

    training_set: str = Field(description="folder of the assembled training set")
    output: str = Field(description="run folder: checkpoints/, metrics.jsonl, pipeline/")
    validation_set: str | None = Field(None, description="folder of an assembled held-out set for the validation loss")
    vae: str = Field("zoo:vae", description="VAE that encoded the latents: zoo:vae or a folder; saved in the pipeline")
    text_encoder: str = Field("zoo:text_encoder", description="text encoder that encoded the captions")
    tokenizer: str | None = Field(None, description="tokenizer folder; null = the one next to the text encoder")
    diffusion: DiffusionConfig = Field(DiffusionConfig(), description="denoiser, noise schedule, fusion")
    training: RunConfig = Field(RunConfig(), description="steps, batches, optimizer, precision, checkpoints")
    cluster: TrainClusterConfig = Field(TrainClusterConfig(), description="workers, failures, trackers")

    @property
    def inputs(self) -> DiffusionInputs:
        """The inputs that determine the trained weights."""
        from raysys.training.diffusion_inputs import DiffusionInputs

        models = (self.vae, self.text_encoder, self.tokenizer)
        return DiffusionInputs(self.diffusion, self.training, self.training_set, self.validation_set, *models)


def run(config: JobConfig, options: RunOptions) -> Plan | Summary:
    """Train, then write `<output>/pipeline`. A finished training is not repeated."""
    from raysys.training.output import is_to_do

    refuse_limit(NAME, options)
    output = _output(config, options)
    to_do = is_to_do(output, config.training.max_steps)
    if options.dry_run:
        return Plan({NAME: FolderPlan(NAME, output.path, output.state(), to_do, _facts(config))})
    if to_do:
        _train(config, output, options)
        state: State = "done"
    else:
        state = "kept" if output.changed() else "nothing to do"
    return Summary({NAME: FolderSummary(NAME, output.path, output.record().summary, state)})


def _output(config: JobConfig, options: RunOptions) -> FolderOutput:
    refuse_lost_path(config.output, options)
    config.training.check_workers(config.cluster.num_workers)
    fields = config.inputs.identity()
    return FolderOutput(NAME, config.output, fields, config, options.on_change, options.dry_run)


def _facts(config: JobConfig) -> dict[str, str]:
    training, n_rows = config.training, read_manifest(config.training_set)["rows"]["kept"]
    return {
        "steps": f"{training.max_steps:,} × {training.batch_size} of {n_rows:,} samples",
        "fusion": config.diffusion.fusion.level,
        "workers": config.cluster.workers(),
    }


def _train(config: JobConfig, output: FolderOutput, options: RunOptions) -> None:
    from raysys.engine.cluster import cluster
    from raysys.engine.train import TrainJob, run_training

    name = f"train {output.path.rsplit('/', 1)[-1]}"
    settings = (config.inputs, output.fields)
    job = TrainJob(name, output.path, train_loop, settings, config.training.max_steps, config.cluster)
    with cluster(options.address):
        checkpoint = run_training(job)
    output.finish(_export(config, output, checkpoint))


def train_loop(worker: Any, settings: tuple[DiffusionInputs, dict[str, Any]]) -> None:
    """The function that each Ray Train worker runs."""
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
    return {"steps": steps, "loss": records[-1]["loss"] if records else None}
