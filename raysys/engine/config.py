"""How a job uses the cluster. These settings do not change results, so they are not part of any fingerprint."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from raysys.config import Config


class PoolConfig(Config):
    """The actor pool of a row stage."""

    operational = True

    min_size: int = Field(1, ge=1, description="actors kept alive from the start")
    max_size: int = Field(1, ge=1, description="the pool grows to this many actors while chunks wait")
    chunks_in_flight: int | None = Field(
        None,
        ge=1,
        description="chunks that one worker processes at once; null = 3 for an engine that batches requests itself "
        "(vLLM, an endpoint), else 1",
    )
    num_cpus: float = Field(1, ge=0, description="CPUs of one worker")
    num_gpus: float = Field(0, ge=0, description="GPUs of one worker; 0 = CPU")
    accelerator_type: str | None = Field(None, description="for example L4: only nodes with this accelerator")
    memory_bytes: int | None = Field(None, gt=0, description="memory in bytes that Ray reserves for one worker")
    resources: dict[str, float] | None = Field(None, description="custom Ray resources of one worker")
    label_selector: dict[str, str] | None = Field(None, description="Ray node labels that a worker requires")
    runtime_env: dict[str, Any] | None = Field(None, description="Ray runtime environment of the workers")

    @model_validator(mode="after")
    def _ordered(self) -> PoolConfig:
        if self.max_size < self.min_size:
            raise ValueError(f"max_size ({self.max_size}) is below min_size ({self.min_size})")
        return self


class ClusterConfig(Config):
    """Ray Data settings of a table job."""

    operational = True

    pool: PoolConfig = Field(PoolConfig(), description="workers of the stage")
    load_cpus: float = Field(1, gt=0, description="CPUs of each task that reads a chunk's input")
    max_chunks_read: int | None = Field(
        None,
        ge=1,
        description="maximum number of chunks being read, waiting or being processed: bounds the pixels in Ray's "
        "object store; null = twice the number that all workers process at once, plus 8",
    )
    max_error_fraction: float = Field(
        0.01, ge=0, le=1, description="stop at 20 or more errors that are more than this fraction of the rows"
    )
    max_worker_deaths: int = Field(
        10, ge=4, description="stop when workers have died this often in a row and finished no item in between"
    )
    progress_interval_s: float = Field(5.0, gt=0, description="seconds between progress lines in a log")
    watchdog_s: float = Field(
        120.0, gt=0, description="seconds without a finished chunk after which the cluster's resources are printed"
    )
    data_context: dict[str, Any] = Field({}, description="attributes set on ray.data.DataContext")

    def workers(self, heavy: bool) -> str:
        """What a stage runs on, for people. heavy: on the pool, else in the tasks that read the chunks."""
        pool = self.pool
        if heavy:
            return f"{pool.min_size}–{pool.max_size} × ({pool.num_cpus:g} CPU, {pool.num_gpus:g} GPU)"
        return f"one task per chunk × {pool.num_cpus:g} CPU"

    @property
    def chunks_read(self) -> int:
        """The maximum number of chunks in Ray's object store, for stages that read from it.

        One chunk is ready for each one being processed, plus eight being read, so that GPUs do not wait for input.
        """
        return self.max_chunks_read or 2 * self.pool.max_size * (self.pool.chunks_in_flight or 1) + 8


class TrainClusterConfig(Config):
    """Ray Train settings of a training."""

    operational = True

    num_workers: int = Field(1, ge=1, description="data-parallel workers")
    min_workers: int | None = Field(
        None, ge=1, description="elastic training: continue with as few workers when nodes are lost; null = fixed"
    )
    use_gpu: bool = Field(False, description="one GPU per worker; false = train on CPU with gloo")
    cpus_per_worker: float = Field(1, gt=0, description="CPUs of one worker")
    accelerator_type: str | None = Field(None, description="for example L4: only nodes with this accelerator")
    max_failures: int = Field(
        3, ge=-1, description="restarts from the last checkpoint after a worker was lost; -1 = no limit"
    )
    stop_grace_s: float = Field(
        60.0, ge=0, description="seconds that every training has to write a checkpoint and end after Ctrl-C or SIGTERM"
    )
    checkpoints_to_keep: int = Field(2, ge=1, description="number of newest checkpoints kept on storage")
    tensorboard: bool = Field(False, description="also write TensorBoard events to <output>/tensorboard")
    mlflow_uri: str | None = Field(None, description="also log to this MLflow tracking URI (needs the extra mlflow)")

    def workers(self) -> str:
        """What a training runs on, for people."""
        return f"{self.num_workers} × ({self.cpus_per_worker:g} CPU{', 1 GPU' * self.use_gpu})"

    @model_validator(mode="after")
    def _elastic(self) -> TrainClusterConfig:
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ValueError(f"min_workers ({self.min_workers}) is above num_workers ({self.num_workers})")
        return self
