"""The TAP free energy and its gradient: against enumeration, against autograd, stationary at the fixed point."""

from __future__ import annotations

import pytest
import torch
from helpers import all_states, normal, random_machine
from torch import Tensor

from ebm_pipeline.evaluation.enumeration import exact_log_partition
from ebm_pipeline.models.inference import MeanField
from ebm_pipeline.models.layers import Bernoulli, Gaussian
from ebm_pipeline.models.machine import BoltzmannMachine, assemble
from ebm_pipeline.support.errors import UserError
from ebm_pipeline.training.objectives import Tap
from ebm_pipeline.training.objectives.tap import FixedPoints, free_energy, free_energy_gradient

EXACT = MeanField(tolerance=1e-12, max_steps=1000)
CASES = [
    (("bernoulli", "bernoulli"), (4, 3)),
    (("gaussian", "bernoulli"), (4, 3)),
    (("bernoulli", "gaussian", "bernoulli"), (4, 3, 2)),
    (("bernoulli",) * 4, (3, 2, 3, 2)),
]


def tap(order: int = 2) -> Tap:
    return Tap(EXACT, order=order, tolerance=1e-12, max_steps=2000)


def solved(machine: BoltzmannMachine, order: int, generator: torch.Generator) -> FixedPoints:
    start = tuple(torch.rand(2, layer.units, generator=generator, dtype=torch.float64) for layer in machine.layers)
    points = tap(order).solve(machine, start)
    assert points.residual < 1e-12
    return points


def machine_8_6(seed: int) -> BoltzmannMachine:
    """Weights of standard deviation 0.3, biases of 0.5."""
    generator = torch.Generator().manual_seed(seed)
    layers = [Bernoulli(bias=0.5 * normal(generator, units)) for units in (8, 6)]
    return assemble(layers, [0.3 * normal(generator, 8, 6)])


def size(gradient: dict[str, Tensor]) -> float:
    return float(torch.cat([value.flatten() for value in gradient.values()]).norm())


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("seed", range(12))
def test_free_energy_and_gradient_against_enumeration(seed: int, order: int, generator: torch.Generator) -> None:
    machine = machine_8_6(seed)
    points = solved(machine, order, generator)
    assert float((free_energy(machine, points, order) + exact_log_partition(machine)).abs().max()) < 0.01
    tensors = {name: tensor.clone().requires_grad_() for name, tensor in machine.named_tensors().items()}
    log_partition = torch.logsumexp(-machine.with_tensors(tensors).free_energy((all_states(8), None)), 0)
    values = torch.autograd.grad(-log_partition, list(tensors.values()))
    expected = dict(zip(tensors, values, strict=True))
    found = free_energy_gradient(machine, points, order)
    assert size({name: found[name] - expected[name] for name in expected}) < 0.01 * size(expected)
    data = (normal(generator, 20, 8) > 0).double()
    learning = tap(order)(machine, (data, None), points.means, generator)
    live = machine.with_tensors(tensors).free_energy((data, None)).mean()
    for name, value in zip(tensors, torch.autograd.grad(live, list(tensors.values())), strict=True):
        torch.testing.assert_close(learning.gradient[name], value - found[name], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("kinds", "sizes"), CASES)
@pytest.mark.parametrize("order", [2, 3])
def test_the_fixed_point_is_stationary_and_the_gradient_that_of_the_free_energy(
    kinds: tuple[str, ...], sizes: tuple[int, ...], order: int, generator: torch.Generator
) -> None:
    machine = random_machine(kinds, sizes, seed=2, weights=0.25)
    points = solved(machine, order, generator)
    tensors = {name: tensor.clone().requires_grad_() for name, tensor in machine.named_tensors().items()}
    means = tuple(mean.clone().requires_grad_() for mean in points.means)
    free = [index for index, layer in enumerate(machine.layers) if isinstance(layer, Gaussian)]
    variances = tuple(
        points.variances[index].clone().requires_grad_() if index in free else mean - mean.square()
        for index, mean in enumerate(means)
    )
    live = free_energy(machine.with_tensors(tensors), FixedPoints(means, variances, 0, 0.0), order).mean()
    wanted = [*means, *(variances[index] for index in free)]
    for slope in torch.autograd.grad(live, wanted, retain_graph=True):
        assert float(slope.abs().max()) < 1e-9
    expected = free_energy_gradient(machine, points, order)
    for name, value in expected.items():
        torch.testing.assert_close(torch.autograd.grad(live, tensors[name], retain_graph=True)[0], value)


@pytest.mark.parametrize(("kinds", "sizes"), CASES)
def test_weak_couplings_at_any_depth(
    kinds: tuple[str, ...], sizes: tuple[int, ...], generator: torch.Generator
) -> None:
    """What is left out is of the fourth order in the weights (third and fourth at order 2)."""
    machine = random_machine(kinds, sizes, seed=2, weights=0.1)
    error = [
        float(
            (free_energy(machine, solved(machine, order, generator), order) + exact_log_partition(machine)).abs().max()
        )
        for order in (2, 3)
    ]
    assert max(error) < 2e-3
    uncoupled = machine.independent().with_tensors(
        {name: tensor for name, tensor in machine.named_tensors().items() if "weights" not in name}
    )
    assert abs(exact_log_partition(machine) - exact_log_partition(uncoupled)) > 20 * max(error)


def test_what_it_cannot_do_is_one_message(generator: torch.Generator) -> None:
    strong = assemble([Bernoulli.create(6), Gaussian.create(3)], [3 * torch.ones(6, 3)])
    with pytest.raises(UserError, match=r"gaussian layer 1.*objective=pcd"):
        tap().solve(strong, (torch.full((1, 6), 0.5), torch.zeros(1, 3)))

    class Other(Bernoulli):
        kind = "other"

    machine = assemble([Bernoulli.create(2), Other(bias=torch.zeros(2))], [torch.zeros(2, 2)])
    with pytest.raises(UserError, match="layer 1 is other"):
        tap().init(machine, (torch.zeros(1, 2), torch.zeros(1, 2)), (None, None))
    with pytest.raises(UserError, match="products=float32"):
        tap().init(machine_8_6(0), (torch.zeros(1, 8).bfloat16(), torch.zeros(1, 6)), (None, None))
    with pytest.raises(UserError, match=r"objective\.order"):
        Tap(EXACT, order=4)
