"""Samples against data, and the look inside a machine: known answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import joint_probabilities, naive_energy, normal, random_machine
from torch import Tensor

from ebm_pipeline.evaluation.inside import (
    heat_capacity,
    hidden_layers,
    hidden_units,
    singular_values,
    weight_participation,
)
from ebm_pipeline.evaluation.two_sample import compare_samples, energy_distance, frechet_distance, mean_deviation
from ebm_pipeline.models.inference import MeanField
from ebm_pipeline.support.errors import UserError


def test_samples_of_one_distribution_cannot_be_told_apart(generator: torch.Generator) -> None:
    result = compare_samples(normal(generator, 400, 5), normal(generator, 400, 5))
    assert result.adversarial_accuracy == pytest.approx(0.5, abs=5 * 0.5 / 400**0.5)
    assert abs(result.energy_distance) < 0.02  # of the order 1 / count
    assert result.mean_error < 5 * (2 / 400) ** 0.5
    assert result.frechet_distance < 0.2


def test_samples_far_away_are_apart(generator: torch.Generator) -> None:
    result = compare_samples(normal(generator, 100, 3) + 50, normal(generator, 100, 3))
    assert result.adversarial_accuracy == 1.0
    assert result.energy_coefficient > 0.9
    assert result.mean_error == pytest.approx(50, rel=0.02)


def test_copies_of_the_data_fall_below_one_half(generator: torch.Generator) -> None:
    data = normal(generator, 100, 8)
    assert compare_samples(data + 1e-6 * normal(generator, 100, 8), data).adversarial_accuracy == 0.0
    assert compare_samples(data, data).adversarial_accuracy == 0.0


def test_energy_distance_against_its_definition(generator: torch.Generator) -> None:
    x, y = normal(generator, 7, 2), normal(generator, 7, 2) + 1
    between = np.mean([float((a - b).norm()) for a in x for b in y])

    def within(rows: Tensor) -> float:
        return float(np.mean([float((a - b).norm()) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j]))

    expected = 2 * between - within(x) - within(y)
    assert compare_samples(x, y).energy_distance == pytest.approx(expected)
    assert compare_samples(x, y).energy_coefficient == pytest.approx(expected / (2 * between))


def test_frechet_distance_of_gaussians() -> None:
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(3, 3))
    x, y = rng.normal(size=(200_000, 3)) @ mixing.T, 2 * rng.normal(size=(200_000, 3)) @ mixing.T + [1, 0, 0]
    covariance = mixing @ mixing.T  # (1 - 2)^2 tr C + 1
    assert frechet_distance(x, y) == pytest.approx(np.trace(covariance) + 1, rel=0.03)


def test_shapes_that_do_not_match_are_refused() -> None:
    with pytest.raises(UserError, match=r"\(5, 3\) and \(6, 3\)"):
        compare_samples(torch.zeros(5, 3), torch.zeros(6, 3))


def test_dead_and_saturated_units(generator: torch.Generator) -> None:
    machine = random_machine(("bernoulli", "bernoulli"), (4, 3), seed=1)
    bias = torch.tensor([-50.0, 50.0, 0.0], dtype=torch.float64)
    machine = machine.with_tensors({"layers/1/bias": bias})
    images = (normal(generator, 50, 4) > 0).double()
    found = hidden_units(hidden_layers(machine, images, MeanField()))
    assert found == pytest.approx({"hidden_dead": 1 / 3, "hidden_saturated": 1 / 3})
    gaussian = random_machine(("bernoulli", "gaussian"), (4, 3), seed=1)
    assert hidden_units(hidden_layers(gaussian, images, MeanField())) == {
        "hidden_dead": 0.0,
        "hidden_saturated": 0.0,
    }


def test_weights_by_their_definitions() -> None:
    machine = random_machine(("bernoulli", "bernoulli"), (6, 4), seed=2)
    weights = torch.zeros(6, 4, dtype=torch.float64)
    weights[0], weights[:, 1] = 0.0, 0.5  # unit 1 uses all pixels, the others none
    machine = machine.with_tensors({"weights/0": weights})
    metrics = weight_participation(machine)
    assert metrics["weights/participation"] == pytest.approx(1 / 4)
    assert metrics["weights/square"] == pytest.approx(6 * 0.25 / 4)
    assert singular_values(machine) == pytest.approx(
        {"weights/largest_singular_value_1": 6**0.5 * 0.5, "weights/singular_participation_1": 1}
    )
    equal = machine.with_tensors({"weights/0": 3 * torch.eye(6, 4, dtype=torch.float64)})
    assert list(singular_values(equal).values()) == pytest.approx([3, 4])


def test_distances_of_sets_of_two_sizes(generator: torch.Generator) -> None:
    x, y = normal(generator, 40, 5), normal(generator, 40, 5) + 1
    assert energy_distance(x, y) == pytest.approx(compare_samples(x, y).energy_distance)
    assert energy_distance(x, y[:20]) == pytest.approx(energy_distance(x, y), rel=0.5)
    assert mean_deviation(normal(generator, 4000, 5) + 2, normal(generator, 9000, 5)) == pytest.approx(2, abs=0.1)


def test_heat_capacity_is_the_variance_of_the_energy(generator: torch.Generator) -> None:
    machine = random_machine(("bernoulli", "bernoulli"), (4, 3), seed=5)
    states, probabilities = joint_probabilities(machine)
    energies = naive_energy(machine, states)
    mean = probabilities @ energies
    exact = float(probabilities @ (energies - mean).square() / 7)
    rows = torch.multinomial(probabilities, 40_000, replacement=True, generator=generator)
    fourth = float(probabilities @ (energies - mean).pow(4)) / 49
    error = ((fourth - exact**2) / 40_000) ** 0.5
    assert heat_capacity(machine, tuple(state[rows] for state in states)) == pytest.approx(exact, abs=5 * error)
