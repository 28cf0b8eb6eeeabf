"""A search by Optuna: what is searched, what the study keeps, trials that end early, a search that goes on."""

from __future__ import annotations

import csv
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from commands import PLAIN, Outcome, run_command
from kills import kill_self, patched

from ebm_pipeline import cli
from ebm_pipeline.support.errors import UserError
from ebm_pipeline.tracking import records
from ebm_pipeline.tracking.records import RunRecord

optuna = pytest.importorskip("optuna", reason="needs the extra: pip install '.[sweeps]'")

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution  # noqa: E402
from optuna.storages.journal import JournalFileBackend  # noqa: E402
from optuna.trial import TrialState  # noqa: E402

from ebm_pipeline.runs import search, trials  # noqa: E402

STEP = "ebm_pipeline.training.module.BoltzmannTraining.update"
PSEUDO = "validation/pseudo_likelihood"
CHEAP = (*PLAIN, "model=rbm", "sweep=optuna", "likelihood=null", f"metric={PSEUDO}")


def searched(outputs: Path, folder: Path, *words: str) -> Outcome:
    return run_command(cli.train, *CHEAP, f"hydra.sweep.dir={folder}", *words, output_root=outputs)


def study_in(folder: Path) -> Any:
    """As optuna-dashboard reads it: with Optuna alone."""
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder / trials.JOURNAL)))
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage)


