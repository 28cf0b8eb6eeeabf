"""ladder.h5: what a run keeps of its trajectory, read as a stranger's file; and the numbers that a ladder gives in training."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from commands import PLAIN, composed
from helpers import MACHINES, random_machine
from kills import patched

from ebm_pipeline.evaluation.enumeration import exact_log_partition
from ebm_pipeline.models.machine import BoltzmannMachine
from ebm_pipeline.models.storage import LADDER_FILE, load_ladder, load_model, save_ladder
from ebm_pipeline.runs.configuration import build_data, read_run_config
from ebm_pipeline.runs.evaluate import evaluate
from ebm_pipeline.runs.plan import prepare
from ebm_pipeline.runs.sample import ask
from ebm_pipeline.runs.train import train
from ebm_pipeline.sampling import Ladder
from ebm_pipeline.sampling.ladder import NEVER, SWEEPS, between, independent_base, stacked
from ebm_pipeline.sampling.trajectory import along
from ebm_pipeline.support.errors import UserError
from ebm_pipeline.tasks import Fantasies
from ebm_pipeline.training.module import BoltzmannTraining

GROWING = ("sampler=trajectory", "sampler.every=0", "sampler.acceptance=0.9", "sampler.rungs=8", "optimizer.lr=0.2")


def ladder_of(machine: BoltzmannMachine) -> BoltzmannMachine:
    base = independent_base(machine, (None,) * machine.depth)
    return stacked([base, between(base, machine)])


@pytest.mark.parametrize("case", MACHINES)
def test_a_ladder_comes_back_from_its_file(case: tuple[tuple[str, ...], tuple[int, ...]], tmp_path: Path) -> None:
    machine = random_machine(*case, seed=1).map(lambda tensor: tensor.float())
    save_ladder(tmp_path / LADDER_FILE, ladder_of(machine), [-1, 7])
    found = load_ladder(tmp_path / LADDER_FILE, machine)
    for name, tensor in ladder_of(machine).named_tensors().items():
        assert torch.equal(found.named_tensors()[name], tensor)
    with h5py.File(tmp_path / LADDER_FILE) as file:
        assert file["updates"][:].tolist() == [-1, 7]


def coupled_base(file: h5py.File) -> None:
    file["weights/0"][0] = 1


def fewer_rungs(file: h5py.File) -> None:
    bias = file["layers/0/bias"][:1]
    del file["layers/0/bias"]
    file["layers/0/bias"] = bias


def other_units(file: h5py.File) -> None:
    del file["weights/0"]
    file["weights/0"] = np.zeros((2, 4, 5), dtype=np.float32)


def a_link(file: h5py.File) -> None:
    del file["weights/0"]
    file["weights/0"] = h5py.ExternalLink("/etc/passwd", "weights")


def not_a_number(file: h5py.File) -> None:
    file["layers/1/bias"][1, 0] = np.nan


def a_changed_bit(file: h5py.File) -> None:
    file["layers/1/bias"][1, 0] += 1e-3


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (coupled_base, "not those that were written|the first one without weights"),
        (fewer_rungs, "not those that were written|as many rungs each"),
        (other_units, r"weights/0 has the shape \(2, 4, 5\)"),
        (a_link, "weights/0 is a link"),
        (not_a_number, "not finite"),
        (a_changed_bit, "not those that were written"),
        (lambda file: file.pop("layers"), "damaged or no ladder"),
        (lambda file: file.attrs.__setitem__("format", "something"), "should be 'ebm_pipeline ladder 1'"),
    ],
)
@pytest.mark.parametrize("digest", [True, False])
def test_a_strangers_ladder_is_one_message(
    damage: Callable[[h5py.File], object], message: str, digest: bool, tmp_path: Path
) -> None:
    machine = random_machine(("bernoulli", "bernoulli"), (4, 3), seed=1).map(lambda tensor: tensor.float())
    save_ladder(tmp_path / LADDER_FILE, ladder_of(machine), [-1, 7])
    with h5py.File(tmp_path / LADDER_FILE, "r+") as file:
        damage(file)
        if not digest:
            del file.attrs["digest"]
    if damage is a_changed_bit and not digest:
        assert load_ladder(tmp_path / LADDER_FILE, machine).weights[0].shape == (2, 4, 3)
        return
    with pytest.raises(UserError, match=message):
        load_ladder(tmp_path / LADDER_FILE, machine)


def test_the_longest_ladder_of_a_file_can_be_gone_along(tmp_path: Path) -> None:
    machine = random_machine(("bernoulli", "bernoulli"), (4, 3), seed=1).map(lambda tensor: tensor.float())
    states = (torch.zeros(4, 4), torch.zeros(4, 3))
    for count in (999, 1000):
        rungs = stacked([independent_base(machine, (None, None))] * count)
        save_ladder(tmp_path / LADDER_FILE, rungs, [-1] * count)
        if count == 1000:  # with the machine it would be one more than there may be
            with pytest.raises(UserError, match=r"\(1000, 4, 3\), not \(1 to 999 rungs, 4, 3\)"):
                load_ladder(tmp_path / LADDER_FILE, machine)
        else:
            sampler = along(load_ladder(tmp_path / LADDER_FILE, machine), 1, 10)
            assert sampler.init(machine, states, (None, None)).rungs == 999


def test_the_ladder_of_another_machine_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    machine = random_machine(("bernoulli", "bernoulli"), (4, 3), seed=1).map(lambda tensor: tensor.float())
    other = random_machine(("bernoulli", "gaussian"), (4, 3), seed=1).map(lambda tensor: tensor.float())
    save_ladder(tmp_path / LADDER_FILE, ladder_of(machine), [-1, 7])
    with pytest.raises(UserError, match="the ladder of another machine"):
        load_ladder(tmp_path / LADDER_FILE, other)
    with pytest.raises(UserError, match="train with sampler=trajectory"):
        load_ladder(tmp_path / "none.h5", machine)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all: a fresh one costs seconds."""
    return tmp_path_factory.getbasetemp() / "outputs"


