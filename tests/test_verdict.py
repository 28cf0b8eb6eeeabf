"""The verdict: each kind from constructed metrics, the metric that decided and the setting to change; and on known machines."""

from __future__ import annotations

import math
import re
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from commands import composed
from helpers import random_machine
from torch import Tensor

from benchmarks.verdict import at_its_start, judged, two_modes
from ebm_pipeline.evaluation.ais import LogPartition
from ebm_pipeline.evaluation.card import Interval, LikelihoodCard
from ebm_pipeline.evaluation.diagnostics import Checkpoint, Diagnosis
from ebm_pipeline.evaluation.enumeration import exact_log_partition
from ebm_pipeline.evaluation.gains import Gap, gap
from ebm_pipeline.evaluation.inside import HiddenLayer
from ebm_pipeline.evaluation.likelihood import independent_log_likelihood, independent_units, unnormalized
from ebm_pipeline.evaluation.verdict import Criteria, Verdict
from ebm_pipeline.models.inference import MeanField
from ebm_pipeline.models.layers import Bernoulli
from ebm_pipeline.runs.configuration import build
from ebm_pipeline.support.errors import UserError

CRITERIA = Criteria(
    most_r_hat=1.05, most_deviation=0.25, most_loss=0.02, least_gain=0.01, most_overfitting=0.25, most_covariance_deviation=0.5,
    most_chain_r_hat=1.2, most_idle=0.9, least_spread=0.02, least_use=0.01,
    least_participation=2,
)  # fmt: skip
PIXELS = 100


def card(train: float = -50.0, test: float = -52.0, reasons: tuple[str, ...] = (), **changes: Any) -> LikelihoodCard:
    """log Z = 0, independent units at -70 nats, images whose own entropy is 6 nats."""
    found = LikelihoodCard(
        "log_likelihood", "exact", "threshold", {"test": 500, "train": 1000}, {"test": test, "train": train},
        {"test": -70.0, "train": -70.0}, Interval(0.0, 0.0), reasons, 1.0, image_errors={"test": 0.3, "train": 0.2},
        highest={"test": -6.2, "train": -6.9},
    )  # fmt: skip
    return replace(found, **changes)


MEANS, COVARIANCES = {"train__samples_mean_deviation": 0.4}, {"train__samples_covariance_deviation": 0.7}


def diagnosis(r_hat: float = 1.0, short: float = 0.05, long: float = 0.06, **changes: Any) -> Diagnosis:
    """Of samples that are a little apart from the data; `changes` are metrics, and `exact` and `layers`."""
    metrics = {
        "sampler/r_hat": r_hat, "sampler/chains_r_hat": 1.1, "sampler/energy_autocorrelation_sweeps": 340.0,
        "test/samples_energy_distance": 0.1, "test/samples_energy_distance_error": 0.02,
        "test/samples_adversarial_accuracy": 0.71, "test/samples_adversarial_accuracy_error": 0.02,
        "test/samples_adversarial_accuracy_of_samples": 0.62, "test/samples_adversarial_accuracy_of_data": 0.8,
        "test/data_adversarial_accuracy": 0.5, "test/independent_energy_distance": 0.8,
        "test/independent_energy_distance_error": 0.02,
        "train/samples_mean_deviation": 0.05, "train/samples_covariance_deviation": 0.1,
    }  # fmt: skip
    exact, layers = changes.pop("exact", False), changes.pop("layers", (hidden(),))
    way = [Checkpoint(10, 0.0, 0.1, short), Checkpoint(1000, 0.0, 0.1, long)]
    names = {name.replace("__", "/"): value for name, value in changes.items()}
    return Diagnosis(metrics | names, "drawn", 1000, {}, {}, {"data": way, "noise": way}, {}, {}, {}, exact, layers)


def hidden(index: int = 1, **changes: float) -> HiddenLayer:
    """A layer that works."""
    layer = HiddenLayer(index, 20, dead=0.2, saturated=0.1, spread=0.2, participation=8.0, images=12.0, use=40.0)
    return replace(layer, **changes)  # type: ignore[arg-type]


def judge(found: LikelihoodCard | None, seen: Diagnosis | None, apart: Gap | None = None) -> Verdict:
    return CRITERIA({"validation/reconstruction_error": 0.1}, PIXELS, found, seen, apart)


