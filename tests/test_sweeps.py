"""Sweeps under every launcher and sweeper: what they leave, what happens when a job fails or the sweep is interrupted."""

from __future__ import annotations

import csv
import math
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import yaml
from commands import PLAIN, Outcome, composed, run_command
from kills import kill_self, patched
from mlflow.tracking import MlflowClient

from ebm_pipeline import cli
from ebm_pipeline.runs import compare, plan, resume, submitted, sweep, swept, train
from ebm_pipeline.support.errors import UserError
from ebm_pipeline.support.interruption import ending_with_parent
from ebm_pipeline.tracking import records, store
from ebm_pipeline.tracking.records import RunRecord
from ebm_pipeline.tracking.tracker import Tracker

FAST = (*PLAIN, "model=rbm", "training.epochs=1")
STEP = "ebm_pipeline.training.module.BoltzmannTraining.update"


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all: a fresh one costs seconds."""
    return tmp_path_factory.mktemp("outputs")


def swept_by(outputs: Path, folder: Path, *words: str) -> Outcome:
    return run_command(cli.train, "-m", *FAST, f"hydra.sweep.dir={folder}", *words, output_root=outputs)


def runs_of(outputs: Path, folder: Path) -> tuple[RunRecord, dict[str, RunRecord]]:
    """(the parent, the jobs' runs by folder)."""
    uri = f"sqlite:///{outputs / 'mlflow.db'}"
    parent = records.find_run(uri, str(folder))
    return parent, {run.output_dir.name: run for run in records.children(uri, parent.run_id) if run.output_dir}


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


# ---------------------------------------------------------------------------------------------- a grid


@pytest.fixture(scope="module")
def grid(outputs: Path) -> Path:
    """The folder of a finished grid of 2 x 2."""
    folder = outputs / "sweeps" / "grid"
    words = ("sweep=grid", "sampler.steps=1,2", "optimizer.lr=0.02,0.1", f"hydra.sweep.dir={folder}")
    done = run_command(cli.train, *FAST, *words, output_root=outputs)  # a sweep without -m
    assert (done.code, done.err.count("error")) == (0, 0), done.err
    assert "4 jobs: 4 finished, 0 not" in done.out
    return folder


@pytest.mark.slow
def test_a_grid_leaves_its_values_in_table_and_figures(grid: Path, outputs: Path) -> None:
    rows = rows_of(grid / "comparison.csv")
    assert [(row["sampler.steps"], row["optimizer.lr"]) for row in rows] == [
        ("1", "0.02"), ("1", "0.1"), ("2", "0.02"), ("2", "0.1"),
    ]  # fmt: skip
    assert rows[1]["model"] == "RBM, steps=1, lr=0.1"
    assert {path.stem for path in grid.glob("*.png")} >= {"swept", "heat_map", "learning_curves", "fantasies"}
    assert not (grid / "comparison_over_seeds.csv").exists()
    parent, runs = runs_of(outputs, grid)
    assert (parent.status, len(runs)) == ("FINISHED", 4)
    files = {
        entry.path
        for entry in MlflowClient(f"sqlite:///{outputs / 'mlflow.db'}").list_artifacts(parent.run_id, "comparison")
    }
    assert files >= {"comparison/swept.png", "comparison/heat_map.png", "comparison/comparison.csv"}
    assert {(run.params["k"], run.params["lr"]) for run in runs.values()} == {
        (k, lr) for k in ("1", "2") for lr in ("0.02", "0.1")
    }
    assert parent.params["model"] == "RBM"
    assert not {"k", "lr"} & set(parent.params)
    assert parent.data == next(iter(runs.values())).data != ""
    best = max(runs.values(), key=lambda run: run.metrics["validation/pseudo_likelihood"])
    assert parent.tags["ebm.best_run"] == best.run_id
    assert parent.metrics["validation/pseudo_likelihood"] == best.metrics["validation/pseudo_likelihood"]
    note = parent.tags[records.NOTE_TAG]
    for words in (
        "Best of 4 by pseudo-likelihood",
        "| model |",
        "model RBM",
        "ebm-train -m data=",
        "sweep=grid",
        str(grid),
    ):
        assert words in note, words


@pytest.mark.slow
def test_compare_on_a_sweep_makes_the_same(grid: Path, outputs: Path, tmp_path: Path) -> None:
    done = run_command(cli.compare, f"runs=[{grid}]", f"hydra.run.dir={tmp_path}", output_root=outputs)
    assert (done.code, done.err) == (0, "")
    assert (tmp_path / "comparison.csv").read_text() == (grid / "comparison.csv").read_text()
    assert {path.name for path in tmp_path.glob("*.png")} == {path.name for path in grid.glob("*.png")}


@pytest.mark.slow
def test_runs_without_what_they_were_given_are_compared_all_the_same(grid: Path, outputs: Path) -> None:
    _, runs = runs_of(outputs, grid)
    strangers = [RunRecord(run.run_id, run.name, run.status, None, None) for run in runs.values()]
    assert compare.unique_names(strangers) == [f"RBM {run.run_id[:4]}" for run in strangers]
    assert swept.differing(strangers) == [{}] * 4
    assert swept.axes_of(swept.groups_of(strangers)) is None


# ---------------------------------------------------------------------------------------------- what was swept


def record(folder: Path, number: int, name: str = "RBM", **given: object) -> RunRecord:
    """A run as the store has it, whose metric is `number`, and what Hydra left of its settings."""
    path = folder / str(number) / swept.OVERRIDES
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump([f"{key.replace('_', '.')}={value}" for key, value in given.items()]))
    return RunRecord(
        str(number), name, "FINISHED", None, folder / str(number), {"optimizer.lr": "0.05"}, {"metric": float(number)}
    )


