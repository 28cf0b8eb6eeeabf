"""Sweeps through Submitit: a job without a result, what the queue says, no Slurm at all. A real one: test_cluster_slurm."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest
from commands import PLAIN, run_command
from omegaconf import DictConfig, OmegaConf

from ebm_pipeline import cli
from ebm_pipeline.runs import submitted
from ebm_pipeline.support.errors import UserError
from ebm_pipeline.tracking import records

slurm = pytest.importorskip("submitit.slurm.slurm", reason="needs the extra: pip install '.[sweeps]'")


def with_launcher(name: str) -> DictConfig:
    return OmegaConf.create({"hydra": {"launcher": {"_target_": submitted.PLUGIN + name}}})


def test_without_a_slurm_it_is_one_message_before_the_first_job(tmp_path: Path) -> None:
    words = ("-m", *PLAIN, "seed=1,2", "hydra/launcher=submitit_slurm", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    done = run_command(cli.train, *words, output_root=tmp_path, variables={"PATH": str(tmp_path)})
    assert (done.code, done.err.count("error:")) == (1, 1)
    assert "there is no sbatch here" in done.err
    assert not (tmp_path / "sweep").exists()


def test_the_queue_says_which_jobs_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sbatch", "srun"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(slurm.SlurmJob, "watcher", None)
    submitted.prepare(with_launcher("SlurmLauncher"))
    watcher = slurm.SlurmJob.watcher
    jobs = [f"7_{number}" for number in range(6)]
    for job in jobs:
        watcher.register_job(job)
    monkeypatch.setattr(slurm.core.subprocess, "check_output", lambda *words, **options: (
        b"7_0|PENDING\n7_1|SUSPENDED\n7_2|CANCELLED\n7_3|NODE_FAIL\n7_4|COMPLETING\n8|FAILED\n"
    ))  # fmt: skip
    watcher.update()
    assert {job: watcher.get_state(job, "cache") for job in jobs} == {
        "7_0": "RUNNING", "7_1": "RUNNING", "7_2": "CANCELLED", "7_3": "NODE_FAIL", "7_4": "RUNNING", "7_5": submitted.GONE,
    }  # fmt: skip
    assert [job for job in jobs if watcher.is_done(job, "cache")] == ["7_2", "7_3", "7_5"]


def test_a_queue_that_does_not_answer_ends_no_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sbatch", "srun"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "squeue").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(slurm.SlurmJob, "watcher", None)
    submitted.prepare(with_launcher("SlurmLauncher"))
    slurm.SlurmJob.watcher.register_job("7")
    assert not slurm.SlurmJob.watcher.is_done("7", "force")


def test_jobs_that_could_not_be_submitted_are_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    from submitit.core.utils import FailedJobError

    def refused(*words: object) -> None:
        raise FailedJobError("sbatch: error: invalid partition specified: nope")

    with pytest.raises(UserError, match="could not be submitted: sbatch: error: invalid partition"):
        submitted._in_one_message(refused)()


@pytest.mark.slow
def test_a_job_whose_process_is_killed_is_a_failed_one_and_the_others_go_on(tmp_path: Path) -> None:
    """By the executor of Submitit that needs no Slurm."""
    folder = tmp_path / "sweep"
    words = (
        "-m",
        *PLAIN,
        "model=rbm",
        "hydra/launcher=submitit_local",
        "training.epochs=1000,3",
        f"hydra.sweep.dir={folder}",
    )
    killed: list[int] = []

    def kill_the_first() -> None:
        until = time.monotonic() + 200
        while not (folder / "0_rbm" / "checkpoints" / "last.ckpt").exists() and time.monotonic() < until:
            time.sleep(0.05)
        pids = [path.name for path in (folder / ".submitit").iterdir() if list(path.glob("*_submitted.pkl"))]
        for pid in sorted(map(int, pids))[:1]:
            for child in psutil.Process(pid).children(recursive=True):
                child.send_signal(signal.SIGKILL)
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    thread = threading.Thread(target=kill_the_first)
    thread.start()
    done = run_command(cli.train, *words, output_root=tmp_path)
    thread.join()
    assert done.code == 1
    assert "2 jobs: 1 finished, 1 not" in done.out
    assert f"0_rbm (RBM): killed, the job {killed[0]} ended without a result" in done.out
    runs = records.children(uri := f"sqlite:///{tmp_path / 'mlflow.db'}", records.find_run(uri, str(folder)).run_id)
    assert sorted(run.status for run in runs) == ["FINISHED", "KILLED"]