def test_a_good_machine_is_trustworthy_and_the_line_says_how_good_it_is() -> None:
    verdict = judge(card(), diagnosis())
    assert verdict.name == "trustworthy"
    assert (
        "samples are told from test data in 71% +- 2% of cases (62% of samples, 80% of data; 50% is " in verdict.reason
    )
    assert "perfect; training data 50%)" in verdict.reason
    assert "test: -52.00 nats" in verdict.reason
    assert "10% of the gain" in verdict.reason
    assert "R-hat 1.10 within 1,000 sweeps, autocorrelation time of the free energy 340 sweeps" in verdict.beside
    assert verdict.tags()["ebm.verdict"] == "trustworthy"
    assert "\n" not in str(verdict)


@pytest.mark.parametrize(
    ("found", "seen", "name", "reason"),
    [
        (card(), diagnosis(math.nan), "diverged", "sampler/r_hat is nan"),
        (card(train=-81.0), diagnosis(1.5), "not a model of these data", r"10\.6 nats .* above 2 .*lower optimizer.lr"),
        (card(test=-6.0), diagnosis(), "not a model of these data", r"-6\.00 nats .*no distribution .* than -6\.20.*no states"),
        (card(24.0, 24.0), diagnosis(), "not a model of these data", r"24\.00 nats"),
        (card(varies=False), diagnosis(), "not a model of these data", "all the same"),
        (card(), diagnosis(1.31), "out of equilibrium", r"1\.31 after 1,000 sweeps, above 1\.05: raise diagnostics.sweeps"),
        (card(), diagnosis(long=0.6), "out of equilibrium", r"0\.60 standard .*after 10 sweeps only 0\.05.*sampler.steps"),
        (card(reasons=("too wide: raise x",)), diagnosis(), "likelihood not determined", "too wide: raise x"),
        (card(-69.5, -69.5), diagnosis(), "untrained", r"0\.50 nats per image over .*below 1 .*raise training.epochs"),
        (card(-70.5, -70.5), diagnosis(), "untrained", "learned nothing"),  # not surely below
        (card(), diagnosis(**MEANS), "samples unlike the data", r"means .*by samples.* 0\.40 .*above 0\.25"),
        (card(), diagnosis(**COVARIANCES), "samples unlike the data", r"covariances .*0\.70 .*above 0\.5"),
        (card(), diagnosis(test__samples_energy_distance=0.9), "samples unlike the data", r"0\.9 \+- 0\.02, .*only 0\.8"),
        (card(), diagnosis(layers=(hidden(), hidden(2, spread=0.01))), "a layer without use", r"layer 2 \(20 .*0\.010.*pretrain"),
        (card(), diagnosis(layers=(hidden(dead=0.95, saturated=0.0),)), "a layer without use", "95% .*dead.*weaker penalty"),
        (card(), diagnosis(layers=(hidden(saturated=1.0, dead=0.0),)), "a layer without use", "100% saturated.*rbm_sparse"),
        (card(), diagnosis(layers=(hidden(2, participation=1.05),)), "a layer without use", "collapsed.*1.1 directions"),
        (card(), diagnosis(layers=(hidden(2, participation=1.05, images=1.2),)), "trustworthy", "agree"),  # so are the data
        (card(test=-56.0), diagnosis(), "overfitting", r"6\.00 \+- 0\.36 nats more .* 30% .*above 25%"),
        (card(test=-56.0), diagnosis(test__samples_energy_distance=0.9), "overfitting", "take more data"),  # so are they far
        (card(test=-56.0), diagnosis(train__samples_covariance_deviation=0.7), "samples unlike the data", "training data"),
        (card(test=-54.5), diagnosis(), "trustworthy", "22% of the gain"),
        (card(test=-56.0, image_errors={"test": 3.0, "train": 1.0}), diagnosis(), "too few images", "3.16 .*1000 and 500 images"),
    ],
)  # fmt: skip
def test_the_first_that_holds_decides(found: LikelihoodCard, seen: Diagnosis, name: str, reason: str) -> None:
    verdict = judge(found, seen)
    assert verdict.name == name, verdict
    assert re.search(reason, verdict.reason), verdict.reason


