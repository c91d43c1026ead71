"""Optional experiment trackers on rank 0: TensorBoard event files and MLflow. Off by default."""

from __future__ import annotations

import hashlib
from typing import Any

from raysys.engine.config import TrainClusterConfig
from raysys.errors import InputError, MissingExtra


class Trackers:
    """Logs scalars to the enabled trackers, if any."""

    def __init__(self, folder: str, name: str, config: TrainClusterConfig) -> None:
        self._tensorboard: Any = None
        self._mlflow: Any = None
        if config.tensorboard:
            if "://" in folder:
                raise InputError("cluster.tensorboard needs a local or mounted output folder", "set it to false")
            from torch.utils.tensorboard import SummaryWriter

            self._tensorboard = SummaryWriter(f"{folder}/tensorboard")
        if config.mlflow_uri:
            self._mlflow = _mlflow_run(config.mlflow_uri, folder, name)

    def log(self, metrics: dict[str, float]) -> None:
        step = int(metrics["step"])
        values = {k: v for k, v in metrics.items() if k != "step"}
        if self._tensorboard is not None:
            for key, value in values.items():
                self._tensorboard.add_scalar(f"training/{key}", value, step)
        if self._mlflow is not None:
            self._mlflow.log_metrics(values, step=step)

    def close(self) -> None:
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._mlflow is not None:
            self._mlflow.end_run()


def _mlflow_run(uri: str, folder: str, name: str) -> Any:
    """The MLflow run of this output folder. A resumed training continues the same run."""
    try:
        import mlflow
    except ImportError:
        raise MissingExtra("mlflow", "mlflow") from None
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment("raysys")
    tag = hashlib.sha256(folder.encode()).hexdigest()[:16]
    found = mlflow.search_runs(filter_string=f"tags.raysys_output = '{tag}'", output_format="list", max_results=1)
    if found:
        mlflow.start_run(run_id=found[0].info.run_id)
    else:
        mlflow.start_run(run_name=name, tags={"raysys_output": tag})
    return mlflow
