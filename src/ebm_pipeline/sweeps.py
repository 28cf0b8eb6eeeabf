"""A sweep is one parent run in MLflow: made before its first job, ended with a comparison after its last."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from ebm_pipeline import tracking
from ebm_pipeline.comparison import compare
from ebm_pipeline.configuration import open_experiment
from ebm_pipeline.errors import UserError
from ebm_pipeline.tracking import PARENT_VARIABLE, Tracker

log = logging.getLogger(__name__)


class SweepCallback(Callback):
    """Hydra's callback: before the first job of a sweep it makes the store and the parent run of the jobs."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            start_sweep(config)
        except UserError as error:  # Hydra would turn an ordinary exception into a warning and go on
            raise SystemExit(f"error: {error}") from error


def start_sweep(config: DictConfig) -> None:
    """Make the parent run; the jobs, in this process or in others, find it in the environment."""
    uri, experiment_id = open_experiment(config)
    folder = Path(config.hydra.sweep.dir).absolute()
    tracker = Tracker.start(uri, experiment_id, f"sweep {folder.name}", {tracking.OUTPUT_TAG: str(folder)})
    tracking.write_run_file(folder, tracker.run_id, uri)
    tracker.log_text(" ".join(config.hydra.overrides.task), "overrides.txt")
    os.environ[PARENT_VARIABLE] = tracker.run_id
    os.environ[PARENT_VARIABLE + "_FOLDER"] = str(folder)


def finish_sweep(failed: bool) -> None:
    """Compare the runs that the sweep finished and end its parent run. Does nothing where there was no sweep."""
    run_id = os.environ.pop(PARENT_VARIABLE, None)
    folder = os.environ.pop(PARENT_VARIABLE + "_FOLDER", None)
    if run_id is None or folder is None:
        return
    uri = json.loads((Path(folder) / tracking.RUN_FILE).read_text())["tracking_uri"]
    record = tracking.find_run(uri, folder)
    tracker = Tracker(uri, run_id, "", Path(folder))
    runs = tracking.children(uri, record.run_id)
    finished = [run for run in runs if run.status == "FINISHED"]
    for run in runs:
        if run.status != "FINISHED":
            log.error(f"{run.name}: {run.status.lower()}; {run.output_dir}")
    if finished:
        compare(uri, finished, Path(folder), tracker)
    tracker.finish("FAILED" if failed or len(finished) < len(runs) else "FINISHED")
    log.info(f"pictures and table: {folder}\nMLflow store: {uri} (make ui opens it)")