def test_a_layer_above_the_first_is_spoken_of_beside_any_name() -> None:
    """Unused: without it the bound is as good; collapsed: all units say the same of what the layer below says in many ways."""
    unused, collapsed = hidden(2, use=0.3, spread=0.05), hidden(2, participation=1.5)
    for seen, name in ((diagnosis(), "trustworthy"), (diagnosis(1.5), "out of equilibrium")):
        beside = judge(card(), replace(seen, layers=(hidden(), unused))).beside
        assert judge(card(), replace(seen, layers=(hidden(), unused))).name == name
        assert beside.startswith("single chains: ")
        assert (
            "layer 2 (20 units) is unused: its units' means spread by 0.05 over the images, and without it the"
            in beside
        )
        assert "at most 0.3 nats lower, without layer 1 40" in beside
    beside = judge(card(), diagnosis(layers=(hidden(), collapsed))).beside
    assert (
        "layer 2 (20 units) has collapsed: its units' means vary in 1.5 directions, those of the layer below in 8.0"
        in beside
    )
    for fine in (hidden(2), hidden(2, use=0.5), replace(collapsed, units=4)):
        assert "layer" not in judge(card(), diagnosis(layers=(hidden(), fine))).beside
    assert (
        "layer" not in judge(card(), diagnosis(layers=(hidden(participation=4.0), collapsed))).beside
    )  # neither does that below


def test_a_layer_that_decides_is_not_spoken_of_twice() -> None:
    verdict = judge(
        card(), diagnosis(layers=(hidden(), hidden(2, use=0.0, spread=0.01), hidden(3, use=0.0, spread=0.0)))
    )
    assert verdict.name == "a layer without use"
    assert "layer" not in verdict.beside
    plain = CRITERIA({}, PIXELS, None, None, None, (hidden(), hidden(2, use=0.0), hidden(3, use=0.0)))
    assert plain.name == "not evaluated"
    assert plain.beside.startswith("layer 2 (20 units) is unused")
    assert "layer 3" not in plain.beside  # it hears nothing
    dead = CRITERIA({}, PIXELS, None, None, None, (hidden(use=-1e-4), hidden(2, use=1e-4)))
    assert "layer 2 (20 units) is unused" in dead.beside


def test_a_distance_counts_beyond_the_errors_of_both() -> None:
    """With 50 training images that of independent units had ten times the error of the samples, and was taken as exact."""
    far = {"test__samples_energy_distance": 0.9, "test__samples_energy_distance_error": 0.003}
    assert (
        judge(card(), diagnosis(test__independent_energy_distance_error=0.03, **far)).name == "samples unlike the data"
    )
    assert judge(card(), diagnosis(test__independent_energy_distance_error=0.04, **far)).name == "trustworthy"


def test_samples_of_chains_that_do_not_mix_decide_nothing_and_say_so() -> None:
    poor = {
        "train__samples_mean_deviation": 0.4,
        "train__samples_covariance_deviation": 0.7,
        "test__samples_energy_distance": 0.9,
    }
    unmixed = judge(card(), diagnosis(sampler__chains_r_hat=1.8, **poor))
    assert unmixed.name == "trustworthy"
    assert "single chains do not mix (R-hat 1.80" in unmixed.reason
    assert "told from" not in unmixed.reason
    exact = judge(card(), diagnosis(short=0.3, long=0.3, sampler__chains_r_hat=1.8, exact=True, **poor))
    assert exact.name == "samples unlike the data"
    assert "exactly" in exact.reason


def test_chains_that_never_move_have_not_diverged() -> None:
    """R-hat of chains that stand apart is no number: the machine was "diverged: chains r hat is inf ... lower optimizer.lr"."""
    seen = diagnosis()
    for name in ("sampler/chains_r_hat", "sampler/energy_autocorrelation_sweeps"):
        del seen.metrics[name]
    verdict = judge(replace(card(), weighted_deviation=(0.12, 0.1)), seen)
    assert verdict.name == "trustworthy"
    assert "do not mix (R-hat not defined (no chain moves, though they stand apart)), so" in verdict.reason
    assert (
        "by the weights of AIS the means lie 0.12 standard deviations from the data's (0.10 by chance)"
        in verdict.reason
    )
    assert "free energy not defined (it never changes)" in verdict.beside
    del seen.metrics["sampler/r_hat"]
    apart = judge(card(), seen)
    assert apart.name == "out of equilibrium"
    assert "not defined (no chain moves, though they stand apart) after 1,000 sweeps: raise" in apart.reason


