"""The likelihood card: which end of log Z bounds which end of the likelihood, and when it says "not determined"."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import random_machine
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import Tensor

from benchmarks.likelihood import digits, exact_samples, far_modes, known_machine
from ebm_pipeline import plots
from ebm_pipeline.cli import config_folder
from ebm_pipeline.evaluation import card as card_module
from ebm_pipeline.evaluation.ais import LogPartition
from ebm_pipeline.evaluation.card import NOT_DETERMINED, Bracketed, Likelihood, LikelihoodCard, bracket
from ebm_pipeline.evaluation.enumeration import exact_log_partition
from ebm_pipeline.evaluation.likelihood import unnormalized
from ebm_pipeline.models.inference import MeanField
from ebm_pipeline.models.machine import BoltzmannMachine
from ebm_pipeline.runs.evaluate import evaluate
from ebm_pipeline.runs.train import train
from ebm_pipeline.support.errors import UserError
from ebm_pipeline.tracking import records

SETTINGS = Likelihood(
    temperatures=200, chains=100, base="data", placement="equal", sweeps=200, most_width=1.0, least_ess=20,
    most_r_hat=1.1,
)  # fmt: skip


def measured(
    machine: BoltzmannMachine, images: Tensor, settings: Likelihood = SETTINGS, seed: int = 1
) -> LikelihoodCard:
    parts = {"test": images[:100], "train": images[100:300]}
    return settings(machine, images.mean(0), parts, images, "threshold", MeanField(), seed)


@pytest.fixture
def nothing_is_enumerable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card_module, "enumerable_parity", lambda machine, most_units: None)


def estimates(forward: float = 10.0, reverse: float = 10.1, error: float = 0.1, ess: float = 50.0) -> Bracketed:
    up, down = (LogPartition(value, error, ess, 100, 200) for value in (forward, reverse))
    return Bracketed(up, down, (up, down), {"free_energy": 1.01, "component_1": 1.02})


def test_the_upper_end_of_log_z_is_the_lower_end_of_the_likelihood() -> None:
    found = estimates()
    assert bracket(found.forward, found.reverse) == card_module.Interval(10.0 - 0.2, 10.1 + 0.2)
    stated = LikelihoodCard(
        "log_likelihood", "AIS", "threshold", {"test": 5}, {"test": -80.0}, {"test": -200.0},
        bracket(found.forward, found.reverse), (), 1.0,
    )  # fmt: skip
    assert stated.intervals["test"].low == pytest.approx(-80 - 10.3)
    assert stated.intervals["test"].high == pytest.approx(-80 - 9.8)


def test_nothing_speaks_against_good_estimates() -> None:
    assert SETTINGS.objections(estimates()) == ()


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (
            estimates(ess=5.0),
            r"forward AIS has an effective sample size of 5.0, below 20.*raise likelihood.temperatures",
        ),
        (estimates(reverse=11.0), r"1\.40 nats wide, above 1: raise likelihood.temperatures or likelihood.chains"),
        (estimates(reverse=9.5), r"0\.50 nats below the forward one, .*raise likelihood.sweeps"),
        (
            replace(estimates(), r_hat={"free_energy": 1.3}),
            r"not in equilibrium: R-hat of free energy .* 1\.300.*sweeps",
        ),
        (
            replace(estimates(), half=(estimates(forward=9.5).forward, estimates().reverse)),
            r"forward AIS moved by 0\.50 nats when the temperatures were doubled.*raise likelihood.temperatures",
        ),
    ],
)
def test_each_objection_says_what_to_raise(found: Bracketed, reason: str) -> None:
    objections = SETTINGS.objections(found)
    assert any(re.search(reason, objection) for objection in objections), objections


def test_exact_log_z_makes_the_interval_a_point() -> None:
    machine, images = known_machine("RBM, trained, offsets")
    found = measured(machine, images)
    expected = unnormalized(machine, images[:100], MeanField()) - exact_log_partition(machine)
    assert found.method == "exact"
    assert found.intervals["test"].low == found.intervals["test"].high == pytest.approx(expected, abs=1e-4)
    assert found.metrics()["test/log_likelihood_low"] == pytest.approx(expected, abs=1e-4)
    assert "log Z exact" in str(found)


@pytest.mark.usefixtures("nothing_is_enumerable")
def test_too_few_temperatures_are_doubled_until_the_interval_is_determined() -> None:
    machine, images = known_machine("RBM, trained")
    few = replace(SETTINGS, temperatures=4, least_ess=60)
    assert "raise likelihood.temperatures" in "; ".join(measured(machine, images, few).reasons)
    found = measured(machine, images, replace(few, doublings=8))
    assert found.determined
    assert found.forward is not None
    assert found.half is not None
    assert found.forward.temperatures == 2 * found.half[0].temperatures - 1 > 7
    assert found.forward.ess > 60
    expected = unnormalized(machine, images[:100], MeanField()) - exact_log_partition(machine)
    assert found.intervals["test"].low < expected < found.intervals["test"].high


def test_temperatures_are_not_doubled_where_they_cure_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, images = far_modes()
    monkeypatch.setattr(card_module, "enumerable_parity", lambda machine, most_units: None)
    found = measured(machine, images, replace(SETTINGS, doublings=8))
    assert not found.determined
    assert found.forward is not None
    assert found.forward.temperatures == SETTINGS.temperatures


@pytest.mark.usefixtures("nothing_is_enumerable")
@pytest.mark.parametrize("name", ["RBM, trained", "DBM, trained"])
def test_the_interval_holds_the_exact_value(name: str) -> None:
    machine, images = known_machine(name)
    cards = [measured(machine, images, seed=seed) for seed in range(1, 5)]
    # its checks are of three standard errors: a card in a hundred objects to what is right, and which one differs by processor
    determined = [card for card in cards if card.determined]
    assert len(determined) >= 3, [card.reasons for card in cards]
    for card in determined:
        check_card(card, machine, images)
    assert replace(measured(machine, images, seed=1), seconds=0.0) == replace(cards[0], seconds=0.0)


def check_card(found: LikelihoodCard, machine: BoltzmannMachine, images: Tensor) -> None:
    quantity = "variational_bound" if machine.depth > 2 else "log_likelihood"
    log_partition = exact_log_partition(machine)
    assert found.forward is not None
    assert found.reverse is not None
    slack = 2 * max(found.forward.std_error, found.reverse.std_error)  # its own two errors hold it in 95 of 100 runs
    for part, chosen in (("test", images[:100]), ("train", images[100:300])):
        exact = unnormalized(machine, chosen, MeanField()) - log_partition
        assert found.intervals[part].low - slack < exact < found.intervals[part].high + slack
        assert found.metrics()[f"{part}/{quantity}_low"] == found.intervals[part].low
        assert found.images[part] == len(chosen)
    assert (found.tightness is None) == (machine.depth == 2)
    if found.tightness is not None:
        assert found.tightness.nats > 0
        assert found.tightness.std_error < 0.1
        assert found.tightness.images == 100
    record = json.loads(json.dumps(found.as_dict()))
    assert record["binarisation"] == "threshold"
    assert record["settings"]["temperatures"] == 200
    assert record[f"{quantity}_nats_per_image"]["test"] == {
        "low": found.intervals["test"].low, "high": found.intervals["test"].high
    }  # fmt: skip


@pytest.mark.usefixtures("nothing_is_enumerable")
def test_two_far_modes_give_no_number() -> None:
    machine, images = far_modes()
    found = measured(machine, images.repeat(2, 1))
    assert not found.determined
    assert any("not in equilibrium" in reason for reason in found.reasons)
    record = found.as_dict()
    assert record["log_likelihood_nats_per_image"] == {"test": NOT_DETERMINED, "train": NOT_DETERMINED}
    assert record["log_partition_nats"] == NOT_DETERMINED
    assert not any(name.endswith(("_low", "_high")) for name in found.metrics())
    assert found.tags()["ebm.likelihood"].startswith(NOT_DETERMINED)
    assert f"test: {NOT_DETERMINED}" in str(found)


@pytest.mark.usefixtures("nothing_is_enumerable")
def test_too_few_temperatures_give_no_number() -> None:
    machine, images = known_machine("RBM, trained")
    few = replace(SETTINGS, temperatures=4, placement="even", base="uniform", least_ess=60)
    found = measured(machine, images, few)
    assert any("raise likelihood.temperatures" in reason for reason in found.reasons)


@pytest.mark.usefixtures("nothing_is_enumerable")
def test_every_stage_has_its_progress() -> None:
    machine, images = known_machine("DBM, trained")
    seen: dict[str, list[int]] = {}
    total: dict[str, int] = {}

    def stage(name: str, steps: int):  # type: ignore[no-untyped-def]
        seen[name], total[name] = [], steps
        return seen[name].append

    parts = {"test": images[:10]}
    SETTINGS(machine, images.mean(0), parts, images, "threshold", MeanField(), 1, stage)
    ways = {f"AIS {way}, {count} temperatures" for way in ("forward", "reverse") for count in (101, 200)}
    assert set(seen) == {"bound", "pilot", "equilibrium"} | ways
    assert all(steps == list(range(1, total[name] + 1)) for name, steps in seen.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperatures": 3}, "likelihood.temperatures must be .*at least 4; got 3"),
        ({"temperatures": "many"}, "likelihood.temperatures must be a whole number"),
        ({"sweeps": 5}, "likelihood.sweeps must be .*at least 20"),
        ({"chains": 1}, "likelihood.chains must be .*at least 4; got 1"),
        ({"base": "zeros"}, "data_mean, uniform"),
        ({"placement": "log"}, "equal, even"),
    ],
)
def test_settings_that_cannot_work_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(SETTINGS, **change)  # type: ignore[arg-type]


def test_gaussian_pixels_have_a_card_too() -> None:
    machine, images = known_machine("Gaussian RBM, trained")
    found = measured(machine, images)
    assert found.determined
    # its variance of 1 is too large for pixels that were divided by more than their deviation: independent units know better
    alone = torch.distributions.Normal(images.mean(0), images.std(0, correction=0).clamp_min(1e-3))
    own = images.std(0) > 0
    units = float(alone.log_prob(images)[:, own].sum(1).mean())
    assert found.independent["test"] == pytest.approx(
        units, rel=0.15
    )  # pixels that do not vary have a variance of choice
    assert found.intervals["test"].high < found.independent["test"]


def test_the_figure_shows_both_directions() -> None:
    found = estimates()
    figure = plots.log_partition_estimates(
        {"forward": ([0, 0.5, 1], [1.0, 4.0, 10.0]), "reverse": ([0, 0.5, 1], [1.0, 4.1, 10.1])},
        {"forward": [(100, 9.9, 0.4), (200, 10.0, 0.2)], "reverse": [(100, 10.2, 0.4), (200, 10.1, 0.2)]},
        (9.8, 10.3),
        "RBM: log Z",
        "; ".join(SETTINGS.objections(replace(found, r_hat={"free_energy": 1.3}))),
    )
    left, right = figure.axes
    assert [line.get_label() for line in left.lines] == ["forward", "reverse"]
    assert [tick.get_text() for tick in right.get_xticklabels()] == ["100", "200"]
    assert plots.to_rgb(figure).shape[2] == 3


def test_samples_may_be_given_where_they_are_known() -> None:
    machine = random_machine(("bernoulli", "bernoulli"), (5, 4), seed=3).map(lambda tensor: tensor.float())
    samples = exact_samples(machine, 50, torch.Generator().manual_seed(1))
    assert [tuple(state.shape) for state in samples] == [(50, 5), (50, 4)]
    assert digits("b").unique().tolist() == [0, 1]


# ------------------------------------------------------------------------------------------------------------ wiring


def configuration(name: str, folder: Path, *overrides: str) -> DictConfig:
    with initialize_config_dir(config_folder(), version_base="1.3"):
        return compose(name, overrides=[f"output_root={folder}", *overrides])


def test_training_ends_with_the_card_and_evaluation_repeats_it(tmp_path: Path) -> None:
    likelihood = ("likelihood.temperatures=300", "likelihood.chains=50", "likelihood.sweeps=100")
    config = configuration(
        "train", tmp_path, "data=digits", "model.layers.hidden.units=26", "training.epochs=1", "evaluation=full",
        "data.passes_per_epoch=6", "evaluation.every_epochs=0", "evaluation.fantasy_sweeps=5", "tracking.log_model=false",
        *likelihood,
    )  # fmt: skip
    run = tmp_path / "run"
    last = train(config, run)
    card = json.loads((run / "likelihood.json").read_text())
    assert card["method"] == "AIS"
    assert card["log_likelihood_nats_per_image"]["test"]["low"] == last["test/log_likelihood_low"]
    assert (run / "log_partition.png").is_file()

    metrics = evaluate(
        configuration("evaluate", tmp_path, f"run={run}", "diagnostics=null", *likelihood),
        str(run),
        tmp_path / "evaluation",
    )
    assert metrics["test/log_likelihood_low"] == pytest.approx(last["test/log_likelihood_low"], abs=0.3)
    record = records.find_run(config.tracking.uri or f"sqlite:///{tmp_path / 'mlflow.db'}", str(run))
    assert record.tags["ebm.likelihood"] == "determined"
    for part in ("test", "train"):
        assert record.metrics[f"{part}/log_likelihood_low"] < record.metrics[f"{part}/log_likelihood_high"]
    again = json.loads((tmp_path / "evaluation" / "likelihood.json").read_text())
    assert again["log_likelihood_nats_per_image"]["test"]["low"] == record.metrics["test/log_likelihood_low"]


def test_without_settings_there_is_no_card(tmp_path: Path) -> None:
    assert configuration("evaluate", tmp_path, "run=x", "diagnostics=null").diagnostics is None
    assert configuration("train", tmp_path).likelihood is None
    assert configuration("train", tmp_path, "evaluation=full").likelihood.temperatures == 10_000
    assert configuration("evaluate", tmp_path, "run=x").likelihood.temperatures == 10_000
    assert configuration("evaluate", tmp_path, "run=x", "likelihood=null").likelihood is None
