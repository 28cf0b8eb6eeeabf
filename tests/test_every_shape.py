"""Each number of an evaluation against a computation of its own (NumPy, SciPy, enumeration), on every unit type and shape."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
from helpers import (
    DISCRETE_MACHINES,
    MACHINES,
    assert_same_distribution,
    joint_probabilities,
    joint_states,
    naive_energy,
    normal,
    random_machine,
    state_counts,
)
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from ebm_pipeline.evaluation import diagnostics, two_sample
from ebm_pipeline.evaluation.card import Likelihood
from ebm_pipeline.evaluation.cost import OPERATIONS, Cost
from ebm_pipeline.evaluation.diagnostics import MOST_DRAWS, MOST_OPERATIONS, Diagnostics
from ebm_pipeline.evaluation.enumeration import enumerable_parity, enumerate_machine
from ebm_pipeline.evaluation.equilibrium import _r_hat, shown_r_hat
from ebm_pipeline.evaluation.inside import hidden_layers, participation
from ebm_pipeline.evaluation.likelihood import independent_units
from ebm_pipeline.evaluation.two_sample import (
    compare_samples,
    covariance_deviation,
    energy_distance,
    mean_deviation,
    principal_components,
)
from ebm_pipeline.models.inference import MeanField
from ebm_pipeline.models.layers import Bernoulli
from ebm_pipeline.models.machine import BoltzmannMachine, assemble

Case = tuple[tuple[str, ...], tuple[int, ...]]
ENUMERATED = [case for case in MACHINES if enumerable_parity(random_machine(*case, seed=1)) is not None]
SETTINGS = Diagnostics(chains=30, sweeps=20)


def drawn(machine: BoltzmannMachine, count: int, generator: torch.Generator) -> Tensor:
    """States of the visible layer that need not be likely (count, units)."""
    blank = machine.independent().layers[0]
    return blank.sample(torch.zeros(count, blank.units, dtype=torch.float64), generator)


# ------------------------------------------------------------------------------------------------------- enumeration


@pytest.mark.parametrize("case", DISCRETE_MACHINES, ids=str)
def test_exact_samples_have_the_joint_distribution(case: Case, generator: torch.Generator) -> None:
    machine = random_machine(*case, seed=4, offsets=0.5)
    probabilities = joint_probabilities(machine)[1]
    samples = enumerate_machine(machine).sample(20_000, generator)
    assert_same_distribution(state_counts(machine, samples), probabilities)


@pytest.mark.parametrize("case", DISCRETE_MACHINES, ids=str)
def test_exact_means_are_those_of_brute_force(case: Case) -> None:
    machine = random_machine(*case, seed=5, offsets=0.5)
    states, probabilities = joint_probabilities(machine)
    torch.testing.assert_close(enumerate_machine(machine).visible_mean, probabilities @ states[0])


@pytest.mark.parametrize("case", [case for case in ENUMERATED if case not in DISCRETE_MACHINES], ids=str)
def test_exact_means_of_real_units_are_those_of_exact_samples(case: Case, generator: torch.Generator) -> None:
    found = enumerate_machine(random_machine(*case, seed=6))
    samples = found.sample(40_000, generator)[0]
    error = samples.std(0) / len(samples) ** 0.5
    assert float(((samples.mean(0) - found.visible_mean).abs() / error).max()) < 5


def test_samples_of_many_blocks_of_states(generator: torch.Generator) -> None:
    """2^16 states lie in four blocks: with these biases each of the two bits that tell them apart is on in a third."""
    layers = [Bernoulli(torch.zeros(20).double()), Bernoulli(torch.full((16,), -math.log(2)).double())]
    machine = assemble(layers, [torch.zeros(20, 16, dtype=torch.float64)])
    found = enumerate_machine(machine)
    assert len(found.log_weights) == 4
    hidden = found.sample(20_000, generator)[1]
    assert float((hidden.mean(0) - 1 / 3).abs().max()) < 5 * (2 / 9 / 20_000) ** 0.5


# ------------------------------------------------------------------------------------------------ samples against data


def test_energy_distance_is_that_of_scipy_in_one_dimension(generator: torch.Generator) -> None:
    x, y = normal(generator, 300, 1), normal(generator, 300, 1) + 0.5
    biased = (
        scipy.stats.energy_distance(x[:, 0].numpy(), y[:, 0].numpy()) ** 2
    )  # V-statistics, with distances to itself
    within = sum(float((rows - rows.mT).abs().sum()) for rows in (x, y))
    assert compare_samples(x, y).energy_distance == pytest.approx(biased - within * (1 / (300 * 299) - 1 / 300**2))
    assert energy_distance(x, y) == pytest.approx(compare_samples(x, y).energy_distance)


def test_adversarial_accuracy_is_that_of_the_nearest_neighbours(generator: torch.Generator) -> None:
    x, y = normal(generator, 200, 3), 1.5 * normal(generator, 200, 3)
    both, labels = np.concatenate((x, y)), np.repeat((0, 1), 200)
    nearest = NearestNeighbors(n_neighbors=2).fit(both).kneighbors(both, return_distance=False)[:, 1]
    found = compare_samples(x, y)
    assert found.adversarial_accuracy == pytest.approx(np.mean(labels == labels[nearest]))
    assert found.adversarial_accuracy_of_samples == pytest.approx(np.mean(labels[nearest][:200] == 0))
    assert found.adversarial_accuracy_of_data == pytest.approx(np.mean(labels[nearest][200:] == 1))


def test_noise_about_images_is_seen_in_the_two_fractions_where_their_mean_is_a_half(generator: torch.Generator) -> None:
    """Independent units are told from MNIST in 51 % of cases: every one of them has an image for its nearest neighbour."""
    images, noise = 0.1 * normal(generator, 200, 300), normal(generator, 200, 300)
    found = compare_samples(noise, images)
    assert found.adversarial_accuracy == pytest.approx(0.5, abs=0.02)
    assert found.adversarial_accuracy_of_samples < 0.02
    assert found.adversarial_accuracy_of_data > 0.98


def test_errors_by_chance_are_the_spread_over_sets_of_one_distribution(generator: torch.Generator) -> None:
    found = [compare_samples(normal(generator, 60, 4), normal(generator, 60, 4), seed) for seed in range(60)]
    for name in ("energy_distance", "adversarial_accuracy"):
        spread = np.std([getattr(one, name) for one in found])
        stated = np.mean([getattr(one, f"{name}_error") for one in found])
        assert stated == pytest.approx(spread, rel=0.35), name  # a deviation from 60 values has an error of 9 %


def test_deviations_against_numpy(generator: torch.Generator) -> None:
    x, y, z = normal(generator, 500, 4) + 1, 2 * normal(generator, 500, 4), 2 * normal(generator, 500, 4)
    a, b, c = x.numpy(), y.numpy(), z.numpy()
    expected = np.sqrt(((a.mean(0) - b.mean(0)) ** 2).mean() / b.var(0).mean())
    assert mean_deviation(x, y) == pytest.approx(expected)
    own = np.cov(b.T)
    squares = ((np.cov(a.T) - own) ** 2).sum() - ((np.cov(c.T) - own) ** 2).sum()
    assert covariance_deviation(x, y, z) == pytest.approx(np.sqrt(squares) / np.linalg.norm(own))
    assert covariance_deviation(z, y, z) == 0


@pytest.mark.parametrize("shape", [(50, 8), (8, 50)])
def test_components_are_those_of_a_singular_value_decomposition(
    shape: tuple[int, int], generator: torch.Generator
) -> None:
    x = normal(generator, *shape) * torch.arange(1, shape[1] + 1)
    (points,) = principal_components(x, 3, x)
    centred = (x - x.mean(0)).numpy()
    values = np.linalg.svd(centred, compute_uv=False)[:3]
    np.testing.assert_allclose(np.linalg.norm(points.numpy(), axis=0), values, rtol=1e-8)


def test_the_participation_is_that_of_the_eigenvalues(generator: torch.Generator) -> None:
    for shape in ((40, 6), (6, 40)):
        rows = normal(generator, *shape)
        eigenvalues = np.linalg.svd((rows - rows.mean(0)).numpy(), compute_uv=False) ** 2
        assert participation(rows) == pytest.approx(eigenvalues.sum() ** 2 / (eigenvalues**2).sum())
    assert participation(torch.ones(5, 3)) == 0


def test_a_layer_that_says_the_same_of_every_image_is_seen(generator: torch.Generator) -> None:
    """The first weights are rich, those of the deep layer carry one direction that hardly moves: 30, 6, 6, ... or none."""
    machine = random_machine(("bernoulli", "bernoulli", "bernoulli"), (12, 10, 8), seed=3, weights=1.5)
    images = (normal(generator, 200, 12) > 0).double()
    unused = machine.with_tensors({"weights/1": torch.zeros(10, 8, dtype=torch.float64)})
    first, deep = hidden_layers(unused, images, MeanField())
    assert first.spread > 0.1
    assert first.participation > 2
    assert deep.spread == pytest.approx(0, abs=1e-12)
    assert deep.idle == 1
    large = machine.with_tensors({"layers/2/bias": torch.full((8,), 50.0, dtype=torch.float64)})
    assert hidden_layers(large, images, MeanField())[1].saturated == 1


# ---------------------------------------------------------------------------------------------------- every shape


@pytest.mark.parametrize("case", MACHINES, ids=str)
def test_every_number_of_every_unit_type_is_finite(case: Case, generator: torch.Generator) -> None:
    machine = random_machine(*case, seed=8)
    held_out, training = drawn(machine, 40, generator), drawn(machine, 60, generator)
    found = SETTINGS(machine, {"test": held_out, "train": training}, MeanField(), 1)
    assert {name for name, value in found.metrics.items() if not math.isfinite(value)} == set()


@pytest.mark.parametrize(
    ("units", "hidden", "rows"), [(1, 1, 30), (1, 3, 4), (3, 1, 30), (2, 2, 4), (300, 1, 4), (1500, 2, 12)]
)
@pytest.mark.parametrize("kind", ["varied", "constant"])
def test_every_number_of_every_shape_is_finite(units: int, hidden: int, rows: int, kind: str) -> None:
    machine = random_machine(("bernoulli", "bernoulli"), (units, hidden), seed=9, weights=0.1)
    generator = torch.Generator().manual_seed(1)
    share = 0.4 if kind == "varied" else 0.0
    held_out, training = ((torch.rand(rows, units, generator=generator) < share).double() for _ in range(2))
    found = SETTINGS(machine, {"test": held_out, "train": training}, MeanField(), 1)
    assert {name for name, value in found.metrics.items() if not math.isfinite(value)} == set()
    assert found.points["samples"].shape[1] == 2
    assert ("covariances of" in found.drawn) == (units > two_sample.MOST_UNITS)


def coupled(strength: float, bias: float) -> BoltzmannMachine:
    """Units of two layers that are on or off all together for good, if the strength is large; with bias -200 off for good."""
    biases = [torch.full((units,), bias - strength * others / 2).double() for units, others in ((6, 3), (3, 6))]
    return assemble([Bernoulli(own) for own in biases], [torch.full((6, 3), strength, dtype=torch.float64)])


@pytest.mark.parametrize(("strength", "bias"), [(50.0, 0.0), (50.0, 1e-3), (0.0, -200.0), (0.0, 0.0)])
@pytest.mark.parametrize("exact_units", [20, 0])
def test_what_chains_that_never_move_leave_undefined_is_left_out(
    strength: float, bias: float, exact_units: int, recwarn: pytest.WarningsRecorder
) -> None:
    generator = torch.Generator().manual_seed(0)
    data = (torch.rand(60, 1, generator=generator) < 0.5).double().expand(60, 6)
    settings = Diagnostics(chains=20, sweeps=40, exact_units=exact_units)
    found = settings(coupled(strength, bias), {"test": data[:30], "train": data}, MeanField(), 1)
    assert not [warning for warning in recwarn if "divide" in str(warning.message)]
    assert {name for name, value in found.metrics.items() if not math.isfinite(value) or value > 1e6} == set()
    assert ("sampler/chains_r_hat" in found.metrics) == (strength == 0)  # chains that stay apart have none
    assert ("not defined (no chain moves" in found.mixing) == (strength > 0)


@pytest.mark.parametrize("apart", [1.0, 1e-5, 1e9])
def test_r_hat_of_chains_that_stand_apart_is_not_defined(apart: float) -> None:
    stands = torch.tensor([0.0, apart]).double()[:, None].expand(2, 40)
    assert _r_hat(stands) == math.inf
    assert _r_hat(0 * stands) == 1
    assert math.isnan(_r_hat(stands * math.inf))
    assert shown_r_hat(math.inf).startswith("not defined")
    assert shown_r_hat(1.25) == "1.250"


def test_the_cost_of_many_units_is_bounded_and_said() -> None:
    settings = Diagnostics(chains=500, sweeps=1000)
    small, large = (
        assemble([Bernoulli.create(units), Bernoulli.create(1)], [torch.zeros(units, 1)]) for units in (900, 10_000)
    )
    assert settings.chains_of(small) == 500
    assert 2 * 1000 * 10_001 * settings.chains_of(large) <= MOST_DRAWS
    few = Diagnostics(chains=30, sweeps=20)
    object.__setattr__(few, "sweeps", 100_000)  # as many draws as would be too many, without making them
    assert few.chains_of(large) == 20
    # two layers of 4,000 units: the products with 1.6e7 weights cost more than the draws
    weighty = assemble([Bernoulli.create(4000), Bernoulli.create(4000)], [torch.zeros(1, 1).expand(4000, 4000)])
    chains = settings.chains_of(weighty)
    assert (
        Cost.of(weighty, 2 * 1000 * chains).operations
        <= MOST_OPERATIONS
        < Cost.of(weighty, 2 * 1000 * (chains + 1)).operations
    )
    assert Diagnostics(chains=500, sweeps=1000).chains_of(usual_machine()) == 500  # that of MNIST has all of its chains


def test_independent_units_are_compared_with_as_many_images_as_the_samples_are() -> None:
    """Of 20 training images and 400 others: 20 samples of independent units were, whose distance is chance."""
    generator = torch.Generator().manual_seed(3)
    images = (torch.rand(420, 1, generator=generator) < 0.5).double() * (torch.rand(420, 12, generator=generator) < 0.9)
    machine = random_machine(("bernoulli", "bernoulli"), (12, 4), seed=1, weights=0.3)
    found = Diagnostics(chains=300, sweeps=20)(
        machine, {"test": images[20:], "train": images[:20]}, MeanField(), 1
    ).metrics
    alone = independent_units(machine.layers[0], images[:20])
    truth = [
        energy_distance(
            (torch.rand(300, 12, generator=generator) < alone.mean(torch.zeros(12))).double(), images[20:320]
        )
        for _ in range(20)
    ]
    mean = sum(truth) / 20
    assert found["test/independent_energy_distance"] == pytest.approx(
        mean, abs=4 * found["test/independent_energy_distance_error"]
    )
    assert found["test/independent_energy_distance_error"] < 0.2 * mean


def usual_machine() -> BoltzmannMachine:
    return assemble([Bernoulli.create(784), Bernoulli.create(200)], [torch.zeros(784, 200)])


def test_what_a_limit_left_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = random_machine(("bernoulli", "bernoulli"), (30, 40), seed=2, weights=0.1)
    images = (torch.rand(40, 30, generator=torch.Generator().manual_seed(1)) < 0.5).double()
    monkeypatch.setattr(diagnostics, "MOST_OPERATIONS", 25 * 2 * 20 * OPERATIONS * 1200)
    found = Diagnostics(chains=30, sweeps=20)(machine, {"test": images, "train": images}, MeanField(), 1)
    assert "(25 of 30 chains, as all would take more than 4.8e+06 operations in products)" in found.drawn
    monkeypatch.setattr(diagnostics, "MOST_DRAWS", 22 * 2 * 20 * 70)
    found = Diagnostics(chains=30, sweeps=20)(machine, {"test": images, "train": images}, MeanField(), 1)
    assert "(22 of 30 chains, as all would draw more than 6.2e+04 states of units)" in found.drawn


def test_the_cost_of_a_card_is_that_of_its_chains() -> None:
    """Counted: sweeps of each chain in the pilot run, on the way to equilibrium, and forward and reverse with all and half."""
    settings = {"base": "data", "most_width": 1.0, "least_ess": 20.0, "most_r_hat": 1.1}
    card = Likelihood(temperatures=1000, chains=500, placement="equal", sweeps=200, **settings)  # type: ignore[arg-type]
    cost = card.cost(usual_machine())
    assert cost is not None
    sweeps = 500 * (100 + 2 * 200 + 2 * 1000 + 2 * 500)
    assert (cost.draws, cost.operations) == (sweeps * 984, sweeps * 4 * 784 * 200)
    assert "draws of units and " in str(cost)
    assert replace(card, temperatures=2000, placement="even").cost(usual_machine()).draws == 500 * (400 + 6000) * 984  # type: ignore[union-attr]
    assert (
        card.cost(assemble([Bernoulli.create(784), Bernoulli.create(20)], [torch.zeros(784, 20)])) is None
    )  # enumerated


def test_free_energies_against_enumeration_by_loops() -> None:
    """The energies that the diagnosis shows are those of the machine: -log sum_h exp(-E), by brute force."""
    machine = random_machine(("bernoulli", "bernoulli"), (4, 3), seed=11)
    states = joint_states(machine)
    visible, inverse = states[0].unique(dim=0, return_inverse=True)
    energies = naive_energy(machine, states)
    expected = torch.stack([-torch.logsumexp(-energies[inverse == row], 0) for row in range(len(visible))])
    found = SETTINGS(machine, {"test": visible, "train": visible}, MeanField(), 1).energies["train"]
    torch.testing.assert_close(found.sort().values, (expected - expected.mean()).sort().values)
