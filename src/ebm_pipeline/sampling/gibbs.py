"""Block Gibbs sampling: all even layers given the odd ones, then all odd layers given the even ones."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ebm_pipeline.models.machine import EVEN, ODD, BoltzmannMachine, PartialStates, States
from ebm_pipeline.sampling.base import Info
from ebm_pipeline.support.errors import check_whole


class Chains(NamedTuple):
    """Markov chains of a machine: one tensor (chains, units) per layer."""

    samples: States

    def completed(self, samples: States) -> Chains:
        """The samples: their odd layers are what the step left to draw."""
        return Chains(samples)


@dataclass(frozen=True)
class Gibbs:
    """`steps` sweeps per call of `step`."""

    steps: int = 1

    def __post_init__(self) -> None:
        check_whole("sampler.steps", self.steps, 1)

    def init(self, machine: BoltzmannMachine, states: States, means: PartialStates) -> Chains:
        """Chains that start at the states."""
        machine.check_units(states)
        machine.check_units(means)
        return Chains(states)

    def step(
        self,
        machine: BoltzmannMachine,
        state: Chains,
        generator: torch.Generator | None,
        clamped: Collection[int] = (),
        *,
        finish: bool = True,
    ) -> tuple[Chains, Info]:
        """Chains after `steps` sweeps; there are no numbers to tell."""
        return Chains(self.sweep(machine, state.samples, generator, clamped, finish=finish)), {}

    def sweep(
        self,
        machine: BoltzmannMachine,
        states: States,
        generator: torch.Generator | None,
        clamped: Collection[int] = (),
        *,
        finish: bool = True,
    ) -> States:
        """States (chains, units) after `steps` sweeps (even layers, then odd layers). Clamped layers stay.

        finish=False leaves out the last update of the odd layers: for a caller that needs their conditional means, and
        so can draw them itself at no further cost.

        >>> from ebm_pipeline.models.layers import Bernoulli
        >>> from ebm_pipeline.models.machine import assemble
        >>> machine = assemble([Bernoulli.create(3), Bernoulli.create(2)], [torch.zeros(3, 2)])
        >>> visible, hidden = Gibbs(10).sweep(machine, (torch.zeros(5, 3), torch.zeros(5, 2)), None)
        >>> visible.shape, hidden.shape
        (torch.Size([5, 3]), torch.Size([5, 2]))
        """
        for step in range(self.steps):
            states = self.draw_even(machine, states, generator, clamped)
            if finish or step < self.steps - 1:
                states = machine.sample(states, ODD, generator, clamped)
        return states

    def draw_even(
        self,
        machine: BoltzmannMachine,
        states: States,
        generator: torch.Generator | None,
        clamped: Collection[int],
    ) -> States:
        """The states with the even layers drawn given the odd ones."""
        return machine.sample(states, EVEN, generator, clamped)


def start_at_visible(machine: BoltzmannMachine, visible: Tensor, generator: torch.Generator | None) -> States:
    """Chains (chains, units) that start at given visible states: each hidden layer is drawn given the one below alone."""
    states: list[Tensor | None] = [visible] + [None] * (machine.depth - 1)
    drawn = [visible]
    for index in range(1, machine.depth):
        states[index] = machine.layers[index].sample(machine.inputs(states, index), generator)
        drawn.append(states[index])  # type: ignore[arg-type]
    return tuple(drawn)


def visible_at_mean(
    machine: BoltzmannMachine, chains: int, visible_mean: Tensor, generator: torch.Generator | None
) -> Tensor:
    """Visible states (chains, units) whose units are drawn independently with the data mean (units,)."""
    layer = machine.independent(visible_mean).layers[0]
    return layer.sample(torch.zeros(chains, layer.units, dtype=layer.bias.dtype, device=layer.bias.device), generator)


def start_at_mean(
    machine: BoltzmannMachine, chains: int, visible_mean: Tensor, generator: torch.Generator | None
) -> States:
    """Chains whose visible units are drawn independently with the data mean (units,), hidden layers from below."""
    return start_at_visible(machine, visible_at_mean(machine, chains, visible_mean, generator), generator)