def test_runs_that_differ_in_their_seed_alone_have_mean_and_standard_error(tmp_path: Path) -> None:
    numbers = {1: [1, 5, 9], 2: [20, 22]}
    runs = [
        record(tmp_path, number, sampler_steps=steps, seed=number, threads=1)
        for steps, values in numbers.items()
        for number in values
    ]
    groups = swept.groups_of(runs)
    assert [group.label for group in groups] == ["steps=1", "steps=2"]
    assert groups[0].metric("metric") == pytest.approx((5.0, math.sqrt(16 / 3)))  # s^2 = (16 + 0 + 16) / 2
    assert groups[1].metric("metric") == pytest.approx((21.0, 1.0))
    assert all(math.isnan(value) for value in groups[0].metric("nothing"))
    mean, error = swept.Group({}, (runs[0],)).metric("metric")
    assert (mean, math.isnan(error)) == (1.0, True)
    infinite = RunRecord("9", "RBM", "FINISHED", None, None, {}, {"metric": sys.float_info.max})
    assert math.isnan(swept.Group({}, (runs[0], infinite)).metric("metric")[0])


@pytest.mark.parametrize(
    ("mean", "error", "shown"),
    [
        (-89.1234, 0.0456, "-89.123 ± 0.046"), (123.4, 25.3, "123 ± 25"), (1.0, math.nan, "1"), (math.nan, math.nan, "-"),
        (152.0, 0.0, "152"),
    ],
)  # fmt: skip
def test_an_error_is_written_to_two_digits(mean: float, error: float, shown: str) -> None:
    assert swept.with_error(mean, error) == shown


def test_the_axes_of_a_grid_and_of_a_search(tmp_path: Path) -> None:
    whole = [record(tmp_path / "grid", 10 * k + n, sampler_steps=k, optimizer_lr=lr)
             for k in (5, 1) for n, lr in enumerate((0.1, 0.02, 1e-3))]  # fmt: skip
    axes = swept.axes_of(swept.groups_of(whole))
    assert axes is not None
    assert (axes.x, axes.values, list(axes.curves)) == (
        "optimizer.lr",
        ["0.001", "0.02", "0.1"],
        ["steps=1", "steps=5"],
    )
    assert axes.whole
    assert axes.curves["steps=5"]["0.001"].metric("metric")[0] == 52
    search = swept.axes_of(swept.groups_of(whole[:-1]))
    assert search is not None
    assert not search.whole
    models = swept.groups_of([record(tmp_path / "models", n, name) for n, name in enumerate(("RBM", "DBM"))])
    assert swept.axes_of(models) is None  # pictures and tables tell models apart
    default = swept.differing([record(tmp_path / "default", 1), record(tmp_path / "default", 2, optimizer_lr=0.1)])
    assert default == [{"optimizer.lr": "0.05"}, {"optimizer.lr": "0.1"}]  # as the store has it where it was not given


# ---------------------------------------------------------------------------------------------- a metric to go by


