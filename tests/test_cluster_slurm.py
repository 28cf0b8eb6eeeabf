"""Sweeps on a real Slurm of two nodes (tests/slurm.py): jobs that fail, are cancelled, run out of time, lose node or head."""

from __future__ import annotations

import math
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import held
import pytest
import slurm
import torch
from commands import PLAIN, Outcome, run_command
from kills import assert_identical, left_by
from slurm import Slurm, until
from test_search import PSEUDO, study_in

from ebm_pipeline import cli
from ebm_pipeline.tracking import records
from ebm_pipeline.tracking.records import RunRecord

pytestmark = [pytest.mark.cluster, pytest.mark.skipif(bool(slurm.missing()), reason=slurm.missing())]
pytest.importorskip("submitit", reason="needs the extra: pip install '.[sweeps]'")

TRAIN = str(Path(sys.executable).parent / "ebm-train")
JOBS = int(os.environ.get("EBM_CLUSTER_JOBS", "5"))  # of the sweep with faults
PATIENCE = 900  # seconds, of a machine that has other work
WORDS = (*PLAIN, "model=rbm", held.SAMPLER, "hydra.mode=MULTIRUN", "resume=auto")
ON_SLURM = ("hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=30", "hydra.launcher.mem_gb=1")
REQUEUED = ("hydra.launcher.max_num_timeout=3", "hydra.launcher.signal_delay_s=20")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Slurm]:
    with Slurm() as started:
        yield started


