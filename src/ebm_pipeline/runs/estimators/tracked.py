"""A run of `ebm-train` from Python: its folder under `outputs`, its record in MLflow."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from omegaconf import DictConfig

from ebm_pipeline.runs import resume
from ebm_pipeline.runs import train as training
from ebm_pipeline.runs.folders import own_folder
from ebm_pipeline.tracking.environment import set_up_mlflow


def run(config: DictConfig) -> tuple[Path, dict[str, float]]:
    """The run's folder and its last metrics."""
    set_up_mlflow()
    folder = _folder(config)
    return folder, training.train(config, folder)


def _folder(config: DictConfig) -> Path:
    """Where the run goes: a new folder, or with resume=auto the one of the run to go on with."""
    name = f"{datetime.now():%Y-%m-%d_%H-%M-%S_%f}_{str(config.model.name).lower().replace(' ', '_')}"
    folder = Path(config.output_root).absolute() / "runs" / name
    found = resume.folder_of(folder, resume.digest(config), config, named=False) if resume.wanted(config) else None
    return found or own_folder(folder)