def test_wrong_metrics_are_told_before_the_training() -> None:
    for override, message in {
        "metric=test/log_likelihood_low": "the test images are for the end",
        "metric=3": "name of a metric",
        "metric=validation/log_likelihood_low": "needs the likelihood card",
    }.items():
        with pytest.raises(UserError, match=message):
            plan.check_metric(composed(override))
    assert train.metric_of(composed(), {"a": 1.0}) is None
    assert train.metric_of(composed("metric=a"), {"a": 1.0}) == 1.0
    for value in (math.nan, math.inf):
        with pytest.raises(UserError, match="no finite metric a"):
            train.metric_of(composed("metric=a"), {"a": value})


SEARCH = ("sweep=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=1", "sampler.steps=1")


@pytest.fixture(scope="module")
def search(outputs: Path) -> Path:
    """The folder of a finished search."""
    pytest.importorskip("optuna", reason="needs the extra: pip install '.[sweeps]'")
    folder = outputs / "searches" / "one"
    done = swept_by(outputs, folder, *SEARCH)
    assert done.code == 0, done.err
    return folder


@pytest.mark.slow
def test_optuna_goes_by_the_likelihood_of_validation_images(search: Path, outputs: Path) -> None:
    parent, runs = runs_of(outputs, search)
    assert (parent.status, [run.status for run in runs.values()]) == ("FINISHED", ["FINISHED"] * 3)
    found = yaml.safe_load((search / "optimization_results.yaml").read_text())
    values = {run.metrics["validation/log_likelihood_low"]: run.params["lr"] for run in runs.values()}
    assert found["best_value"] == max(values)
    assert found["best_params"]["optimizer.lr"] == pytest.approx(float(values[max(values)]))
    assert not any(name.startswith("test/") for run in runs.values() for name in run.metrics)
    assert len(rows_of(search / "comparison.csv")) == 3
    assert (search / "swept.png").is_file()


