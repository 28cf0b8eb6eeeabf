"""A sweep is one parent run in MLflow: made before its first job, ended with a comparison after its last."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ebm_pipeline import resuming, tracking
from ebm_pipeline.comparison import by_size, compare
from ebm_pipeline.configuration import open_experiment
from ebm_pipeline.errors import UserError
from ebm_pipeline.tracking import PARENT_VARIABLE, Tracker

log = logging.getLogger(__name__)


class SweepCallback(Callback):
    """Hydra's callback: before the first job of a sweep it makes the store and the parent run of the jobs.

    With resume=auto a run or sweep that was interrupted is found here, before Hydra makes a folder for a new one.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        with _ending_in_one_message():
            if resuming.wanted(config):
                HydraConfig.instance().set_config(config)  # as Hydra does next: the folder's name may refer to it
                OmegaConf.set_readonly(config.hydra, False)
                config.hydra.run.dir = str(resuming.folder_of(Path(config.hydra.run.dir), resuming.digest(config)))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        with _ending_in_one_message():
            start_sweep(config)


@contextmanager
def _ending_in_one_message() -> Iterator[None]:
    try:
        yield
    except (UserError, OmegaConfBaseException) as error:  # Hydra would turn an ordinary exception into a warning
        raise SystemExit(f"error: {error}") from error


def start_sweep(config: DictConfig) -> None:
    """Make the parent run, or go on with it; the jobs, in this process or in others, find it in the environment."""
    folder = Path(config.hydra.sweep.dir).absolute()
    digest = resuming.sweep_digest(config)
    if resuming.wanted(config):
        folder = resuming.folder_of(folder, digest)
        config.hydra.sweep.dir = str(folder)
        config.hydra.overrides.hydra.append(
            f"hydra.sweep.dir='{folder}'"
        )  # from which the jobs' configurations are made
    known = tracking.claimed_run(folder) if resuming.wanted(config) else {}
    if known and known.get("config") != digest:
        raise UserError(
            f"the sweep in {folder} was started with other settings or values: give those, or start a new sweep in another "
            "folder without resume=auto"
        )
    if known:
        tracker = Tracker.resume(known["tracking_uri"], known["run_id"], folder)
    else:
        uri, experiment_id = open_experiment(config)
        tracker = Tracker.begin(folder, uri, experiment_id, f"sweep {folder.name}", {}, digest)
        tracker.log_text(" ".join(config.hydra.overrides.task), "overrides.txt")
    os.environ[PARENT_VARIABLE] = tracker.run_id
    os.environ[PARENT_VARIABLE + "_FOLDER"] = str(folder)


def finish_sweep(status: str) -> None:
    """Compare the runs that the sweep finished and end its parent run. Does nothing where there was no sweep.

    status: FINISHED, FAILED or KILLED, how the command ended; after an interruption there is nothing to compare yet.
    """
    run_id = os.environ.pop(PARENT_VARIABLE, None)
    folder = os.environ.pop(PARENT_VARIABLE + "_FOLDER", None)
    if run_id is None or folder is None:
        return
    uri = tracking.run_of(Path(folder))["tracking_uri"]
    record = tracking.find_run(uri, folder)
    tracker = Tracker(uri, run_id, "", Path(folder))
    runs = tracking.children(uri, record.run_id)
    if status == "KILLED":
        for run in runs:
            if run.status == "RUNNING":  # in another process, which ended with this one
                Tracker(uri, run.run_id, "").finish("KILLED")
        tracker.finish("KILLED")
        return
    finished = sorted((run for run in runs if run.status == "FINISHED"), key=by_size)
    for run in runs:
        if run.status != "FINISHED":
            log.error(f"{run.name}: {run.status.lower()}; {run.output_dir}")
    if finished:
        compare(uri, finished, Path(folder), tracker)
    tracker.finish(status if len(finished) == len(runs) else "FAILED")
    log.info(f"pictures and table: {folder}\nMLflow store: {uri} (make ui opens it)")
