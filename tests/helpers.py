"""Small random machines, their enumeration by brute force, tolerances from the Monte Carlo error; a picture."""

from __future__ import annotations

import itertools
import math
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ebm_pipeline.models.layers import LAYERS, Gaussian, Layer, Mixed, Potts, RectifiedGaussian
from ebm_pipeline.models.machine import BoltzmannMachine, States, assemble

# (kinds, sizes): every depth, with Gaussian layers at the bottom, in the middle and at the top
MACHINES = [
    (("bernoulli", "bernoulli"), (4, 3)),
    (("gaussian", "bernoulli"), (3, 4)),
    (("bernoulli", "gaussian"), (4, 3)),
    (("bernoulli", "bernoulli", "bernoulli"), (3, 3, 2)),
    (("gaussian", "bernoulli", "bernoulli"), (2, 3, 3)),
    (("bernoulli", "bernoulli", "bernoulli", "bernoulli"), (3, 2, 3, 2)),
    (("ising", "bernoulli"), (4, 3)),
    (("potts", "ising"), (6, 3)),
    (("bernoulli", "potts", "ising"), (3, 4, 2)),
    (("learned_gaussian", "bernoulli"), (3, 4)),
    (("bernoulli", "learned_gaussian"), (4, 2)),
    (("mixed", "bernoulli"), (4, 3)),
    (("bernoulli", "rectified_gaussian"), (4, 3)),
]
BINARY_MACHINES = [case for case in MACHINES if set(case[0]) == {"bernoulli"}]
DISCRETE_MACHINES = [case for case in MACHINES if set(case[0]) <= {"bernoulli", "ising", "potts"}]


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def random_layer(kind: str, units: int, generator: torch.Generator) -> Layer:
    """A layer of random parameters; a new kind needs a line here only for settings, or if a parameter has a limited range."""
    if kind == "mixed":
        parts = [random_layer("learned_gaussian", 1, generator), random_layer("bernoulli", units - 1, generator)]
        return Mixed.create({str(index): part for index, part in enumerate(parts)})
    if kind == "potts":
        categories = next(number for number in range(2, units + 1) if units % number == 0)
        return Potts(normal(generator, units), categories)
    values = {name: normal(generator, units) for name in (field.name for field in fields(LAYERS[kind]))}
    values |= {name: value.abs() + 0.3 for name, value in values.items() if name != "bias"}
    if "variance_floor" in values:
        values["variance_floor"] = values["variance"] / 2
    return LAYERS[kind](**values)


def unit_variances(layer: Layer) -> list[float | None]:
    """The variance of each unit whose energy has the term x^2 / (2 variance); None for other units."""
    if isinstance(layer, Mixed):
        return [variance for part in layer.parts for variance in unit_variances(part)]
    if isinstance(layer, Gaussian | RectifiedGaussian):
        return [float(variance) for variance in layer.variance]
    return [None] * layer.units


def random_machine(
    kinds: tuple[str, ...], sizes: tuple[int, ...], seed: int, offsets: float = 0.0, weights: float = 0.6
) -> BoltzmannMachine:
    generator = torch.Generator().manual_seed(seed)
    layers = [random_layer(kind, units, generator) for kind, units in zip(kinds, sizes, strict=True)]
    matrices = [weights * normal(generator, *pair) for pair in itertools.pairwise(sizes)]
    machine = assemble(layers, matrices)
    if offsets:
        machine = replace(machine, offsets=tuple(offsets * normal(generator, units) for units in sizes))
    return machine


def all_states(units: int) -> Tensor:
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=units)), dtype=torch.float64)


def layer_states(layer: Layer) -> Tensor:
    """Every state (states, units) of a layer of discrete units."""
    sites = layer.sites()
    assert sites is not None
    return torch.stack([torch.cat(chosen) for chosen in itertools.product(*sites)])


def joint_states(machine: BoltzmannMachine) -> States:
    """Every joint state of a machine of discrete layers: one tensor (states, units) per layer."""
    sizes = [layer.units for layer in machine.layers]
    rows = itertools.product(*(layer_states(layer) for layer in machine.layers))
    states = torch.stack([torch.cat(row) for row in rows])
    return tuple(part.contiguous() for part in states.split(sizes, dim=1))


