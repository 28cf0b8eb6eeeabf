"""Jobs of a sweep that Submitit hands to Slurm, or to processes: one without a result is a failed job, not the end of the sweep.

Submitit by itself raises at the first job that was cancelled, ran out of time or went with its node, while others are at work.
And it asks Slurm's accounting what became of a job, which a cluster need not keep, and which has nothing of one of an array that
was cancelled before it began: it would wait for that without end. So the queue is asked.
"""

from __future__ import annotations

import functools
import shutil
import time
from pathlib import Path
from typing import Any

import yaml
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig

from ebm_pipeline.support.errors import UserError

PLUGIN = "hydra_plugins.hydra_submitit_launcher.submitit_launcher."
# also of jobs that ended some minutes ago
QUEUE = ("squeue", "--me", "--array", "--states=all", "--noheader", "--format=%i|%T")
COLUMNS = "JobID|State"
LOOK_SECONDS = 60  # at most between two looks
# Slurm knows no more of it: cancelled before it began, as one of several, or ended long ago
GONE = "GONE FROM THE QUEUE"
ENDS = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", GONE, "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
    "TIMEOUT",
}  # fmt: skip
FILE_SECONDS = 15.0  # for the result of a job that ended to come through a network file system

reasons: dict[int, str] = {}  # by a job's number in the sweep: why it has no result


def prepare(config: DictConfig) -> None:
    """Have Submitit wait for all jobs, where it is the launcher. Raises UserError where there is no Slurm to submit to."""
    reasons.clear()
    target = str(config.hydra.launcher.get("_target_", ""))
    if not target.startswith(PLUGIN):
        return
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher  # type: ignore[import-untyped]
    from submitit.core.core import Job

    if not hasattr(Job.results, "__wrapped__"):
        Job.results = _going_on(Job.results)  # type: ignore[method-assign]
        BaseSubmititLauncher.launch = _in_one_message(BaseSubmititLauncher.launch)
    if target == PLUGIN + "SlurmLauncher":
        _watch_slurm()


def number_of(folder: Path) -> int | None:
    """A job's number in its sweep, as Hydra left it in the job's folder."""
    try:
        known = yaml.safe_load((folder / ".hydra" / "hydra.yaml").read_text(encoding="utf-8"))
        return int(known["hydra"]["job"]["num"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return None


def _going_on(results: Any) -> Any:
    """Submitit's `Job.results`, which gives a failed job where that raises."""
    from submitit.core.utils import FailedJobError, UncompletedJobError

    ended: dict[str, float] = {}  # jobs, and when it was seen

    @functools.wraps(results)
    def waited(job: Any) -> list[Any]:
        job.wait()
        overrides, _, number, *_ = job.submission().args
        now = time.monotonic()
        for one in job.watcher._finished:
            ended.setdefault(one, now)
        job._results_timeout_s = max(0.0, FILE_SECONDS - now + ended.get(job.job_id, now))
        try:
            returned = results(job)[0]
        except (UncompletedJobError, FailedJobError) as error:
            returned = JobReturn(overrides=overrides, status=JobStatus.FAILED)
            printed = f"; what it printed: {job.paths.stderr}" if job.paths.stderr.exists() else ""
            reason = job.state.lower() if isinstance(error, UncompletedJobError) else _last_line(job)
            returned.return_value = UserError(f"the job {job.job_id} ended without a result ({reason}){printed}")
        if returned.status == JobStatus.FAILED:
            if isinstance(returned._return_value, UncompletedJobError):  # out of time once too often
                returned.return_value = UserError(f"the job {job.job_id} was ended: {returned._return_value}")
            reasons[number] = str(returned._return_value)
        return [returned]

    return waited


def _last_line(job: Any) -> str:
    """Of the traceback with which a job ended."""
    _, trace = job._get_outcome_and_result()
    return str(trace).strip().splitlines()[-1]


def _in_one_message(launch: Any) -> Any:
    """The launcher's `launch`, whose failure to submit is a UserError."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    @functools.wraps(launch)
    def launched(*arguments: Any, **options: Any) -> Any:
        try:
            return launch(*arguments, **options)
        except (FailedJobError, FailedSubmissionError) as error:
            raise UserError(f"the jobs could not be submitted: {str(error).strip()}") from error

    return launched


def _watch_slurm() -> None:
    """Have Submitit ask the queue what became of the jobs."""
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise UserError(
            "hydra/launcher=submitit_slurm needs a login node of a Slurm cluster: there is no sbatch here. On one machine: "
            "hydra/launcher=joblib"
        )
    from submitit.slurm.slurm import SlurmInfoWatcher, SlurmJob

    class Queue(SlurmInfoWatcher):
        """What `squeue` says of jobs, in the words that Submitit tells a job's end by."""

        def _make_command(self) -> list[str] | None:
            return list(QUEUE) if self._registered - self._finished else None

        def read_info(self, string: bytes | str) -> dict[str, dict[str, str]]:
            lines = string if isinstance(string, str) else string.decode()
            found = super().read_info(f"{COLUMNS}\n{lines}")
            states = {job: found.get(job, {}).get("State", GONE) for job in self._registered - self._finished}
            return {job: {"State": state if state in ENDS else "RUNNING"} for job, state in states.items()}

    SlurmJob.watcher = Queue(delay_s=LOOK_SECONDS)
