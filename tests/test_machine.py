"""Energies, free energies and gradients of small machines against loops and enumeration, in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers import DISCRETE_MACHINES, MACHINES, joint_states, naive_energy, normal, random_machine

from ebm_pipeline.models.layers import Bernoulli
from ebm_pipeline.models.machine import EVEN, ODD, assemble
from ebm_pipeline.support.errors import UserError

OFFSETS = [0.0, 1.0, 5.0]
Case = tuple[tuple[str, ...], tuple[int, ...]]


@pytest.mark.parametrize("case", MACHINES)
@pytest.mark.parametrize("offsets", OFFSETS)
@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_energy_is_what_the_loops_say(case: Case, offsets: float, scale: float, generator: torch.Generator) -> None:
    machine = replace(random_machine(*case, seed=1, offsets=offsets), scale=scale)
    states = tuple(normal(generator, 5, units) for units in case[1])
    torch.testing.assert_close(machine.energy(states), naive_energy(machine, states))


@pytest.mark.parametrize("case", DISCRETE_MACHINES)
@pytest.mark.parametrize("offsets", OFFSETS)
@pytest.mark.parametrize("summed", [EVEN, ODD])
def test_free_energy_sums_out_one_parity(case: Case, offsets: float, summed: int) -> None:
    machine = replace(random_machine(*case, seed=2, offsets=offsets), scale=0.7)
    states = joint_states(machine)
    energy = naive_energy(machine, states)
    given = torch.cat([states[index] for index in machine.parity(1 - summed)], dim=1)
    distinct, inverse = given.unique(dim=0, return_inverse=True)
    expected = torch.stack([-torch.logsumexp(-energy[inverse == row], 0) for row in range(len(distinct))])
    sizes = [machine.layers[index].units for index in machine.parity(1 - summed)]
    partial: list[torch.Tensor | None] = [None] * machine.depth
    for index, part in zip(machine.parity(1 - summed), distinct.split(sizes, dim=1), strict=True):
        partial[index] = part
    torch.testing.assert_close(machine.free_energy(partial, summed), expected)


@pytest.mark.parametrize("case", MACHINES)
def test_folding_the_offsets_keeps_the_distribution(case: Case, generator: torch.Generator) -> None:
    machine = replace(random_machine(*case, seed=3, offsets=3.0), scale=0.8)
    states = tuple(normal(generator, 6, units) for units in case[1])
    constant = sum(
        machine.offsets[index] @ weights @ machine.offsets[index + 1] for index, weights in enumerate(machine.weights)
    )
    folded = machine.folded()
    assert folded.offsets == ()
    torch.testing.assert_close(machine.energy(states), folded.energy(states) - 0.8 * constant)


@pytest.mark.parametrize("case", MACHINES)
@pytest.mark.parametrize("offsets", OFFSETS)
def test_energy_gradient_is_autograd_of_the_energy(case: Case, offsets: float, generator: torch.Generator) -> None:
    machine = random_machine(*case, seed=4, offsets=offsets)
    tensors = {name: tensor.clone().requires_grad_() for name, tensor in machine.named_tensors().items()}
    states = tuple(normal(generator, 6, units) for units in case[1])
    sample_weights = normal(generator, 6)  # their sum is not zero
    (machine.with_tensors(tensors).energy(states) * sample_weights).sum().backward()
    gradient = machine.energy_gradient(states, sample_weights)
    for name, value in gradient.items():
        torch.testing.assert_close(value, tensors[name].grad, msg=name)
    fixed = {f"layers/{index}/{name}" for index, layer in enumerate(machine.layers) for name in layer.fixed}
    assert set(gradient) == set(tensors) - fixed


@pytest.mark.parametrize("case", MACHINES)
@pytest.mark.parametrize("offsets", [0.0, 2.0])
def test_annealed_interpolates_between_base_and_machine(case: Case, offsets: float, generator: torch.Generator) -> None:
    machine = random_machine(*case, seed=5, offsets=offsets)
    base = machine.independent(torch.full((case[1][0],), 0.3, dtype=torch.float64))
    states = tuple(normal(generator, 4, units) for units in case[1])
    betas = (0.0, 0.25, 1.0)
    for beta in betas:
        expected = (1 - beta) * base.energy(states) + beta * machine.energy(states)
        torch.testing.assert_close(machine.annealed(beta, base).energy(states), expected)
    stacked = torch.tensor(betas, dtype=torch.float64)[:, None, None]
    replicas = tuple(state.expand(3, *state.shape) for state in states)
    together = machine.annealed(stacked, base)
    for index, beta in enumerate(betas):
        single = machine.annealed(beta, base)
        torch.testing.assert_close(together.energy(replicas)[index], single.energy(states))
        torch.testing.assert_close(together.free_energy(replicas)[index], single.free_energy(states))


def test_the_hopfield_energy_is_that_of_the_gaussian_hidden_layer(generator: torch.Generator) -> None:
    """Gaussian hidden units of mean 0 and variance 1, summed out: F(v) = -b.v - |W^T v|^2 / 2 + constant."""
    machine = random_machine(("bernoulli", "gaussian"), (6, 3), seed=6)
    hidden = machine.layers[1].with_tensors(
        bias=torch.zeros(3, dtype=torch.float64), variance=torch.ones(3, dtype=torch.float64)
    )
    machine = replace(machine, layers=(machine.layers[0], hidden))
    v = normal(generator, 5, 6)
    hopfield = -v @ machine.layers[0].bias - 0.5 * (v @ machine.weights[0]).square().sum(1)
    difference = machine.free_energy((v, None)) - hopfield
    torch.testing.assert_close(difference, difference[0].expand(5))


def test_named_tensors_come_back() -> None:
    machine = random_machine(("gaussian", "bernoulli", "bernoulli"), (2, 3, 3), seed=7)
    tensors = {name: tensor + 1 for name, tensor in machine.named_tensors().items()}
    changed = machine.with_tensors(tensors).named_tensors()
    assert list(changed) == [
        "weights/0", "weights/1",
        "layers/0/bias", "layers/0/variance", "layers/1/bias", "layers/2/bias",
    ]  # fmt: skip
    assert all(torch.equal(changed[name], tensors[name]) for name in tensors)


def test_shapes_that_do_not_fit_are_refused() -> None:
    layers = [Bernoulli.create(4), Bernoulli.create(3)]
    with pytest.raises(UserError, match=r"weights/0 join 4 to 3 units; got a matrix \(3, 4\)"):
        assemble(layers, [torch.zeros(3, 4)])
    with pytest.raises(UserError, match="at least two layers"):
        assemble(layers[:1], [])
    with pytest.raises(UserError, match="2 layers need 1 weight"):
        assemble(layers, [])
