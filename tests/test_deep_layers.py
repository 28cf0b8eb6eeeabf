"""What is said of hidden layers above the first: by exact values, and on machines made to be unused, collapsed, healthy."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from helpers import random_machine
from torch import Tensor

from ebm_pipeline.evaluation.depth import of_deep_layers
from ebm_pipeline.evaluation.enumeration import exact_log_partition
from ebm_pipeline.evaluation.inside import hidden_layers
from ebm_pipeline.models.growth import grown
from ebm_pipeline.models.inference import MeanField, bound
from ebm_pipeline.models.layers import Bernoulli
from ebm_pipeline.models.machine import BoltzmannMachine, assemble

EXACT = MeanField(1e-10, 500)
UNITS = (40, 30, 20)


def mean_bound(machine: BoltzmannMachine, images: Tensor) -> float:
    """With log Z, exactly."""
    posterior = EXACT(machine, (images, *(None,) * (machine.depth - 1)))
    return float(bound(machine, posterior).mean()) - exact_log_partition(machine)


@pytest.mark.parametrize(
    ("case", "index"),
    [
        ((("bernoulli", "bernoulli", "bernoulli"), (4, 3, 3)), 2),
        ((("gaussian", "bernoulli", "bernoulli"), (2, 3, 3)), 2),
        ((("bernoulli", "potts", "ising"), (4, 4, 3)), 2),
        ((("bernoulli", "bernoulli", "potts"), (4, 3, 4)), 2),
        ((("bernoulli", "bernoulli", "bernoulli", "bernoulli"), (4, 3, 3, 2)), 2),
        ((("bernoulli", "bernoulli", "bernoulli", "bernoulli"), (4, 3, 3, 2)), 3),
    ],
    ids=str,
)
@pytest.mark.parametrize("weights", [0.3, 1.5])
def test_without_a_layer_at_most_its_use_is_lost(
    case: tuple[tuple[str, ...], tuple[int, ...]], index: int, weights: float, generator: torch.Generator
) -> None:
    machine = random_machine(*case, seed=4, weights=weights)
    images = machine.layers[0].sample(torch.zeros(30, machine.layers[0].units, dtype=torch.float64), generator)
    posterior = EXACT(machine, (images, *(None,) * (machine.depth - 1)))
    inputs, layer, below = posterior.inputs[index], machine.layers[index], machine.layers[index - 1]
    assert inputs is not None
    lost = []
    for mean in (posterior.means[index].mean(0), layer.mean(inputs.mean(0))):
        shifted = below.with_tensors(bias=below.bias + machine.weights[index - 1] @ mean)
        without = replace(machine, layers=(*machine.layers[: index - 1], shifted), weights=machine.weights[: index - 1])
        lost.append(mean_bound(machine, images) - mean_bound(without, images))
    found = hidden_layers(machine, images, EXACT)[index - 1].use
    assert found > 0
    assert min(lost) <= found + 1e-9


def deep(*upper: Tensor, bias: float = 0.0) -> BoltzmannMachine:
    """A machine whose first weights say many things of the images, with these above; the bias is the top layer's."""
    layers = [Bernoulli.create(units).with_tensors(bias=torch.zeros(units).double()) for units in UNITS[:2]]
    layers += [Bernoulli(torch.zeros(matrix.shape[1]).double()) for matrix in upper]
    layers[-1] = Bernoulli(layers[-1].bias + bias)
    machine = assemble(layers, [weights_of(UNITS[0], UNITS[1], 1.0), *upper])
    offsets = [torch.full((layer.units,), 0.5, dtype=torch.float64) for layer in layers]
    return replace(machine, offsets=tuple(offsets)).folded()


def weights_of(lower: int, upper: int, scale: float) -> Tensor:
    generator = torch.Generator().manual_seed(lower + upper)
    return scale * torch.randn(lower, upper, generator=generator, dtype=torch.float64)


def said(machine: BoltzmannMachine) -> list[str]:
    generator = torch.Generator().manual_seed(2)
    images = (torch.rand(300, UNITS[0], generator=generator) < 0.5).double()
    return [text for _, text in of_deep_layers(hidden_layers(machine, images, MeanField()), 0.01, 2)]


HEALTHY = weights_of(30, 20, 0.8)
ALIKE = weights_of(30, 1, 0.15).expand(30, 20)
ONE_OF_MANY = torch.cat((weights_of(30, 1, 1.5), torch.zeros(30, 999, dtype=torch.float64)), 1)


@pytest.mark.parametrize(
    ("machine", "what"),
    [
        (deep(HEALTHY), None),
        (deep(0.3 * HEALTHY), None),
        (deep(ALIKE), "has collapsed: its units' means vary in 1.0 directions"),
        (deep(ALIKE + 0.02 * HEALTHY), "has collapsed"),
        (deep(0 * HEALTHY), "is unused"),
        (deep(0.01 * HEALTHY), "is unused"),
        (deep(0 * HEALTHY, bias=3.0), "is unused"),
        (deep(HEALTHY, bias=60.0), "is unused"),  # saturated, whatever its weights
        (deep(HEALTHY, bias=-60.0), "is unused"),
        (deep(0.01 * ALIKE), "is unused"),
        (deep(ONE_OF_MANY), "has collapsed"),  # used: its spread is 0.01, as if it were not
        (deep(0.01 * HEALTHY, weights_of(20, 10, 0.8)), "layer 2 .* is unused"),
        (deep(HEALTHY, weights_of(20, 10, 0.01)), "layer 3 .* is unused"),
        (deep(HEALTHY, weights_of(20, 10, 1.0)), None),
    ],
)
def test_machines_made_to_be_unused_collapsed_and_healthy(machine: BoltzmannMachine, what: str | None) -> None:
    found = said(machine)
    assert len(found) == (what is not None), found
    if what is not None:
        assert re.search(what, found[0]), found


def test_a_dbm_that_begins_as_its_rbm_is_unused_whatever_its_size() -> None:
    rbm = deep()
    for units, std in ((20, 0.001), (20, 0.01), (1000, 0.01)):
        sizes = [*UNITS[:2], units]
        layers = [Bernoulli(torch.zeros(size).double()) for size in sizes]
        fresh = assemble(layers, [torch.zeros(low, high).double() for low, high in pairwise(sizes)])
        fresh = fresh.with_tensors({"weights/1": weights_of(30, units, std)})
        images = (torch.rand(300, UNITS[0], generator=torch.Generator().manual_seed(3)) < 0.5).double()
        (text,) = said(grown(rbm, fresh, images, MeanField()))
        assert f"layer 2 ({units} units) is unused" in text
