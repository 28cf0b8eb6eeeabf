"""A machine that begins as another one has its distribution, by enumeration; what does not fit is said with both sides."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
import torch
from helpers import MACHINES, random_machine
from torch import Tensor

from ebm_pipeline.evaluation.enumeration import exact_log_partition
from ebm_pipeline.models.growth import beyond, change, grown, misfit, new_units, posterior_means
from ebm_pipeline.models.inference import MeanField
from ebm_pipeline.models.layers import Bernoulli, Gaussian, Layer, LearnedGaussian, Mixed, Potts
from ebm_pipeline.models.machine import BoltzmannMachine, assemble

Case = tuple[tuple[str, ...], tuple[int, ...]]
EXACT = MeanField(1e-10, 500)
DEEPER = [
    ((("bernoulli", "bernoulli"), (4, 3)), ("bernoulli",), (2,)),
    ((("gaussian", "bernoulli"), (3, 4)), ("bernoulli",), (3,)),
    ((("learned_gaussian", "bernoulli"), (3, 4)), ("ising",), (3,)),
    ((("potts", "ising"), (6, 3)), ("bernoulli",), (3,)),
    ((("mixed", "bernoulli"), (4, 3)), ("potts",), (4,)),
    ((("bernoulli", "gaussian"), (4, 3)), ("bernoulli",), (3,)),
    ((("bernoulli", "rectified_gaussian"), (4, 3)), ("bernoulli",), (3,)),
    ((("bernoulli", "bernoulli"), (4, 3)), ("rectified_gaussian",), (2,)),
    ((("bernoulli", "bernoulli", "bernoulli"), (3, 3, 2)), ("bernoulli",), (3,)),
    ((("bernoulli", "bernoulli"), (4, 3)), ("bernoulli", "bernoulli"), (3, 2)),
]
WIDER = [
    ((("bernoulli", "bernoulli"), (4, 3)), (4, 5)),
    ((("gaussian", "bernoulli"), (3, 4)), (3, 6)),
    ((("potts", "ising"), (6, 3)), (6, 4)),
    ((("bernoulli", "gaussian"), (4, 3)), (4, 4)),
    ((("bernoulli", "rectified_gaussian"), (4, 3)), (4, 4)),
    ((("bernoulli", "potts", "ising"), (3, 4, 2)), (3, 6, 3)),  # in the middle and on top
    ((("bernoulli", "bernoulli", "bernoulli"), (3, 3, 2)), (3, 5, 2)),
]


def of_shape(kinds: tuple[str, ...], sizes: tuple[int, ...], weights: float) -> BoltzmannMachine:
    """A machine of random layers; `weights`: the deviation of its weights. Potts layers have two categories."""
    return random_machine(kinds, sizes, seed=7, weights=weights)


def drawn(layer: Layer, count: int = 20) -> Tensor:
    """States of a layer."""
    generator = torch.Generator().manual_seed(5)
    return layer.sample(torch.zeros(count, layer.units, dtype=torch.float64), generator)


def log_p(machine: BoltzmannMachine, visible: Tensor) -> Tensor:
    """Exact log p(v) of each row."""
    if machine.depth == 2:
        return -machine.free_energy((visible, None)) - exact_log_partition(machine)
    first = machine.layers[1]
    sums = []
    for row in visible:
        heard = first.with_tensors(bias=first.bias + row @ machine.weights[0])
        hidden = BoltzmannMachine((heard, *machine.layers[2:]), machine.weights[1:])
        sums.append(exact_log_partition(hidden))
    return -machine.layers[0].energy(visible) + torch.tensor(sums, dtype=torch.float64) - exact_log_partition(machine)


def begun(given: BoltzmannMachine, fresh: BoltzmannMachine, images: Tensor) -> BoltzmannMachine:
    return grown(given, fresh, images, EXACT)


def said(given: BoltzmannMachine, fresh: BoltzmannMachine, images: Tensor) -> float:
    """The change that is said, of so many draws that it is nearly exact."""
    new = beyond(given, fresh, posterior_means(given, images, EXACT))
    return change(given, new, images.repeat(100, 1), torch.Generator().manual_seed(3))


def assert_begins_as(given: BoltzmannMachine, kinds: tuple[str, ...], sizes: tuple[int, ...]) -> None:
    """Exactly without new weights; else in their second order, and as far as is said."""
    images = drawn(given.layers[0])
    before = log_p(given, images)
    small, half = (begun(given, of_shape(kinds, sizes, scale), images) for scale in (0.02, 0.01))
    assert all(bool(weights.any()) for weights in small.weights)
    torch.testing.assert_close(
        log_p(begun(given, of_shape(kinds, sizes, 0.0), images), images), before, rtol=0, atol=1e-10
    )
    far, nearer = (log_p(machine, images) - before for machine in (small, half))
    assert 0 < float(far.abs().max()) < 0.01
    assert float(far.norm() / nearer.norm()) == pytest.approx(4, rel=0.1)  # a first order would halve it
    most, found = said(given, of_shape(kinds, sizes, 0.02), images), float(far.std(correction=0))
    assert found < 1.05 * most
    if small.depth == 2:
        assert found == pytest.approx(most, rel=0.02)


@pytest.mark.parametrize("case", MACHINES, ids=str)
def test_an_equal_machine_is_the_same(case: Case) -> None:
    given = random_machine(*case, seed=3, offsets=0.2)
    images = drawn(given.layers[0])
    found = begun(given, of_shape(*case, 0.6), images)
    for name, tensor in given.folded().named_tensors().items():
        assert torch.equal(found.named_tensors()[name], tensor), name
    assert said(given, of_shape(*case, 0.6), images) == 0
    assert new_units(given, found) == {}


@pytest.mark.parametrize(("case", "kinds", "sizes"), DEEPER, ids=str)
def test_a_deeper_machine_has_the_distribution(case: Case, kinds: tuple[str, ...], sizes: tuple[int, ...]) -> None:
    given = random_machine(*case, seed=3)
    assert_begins_as(given, case[0] + kinds, case[1] + sizes)


@pytest.mark.parametrize(("case", "sizes"), WIDER, ids=str)
def test_a_wider_machine_has_the_distribution(case: Case, sizes: tuple[int, ...]) -> None:
    given = random_machine(*case, seed=3)
    assert_begins_as(given, case[0], sizes)
    fresh = of_shape(case[0], sizes, 0.02)
    wider = begun(given, fresh, drawn(given.layers[0]))
    for old, new, other in zip(given.weights, wider.weights, fresh.weights, strict=True):
        rows, columns = old.shape
        assert torch.equal(new[:rows, :columns], old)
        assert torch.equal(new[rows:], other[rows:])


def test_new_units_are_told() -> None:
    given = random_machine(("bernoulli", "bernoulli"), (4, 3), seed=3)
    fresh = of_shape(("bernoulli", "bernoulli", "bernoulli"), (4, 5, 6), 0.1)
    assert new_units(given, fresh) == {1: 2, 2: 6}


# ---------------------------------------------------------------------------------------------------- what does not fit


def machine_of(*layers: Layer) -> BoltzmannMachine:
    return assemble(layers, [torch.zeros(low.units, high.units) for low, high in pairwise(layers)])


B = Bernoulli.create
LABELS = [Mixed.create({"image": B(3), "label": Potts.create(classes, classes)}) for classes in (2, 3)]


@pytest.mark.parametrize(
    ("given", "fresh", "reason"),
    [
        (machine_of(B(4), B(3), B(2)), machine_of(B(4), B(3)), "3 layers there, 2 here: give as many or more"),
        (machine_of(B(4), B(3)), machine_of(B(4), B(2)), "layer 1 has 3 bernoulli there, 2 bernoulli here: give as many or"),
        (machine_of(B(4), B(3)), machine_of(B(5), B(3)), "the visible layer has 4 bernoulli there, 5 bernoulli here: give as"),
        (machine_of(B(4), B(3)), machine_of(B(3), B(3)), "the visible layer has 4 bernoulli there, 3 bernoulli here"),
        (machine_of(B(4), B(3)), machine_of(Gaussian.create(4), B(3)), "4 bernoulli there, 4 gaussian here: units of another"),
        (machine_of(B(4), B(3)), machine_of(B(4), Gaussian.create(3)), "layer 1 has 3 bernoulli there, 3 gaussian here"),
        (machine_of(Potts.create(6, 2), B(3)), machine_of(Potts.create(6, 3), B(3)), r"6 potts \(2 categories\) there, .*3 cat"),
        (machine_of(LABELS[0], B(3)), machine_of(LABELS[1], B(3)), r"5 mixed \(3 bernoulli \+ 2 potts \(2 categories\)\) there"),
        (machine_of(Gaussian.create(4, 0.5), B(3)), machine_of(Gaussian.create(4), B(3)), "another variance.*0.5 there, 1 here"),
        (machine_of(LearnedGaussian.create(4), B(3)), machine_of(LearnedGaussian.create(4, 1.0, 0.2), B(3)), "variance_floor"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_with_both_sides(
    given: BoltzmannMachine, fresh: BoltzmannMachine, reason: str
) -> None:
    assert misfit(given, given) is None
    found = misfit(given, fresh)
    assert found is not None
    assert re.search(reason, found), found


def test_a_variance_that_is_learned_is_taken() -> None:
    given = machine_of(LearnedGaussian.create(4, 0.3), B(3))
    fresh = machine_of(LearnedGaussian.create(4, 1.0), B(3))
    assert misfit(given, fresh) is None
    found = begun(given, fresh, torch.zeros(2, 4))
    assert torch.equal(found.layers[0].named_tensors()["variance"], torch.full((4,), 0.3))
