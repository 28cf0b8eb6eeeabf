"""The verdict: each kind from constructed figures, the figure that decided and the setting to change; and on known machines."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
import torch
from commands import composed
from helpers import random_machine
from torch import Tensor

from benchmarks.verdict import at_its_start, judged, two_modes
from ebm_pipeline.configuration import build
from ebm_pipeline.errors import UserError
from ebm_pipeline.evaluation.ais import LogPartition
from ebm_pipeline.evaluation.card import Interval, LikelihoodCard
from ebm_pipeline.evaluation.diagnostics import Checkpoint, Diagnosis
from ebm_pipeline.evaluation.enumeration import exact_log_partition
from ebm_pipeline.evaluation.likelihood import independent_log_likelihood, unnormalized
from ebm_pipeline.evaluation.verdict import Criteria, Gap, Verdict, gap
from ebm_pipeline.inference import MeanField
from ebm_pipeline.layers import Bernoulli

CRITERIA = Criteria(most_r_hat=1.05, most_deviation=0.25, most_loss=0.1, least_gain=0.01, most_overfitting=0.25)
PIXELS = 100


def card(train: float = -50.0, test: float = -52.0, reasons: tuple[str, ...] = ()) -> LikelihoodCard:
    """log Z = 0, independent pixels at -70 nats."""
    return LikelihoodCard(
        "log_likelihood", "exact", "threshold", {"test": 500, "train": 1000}, {"test": test, "train": train},
        {"test": -70.0, "train": -70.0}, Interval(0.0, 0.0), reasons, 1.0, image_errors={"test": 0.3, "train": 0.2},
    )  # fmt: skip


def diagnosis(r_hat: float = 1.0, short: float = 0.05, long: float = 0.06) -> Diagnosis:
    figures = {"samples_r_hat": r_hat, "chains_r_hat": 1.4, "energy_autocorrelation_sweeps": 340.0}
    way = [Checkpoint(10, 0.0, 0.1, short), Checkpoint(1000, 0.0, 0.1, long)]
    return Diagnosis(figures, "drawn", 1000, {}, {}, {"data": way, "noise": way}, {}, {}, {})


def judge(found: LikelihoodCard | None, seen: Diagnosis | None, apart: Gap | None = None) -> Verdict:
    return CRITERIA({"reconstruction_error": 0.1}, PIXELS, found, seen, apart)


def test_a_good_machine_is_trustworthy_though_its_single_chains_do_not_mix() -> None:
    verdict = judge(card(), diagnosis())
    assert verdict.name == "trustworthy"
    assert "test: -52.00 nats" in verdict.reason
    assert "10% of the gain" in verdict.reason
    assert "R-hat 1.40 within 1,000 sweeps, autocorrelation time of the free energy 340 sweeps" in verdict.beside
    assert verdict.tags()["verdict"] == "trustworthy"
    assert "\n" not in str(verdict)


@pytest.mark.parametrize(
    ("found", "seen", "name", "reason"),
    [
        (card(train=-81.0), diagnosis(1.5), "diverged", r"11\.0 nats .* above 10 \(0\.1 per pixel\): lower optimizer.lr"),
        (card(), diagnosis(1.31), "out of equilibrium", r"1\.31 after 1,000 sweeps, above 1\.05: raise diagnostics.sweeps"),
        (card(), diagnosis(math.nan), "diverged", "samples r hat is nan"),
        (card(), diagnosis(long=0.6), "out of equilibrium", r"0\.60 standard .*after 10 only 0\.05.*raise sampler.steps"),
        (card(reasons=("too wide: raise x",)), diagnosis(), "likelihood not determined", "too wide: raise x"),
        (card(-69.5, -69.5), diagnosis(), "untrained", r"0\.50 nats per image over .*below 1 .*raise training.epochs"),
        (card(test=-56.0), diagnosis(), "overfitting", r"6\.00 \+- 0\.36 nats more .* at least 26%.*above 25%"),
        (card(test=-55.5), diagnosis(), "trustworthy", "28% of the gain"),  # its errors could bring it below
        (card(), diagnosis(short=0.5, long=0.6), "trustworthy", "agree"),  # poor, but no drift: short chains are as far
    ],
)  # fmt: skip
def test_the_first_that_holds_decides(found: LikelihoodCard, seen: Diagnosis, name: str, reason: str) -> None:
    verdict = judge(found, seen)
    assert verdict.name == name, verdict
    assert re.search(reason, verdict.reason), verdict.reason


def test_the_longer_run_of_chains_decides_on_equilibrium() -> None:
    settled = replace(card(), r_hat={"free_energy": 1.01}, settings={"sweeps": 3000})
    assert judge(settled, diagnosis(1.2)).name == "trustworthy"
    verdict = judge(replace(settled, r_hat={"free_energy": 1.01, "component_1": 1.2}), diagnosis())
    assert verdict.name == "out of equilibrium"
    assert "component 1 " in verdict.reason
    assert "3,000 sweeps" in verdict.reason
    assert "raise likelihood.sweeps" in verdict.reason


def test_a_machine_far_too_bad_is_diverged_though_its_likelihood_is_not_determined() -> None:
    """Forward AIS cannot be much too high, however few samples carry its weight."""
    forward = LogPartition(40.0, 0.9, 1.2, 100, 1000)
    vague = replace(card(reasons=("few samples",)), forward=forward)
    assert judge(vague, diagnosis()).name == "diverged"  # -50 - (40 - 5) = -85, below -70 - 10
    assert judge(replace(vague, forward=replace(forward, value=34.0)), diagnosis()).name == "likelihood not determined"


def test_without_all_that_it_rests_on_there_is_no_good_verdict() -> None:
    assert "evaluation=full" in judge(None, None).reason
    assert "likelihood=null" in judge(None, diagnosis()).reason
    assert "diagnostics=null" in judge(card(), None).reason
    alone = replace(card(), images={"train": 1000})
    assert "part=test" in judge(alone, diagnosis()).reason
    assert {judge(None, None).name, judge(card(), None).name, judge(alone, diagnosis()).name} == {"not evaluated"}


def test_a_plain_training_can_be_found_diverged_or_overfitting() -> None:
    assert CRITERIA({"reconstruction_error": math.inf}, PIXELS, None, None).name == "diverged"
    assert judge(None, None, Gap(20.0, 1.0, 70.0)).name == "overfitting"
    assert judge(None, None, Gap(19.0, 1.0, 70.0)).name == "not evaluated"
    assert judge(None, None, Gap(500.0, 1.0, None)).name == "not evaluated"


def test_the_gap_is_the_difference_of_likelihoods(generator: torch.Generator) -> None:
    machine = random_machine(("bernoulli", "bernoulli"), (6, 4), seed=3)
    training, held_out = ((torch.rand(50, 6, generator=generator) < p).double() for p in (0.3, 0.6))
    mean = training.mean(0)
    log_partition = exact_log_partition(machine)

    def gained(images: Tensor) -> float:
        own = unnormalized(machine, images, MeanField()) - log_partition
        return own - independent_log_likelihood(machine, mean, images)

    found = gap(machine, mean, training, held_out, MeanField())
    assert found.nats == pytest.approx(gained(training) - gained(held_out))
    assert found.most == pytest.approx(-independent_log_likelihood(machine, mean, training))
    assert gap(machine, mean, training + 0.5, held_out, MeanField()).most is None


@pytest.mark.parametrize("name", ["most_r_hat", "most_deviation", "most_loss", "least_gain", "most_overfitting"])
def test_thresholds_that_cannot_work_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=rf"verdict\.{name} must be a number, above 0"):
        replace(CRITERIA, **{name: 0})


def test_the_thresholds_of_these_tests_are_those_of_the_configuration() -> None:
    assert build(composed().verdict, "verdict") == CRITERIA


def test_known_machines_get_their_verdict() -> None:
    assert judged(two_modes())[0].name == "out of equilibrium"
    images = (torch.rand(800, 12, generator=torch.Generator().manual_seed(3)) < 0.4).float()
    assert judged(at_its_start([Bernoulli.create(12), Bernoulli.create(8)], images))[0].name == "untrained"