def runs_of(outputs: Path, folder: Path) -> dict[str, RunRecord]:
    uri = f"sqlite:///{outputs / 'mlflow.db'}"
    parent = records.find_run(uri, str(folder))
    return {run.run_id: run for run in records.children(uri, parent.run_id)}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all: a fresh one costs seconds."""
    return tmp_path_factory.mktemp("outputs")


# ---------------------------------------------------------------------------------------------- what is searched


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("a=1,5,25", CategoricalDistribution((1, 5, 25))),
        ("a=choice(rbm, dbm)", CategoricalDistribution(("rbm", "dbm"))),
        ("a=true,null,0.5", CategoricalDistribution((True, "null", 0.5))),
        ("a=interval(0.5, 2)", FloatDistribution(0.5, 2.0)),
        ("a=interval(1, 9)", FloatDistribution(1.0, 9.0)),  # as Hydra has it
        ("a=int(interval(1.0, 9.0))", IntDistribution(1, 9)),
        ("a=tag(log, interval(0.005, 0.5))", FloatDistribution(0.005, 0.5, log=True)),
        ("a=range(1, 10, 3)", IntDistribution(1, 7, step=3)),  # without its stop, as in a grid
        ("a=range(0.1, 0.5, 0.1)", FloatDistribution(0.1, 0.4, step=0.1)),
    ],
)
def test_what_hydra_writes_is_what_optuna_searches(word: str, expected: object) -> None:
    fixed, space = search.space_of(["b=1", word])
    assert fixed == ["b=1"]
    assert space == {"a": expected}


def test_a_word_of_the_command_takes_the_place_of_what_is_searched() -> None:
    fixed, space = search.space_of(["a=1,2", "b=1,2", "a=3", "~c"])
    assert (fixed, list(space)) == (["a=3", "~c"], ["b"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("sampler.steps=1", "optimizer.lr=0.1"), "nothing is searched"),
        (("optimizer.lr=tag(log, interval(0, 1))",), "is nothing to search"),
        (("metric=null",), "a search needs a metric"),
        (("hydra.sweeper.n_trials=0",), "n_trials must be a whole number, at least 1; got 0"),
        (("hydra.sweeper.direction=up",), "must be minimize or maximize; got 'up'"),
        (("metric=validation/reconstruction_error",), "better the lower it is, and hydra.sweeper.direction is maximize"),
        (("hydra.sweeper.prune_by=validation/denoising_error",), "prune_by=validation/denoising_error is better the lower"),
        (("hydra.sweeper.storage=postgresql://me:secret@h/d",), "holds a password.*PGPASSWORD"),
        (("hydra.sweeper.storage=nowhere",), "must be null .* or the address of a database"),
    ],
)  # fmt: skip
def test_what_cannot_be_searched_is_one_message_before_there_is_a_run(
    words: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    done = searched(tmp_path, tmp_path / "search", *words)
    assert (done.code, done.err.count("error:")) == (1, 1)
    assert re.search(message, done.err)
    assert "secret" not in done.err + done.out
    assert not (tmp_path / "mlflow.db").exists()
    assert not (tmp_path / "search").exists()


# ---------------------------------------------------------------------------------------------- asking


SPACE = {"a": FloatDistribution(0.0, 1.0), "b": CategoricalDistribution((1, 5))}
SAMPLER = {"_target_": "optuna.samplers.TPESampler", "seed": 3}


def asked(cuts: tuple[int, ...]) -> list[dict[str, float]]:
    """Settings of 16 trials, each told its value; at `cuts` the process that asks is another."""
    storage = optuna.storages.InMemoryStorage()
    name = optuna.create_study(storage=storage).study_name
    for first, last in zip((0, *cuts), (*cuts, 16), strict=True):
        study = optuna.load_study(study_name=name, storage=storage)
        for number in range(first, last):
            search.ask(study, range(number, number + 1), SPACE, SAMPLER)
            study.tell(number, study.trials[number].params["a"])
    return [trial.params for trial in study.trials]


def test_what_is_asked_for_depends_on_the_study_and_not_on_who_asks() -> None:
    whole = asked(())
    assert asked((5, 12)) == whole
    assert len({params["a"] for params in whole}) == 16  # a sampler that begins anew would repeat its first


def test_a_trial_that_was_begun_without_all_its_settings_gets_them() -> None:
    whole = optuna.create_study()
    search.ask(whole, range(3), SPACE, SAMPLER)
    study = optuna.create_study()
    search.ask(study, range(1), SPACE, SAMPLER)
    study.ask()  # killed here
    search.ask(study, range(3), SPACE, SAMPLER)
    assert [trial.params for trial in study.trials] == [trial.params for trial in whole.trials]


def test_a_line_that_was_cut_off_is_taken_away_and_the_study_goes_on(tmp_path: Path) -> None:
    options = {"storage": None, "direction": "minimize", "pruner": {"_target_": "optuna.pruners.NopPruner"}}
    study = trials.opened(options, tmp_path, "one")
    study.tell(study.ask(), 1.0)
    with open(tmp_path / trials.JOURNAL, "a") as file:
        file.write('{"op_code":4,"worker')
    for value in (2.0, 3.0):
        again = trials.opened(options, tmp_path, "one")
        again.tell(again.ask(), value)
    assert [trial.value for trial in study_in(tmp_path).trials] == [1.0, 2.0, 3.0]


# ---------------------------------------------------------------------------------------------- a job and its trial


class Told:
    """A trial of a study in memory, whose runs are functions."""

    def __init__(self, prune_by: str | None = None) -> None:
        self.study = optuna.create_study(direction="maximize", pruner=optuna.pruners.ThresholdPruner(lower=0.0))
        self.study.ask()
        self.trial = trials.Trial(self.study, 0, prune_by)

    @property
    def told(self) -> tuple[str, float | None]:
        return self.study.trials[0].state.name, self.study.trials[0].value


def test_a_trial_is_told_how_its_run_ended() -> None:
    def fail() -> dict[str, float]:
        raise UserError("no")

    def stop() -> dict[str, float]:
        raise KeyboardInterrupt

    good = Told()
    assert good.trial.conduct(lambda: {"a": 2.0}, lambda numbers: numbers["a"]) == {"a": 2.0}
    assert good.told == ("COMPLETE", 2.0)
    assert good.trial.conduct(fail, lambda numbers: 0.0) == {}  # it has ended: nothing runs
    bad = Told()
    with pytest.raises(UserError):
        bad.trial.conduct(fail, lambda numbers: 0.0)
    assert bad.told == ("FAIL", None)
    stopped = Told()
    with pytest.raises(KeyboardInterrupt):
        stopped.trial.conduct(stop, lambda numbers: 0.0)
    assert stopped.told == ("RUNNING", None)


def test_a_number_of_an_epoch_is_reported_once_and_ends_a_bad_trial() -> None:
    bad = Told("pseudo_likelihood")  # as earlier versions called it

    def run() -> dict[str, float]:
        bad.trial.after_epoch({PSEUDO: 1.0}, 1)
        bad.trial.after_epoch({PSEUDO: -9.0}, 1)  # made again after an interruption
        bad.trial.after_epoch({PSEUDO: float("nan")}, 2)
        bad.trial.after_epoch({PSEUDO: -2.0}, 3)
        raise AssertionError("it was not pruned")

    assert bad.trial.conduct(run, lambda numbers: 0.0) == {}
    assert bad.told == ("PRUNED", -2.0)
    assert bad.study.trials[0].intermediate_values == {1: 1.0, 3: -2.0}
    with pytest.raises(UserError, match=f"prune_by={PSEUDO} is no number of an epoch .* has validation/b"):
        Told(PSEUDO).trial.after_epoch({"validation/b": 1.0, "train/c": 1.0}, 1)


def test_a_study_that_is_down_does_not_end_a_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def down(*arguments: object, **options: object) -> None:
        raise optuna.exceptions.StorageInternalError("the server is gone")

    one = Told(PSEUDO)
    monkeypatch.setattr(trials, "TELLING_SECONDS", 0)
    monkeypatch.setattr(one.trial.asked, "report", down)
    monkeypatch.setattr(one.study, "tell", down)
    one.trial.after_epoch({PSEUDO: -2.0}, 1)
    assert one.trial.conduct(lambda: {"a": 2.0}, lambda numbers: numbers["a"]) == {"a": 2.0}
    assert one.told == ("RUNNING", None)
    assert caplog.text.count("the server is gone") == 2


# ---------------------------------------------------------------------------------------------- searches


@pytest.mark.slow
def test_pruned_trials_are_marked_and_are_no_failures(outputs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "search"
    words = (f"hydra.sweeper.prune_by={PSEUDO}", "hydra.sweeper.pruner.n_startup_trials=1",
             "hydra.sweeper.pruner.n_warmup_steps=0", "hydra.sweeper.n_trials=4", "training.epochs=3")  # fmt: skip
    done = searched(outputs, folder, *words)
    assert done.code == 0, done.err
    before, runs = study_in(folder).trials, runs_of(outputs, folder)
    states = [trial.state for trial in before]
    assert set(states) == {TrialState.COMPLETE, TrialState.PRUNED}
    assert (
        f"4 jobs: {states.count(TrialState.COMPLETE)} finished, {states.count(TrialState.PRUNED)} pruned, 0 not"
        in done.out
    )
    for trial in before:
        run = runs[trial.user_attrs["run_id"]]
        assert Path(trial.user_attrs["folder"]).name == f"{trial.number}_rbm"
        assert trial.params["optimizer.lr"] == float(run.params["lr"])
        assert list(trial.intermediate_values) == list(range(1, len(trial.intermediate_values) + 1))
        if trial.state is TrialState.COMPLETE:
            assert (run.status, trial.value, len(trial.intermediate_values)) == ("FINISHED", run.metrics[PSEUDO], 3)
        else:
            assert (run.status, run.outcome) == ("KILLED", "PRUNED")
            assert run.tags[records.PRUNED_TAG].startswith(f"after epoch {trial.last_step}, with pseudo-likelihood")
            assert records.ERROR_TAG not in run.tags
    assert "pruned" in (folder / "report.html").read_text()
    with open(folder / "comparison.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == states.count(TrialState.COMPLETE)

    done = searched(outputs, folder, *words, "resume=auto", "hydra.sweeper.n_trials=5")  # the same with one more
    assert done.code == 0, done.err
    after = study_in(folder).trials
    assert (len(after), [trial.params for trial in after[:4]]) == (5, [trial.params for trial in before])
    assert {run.run_id: run.status for run in runs.values()}.items() <= {
        run.run_id: run.status for run in runs_of(outputs, folder).values()
    }.items()


@pytest.mark.slow
def test_a_search_that_is_stopped_twice_ends_like_one_that_nobody_stopped(outputs: Path, tmp_path: Path) -> None:
    """In the middle of a batch, and while trials are asked for."""
    words = ("hydra.sweeper.n_trials=5", "hydra.sweeper.n_jobs=2")
    whole, folder = tmp_path / "whole" / "search", tmp_path / "stopped" / "search"
    assert searched(outputs, whole, *words).code == 0
    for number, target in ((15, STEP), (1, "ebm_pipeline.runs.search._suggest")):
        with pytest.MonkeyPatch.context() as patch:
            patched(patch, target, number, lambda: kill_self(signal.SIGTERM))
            assert searched(outputs, folder, *words, "resume=auto").code == 128 + signal.SIGTERM
        before = {trial.number: trial for trial in study_in(folder).trials if trial.state.is_finished()}
    assert list(before) == [0, 1]
    done = searched(outputs, folder, *words, "resume=auto")
    assert done.code == 0, done.err
    one, two = study_in(whole).trials, study_in(folder).trials
    assert [(trial.params, trial.value) for trial in one] == [(trial.params, trial.value) for trial in two]
    for number, trial in before.items():
        assert (two[number].datetime_complete, two[number].user_attrs) == (trial.datetime_complete, trial.user_attrs)
    runs = runs_of(outputs, folder)
    assert len(runs) == 5
    for run_id in runs:
        _, epochs = records.metric_history(f"sqlite:///{outputs / 'mlflow.db'}", run_id, "time/epoch")
        assert epochs == [0, 1, 2]


@pytest.mark.slow
def test_two_processes_do_not_search_in_one_folder(outputs: Path, tmp_path: Path) -> None:
    from ebm_pipeline.runs import resume

    (tmp_path / "search").mkdir()
    with resume.locked(tmp_path / "search"):
        done = searched(outputs, tmp_path / "search", "resume=auto")
    assert done.code == 1
    assert "another process is at work" in done.err
