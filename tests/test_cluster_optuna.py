"""A search that outlives its head: eight workers of joblib, killed twice; a study in PostgreSQL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from commands import PLAIN, run_command
from kills import kill_self, patched
from mlflow.tracking import MlflowClient
from postgres import Postgres

from ebm_pipeline import cli
from ebm_pipeline.tracking import records

optuna = pytest.importorskip("optuna", reason="needs the extra: pip install '.[sweeps]'")

from test_search import STEP, study_in  # noqa: E402

pytestmark = pytest.mark.cluster

PSEUDO = "validation/pseudo_likelihood"
CHEAP = (*PLAIN, "model=rbm", "sweep=optuna", "likelihood=null", f"metric={PSEUDO}")
TRIALS = 16
WORKERS = (
    f"hydra.sweeper.n_trials={TRIALS}",
    "hydra.sweeper.n_jobs=8",
    "hydra/launcher=joblib",
    "hydra.launcher.n_jobs=8",
)


def started(outputs: Path, folder: Path, log: Path) -> subprocess.Popen[bytes]:
    words = (*CHEAP, *WORKERS, "training.epochs=20", f"hydra.sweep.dir={folder}", "resume=auto")
    with open(log, "ab") as output:
        return subprocess.Popen(
            [str(Path(sys.executable).parent / "ebm-train"), *words], env=os.environ | {"EBM_OUTPUT_DIR": str(outputs)},
            cwd=outputs, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip


def finished(folder: Path) -> dict[int, Any]:
    """The trials that have ended, by number."""
    if not (folder / "study.txt").exists() or not (folder / "study.journal").exists():
        return {}
    try:
        return {trial.number: trial for trial in study_in(folder).trials if trial.state.is_finished()}
    except ValueError:  # the study is being made
        return {}


def test_eight_workers_killed_twice_lose_no_trial_and_run_none_twice(tmp_path: Path) -> None:
    outputs, folder, log = tmp_path / "outputs", tmp_path / "search", tmp_path / "log"
    outputs.mkdir()
    kept: dict[int, Any] = {}
    ends: dict[str, int] = {}
    for least in (2, 10):
        head = started(outputs, folder, log)
        while len(kept := finished(folder)) < least:
            assert head.poll() is None, log.read_text()
            time.sleep(0.05)
        workers = psutil.Process(head.pid).children(recursive=True)
        head.send_signal(signal.SIGKILL)
        head.wait()
        _, idle = psutil.wait_procs(
            workers, timeout=20
        )  # those at work end by themselves, the pool's idle ones in minutes
        for worker in idle:
            worker.kill()
        kept = finished(folder)
        client = MlflowClient(f"sqlite:///{outputs / 'mlflow.db'}")
        ends |= {
            trial.user_attrs["run_id"]: client.get_run(trial.user_attrs["run_id"]).info.end_time
            for trial in kept.values()
        }
        assert len(kept) < TRIALS
    head = started(outputs, folder, log)
    assert head.wait(timeout=500) == 0, log.read_text()
    assert f"{TRIALS} jobs: {TRIALS} finished, 0 not" in log.read_text()

    trials = study_in(folder).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * TRIALS
    for number, before in kept.items():
        assert trials[number] == before  # settings, value, times, numbers of each epoch, run
    uri = f"sqlite:///{outputs / 'mlflow.db'}"
    runs = {run.run_id: run for run in records.children(uri, records.find_run(uri, str(folder)).run_id)}
    assert sorted(runs) == sorted(trial.user_attrs["run_id"] for trial in trials)
    client = MlflowClient(uri)
    assert {run_id: client.get_run(run_id).info.end_time for run_id in ends} == ends
    for trial in trials:
        run = runs[trial.user_attrs["run_id"]]
        assert (run.status, run.metrics[PSEUDO]) == ("FINISHED", trial.value)
        assert float(run.params["lr"]) == trial.params["optimizer.lr"]
        assert records.metric_history(uri, run.run_id, "time/epoch")[1] == list(range(21))


def test_a_study_in_postgresql_through_a_restart_of_it(tmp_path: Path) -> None:
    with Postgres() as server:
        storage = server.database("studies")
        folder = tmp_path / "search"
        words = (*CHEAP, f"hydra.sweeper.storage='{storage}'", "hydra.sweeper.n_trials=3", f"hydra.sweep.dir={folder}")
        with pytest.MonkeyPatch.context() as patch:
            patched(patch, STEP, 15, lambda: kill_self(signal.SIGTERM))  # in the second trial
            stopped = run_command(cli.train, *words, output_root=tmp_path)
        assert stopped.code == 128 + signal.SIGTERM, stopped.err
        (name,) = optuna.get_all_study_names(storage)
        (first,) = (
            trial for trial in optuna.load_study(study_name=name, storage=storage).trials if trial.state.is_finished()
        )
        server.stop()
        down = run_command(cli.train, *words, "resume=auto", output_root=tmp_path)
        assert (down.code, down.err.count("error:")) == (1, 1)
        assert "does not answer as it should" in down.err
        server.start()
        done = run_command(cli.train, *words, "resume=auto", output_root=tmp_path)
        assert done.code == 0, done.err
        trials = optuna.load_study(study_name=name, storage=storage).trials
        assert [trial.state.name for trial in trials] == ["COMPLETE"] * 3
        assert trials[0] == first