def test_the_longer_run_of_chains_decides_on_equilibrium() -> None:
    settled = replace(card(), r_hat={"free_energy": 1.01}, settings={"sweeps": 3000})
    assert judge(settled, diagnosis(1.2)).name == "trustworthy"
    verdict = judge(replace(settled, r_hat={"free_energy": 1.01, "component_1": 1.2}), diagnosis())
    assert verdict.name == "out of equilibrium"
    assert "component 1 " in verdict.reason
    assert "3,000 sweeps" in verdict.reason
    assert "raise likelihood.sweeps" in verdict.reason


def test_a_machine_far_too_bad_is_no_model_though_its_likelihood_is_not_determined() -> None:
    """Forward AIS cannot be much too high, however few samples carry its weight."""
    forward = LogPartition(40.0, 0.9, 1.2, 100, 1000)
    vague = replace(card(reasons=("few samples",)), forward=forward)
    assert judge(vague, diagnosis()).name == "not a model of these data"  # -50 - (40 - 5) = -85, below -70 - 2
    assert judge(replace(vague, forward=replace(forward, value=26.0)), diagnosis()).name == "likelihood not determined"


def test_without_all_that_it_rests_on_there_is_no_good_verdict() -> None:
    assert "evaluation=full" in judge(None, None).reason
    assert "likelihood=null" in judge(None, diagnosis()).reason
    assert "diagnostics=null" in judge(card(), None).reason
    alone = replace(card(), images={"train": 1000})
    assert "part=test" in judge(alone, diagnosis()).reason
    assert {judge(None, None).name, judge(card(), None).name, judge(alone, diagnosis()).name} == {"not evaluated"}


def test_a_plain_training_can_be_found_diverged_or_overfitting() -> None:
    assert CRITERIA({"validation/reconstruction_error": math.inf}, PIXELS, None, None).name == "diverged"
    assert judge(None, None, Gap(20.0, 1.0, 70.0)).name == "overfitting"
    assert judge(None, None, Gap(17.0, 1.0, 70.0)).name == "not evaluated"
    assert judge(None, None, Gap(20.0, 11.0, 70.0)).name == "not evaluated"
    assert judge(None, None, Gap(500.0, 1.0, None)).name == "not evaluated"


def test_the_gap_is_the_difference_of_likelihoods(generator: torch.Generator) -> None:
    machine = random_machine(("bernoulli", "bernoulli"), (6, 4), seed=3)
    training, held_out = ((torch.rand(50, 6, generator=generator) < p).double() for p in (0.3, 0.6))
    units = independent_units(machine.layers[0], training)
    log_partition = exact_log_partition(machine)

    def gained(images: Tensor) -> float:
        own = unnormalized(machine, images, MeanField()) - log_partition
        return own - independent_log_likelihood(units, images)

    found = gap(machine, training, held_out, MeanField())
    assert found.nats == pytest.approx(gained(training) - gained(held_out))
    assert found.most == pytest.approx(-independent_log_likelihood(units, training))
    assert gap(machine, training + 0.5, held_out, MeanField()).most is None


@pytest.mark.parametrize("name", [field.name for field in fields(Criteria)])
def test_thresholds_that_cannot_work_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=rf"verdict\.{name} must be a number, above 0"):
        replace(CRITERIA, **{name: 0})


def test_the_thresholds_of_these_tests_are_those_of_the_configuration() -> None:
    assert build(composed().verdict, "verdict") == CRITERIA


def test_known_machines_get_their_verdict() -> None:
    assert judged(two_modes())[0].name == "not a model of these data"  # half of it is a mode that the data do not have
    images = (torch.rand(800, 12, generator=torch.Generator().manual_seed(3)) < 0.4).float()
    assert judged(at_its_start([Bernoulli.create(12), Bernoulli.create(8)], images))[0].name == "untrained"
