"""One contract over every sampler: started from the exact joint distribution, it stays there."""

from __future__ import annotations

import pytest
import torch
from helpers import (
    BINARY_MACHINES,
    DISCRETE_MACHINES,
    assert_mean_close,
    assert_same_distribution,
    joint_probabilities,
    random_machine,
    state_counts,
    state_numbers,
)

from ebm_pipeline.models.machine import ODD, BoltzmannMachine, States
from ebm_pipeline.sampling import (
    Gibbs,
    ParallelTempering,
    Sampler,
    TrajectoryTempering,
    leaves,
    start_at_mean,
    start_at_visible,
    with_leaves,
)
from ebm_pipeline.support.errors import UserError

Case = tuple[tuple[str, ...], tuple[int, ...]]
CHAINS = 100_000
SAMPLERS = [Gibbs(1), Gibbs(3)]


def exact_draws(machine: BoltzmannMachine, generator: torch.Generator) -> tuple[States, torch.Tensor]:
    states, probabilities = joint_probabilities(machine)
    rows = torch.multinomial(probabilities, CHAINS, replacement=True, generator=generator)
    return tuple(state[rows] for state in states), probabilities


@pytest.mark.parametrize("case", BINARY_MACHINES)
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("offsets", [0.0, 1.0])
def test_the_joint_distribution_stays(case: Case, sampler: Gibbs, offsets: float, generator: torch.Generator) -> None:
    machine = random_machine(*case, seed=1, offsets=offsets)
    chains, probabilities = exact_draws(machine, generator)
    state, _ = sampler.step(machine, sampler.init(machine, chains, (None,) * machine.depth), generator)
    chains = state.samples
    assert_same_distribution(torch.bincount(state_numbers(chains), minlength=len(probabilities)), probabilities)


@pytest.mark.parametrize("case", [case for case in DISCRETE_MACHINES if case not in BINARY_MACHINES])
def test_the_joint_distribution_of_other_discrete_units_stays(case: Case, generator: torch.Generator) -> None:
    machine = random_machine(*case, seed=1, offsets=1.0)
    chains, probabilities = exact_draws(machine, generator)
    assert_same_distribution(state_counts(machine, Gibbs(2).sweep(machine, chains, generator)), probabilities)


def test_the_test_above_finds_layers_that_are_updated_all_at_once(generator: torch.Generator) -> None:
    """The classic fault: every layer from the old state of the others. The visible marginal is right, the joint is not."""
    machine = random_machine(("bernoulli", "bernoulli"), (4, 3), seed=1, weights=1.5)
    chains, probabilities = exact_draws(machine, generator)
    at_once = tuple(
        layer.sample(machine.inputs(chains, index), generator) for index, layer in enumerate(machine.layers)
    )
    with pytest.raises(AssertionError, match="chi-square"):
        assert_same_distribution(torch.bincount(state_numbers(at_once), minlength=len(probabilities)), probabilities)


@pytest.mark.parametrize("case", BINARY_MACHINES)
def test_an_unfinished_step_leaves_the_odd_layers_to_the_caller(case: Case, generator: torch.Generator) -> None:
    machine = random_machine(*case, seed=2)
    chains, probabilities = exact_draws(machine, generator)
    unfinished = Gibbs(2).sweep(machine, chains, generator, finish=False)
    finished = machine.sample(unfinished, ODD, generator)
    assert_same_distribution(torch.bincount(state_numbers(finished), minlength=len(probabilities)), probabilities)


def test_clamped_layers_stay_and_the_others_follow_the_conditional(generator: torch.Generator) -> None:
    machine = random_machine(("bernoulli",) * 3, (3, 3, 2), seed=3)
    states, probabilities = joint_probabilities(machine)
    visible = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
    match = (states[0] == visible).all(1)
    conditional = probabilities * match
    conditional = conditional / conditional.sum()
    rows = torch.multinomial(conditional, CHAINS, replacement=True, generator=generator)
    chains = Gibbs(2).sweep(machine, tuple(state[rows] for state in states), generator, clamped=(0,))
    assert torch.equal(chains[0], visible.expand(CHAINS, 3))
    assert_same_distribution(torch.bincount(state_numbers(chains), minlength=len(conditional)), conditional)


def test_chains_start_at_the_data_mean(generator: torch.Generator) -> None:
    machine = random_machine(("bernoulli",) * 3, (4, 3, 2), seed=4)
    mean = torch.tensor([0.1, 0.5, 0.7, 0.9], dtype=torch.float64)
    chains = start_at_mean(machine, 50_000, mean, generator)
    assert [tuple(chain.shape) for chain in chains] == [(50_000, 4), (50_000, 3), (50_000, 2)]
    assert_mean_close(chains[0], mean)


def test_chains_started_at_images_keep_them(generator: torch.Generator) -> None:
    machine = random_machine(("bernoulli", "bernoulli"), (4, 3), seed=5)
    visible = torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=torch.float64).expand(50_000, 4)
    chains = start_at_visible(machine, visible, generator)
    assert torch.equal(chains[0], visible)
    assert_mean_close(chains[1], machine.layers[1].mean(machine.inputs((visible[:1], None), 1))[0])


@pytest.mark.parametrize("steps", [0, -1, 1.5])
def test_a_wrong_number_of_sweeps_is_refused(steps: int) -> None:
    with pytest.raises(UserError, match=r"sampler\.steps"):
        Gibbs(steps)


@pytest.mark.parametrize(
    "sampler",
    [Gibbs(), ParallelTempering(replicas=3), TrajectoryTempering(rungs=3)],
    ids=lambda sampler: type(sampler).__name__,
)
def test_a_state_is_made_again_of_its_leaves(sampler: Sampler, generator: torch.Generator) -> None:
    """What a checkpoint holds is the leaves; the state that a step gets is made of them."""
    machine = random_machine(("bernoulli", "bernoulli"), (3, 2), seed=1)
    means = (torch.full((3,), 0.5, dtype=torch.float64), None)
    state = sampler.init(machine, start_at_mean(machine, 4, means[0], generator), means)
    again = with_leaves(state, iter(leaves(state)))
    assert type(again) is type(state)
    assert all(torch.equal(own, other) for own, other in zip(leaves(state), leaves(again), strict=True))
    assert [own.shape for own in again.samples] == [(4, 3), (4, 2)]
