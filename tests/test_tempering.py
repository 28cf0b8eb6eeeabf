"""Parallel tempering: its joint distribution, its exchanges, the placing of the rungs, and two modes far from each other."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers import (
    BINARY_MACHINES,
    assert_mean_close,
    assert_same_distribution,
    joint_probabilities,
    joint_states,
    random_machine,
    state_numbers,
)
from torch import Tensor

from ebm_pipeline.models.inference import MeanField
from ebm_pipeline.models.layers import Bernoulli
from ebm_pipeline.models.machine import ODD, BoltzmannMachine, assemble
from ebm_pipeline.sampling import Gibbs, ParallelTempering
from ebm_pipeline.sampling.tempering import Replicas, placed, tempered
from ebm_pipeline.support.errors import UserError
from ebm_pipeline.training.objectives import ContrastiveDivergence

Case = tuple[tuple[str, ...], tuple[int, ...]]
CHAINS = 50_000
RUNGS = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)  # uneven, so that no symmetry hides a fault


def ladder_machines(machine: BoltzmannMachine, replicas: Replicas) -> list[BoltzmannMachine]:
    """The machine of each replica on its own."""
    biases = {f"layers/{index}/bias": bias for index, bias in enumerate(replicas.base)}
    base = machine.independent().with_tensors(biases)
    return [machine.annealed(float(beta), base) for beta in replicas.betas]


def exact_replicas(machine: BoltzmannMachine, generator: torch.Generator) -> tuple[Replicas, list[Tensor]]:
    """Chains of three replicas drawn from their exact distributions, and those distributions over all joint states."""
    sampler = ParallelTempering(replicas=3, warm_up=0)
    mean = torch.linspace(0.2, 0.7, machine.layers[0].units, dtype=torch.float64)
    start = tuple(state[:1].expand(CHAINS, -1) for state in joint_states(machine))
    replicas = sampler.init(machine, start, (mean, *(None,) * (machine.depth - 1)))._replace(betas=RUNGS)
    drawn, probabilities = [], []
    for own in ladder_machines(machine, replicas):
        states, probability = joint_probabilities(own)
        rows = torch.multinomial(probability, CHAINS, replacement=True, generator=generator)
        drawn.append([state[rows] for state in states])
        probabilities.append(probability)
    states = tuple(torch.stack(layer) for layer in zip(*drawn, strict=True))
    return replicas._replace(states=states), probabilities


@pytest.mark.parametrize("case", BINARY_MACHINES)
@pytest.mark.parametrize("offsets", [0.0, 1.0])
def test_every_replica_keeps_its_distribution(case: Case, offsets: float, generator: torch.Generator) -> None:
    machine = random_machine(*case, seed=1, offsets=offsets, weights=1.0)
    replicas, probabilities = exact_replicas(machine, generator)
    sampler = ParallelTempering(steps=2, replicas=3, warm_up=0)
    moved, _ = sampler.step(machine, replicas, generator)
    for index, probability in enumerate(probabilities):
        states = tuple(state[index] for state in moved.states)
        assert_same_distribution(torch.bincount(state_numbers(states), minlength=len(probability)), probability)
    unfinished, _ = sampler.step(machine, replicas, generator, finish=False)
    finished = machine.sample(unfinished.samples, ODD, generator)
    assert_same_distribution(torch.bincount(state_numbers(finished), minlength=len(probability)), probability)


def test_the_replicas_stay_independent(generator: torch.Generator) -> None:
    """The joint distribution of all three replicas is the product of theirs: 8^3 states, exchanges included."""
    machine = random_machine(("bernoulli", "bernoulli"), (2, 1), seed=3, weights=2.0)
    replicas, probabilities = exact_replicas(machine, generator)
    moved, _ = ParallelTempering(steps=2, replicas=3, warm_up=0).step(machine, replicas, generator)
    numbers = [state_numbers(tuple(state[index] for state in moved.states)) for index in range(3)]
    product = torch.einsum("i,j,k->ijk", *probabilities).flatten()
    counts = torch.bincount(64 * numbers[0] + 8 * numbers[1] + numbers[2], minlength=512)
    assert_same_distribution(counts, product)


def test_exchanges_are_accepted_as_often_as_enumeration_says(generator: torch.Generator) -> None:
    machine = random_machine(("bernoulli", "bernoulli"), (3, 2), seed=4, weights=2.0)
    replicas, _ = exact_replicas(machine, generator)
    moved, _ = ParallelTempering(steps=1, replicas=3, warm_up=0).step(machine, replicas, generator)
    visible = torch.unique(joint_states(machine)[0], dim=0)
    energies = [own.free_energy((visible, None)) for own in ladder_machines(machine, moved)]
    low, high = energies[0], energies[1]
    ratio = low[:, None] + high[None, :] - low[None, :] - high[:, None]
    weights = torch.softmax(-low, 0)[:, None] * torch.softmax(-high, 0)[None, :]
    expected = float((weights * ratio.exp().clamp(max=1)).sum())
    assert expected < 0.95
    assert float(moved.rates[0]) == pytest.approx(0.5 + 0.1 * (expected - 0.5), abs=5 * 0.05 / CHAINS**0.5)
    assert float(moved.rates[1]) == 0.5  # the odd pair's turn is the next sweep


def test_clamped_even_layers_stay_and_odd_ones_are_refused(generator: torch.Generator) -> None:
    machine = random_machine(("bernoulli",) * 3, (3, 3, 2), seed=3)
    replicas, _ = exact_replicas(machine, generator)
    visible = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
    replicas = replicas._replace(states=(visible.expand(3, CHAINS, 3), *replicas.states[1:]))
    sampler = ParallelTempering(steps=30, replicas=3, warm_up=0)
    samples = sampler.step(machine, replicas, generator, clamped=(0,))[0].samples
    assert torch.equal(samples[0], visible.expand(CHAINS, 3))
    states, probabilities = joint_probabilities(machine)
    conditional = probabilities * (states[0] == visible).all(1)
    conditional = conditional / conditional.sum()
    assert_same_distribution(torch.bincount(state_numbers(samples), minlength=len(conditional)), conditional)
    with pytest.raises(UserError, match="cannot clamp them: use sampler=gibbs"):
        sampler.step(machine, replicas, generator, clamped=(1,))


def test_rungs_move_to_where_all_pairs_reject_alike() -> None:
    """Rejection that piles up as 1 - exp(-6 beta), as it does where a machine orders at high temperature."""
    betas = torch.linspace(0, 1, 8, dtype=torch.float64)
    for _ in range(60):
        pile = 0.9 * (1 - torch.exp(-6 * betas))
        betas = placed(betas, 1 - pile.diff())
    assert betas[0] == 0
    assert betas[-1] == 1
    torch.testing.assert_close(pile.diff(), pile[-1].expand(7) / 7, rtol=0.02, atol=0)
    assert torch.equal(placed(betas, torch.ones(7, dtype=torch.float64)).diff() > 0, torch.ones(7, dtype=torch.bool))


def test_round_trips_are_counted() -> None:
    """Where base and machine are the same every exchange is accepted: one trip per exchange from the third on."""
    machine = assemble([Bernoulli.create(3), Bernoulli.create(2)], [torch.zeros(3, 2)])
    sampler = ParallelTempering(steps=8, replicas=2)
    replicas = sampler.init(machine, (torch.zeros(5, 3), torch.zeros(5, 2)), (torch.full((3,), 0.5), None))
    _, info = sampler.step(machine, replicas, torch.Generator().manual_seed(1))
    assert info["sampler/round_trips"] == 2  # exchanges after sweeps 1, 3, 5, 7
    assert info["sampler/swap_rate_1"] == pytest.approx(1 - 0.5 * 0.9**4)


def two_far_modes(units: int = 8, hidden: int = 5, coupling: float = 0.5) -> tuple[BoltzmannMachine, float]:
    """A machine with two modes, and the weight of the upper one by enumeration.

    Ising spins coupled all alike, written in 0 and 1 (s = 2 x - 1), with a field that gives the upper mode 0.8.
    """
    upper = torch.linspace(0, 1, hidden + 1)  # overlap of the hidden layer, as the fraction of units that are on
    spins = hidden * (2 * upper.double() - 1)
    ways = (
        torch.lgamma(torch.tensor(hidden + 1.0))
        - torch.lgamma(hidden * upper + 1)
        - torch.lgamma(hidden * (1 - upper) + 1)
    )
    flat = ways.double() + units * torch.log(2 * torch.cosh(coupling * spins))

    def weight(field: float) -> float:
        return float(torch.softmax(flat + field * spins, 0)[(hidden + 1) // 2 :].sum())

    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if weight(middle) < 0.8 else (low, middle)
    visible = Bernoulli(bias=torch.full((units,), -2 * coupling * hidden))
    top = Bernoulli(bias=torch.full((hidden,), 2 * low - 2 * coupling * units))
    return assemble([visible, top], [torch.full((units, hidden), 4 * coupling)]), weight(low)


def test_two_far_modes_get_their_weights_where_gibbs_stays(generator: torch.Generator) -> None:
    """All chains start in the lesser mode. 400 chains of 500 sweeps with a memory of 80: standard error 0.011."""
    machine, weight = two_far_modes()
    assert weight == pytest.approx(0.8, abs=1e-6)
    start = (torch.zeros(400, 8), torch.zeros(400, 5))
    states = Gibbs(500).sweep(machine, start, generator)
    assert float((states[1].mean(1) > 0.5).double().mean()) < 0.02

    sampler = ParallelTempering(steps=500, replicas=4, warm_up=400)
    replicas, _ = sampler.step(machine, sampler.init(machine, start, (torch.full((8,), 0.75), None)), generator)
    upper = []
    for _ in range(25):
        replicas, info = replace(sampler, steps=20).step(machine, replicas, generator)
        upper.append((replicas.samples[1].mean(1) > 0.5).double())
    assert float(torch.stack(upper).mean()) == pytest.approx(weight, abs=0.04)
    rates = [info[f"sampler/swap_rate_{index}"] for index in range(1, 4)]
    assert max(rates) - min(rates) < 0.1
    assert info["sampler/round_trips"] > 0


@pytest.mark.parametrize("changes", [{"steps": 0}, {"replicas": 1}, {"warm_up": -1}])
def test_wrong_settings_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(UserError, match=f"sampler.{next(iter(changes))}"):
        ParallelTempering(**changes)


def test_cd_cannot_use_replicas() -> None:
    with pytest.raises(UserError, match="sampler=gibbs"):
        ContrastiveDivergence(ParallelTempering(), MeanField())


def test_the_coldest_replica_is_the_machine(generator: torch.Generator) -> None:
    machine = random_machine(("bernoulli", "bernoulli"), (4, 3), seed=5)
    replicas, _ = exact_replicas(machine, generator)
    visible = replicas.states[0][:, :10]
    cold = tempered(machine, replicas, replicas.betas).free_energy((visible, None))[-1]
    torch.testing.assert_close(cold, machine.free_energy((visible[-1], None)))
    base = ladder_machines(machine, replicas)[0]
    mean = base.layers[0].mean(torch.zeros(4, dtype=torch.float64))
    torch.testing.assert_close(mean, torch.linspace(0.2, 0.7, 4, dtype=torch.float64))
    assert_mean_close(replicas.states[0][0], mean)