@pytest.mark.slow
def test_a_dbm_keeps_the_ladder_of_its_joint_training(outputs: Path, tmp_path: Path) -> None:
    settings = (
        *PLAIN,
        "model=dbm",
        *GROWING,
        "training.epochs=2",
        "model.pretraining.epochs=1",
        "training.averaging=null",
    )
    numbers = train(composed(*settings, output_root=outputs), tmp_path)
    machine = load_model(tmp_path / "model.h5").machine
    rungs = load_ladder(tmp_path / LADDER_FILE, machine)
    assert len(rungs.weights[0]) + 1 == numbers["sampler/rungs"]
    assert 0 < numbers["sampler/least_swap_rate"] <= 1
    with open(tmp_path / "metrics.csv", newline="") as file:
        watched = [float(row["validation/trajectory_log_likelihood"]) for row in csv.DictReader(file)]
    assert len(watched) == 3  # before training, and after each epoch
    assert watched[-1] == numbers["validation/trajectory_log_likelihood"]


def test_the_watched_likelihood_is_that_of_enumeration(outputs: Path, tmp_path: Path) -> None:
    """4 x 4 pixels, 16 hidden units; the error of 100 chains on a short ladder is some tenths of a nat."""
    settings = (*PLAIN, "model=rbm", *GROWING, "sampler.chains=null", "training.epochs=3", "training.averaging=null",
                "training.chains=200", "data.passes_per_epoch=5", "initialization.std=0.5", "hidden_units=16")  # fmt: skip
    numbers = train(composed(*settings, output_root=outputs), tmp_path)
    machine = load_model(tmp_path / "model.h5").machine
    assert numbers["sampler/rungs"] > 2
    assert numbers["validation/trajectory_log_likelihood"] == pytest.approx(
        _validation_likelihood(machine, tmp_path), abs=0.3
    )


