"""Gibbs-Langevin sampling: exact with the Metropolis-Hastings rule, of known bias without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from commands import PLAIN, composed
from helpers import all_states, assert_mean_close, assert_same_distribution, random_machine, state_numbers
from torch import Tensor

from ebm_pipeline.models.layers import Gaussian
from ebm_pipeline.models.machine import EVEN, BoltzmannMachine, States
from ebm_pipeline.runs.plan import prepare
from ebm_pipeline.sampling import GibbsLangevin
from ebm_pipeline.support.errors import UserError

CHAINS = 50_000
MACHINES = [
    (("gaussian", "bernoulli"), (3, 4)),
    (("learned_gaussian", "bernoulli"), (2, 3)),
    (("gaussian", "bernoulli", "bernoulli"), (2, 3, 2)),
]


def standardized(machine: BoltzmannMachine, states: States) -> Tensor:
    """Visible units less their mean given the others, over their standard deviation given them."""
    layer = machine.layers[0]
    assert isinstance(layer, Gaussian)
    return (states[0] - layer.mean(machine.inputs(states, 0))) / layer.variance.sqrt()


def exact_draws(machine: BoltzmannMachine, generator: torch.Generator) -> tuple[States, Tensor]:
    """Joint samples, and the probabilities of the states of the first hidden layer (the other layers even)."""
    hidden = all_states(machine.layers[1].units)
    probabilities = torch.softmax(-machine.free_energy((None, hidden, None)[: machine.depth], summed=EVEN), 0)
    rows = torch.multinomial(probabilities, CHAINS, replacement=True, generator=generator)
    states = [torch.zeros(CHAINS, layer.units, dtype=torch.float64) for layer in machine.layers]
    states[1] = hidden[rows]
    return machine.sample(states, EVEN, generator), probabilities


def assert_joint(machine: BoltzmannMachine, chains: States, probabilities: Tensor) -> None:
    """The first hidden layer has its probabilities; given it, the visible units are normal, and independent of it."""
    assert_same_distribution(torch.bincount(state_numbers(chains[1:2]), minlength=len(probabilities)), probabilities)
    z = standardized(machine, chains)
    expected = {1: 0.0, 2: 1.0, 4: 3.0}
    for power, mean in expected.items():
        centred = z**power - mean
        assert_mean_close(centred, torch.zeros_like(z[0]))
        assert_mean_close(centred[:, :, None] * chains[1][:, None], torch.zeros(()))


@pytest.mark.parametrize("case", MACHINES)
@pytest.mark.parametrize("step_size", [0.3, 3.0])
def test_the_joint_distribution_stays(
    case: tuple[tuple[str, ...], tuple[int, ...]], step_size: float, generator: torch.Generator
) -> None:
    machine = random_machine(*case, seed=1, offsets=1.0)
    chains, probabilities = exact_draws(machine, generator)
    assert_joint(machine, chains, probabilities)
    sampler = GibbsLangevin(steps=2, langevin_steps=3, step_size=step_size)
    moved = sampler.sweep(machine, chains, generator)
    assert not torch.equal(moved[0], chains[0])
    assert_joint(machine, moved, probabilities)


def test_without_adjustment_the_joint_distribution_drifts(generator: torch.Generator) -> None:
    machine = random_machine(("gaussian", "bernoulli"), (3, 4), seed=1)
    chains, probabilities = exact_draws(machine, generator)
    sampler = GibbsLangevin(langevin_steps=10, step_size=0.5, adjusted=False)
    with pytest.raises(AssertionError, match="standard errors off"):
        assert_joint(machine, sampler.sweep(machine, chains, generator), probabilities)


@pytest.mark.parametrize("step_size", [0.1, 1.0, 2.0])
def test_without_adjustment_the_variance_given_the_hidden_units_is_the_stated_one(
    step_size: float, generator: torch.Generator
) -> None:
    machine = random_machine(("gaussian", "bernoulli"), (3, 4), seed=2)
    chains, _ = exact_draws(machine, generator)
    steps = int(20 / step_size)  # leaves exp(-10) of the start
    sampler = GibbsLangevin(langevin_steps=steps, step_size=step_size, adjusted=False)
    moved = sampler.sweep(machine, chains, generator, clamped=(1,))
    assert torch.equal(moved[1], chains[1])
    z = standardized(machine, moved)
    assert_mean_close(z, torch.zeros_like(z[0]))
    assert_mean_close(z.square(), torch.full_like(z[0], 1 / (1 - step_size / 4)))


def test_clamped_pixels_stay_and_an_unfinished_step_leaves_the_hidden_layer(generator: torch.Generator) -> None:
    machine = random_machine(("gaussian", "bernoulli", "bernoulli"), (2, 3, 2), seed=3)
    chains, _ = exact_draws(machine, generator)
    clamped = GibbsLangevin().sweep(machine, chains, generator, clamped=(0,))
    assert torch.equal(clamped[0], chains[0])
    assert not torch.equal(clamped[1], chains[1])
    unfinished = GibbsLangevin().sweep(machine, chains, generator, finish=False)
    assert torch.equal(unfinished[1], chains[1])
    assert not torch.equal(unfinished[0], chains[0])


def test_units_that_are_not_gaussian_are_refused(generator: torch.Generator) -> None:
    machine = random_machine(("bernoulli", "gaussian"), (3, 2), seed=4)
    states = (torch.zeros(1, 3), torch.zeros(1, 2))
    with pytest.raises(UserError, match=r"Gaussian visible units; got bernoulli: use sampler=gibbs"):
        GibbsLangevin().sweep(machine, states, generator)


@pytest.mark.parametrize("objective", ["cd", "pcd"])
def test_a_training_of_other_units_is_refused_before_it_begins(objective: str, tmp_path: Path) -> None:
    """The run began, and failed with its first update."""
    config = composed(*PLAIN, "model=rbm", "sampler=gibbs_langevin", f"objective={objective}", output_root=tmp_path)
    with pytest.raises(UserError, match="Gaussian visible units; got bernoulli"):
        prepare(config, tmp_path)


@pytest.mark.parametrize("settings", [{"step_size": 0}, {"step_size": 4.0}, {"langevin_steps": 0}, {"steps": 0}])
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"sampler\."):
        GibbsLangevin(**settings)
