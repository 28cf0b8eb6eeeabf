"""A sweep is one parent run in MLflow: made before its first job, ended with a comparison after its last."""

from __future__ import annotations

import logging
import os
import shlex
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict

from ebm_pipeline.plots import Files
from ebm_pipeline.runs import resume, submitted
from ebm_pipeline.runs.compare import by_size, compare, files_of
from ebm_pipeline.runs.configuration import SEARCH, build, open_experiment, tracking_uri
from ebm_pipeline.runs.folders import (
    RUN_DIR,
    SWEEP_DIR,
    check_free,
    ending_in_one_message,
    is_given,
    own_folder,
    set_up,
)
from ebm_pipeline.runs.parameters import SWEPT_VARIABLE
from ebm_pipeline.runs.sweep_report.facts import Line
from ebm_pipeline.support import importing
from ebm_pipeline.support.errors import UserError
from ebm_pipeline.support.files import can_write
from ebm_pipeline.tracking import deadline, records
from ebm_pipeline.tracking.address import without_password
from ebm_pipeline.tracking.deadline import Patience
from ebm_pipeline.tracking.records import ERROR_TAG, PARENT_VARIABLE, RunRecord
from ebm_pipeline.tracking.tracker import Tracker
from ebm_pipeline.tracking.whose import check_artifacts

log = logging.getLogger(__name__)


class SweepCallback(Callback):
    """Hydra's callback: before the first job of a sweep it makes the store and the parent run of the jobs.

    The folder of a run or sweep is chosen here too, before Hydra writes into it: with resume=auto that of what was interrupted,
    else one of its own.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        with ending_in_one_message(), set_up(config):
            folder = _chosen(config, RUN_DIR, resume.digest(config) if resume.wanted(config) else "", config)
            config.hydra.run.dir = str(folder)
            if not can_write(folder) and (folder / records.RUN_FILE).is_file():  # it is read, if it is finished
                leave_untouched(config)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        importing.done()  # the jobs may run in other processes
        with ending_in_one_message():
            start_sweep(config)


def _chosen(config: DictConfig, key: str, digest: str, run: DictConfig | None = None) -> Path:
    """The folder to work in, where the configuration names one under `key`; run: the configuration, of a run alone."""
    named, folder = is_given(config, key), Path(OmegaConf.select(config, key)).absolute()
    if resume.wanted(config):
        found = resume.folder_of(folder, digest, run, named=named)
        if named or found is not None:
            return found or folder
    if not named:
        return own_folder(folder)
    check_free(folder)
    return folder


def leave_untouched(config: DictConfig) -> None:
    """Let Hydra write neither its copy of the configuration nor a log."""
    with open_dict(config.hydra):
        config.hydra.output_subdir = None
        config.hydra.job_logging.handlers.pop("file", None)
        config.hydra.job_logging.root.handlers = [
            name for name in config.hydra.job_logging.root.handlers if name != "file"
        ]


def start_sweep(config: DictConfig) -> None:
    """Make the parent run, or go on with it; the jobs, in this process or in others, find it in the environment."""
    check_files(config)
    check_search(config)
    submitted.prepare(config)
    digest = resume.sweep_digest(config)
    folder = _chosen(config, SWEEP_DIR, digest)
    if str(folder) != config.hydra.sweep.dir:  # of which the jobs' configurations are made
        config.hydra.sweep.dir = str(folder)
        quoted = str(folder).replace("'", r"\'")
        config.hydra.overrides.hydra.append(f"hydra.sweep.dir='{quoted}'")
    try:
        with Patience(deadline.START_SECONDS):
            tracker = _parent(config, folder, digest)
    except BaseException:
        with suppress(OSError):  # it holds something
            folder.rmdir()
        raise
    os.environ[PARENT_VARIABLE] = tracker.run_id
    os.environ[PARENT_VARIABLE + "_FOLDER"] = str(folder)
    os.environ[PARENT_VARIABLE + "_STORE"] = tracker.uri
    os.environ[PARENT_VARIABLE + "_COMMAND"] = shlex.join(["ebm-train", "-m", *config.hydra.overrides.task])
    os.environ[SWEPT_VARIABLE] = ",".join(swept_names(config))


def check_files(config: DictConfig) -> None:
    """Raise UserError, before any job, for pictures that cannot be written, or of which each job would have others."""
    varied = [name for name in swept_names(config) if name.split(".")[0] == "plots"]
    if varied:
        raise UserError(
            f"{', '.join(varied)} has several values, and each model would be trained again for other pictures: give one value"
        )
    build(config.plots, "plots", Files)


def check_search(config: DictConfig) -> None:
    """Raise UserError, before any job, for a search that cannot be."""
    if config.hydra.sweeper.get("_target_") != SEARCH:
        return
    try:
        from ebm_pipeline.runs import search
    except ImportError as error:
        raise UserError(
            f"sweep=optuna needs an optional extra ({error}): pip install 'ebm_pipeline[sweeps]'"
        ) from error
    search.check(config)


def swept_names(config: DictConfig) -> list[str]:
    """Settings and groups of which a sweep gives several values."""
    words = [
        *config.hydra.overrides.task,
        *(f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()),
    ]
    parsed = OverridesParser.create().parse_overrides([str(word) for word in words])
    return list(dict.fromkeys(one.key_or_group for one in parsed if one.is_sweep_override()))


def _parent(config: DictConfig, folder: Path, digest: str) -> Tracker:
    """The parent run of the sweep in `folder`, a new one where the store has none."""
    known = records.claimed_run(folder, tracking_uri(config)) if resume.wanted(config) else {}
    if known and known.get("config") != digest:
        raise UserError(
            f"the sweep in {folder} was started with other settings or values: give those, or start a new sweep in another "
            "folder without resume=auto"
        )
    if known and records.run_in(folder, known) is not None:
        check_artifacts(known["tracking_uri"], known["run_id"], tracking_uri(config))
        return Tracker.resume(known["tracking_uri"], known["run_id"], folder)
    uri, experiment_id = open_experiment(config)
    tracker = Tracker.begin(folder, uri, experiment_id, f"sweep {folder.name}", {}, digest)
    tracker.log_text(" ".join(config.hydra.overrides.task), "overrides.txt")
    if known:
        log.warning(
            f"the sweep's run {known['run_id']} is not in the MLflow store {known['tracking_uri']} any more: going on with what "
            f"{folder} holds as the new run {tracker.run_id} in {uri}"
        )
    return tracker


@dataclass(frozen=True)
class Job:
    """What became of a job: its folder, its run if it came so far, and how that ended."""

    folder: Path
    run: RunRecord | None
    status: str  # of MLflow, or PRUNED; FAILED where the job ended before it had a run
    reason: str = ""  # what is known beside its run's own

    @property
    def line(self) -> Line:
        """What the sweep's report says of it, where it did not finish."""
        name = f"{self.folder.name} ({self.run.name})" if self.run else self.folder.name
        return Line.unfinished(name, self.run, self.status, self.reason)

    def __str__(self) -> str:
        return f"{self.line.name}: {self.line.said}{f', {self.line.reason}' if self.line.reason else ''}"