def test_each_rung_is_the_machine_after_the_update_that_the_file_names(
    outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights before training and after each update; two sweeps to an update."""
    weights: list[torch.Tensor] = []
    update = BoltzmannTraining.update

    def watched(module: BoltzmannTraining, batch: torch.Tensor) -> None:
        weights[:] = weights or [module.machine.weights[0].clone()]
        update(module, batch)
        weights.append(module.machine.weights[0].clone())

    monkeypatch.setattr(BoltzmannTraining, "update", watched)
    settings = (*PLAIN, "model=rbm", *GROWING, "sampler.steps=2", "sampler.acceptance=0.99", "training.epochs=3")
    train(composed(*settings, output_root=outputs), tmp_path)
    with h5py.File(tmp_path / LADDER_FILE) as file:
        updates, rungs = file["updates"][:].tolist(), file["weights/0"][:]
    own = [(number, rung) for number, rung in zip(updates, rungs, strict=True) if number != NEVER]
    assert len(own) > 1
    for number, rung in own:
        assert np.array_equal(rung, weights[number].numpy())


def _validation_likelihood(machine: BoltzmannMachine, folder: Path) -> float:
    images = build_data(read_run_config(folder)).images("validation")
    return float(-machine.free_energy((images, None)).mean()) - exact_log_partition(machine)


def test_a_finished_run_is_sampled_and_judged_along_its_history(
    outputs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    card = ("likelihood.temperatures=100", "likelihood.chains=50", "likelihood.sweeps=100", "likelihood.exact_units=0",
            "likelihood.trajectory_sweeps=200", "likelihood.doublings=0")  # fmt: skip
    settings = (*PLAIN, "model=rbm", *GROWING, "initialization.std=0.3", "hidden_units=12", "training.chains=50")
    numbers = train(
        composed(*settings, "evaluation=full", "diagnostics=null", *card, output_root=outputs), tmp_path / "run"
    )
    stated = json.loads((tmp_path / "run" / "likelihood.json").read_text())
    machine = load_model(tmp_path / "run" / "model.h5").machine
    exact = exact_log_partition(machine)
    found, error = (numbers[f"sampler/log_partition_trajectory{name}"] for name in ("", "_std_error"))
    assert abs(found - exact) < 4 * error + 0.01
    assert stated["trajectory"]["value"] == found
    assert numbers["sampler/log_partition_trajectory_ess"] > 20

    folder = tmp_path / "samples"
    config = composed("run=x", "task.sampler=trajectory", "task.sweeps=40", "count=20", "part=validation", name="sample",
                      output_root=outputs)  # fmt: skip
    answer = ask(config, str(tmp_path / "run"), folder)
    assert re.search(r"40 sweeps of trajectory tempering with \d+ machines \(least swap rate", answer.made["fantasies"])
    assert answer.arrays["fantasies"].shape == (20, 16)
    damaged_ladder_hinders_nothing_else(tmp_path / "run", tmp_path / "evaluation", outputs)
    (tmp_path / "run" / LADDER_FILE).unlink()
    with pytest.raises(UserError, match="train with sampler=trajectory"):
        ask(config, str(tmp_path / "run"), folder)
    small = ("likelihood.temperatures=100", "likelihood.chains=50", "likelihood.sweeps=100", "diagnostics=null")
    asked = composed("run=x", "part=validation", *small, name="evaluate", output_root=outputs)
    assert "sampler/log_partition_trajectory" not in evaluate(asked, str(tmp_path / "run"), tmp_path / "evaluation")
    assert "which the run had kept, is gone" in caplog.text


def damaged_ladder_hinders_nothing_else(run: Path, folder: Path, outputs: Path) -> None:
    """Its message says how to do without it, and that way goes."""
    with h5py.File(run / LADDER_FILE, "a") as file:
        file.pop("layers")
    small = ("likelihood.temperatures=100", "likelihood.chains=50", "likelihood.sweeps=100", "diagnostics=null")
    given = ("run=x", "part=validation", *small)
    with pytest.raises(UserError, match=r"damaged or no ladder .*likelihood\.trajectory_sweeps=0"):
        evaluate(composed(*given, name="evaluate", output_root=outputs), str(run), folder)
    without = composed(*given, "likelihood.trajectory_sweeps=0", name="evaluate", output_root=outputs)
    assert "sampler/log_partition_trajectory" not in evaluate(without, str(run), folder)


def test_a_card_along_the_history_that_takes_too_much_memory_is_refused_before_training(
    outputs: Path, tmp_path: Path
) -> None:
    settings = (
        *PLAIN,
        "evaluation=full",
        "likelihood.trajectory_sweeps=1000000000",
        "likelihood.trajectory_chains=1000",
    )
    with pytest.raises(UserError, match=r"likelihood\.trajectory_sweeps=1000000000 of .* up to 60 machines would take"):
        train(composed(*settings, "sampler=trajectory", output_root=outputs), tmp_path)
    prepare(composed(*settings, output_root=outputs), tmp_path)  # without a ladder nothing is drawn along it


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampler": "history"}, "task.sampler must be one of gibbs, trajectory"),
        ({"sampler": "trajectory", "replicas": 3}, "neither task.replicas nor"),
        ({"sampler": "trajectory", "start_beta": 0.5}, "neither task.replicas nor"),
    ],
)
def test_a_wrong_sampler_of_fantasies_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Fantasies(**settings)


# ---------------------------------------------------------------------------------------------- ended by the likelihood


PATIENT = (
    *PLAIN,
    "model=rbm",
    "sampler=trajectory",
    "training.epochs=20",
    "training.patience=2",
    "training.averaging=0.1",
)


def epochs_of(folder: Path) -> int:
    with open(folder / "metrics.csv", newline="") as file:
        return int(list(csv.DictReader(file))[-1]["time/epoch"])


@pytest.fixture
def falling(monkeypatch: pytest.MonkeyPatch) -> None:
    """The likelihood is highest after the third epoch."""

    def metrics(ladder: Ladder, *others: object) -> dict[str, float]:
        epoch = int(ladder.counts[SWEEPS]) // 6
        return ladder.numbers() | {"validation/trajectory_log_likelihood": -abs(epoch - 3.0)}

    monkeypatch.setattr("ebm_pipeline.training.module.ladder_metrics", metrics)


@pytest.mark.usefixtures("falling")
def test_training_ends_when_the_likelihood_has_not_risen(outputs: Path, tmp_path: Path) -> None:
    train(composed(*PATIENT, output_root=outputs), tmp_path)
    assert epochs_of(tmp_path) == 5
    assert "; 5 epochs; run" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("falling")
def test_a_run_that_was_ended_and_interrupted_stays_ended(
    outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is interrupted after its training, and goes on with what comes then."""
    with monkeypatch.context() as patch:
        patched(patch, "ebm_pipeline.runs.train.save_ladder", 1, raise_stop)
        with pytest.raises(KeyboardInterrupt):
            train(composed(*PATIENT, output_root=outputs), tmp_path)
    numbers = train(composed(*PATIENT, "resume=auto", output_root=outputs), tmp_path)
    assert epochs_of(tmp_path) == 5
    assert numbers["validation/trajectory_log_likelihood"] == -2


def raise_stop() -> None:
    raise KeyboardInterrupt


def test_patience_needs_a_ladder(outputs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="set sampler=trajectory with objective=pcd"):
        train(composed(*PLAIN, "training.patience=2", output_root=outputs), tmp_path)
    with pytest.raises(UserError, match=r"training\.patience, if not null, .*got 0"):
        train(composed(*PLAIN, "sampler=trajectory", "training.patience=0", output_root=outputs), tmp_path)
