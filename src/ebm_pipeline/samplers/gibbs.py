"""Block Gibbs sampling: all even layers given the odd ones, then all odd layers given the even ones."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from ebm_pipeline.errors import check_whole
from ebm_pipeline.machine import EVEN, ODD, BoltzmannMachine, PartialStates, States


@dataclass(frozen=True)
class Gibbs:
    """`steps` sweeps per call of `step`."""

    steps: int = 1

    def __post_init__(self) -> None:
        check_whole("sampler.steps", self.steps, 1)

    def step(
        self,
        machine: BoltzmannMachine,
        states: States,
        generator: torch.Generator | None,
        clamped: Collection[int] = (),
        *,
        finish: bool = True,
    ) -> States:
        """Chains after `steps` sweeps (even layers, then odd layers). Clamped layers stay.

        finish=False leaves out the last update of the odd layers: for a caller that needs their conditional means, and
        so can draw them itself at no further cost.
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

    def start(self, machine: BoltzmannMachine, states: States, means: PartialStates) -> States:
        """The states themselves."""
        return states

    def samples(self, machine: BoltzmannMachine, chains: States) -> States:
        """The chains themselves."""
        return chains

    def complete(self, chains: States, samples: States) -> States:
        """The samples: their odd layers are what the step left to draw."""
        return samples

    def info(self, machine: BoltzmannMachine, chains: States) -> dict[str, float]:
        """Nothing to tell."""
        return {}


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