def naive_energy(machine: BoltzmannMachine, states: States) -> Tensor:
    """The energy written out with loops over units, independently of the machine's own code."""
    scale = float(machine.scale)
    offsets = machine.offsets or tuple(torch.zeros(layer.units, dtype=torch.float64) for layer in machine.layers)
    energies = []
    for sample in range(len(states[0])):
        energy = 0.0
        for layer, state in zip(machine.layers, states, strict=True):
            for unit, variance in enumerate(unit_variances(layer)):
                x = float(state[sample, unit])
                energy -= float(layer.bias[unit]) * x
                if variance is not None:
                    energy += x * x / (2 * variance)
        for index, weights in enumerate(machine.weights):
            for lower in range(weights.shape[0]):
                for upper in range(weights.shape[1]):
                    x = float(states[index][sample, lower] - offsets[index][lower])
                    y = float(states[index + 1][sample, upper] - offsets[index + 1][upper])
                    energy -= scale * x * float(weights[lower, upper]) * y
        energies.append(energy)
    return torch.tensor(energies, dtype=torch.float64)


def joint_probabilities(machine: BoltzmannMachine) -> tuple[States, Tensor]:
    states = joint_states(machine)
    return states, torch.softmax(-naive_energy(machine, states), 0)


def quadrature(layer: Layer) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes (points,) and log weights (points,) over one real unit, wide enough for the tests' machines."""
    assert isinstance(layer, Gaussian | RectifiedGaussian)
    spread = 12 * float(layer.variance.max().sqrt()) + 12
    low = 0.0 if isinstance(layer, RectifiedGaussian) else -spread
    nodes, weights = (torch.from_numpy(array) for array in np.polynomial.legendre.leggauss(400))
    half = 0.5 * (spread - low)
    return low + half * (nodes + 1), torch.log(half * weights)


def assert_same_distribution(counts: Tensor, probabilities: Tensor) -> None:
    """Observed counts of states against their probabilities: chi-square within five standard deviations of its mean.

    States that are expected less than five times are pooled.
    """
    total = float(counts.sum())
    expected = probabilities * total
    rare = expected < 5
    observed = torch.cat((counts[~rare].double(), counts[rare].sum()[None].double()))
    expected = torch.cat((expected[~rare], expected[rare].sum()[None]))
    keep = expected > 0
    observed, expected = observed[keep], expected[keep]
    freedom = len(expected) - 1
    chi_square = float(((observed - expected) ** 2 / expected).sum())
    assert chi_square < freedom + 5 * math.sqrt(2 * freedom), (
        f"chi-square {chi_square:.1f} with {freedom} degrees of freedom"
    )


def state_numbers(states: States) -> Tensor:
    """The number of each joint binary state in the order of `joint_states`."""
    bits = torch.cat(states, dim=1).long()
    return (bits * 2 ** torch.arange(bits.shape[1] - 1, -1, -1)).sum(1)


def state_counts(machine: BoltzmannMachine, states: States) -> Tensor:
    """How often each joint state of discrete layers occurs in `states`, in the order of `joint_states`."""
    known, found = torch.cat(joint_states(machine), 1), torch.cat(states, 1)
    distinct, numbers = torch.cat((known, found)).unique(dim=0, return_inverse=True)
    assert len(distinct) == len(known), "a state that the layers do not have"
    return torch.bincount(numbers[len(known) :], minlength=len(known))[numbers[: len(known)]]


def assert_mean_close(samples: Tensor, expected: Tensor, sigmas: float = 5.0) -> None:
    """Column means of independent samples (samples, ...) within `sigmas` standard errors of what is expected."""
    error = samples.std(0) / math.sqrt(len(samples)) + 1e-9
    deviation = ((samples.mean(0) - expected).abs() / error).max()
    assert float(deviation) < sigmas, f"{float(deviation):.1f} standard errors off"


def grey_picture(path: Path) -> Path:
    """A small PNG, all of one grey."""
    Image.new("RGB", (6, 4), (200, 200, 200)).save(path)
    return path