@pytest.mark.slow
def test_an_interrupted_search_makes_the_same_trials(
    search: Path, outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "search"
    with monkeypatch.context() as patch:
        patched(patch, STEP, 9, lambda: kill_self(signal.SIGTERM))  # in the second trial
        assert swept_by(outputs, folder, *SEARCH).code == 128 + signal.SIGTERM
    assert sorted(run.status for run in runs_of(outputs, folder)[1].values()) == ["FINISHED", "KILLED"]
    done = swept_by(outputs, folder, *SEARCH, "resume=auto")
    assert done.code == 0, done.err
    assert "Launching 1 jobs" in done.out  # the second trial goes on, the first is not run again
    assert "#0" not in done.out
    one, two = (yaml.safe_load((path / "optimization_results.yaml").read_text()) for path in (search, folder))
    assert one == two
    rates = [[run.params["lr"] for run in runs_of(outputs, path)[1].values()] for path in (search, folder)]
    assert sorted(rates[0]) == sorted(rates[1])


@pytest.mark.slow
def test_a_search_of_which_no_trial_has_the_metric_is_one_message(outputs: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="needs the extra: pip install '.[sweeps]'")
    words = ("sweep=optuna", "hydra.sweeper.n_trials=1", "metric=nothing", "likelihood=null")
    done = swept_by(outputs, tmp_path / "search", *words)
    assert done.code == 1
    assert "no finite metric nothing" in done.err
    assert "no trial of the search" in done.err
    assert "Traceback" not in done.err + done.out


# ---------------------------------------------------------------------------------------------- jobs that fail


@pytest.mark.slow
def test_a_job_that_fails_before_its_run_is_counted(outputs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    done = swept_by(outputs, folder, "training.epochs=-1,1")
    assert done.code == 1
    assert "2 jobs: 1 finished, 1 not" in done.out
    assert "0_rbm: failed, no run was begun" in done.out
    parent, runs = runs_of(outputs, folder)
    assert (parent.status, {name: run.status for name, run in runs.items()}) == ("FAILED", {"1_rbm": "FINISHED"})


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("plots.format=gif", "plots.format must be one of png, pdf, svg; got 'gif'"),
        ("plots.dpi=7", "plots.dpi, dots per inch, must be a whole number, from 50 to 600; got 7"),
        ("plots.format=png,svg", "plots.format has several values"),
    ],
)
def test_pictures_that_cannot_be_written_are_one_message_before_the_first_job(
    word: str, said: str, tmp_path: Path
) -> None:
    done = swept_by(tmp_path, tmp_path / "sweep", "seed=1,2", word)
    assert (done.code, done.err.count("error:")) == (1, 1)
    assert said in done.err
    assert "#0" not in done.out + done.err
    assert not (tmp_path / "sweep").exists()
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.slow
def test_the_summary_says_why_a_run_failed_and_forgets_it_when_it_is_mended(
    outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise UserError("the disk is full")

    folder = tmp_path / "sweep"
    with monkeypatch.context() as patch:
        patched(patch, STEP, 3, fail)
        done = swept_by(outputs, folder, "sampler.steps=1,2")
    assert done.code == 1
    assert "0_rbm (RBM): failed, the disk is full" in done.out
    parent, runs = runs_of(outputs, folder)
    assert [parent.status, runs["0_rbm"].status, runs["1_rbm"].status] == ["FAILED", "FAILED", "FINISHED"]
    assert runs["0_rbm"].tags[records.ERROR_TAG] == "the disk is full"
    done = swept_by(outputs, folder, "sampler.steps=1,2", "resume=auto")
    assert done.code == 0, done.err
    parent, runs = runs_of(outputs, folder)
    assert [parent.status, *(run.status for run in runs.values())] == ["FINISHED"] * 3
    assert records.ERROR_TAG not in runs["0_rbm"].tags


def test_an_open_run_is_killed_only_if_nobody_works_on_it(outputs: Path, tmp_path: Path) -> None:
    uri, root = f"sqlite:///{outputs / 'mlflow.db'}", outputs / "mlartifacts"
    experiment = store.prepare_store(uri, root, "open")
    parent = Tracker.start(uri, experiment, "parent", {})
    for name in ("deserted", "busy"):
        (tmp_path / name / ".hydra").mkdir(parents=True)
        run = Tracker.start(uri, experiment, name, {records.OUTPUT_TAG: str(tmp_path / name)}, parent.run_id)
        records.write_run_file(tmp_path / name, run.run_id, uri, "")
    Tracker.start(uri, experiment, "lost", {}, parent.run_id)  # killed before it wrote its file
    with resume.locked(tmp_path / "busy"):
        jobs = sweep.jobs_of(tmp_path, uri, parent.run_id)
    assert {job.folder.name: job.status for job in jobs} == {"deserted": "KILLED", "busy": "RUNNING"}
    stored = {run.name: run.status for run in records.children(uri, parent.run_id)}
    assert stored == {"deserted": "KILLED", "busy": "RUNNING", "lost": "KILLED"}


def test_a_job_that_the_launcher_lost_is_killed_with_the_reason(
    outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that another host's process may still work on, and one that never began."""
    uri, root = f"sqlite:///{outputs / 'mlflow.db'}", outputs / "mlartifacts"
    parent = Tracker.start(uri, store.prepare_store(uri, root, "lost"), "parent", {})
    folder = tmp_path / "3_rbm"
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "hydra.yaml").write_text("hydra: {job: {num: 3}}")
    run = Tracker.start(uri, parent.experiment_id, "RBM", {records.OUTPUT_TAG: str(folder)}, parent.run_id)
    records.write_run_file(folder, run.run_id, uri, "")
    monkeypatch.setattr(submitted, "reasons", {3: "the job 7_3 was cancelled", 12: "the job 7_12 is gone"})
    with resume.locked(folder):
        jobs = sweep.jobs_of(tmp_path, uri, parent.run_id)
    assert [str(job) for job in jobs] == [
        "3_rbm (RBM): killed, the job 7_3 was cancelled",
        "job 12: killed, the job 7_12 is gone",
    ]
    (stored,) = records.children(uri, parent.run_id)
    assert (stored.status, stored.tags[records.ERROR_TAG]) == ("KILLED", "the job 7_3 was cancelled")


def test_a_launcher_that_is_not_there_names_the_extra(outputs: Path) -> None:
    done = run_command(cli.train, "-m", "hydra/launcher=nothing", output_root=outputs)
    assert done.code == 1
    assert "Could not find 'hydra/launcher/nothing'" in done.err
    assert "ebm_pipeline[sweeps]" in done.err


# ---------------------------------------------------------------------------------------------- processes


def test_a_job_waits_for_the_one_that_is_at_work(tmp_path: Path) -> None:
    entered = threading.Event()

    def second() -> None:
        with resume.locked(tmp_path, wait=True):
            entered.set()

    with resume.locked(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        assert not entered.wait(0.2)
    assert entered.wait(5)
    thread.join()


def _grandchild(folder: str) -> None:
    with ending_with_parent():
        Path(folder, "pid").write_text(str(os.getpid()))
        time.sleep(60)


def _child(folder: str) -> None:
    process = multiprocessing.get_context("fork").Process(target=_grandchild, args=(folder,))
    process.start()
    process.join()


def test_a_worker_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    child = multiprocessing.get_context("fork").Process(target=_child, args=(str(tmp_path),))
    child.start()
    pid = tmp_path / "pid"
    while not pid.exists() or not pid.read_text():
        time.sleep(0.02)
    child.kill()
    child.join()
    until = time.monotonic() + 10
    while _alive(int(pid.read_text())):
        assert time.monotonic() < until, "the worker outlives its parent"
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    """Whether a process runs; one that done and that nobody has waited for does not."""
    try:
        return not re.search(r"^State:\s+Z", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except OSError:
        return False


JOBLIB = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")


def started(outputs: Path, folder: Path, *words: str) -> subprocess.Popen[str]:
    """A sweep in a process of its own, what it prints in one pipe."""
    return subprocess.Popen(
        [str(Path(sys.executable).parent / "ebm-train"), "-m", *FAST, f"hydra.sweep.dir={folder}", *words],
        env=os.environ | {"EBM_OUTPUT_DIR": str(outputs)}, cwd=outputs, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip


def ended(outputs: Path, folder: Path, *words: str) -> tuple[int, str]:
    """(exit code, what it printed) of such a sweep."""
    process = started(outputs, folder, *words)
    said, _ = process.communicate(timeout=500)
    return process.returncode, said


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["head, in order", "head", "worker"])
def test_a_parallel_sweep_that_is_killed_goes_on(victim: str, outputs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    words = (*JOBLIB, "sampler.steps=1,2,3", "training.epochs=20")
    process = started(outputs, folder, *words)
    while not list(folder.glob("*/checkpoints/before.ckpt")):
        assert process.poll() is None
        time.sleep(0.02)
    workers = [child for child in psutil.Process(process.pid).children() if "LokyProcess" in " ".join(child.cmdline())]
    if victim == "worker":
        workers[0].kill()
    else:
        process.send_signal(signal.SIGTERM if "order" in victim else signal.SIGKILL)
    said, _ = process.communicate(timeout=300)
    code = {"head, in order": 128 + signal.SIGTERM, "head": -signal.SIGKILL, "worker": 1}[victim]
    assert process.returncode == code, said
    assert "Traceback" not in said
    assert ("resume=auto" in said) == (victim != "head")
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive
    before = runs_of(outputs, folder)[1]
    if victim != "head":
        assert {run.status for run in before.values()} <= {"FINISHED", "KILLED"}

    code, said = ended(outputs, folder, *words, "resume=auto")
    assert code == 0, said
    parent, runs = runs_of(outputs, folder)
    assert [parent.status, *(run.status for run in runs.values())] == ["FINISHED"] * 4
    for name, run in runs.items():
        assert before.get(name, run).run_id == run.run_id
        _, epochs = records.metric_history(f"sqlite:///{outputs / 'mlflow.db'}", run.run_id, "time/epoch")
        assert epochs == list(range(21))


LAUNCHERS = {"joblib": JOBLIB, "submitit": ("hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5")}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_one_failed_job_of_a_parallel_sweep(launcher: str, outputs: Path, tmp_path: Path) -> None:
    if launcher == "submitit":
        pytest.importorskip("submitit", reason="needs the extra: pip install '.[sweeps]'")
    folder = tmp_path / "sweep"
    code, said = ended(outputs, folder, *LAUNCHERS[launcher], "training.chains=10,0,20")
    assert code == 1
    assert "3 jobs: 2 finished, 1 not" in said
    parent, runs = runs_of(outputs, folder)
    assert parent.status == "FAILED"
    assert [runs[name].status for name in ("0_rbm", "2_rbm")] == ["FINISHED"] * 2
    assert len(rows_of(folder / "comparison.csv")) == 2


@pytest.mark.slow
@pytest.mark.parametrize("turn", [0, *(pytest.param(turn, id=f"many, {turn}") for turn in range(1, 5))])
def test_four_jobs_at_a_time_on_a_fresh_store(turn: int, tmp_path: Path) -> None:
    words = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=4", "sampler.steps=1,2,3,4")
    code, said = ended(tmp_path, tmp_path / "sweep", *words)
    assert code == 0, said
    assert "4 jobs: 4 finished, 0 not" in said
    parent, runs = runs_of(tmp_path, tmp_path / "sweep")
    assert [parent.status, *(run.status for run in runs.values())] == ["FINISHED"] * 5
    assert [
        records.metric_history(f"sqlite:///{tmp_path / 'mlflow.db'}", run.run_id, "time/epoch")[1]
        for run in runs.values()
    ] == [[0, 1]] * 4
