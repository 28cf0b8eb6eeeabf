"""A sweep is one parent run in MLflow: made before its first job, ended with a comparison after its last."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
from ebm_pipeline.tracking import ERROR_TAG, PARENT_VARIABLE, RunRecord, Tracker

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


@dataclass(frozen=True)
class Job:
    """What became of a job: its folder, its run if it came so far, and how that ended."""

    folder: Path
    run: RunRecord | None
    status: str  # of MLflow; FAILED where the job ended before it had a run

    def __str__(self) -> str:
        name = f"{self.folder.name} ({self.run.name})" if self.run else self.folder.name
        reason = self.run.tags.get(ERROR_TAG, "") if self.run else "no run was begun"
        return f"{name}: {self.status.lower()}{f', {reason}' if reason else ''}"


def jobs_of(folder: Path, uri: str, run_id: str) -> list[Job]:
    """The jobs that Hydra began in a sweep's folder. A run that is open though nobody works on it is marked as killed."""
    runs = {run.run_id: run for run in tracking.children(uri, run_id)}
    jobs = []
    for path in sorted(path.parent for path in folder.rglob(".hydra") if path.is_dir()):
        run = runs.pop(tracking.read_run_file(path).get("run_id", ""), None)
        status = run.status if run else "FAILED"
        if run and status == "RUNNING" and not resuming.at_work(path):
            Tracker(uri, run.run_id, "").finish(status := "KILLED")
        jobs.append(Job(path, run, status))
    for run in runs.values():  # begun by a process that was killed before it could write the run's file
        if run.status == "RUNNING":
            Tracker(uri, run.run_id, "").finish("KILLED")
    return jobs


def finish_sweep(status: str) -> bool:
    """Compare the runs that the sweep finished, end its parent run, and say what became of every job.

    status: FINISHED, FAILED or KILLED, how the command ended; after an interruption there is nothing to compare yet.
    Returns whether all jobs finished; True where there was no sweep.
    """
    run_id = os.environ.pop(PARENT_VARIABLE, None)
    name = os.environ.pop(PARENT_VARIABLE + "_FOLDER", None)
    if run_id is None or name is None:
        return True
    folder = Path(name)
    uri = tracking.run_of(folder)["tracking_uri"]
    tracker = Tracker(uri, run_id, "", folder)
    jobs = jobs_of(folder, uri, run_id)
    if status == "KILLED":
        tracker.finish("KILLED")
        return False
    finished = [job.run for job in jobs if job.run and job.status == "FINISHED"]
    if finished:
        compare(uri, sorted(finished, key=by_size), folder, tracker)
    missing = [job for job in jobs if job.status != "FINISHED"]
    lines = [f"{len(jobs)} jobs: {len(finished)} finished, {len(missing)} not", *(f"  {job}" for job in missing)]
    log.log(logging.ERROR if missing else logging.INFO, "\n".join(lines))
    tracker.finish("FAILED" if missing else status)
    log.info(f"pictures and table: {folder}\nMLflow store: {uri} (make ui opens it)")
    return not missing