class Sweep:
    """A sweep on the cluster: its head is a process of this machine, or of the cluster."""

    def __init__(self, cluster: Slurm, outputs: Path, *words: str) -> None:
        self.cluster, self.outputs = cluster, outputs
        self.folder = outputs / "sweep"
        self.words = (*WORDS, *words, f"hydra.sweep.dir={self.folder}")
        self.held = outputs / "held"
        path = os.pathsep.join((str(Path(held.__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])))
        own = {"EBM_OUTPUT_DIR": str(outputs), held.FOLDER: str(self.held), "PYTHONPATH": path}
        self.variables = os.environ | cluster.variables | own
        outputs.mkdir(parents=True, exist_ok=True)

    def start(self) -> subprocess.Popen[str]:
        """Start the head."""
        return subprocess.Popen(
            [TRAIN, *self.words, *ON_SLURM, *REQUEUED], env=self.variables, cwd=self.outputs, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def hold(self, *jobs: int) -> None:
        """They take seconds for each epoch, until `release`."""
        self.held.mkdir(exist_ok=True)
        for job in jobs:
            (self.held / str(job)).touch()

    def release(self, *jobs: int) -> None:
        for job in jobs:
            (self.held / str(job)).unlink()

    def training(self, *names: str) -> bool:
        """Whether the jobs in these folders have made checkpoints."""
        return all((self.folder / name / "checkpoints" / "last.ckpt").exists() for name in names)

    def array(self) -> str:
        """The id of the jobs that were submitted last."""
        return max((path.name.split("_")[0] for path in self.folder.glob(".submitit/*_0")), key=int)

    def end(self, head: subprocess.Popen[str]) -> tuple[int, str]:
        said, _ = head.communicate(timeout=4 * PATIENCE)
        assert "Traceback" not in said, said
        return head.returncode, said

    def here(self, outputs: Path) -> Outcome:
        """The same sweep in this process, one job after the other."""
        words = [word for word in self.words if not word.startswith("hydra.sweep.dir")]
        return run_command(cli.train, *words, f"hydra.sweep.dir={outputs / 'sweep'}", output_root=outputs)

    def runs(self) -> tuple[RunRecord, dict[str, RunRecord]]:
        """(the parent, the jobs' runs by folder)."""
        uri = f"sqlite:///{self.outputs / 'mlflow.db'}"
        parent = records.find_run(uri, str(self.folder))
        children = records.children(uri, parent.run_id)
        runs = {run.output_dir.name: run for run in children if run.output_dir}
        assert len(runs) == len(children), "a job has two runs"
        return parent, runs


def assert_same(sweep: Sweep, reference: Path, *names: str) -> None:
    """Jobs left what they leave without faults, bit by bit."""
    for name in names:
        one, two = left_by(sweep.folder / name, sweep.outputs), left_by(reference / "sweep" / name, reference)
        assert one["params"].keys() == two["params"].keys()
        assert_identical(one | {"params": 0}, two | {"params": 0}, name)


def test_a_job_that_fails_one_cancelled_and_one_out_of_time(cluster: Slurm, tmp_path: Path) -> None:
    sweep = Sweep(cluster, tmp_path / "slurm", f"training.epochs=range(60,{60 + JOBS})")
    sweep.hold(0, 1, 2)
    head = sweep.start()
    until("the jobs train", lambda: sweep.training("0_rbm", "1_rbm", "2_rbm"), PATIENCE)
    (sweep.folder / "1_rbm" / "metrics.csv").mkdir()  # in whose place the job writes at its end
    sweep.release(1)
    late, cancelled = (f"{sweep.array()}_{number}" for number in (0, 2))
    cluster.ask("scancel", cancelled)
    cluster.ask("scontrol", "update", f"JobId={late}", f"TimeLimit={math.ceil((cluster.seconds(late) + 40) / 60)}")
    until("it is queued again", lambda: cluster.jobs().get(late) == "PENDING", PATIENCE)
    sweep.release(0)
    cluster.ask("scontrol", "update", f"JobId={late}", "TimeLimit=30")
    assert sweep.here(tmp_path / "here").code == 0

    code, said = sweep.end(head)
    assert code == 1
    assert f"{JOBS} jobs: {JOBS - 2} finished, 2 not" in said
    assert re.search(r"1_rbm \(RBM\): failed, .*metrics.csv", said)
    assert f"2_rbm (RBM): killed, the job {cancelled} ended without a result (cancelled)" in said
    parent, runs = sweep.runs()
    assert (parent.status, len(runs)) == ("FAILED", JOBS)
    assert {name: run.status for name, run in runs.items() if run.status != "FINISHED"} == {
        "1_rbm": "FAILED", "2_rbm": "KILLED",
    }  # fmt: skip
    assert "cancelled" in runs["2_rbm"].tags[records.ERROR_TAG]
    assert "going on with the run" in (sweep.folder / ".submitit" / late / f"{late}_0_log.out").read_text()
    assert len((sweep.folder / "comparison.csv").read_text().splitlines()) == 1 + JOBS - 2
    assert_same(sweep, tmp_path / "here", *(name for name, run in runs.items() if run.status == "FINISHED"))


def test_a_sweep_that_loses_its_head_and_a_node_goes_on(cluster: Slurm, tmp_path: Path) -> None:
    sweep = Sweep(cluster, tmp_path / "slurm", "training.epochs=60,61,62")
    sweep.hold(0, 1, 2)
    head = sweep.start()
    until("three jobs train", lambda: sweep.training("0_rbm", "1_rbm", "2_rbm"), PATIENCE)
    places = cluster.places()
    assert set(places.values()) == set(slurm.NODES)
    head.kill()
    head.wait()
    cluster.kill("two")
    sweep.release(0, 1, 2)
    again = tmp_path / "again.txt"
    cluster.start_node("two")
    words = (
        f"--output={again}",
        f"--chdir={sweep.outputs}",
        f"--wrap={shlex.join([TRAIN, *sweep.words, *ON_SLURM, *REQUEUED])}",
    )
    job = cluster.ask("sbatch", "--parsable", "--time=30", *words, variables=sweep.variables).strip()
    until("the second head ends", lambda: job not in cluster.jobs(), PATIENCE)
    said = again.read_text()
    assert "Traceback" not in said
    assert "3 jobs: 3 finished, 0 not" in said
    parent, runs = sweep.runs()
    assert [parent.status, *(run.status for run in runs.values())] == ["FINISHED"] * 4
    assert sweep.here(tmp_path / "here").code == 0
    assert_same(sweep, tmp_path / "here", *runs)


def test_a_sweep_that_is_cancelled_is_gone_on_with_elsewhere(cluster: Slurm, tmp_path: Path) -> None:
    sweep = Sweep(cluster, tmp_path / "slurm", "training.epochs=range(60,65)")
    sweep.hold(*range(5))
    head = sweep.start()
    until("a job trains", lambda: sweep.training("0_rbm"), PATIENCE)
    cluster.ask("scancel", sweep.array())
    code, said = sweep.end(head)
    assert code == 1
    assert "5 jobs: 0 finished, 5 not" in said
    assert re.search(r"job 4: killed, the job \d+_4 ended without a result", said)
    parent, runs = sweep.runs()
    assert (parent.status, {run.status for run in runs.values()}) == ("FAILED", {"KILLED"})

    assert sweep.here(sweep.outputs).code == 0
    parent, more = sweep.runs()
    assert [parent.status, *(run.status for run in more.values())] == ["FINISHED"] * 6
    assert {name: run.run_id for name, run in more.items() if name in runs} == {
        name: run.run_id for name, run in runs.items()
    }
    assert not any(records.ERROR_TAG in run.tags for run in more.values())


def test_a_search_of_eight_workers_that_is_killed_twice_goes_on(tmp_path: Path) -> None:
    """Trials are jobs, as many at a time as the cluster has places for; those that had ended are kept, none is run twice."""
    words = (
        "sweep=optuna",
        "likelihood=null",
        f"metric={PSEUDO}",
        "hydra.sweeper.n_trials=12",
        "hydra.sweeper.n_jobs=8",
    )
    with Slurm(cpus=4) as cluster:
        sweep = Sweep(cluster, tmp_path, *words, "training.epochs=60")
        head = sweep.start()
        until("two trials ended", lambda: len(ended(sweep.folder)) >= 2, PATIENCE)
        head.kill()
        head.wait()
        until("no job is left", lambda: not cluster.jobs(), PATIENCE)
        kept = ended(sweep.folder)
        assert len(kept) == 8

        sweep.hold(0, 1)
        head = sweep.start()
        until(
            "two more ended, two are at work", lambda: len(ended(sweep.folder)) == 10 and at_work(sweep) == 2, PATIENCE
        )
        head.kill()
        head.wait()
        cluster.ask("scancel", "--user=root")
        until("no job is left", lambda: not cluster.jobs(), PATIENCE)
        sweep.release(0, 1)
        assert {number: ended(sweep.folder)[number] for number in kept} == kept
        kept = ended(sweep.folder)

        code, said = sweep.end(sweep.start())
    assert code == 0, said
    assert "12 jobs: 12 finished, 0 not" in said
    trials = study_in(sweep.folder).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 12
    assert {number: trials[number] for number in kept} == kept
    parent, runs = sweep.runs()
    assert [parent.status, *(run.status for run in runs.values())] == ["FINISHED"] * 13
    assert sorted(run.run_id for run in runs.values()) == sorted(trial.user_attrs["run_id"] for trial in trials)


def at_work(sweep: Sweep) -> int:
    """How many jobs have made checkpoints and have not ended."""
    return len(list(sweep.folder.glob("*/checkpoints/last.ckpt"))) - len(list(sweep.folder.glob("*/verdict.json")))


def ended(folder: Path) -> dict[int, object]:
    """The trials that have ended, by number."""
    if not (folder / "study.txt").exists() or not (folder / "study.journal").exists():
        return {}
    return {trial.number: trial for trial in study_in(folder).trials if trial.state.is_finished()}


def test_one_model_on_both_nodes_by_srun(cluster: Slurm, tmp_path: Path) -> None:
    """The nodes have one network: the first process is met on the loopback."""
    folder = tmp_path / "run"
    words = (*PLAIN, "model=rbm", "trainer=nodes", "trainer.accelerator=cpu", f"hydra.run.dir={folder}")
    variables = os.environ | {"EBM_OUTPUT_DIR": str(tmp_path), "MASTER_ADDR": "127.0.0.1"}
    cluster.ask("srun", "--nodes=2", "--ntasks-per-node=1", "--time=10", TRAIN, *words, variables=variables)
    run = records.find_run(f"sqlite:///{tmp_path / 'mlflow.db'}", str(folder))
    assert run.status == "FINISHED"
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    (other,) = saved["others"]
    assert other["chains"].keys() == {name for name in saved["state_dict"] if name.startswith("chain")}
    assert not torch.equal(other["chains"]["chain_0"], saved["state_dict"]["chain_0"])
