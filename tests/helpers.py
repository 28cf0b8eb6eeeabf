"""Small random machines, their enumeration by brute force, and tolerances from the Monte Carlo error."""

from __future__ import annotations

import itertools
import math
from dataclasses import fields, replace

import torch
from torch import Tensor

from ebm_pipeline.layers import LAYERS, Bernoulli, Gaussian, Layer
from ebm_pipeline.machine import BoltzmannMachine, States, assemble

KINDS = ("bernoulli", "gaussian")
# (kinds, sizes): every depth, with Gaussian layers at the bottom, in the middle and at the top
MACHINES = [
    (("bernoulli", "bernoulli"), (4, 3)),
    (("gaussian", "bernoulli"), (3, 4)),
    (("bernoulli", "gaussian"), (4, 3)),
    (("bernoulli", "bernoulli", "bernoulli"), (3, 3, 2)),
    (("gaussian", "bernoulli", "bernoulli"), (2, 3, 3)),
    (("bernoulli", "bernoulli", "bernoulli", "bernoulli"), (3, 2, 3, 2)),
]
BINARY_MACHINES = [case for case in MACHINES if "gaussian" not in case[0]]


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def random_layer(kind: str, units: int, generator: torch.Generator) -> Layer:
    """A layer of random parameters; a new kind needs a line here only if a parameter has a limited range."""
    values = {name: normal(generator, units) for name in (field.name for field in fields(LAYERS[kind]))}
    if "variance" in values:
        values["variance"] = values["variance"].abs() + 0.3
    return LAYERS[kind](**values)


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


def joint_states(machine: BoltzmannMachine) -> States:
    """Every joint state of a machine of binary layers: one tensor (states, units) per layer."""
    sizes = [layer.units for layer in machine.layers]
    return tuple(part.contiguous() for part in all_states(sum(sizes)).split(sizes, dim=1))


def naive_energy(machine: BoltzmannMachine, states: States) -> Tensor:
    """The energy written out with loops over units, independently of the machine's own code."""
    scale = float(machine.scale)
    offsets = machine.offsets or tuple(torch.zeros(layer.units, dtype=torch.float64) for layer in machine.layers)
    energies = []
    for sample in range(len(states[0])):
        energy = 0.0
        for layer, state in zip(machine.layers, states, strict=True):
            for unit in range(layer.units):
                x = float(state[sample, unit])
                energy -= float(layer.bias[unit]) * x
                if isinstance(layer, Gaussian):
                    energy += x * x / (2 * float(layer.variance[unit]))
                else:
                    assert isinstance(layer, Bernoulli)
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


def quadrature(layer: Gaussian, points: int = 41) -> tuple[Tensor, Tensor]:
    """Nodes (points,) and log weights (points,) for an integral over one real unit, wide enough for the tests' machines."""
    spread = 12 * float(layer.variance.max().sqrt()) + 12
    nodes = torch.linspace(-spread, spread, points * 50, dtype=torch.float64)
    return nodes, torch.full_like(nodes, math.log(float(nodes[1] - nodes[0])))


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


def assert_mean_close(samples: Tensor, expected: Tensor, sigmas: float = 5.0) -> None:
    """Column means of independent samples (samples, ...) within `sigmas` standard errors of what is expected."""
    error = samples.std(0) / math.sqrt(len(samples)) + 1e-9
    deviation = ((samples.mean(0) - expected).abs() / error).max()
    assert float(deviation) < sigmas, f"{float(deviation):.1f} standard errors off"