def jobs_of(folder: Path, uri: str, run_id: str) -> list[Job]:
    """The jobs that Hydra began in a sweep's folder, and those of which it is known that they never began.

    A run that is open though nobody works on it, or though its job is lost, is marked as killed.
    """
    runs = {run.run_id: run for run in records.children(uri, run_id)}
    reasons = dict(submitted.reasons)
    jobs = []
    for path in sorted(path.parent for path in folder.rglob(".hydra") if path.is_dir()):
        run = runs.pop(records.read_run_file(path).get("run_id", ""), None)
        reason = reasons.pop(number, "") if (number := submitted.number_of(path)) is not None else ""
        status = run.outcome if run else "FAILED"
        if run and status == "RUNNING" and (reason or not resume.at_work(path)):
            Tracker(uri, run.run_id, "").finish(status := "KILLED")
        if run and reason and status not in ("FINISHED", "PRUNED") and not run.tags.get(ERROR_TAG):
            Tracker(uri, run.run_id, "").set_tags({ERROR_TAG: reason})
        jobs.append(Job(path, replace(run, output_dir=path) if run else None, status, reason))
    for run in runs.values():  # begun by a process that was killed before it could write the run's file
        if run.status == "RUNNING":
            Tracker(uri, run.run_id, "").finish("KILLED")
    return jobs + [Job(folder / f"job {number}", None, "KILLED", reason) for number, reason in sorted(reasons.items())]


def finish_sweep(status: str) -> bool:
    """Compare the runs that the sweep finished, end its parent run, and say what became of every job.

    status: FINISHED, FAILED or KILLED, how the command ended; after an interruption there is nothing to compare yet.
    Returns whether all jobs finished; True where there was no sweep.
    """
    run_id = os.environ.pop(PARENT_VARIABLE, None)
    name, uri, words = (os.environ.pop(PARENT_VARIABLE + of, None) for of in ("_FOLDER", "_STORE", "_COMMAND"))
    os.environ.pop(SWEPT_VARIABLE, None)
    if run_id is None or name is None or uri is None:
        return True
    folder = Path(name)
    tracker = Tracker(uri, run_id, "", folder)
    try:
        return _ended(status, folder, tracker, words or "")
    except UserError as error:  # the store is down, say: the parent run ends all the same
        log.error(
            f"the runs of the sweep in {folder} could not be compared: {error}. Afterwards: `ebm-sync run={folder}`, then "
            f"`ebm-compare runs=[{folder}]`"
        )
        tracker.finish("KILLED" if status == "KILLED" else "FAILED")
        return False


def _ended(status: str, folder: Path, tracker: Tracker, words: str) -> bool:
    jobs = jobs_of(folder, tracker.uri, tracker.run_id)
    if status == "KILLED":
        tracker.finish("KILLED")
        return False
    finished = [job.run for job in jobs if job.run and job.status == "FINISHED"]
    pruned = [job for job in jobs if job.status == "PRUNED"]
    missing = [job for job in jobs if job.status not in ("FINISHED", "PRUNED")]
    if finished:
        compare(
            sorted(finished, key=by_size),
            folder,
            tracker,
            words,
            [job.line for job in (*pruned, *missing)],
            files=files_of(finished[0]),
        )
    ended = f"{len(finished)} finished, {f'{len(pruned)} pruned, ' if pruned else ''}{len(missing)} not"
    lines = [f"{len(jobs)} jobs: {ended}", *(f"  {job}" for job in (*pruned, *missing))]
    log.log(logging.ERROR if missing else logging.INFO, "\n".join(lines))
    tracker.finish("FAILED" if missing else status)
    what = "pictures, tables and report.html" if finished else "nothing to compare; the jobs' folders"
    log.info(f"{what}: {folder}\nMLflow store: {without_password(tracker.uri)} (ebm-ui opens it)")
    return not missing
