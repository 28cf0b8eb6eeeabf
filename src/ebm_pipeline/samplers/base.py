"""What an objective asks of a sampler."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol, runtime_checkable

import torch

from ebm_pipeline.machine import BoltzmannMachine, PartialStates, States


@runtime_checkable
class Sampler(Protocol):
    """Stateless configuration. What it goes on from, its chains, is a tuple of tensors that it is given and returns.

    Its first tensors are the layers' states; a sampler may keep more behind them, or have an axis before (chains, units).
    """

    @property
    def steps(self) -> int:
        """Sweeps per call of `step`."""

    def start(self, machine: BoltzmannMachine, states: States, means: PartialStates) -> States:
        """Chains made of states (chains, units), one per layer; `means` are the data's (units,), None for hidden layers."""

    def step(
        self,
        machine: BoltzmannMachine,
        chains: States,
        generator: torch.Generator | None,
        clamped: Collection[int] = (),
        *,
        finish: bool = True,
    ) -> States:
        """Chains after some sweeps. finish=False leaves the last draw of the odd layers to the caller."""

    def samples(self, machine: BoltzmannMachine, chains: States) -> States:
        """The states (chains, units) of the machine itself in the chains, one per layer."""

    def complete(self, chains: States, samples: States) -> States:
        """Chains of an unfinished step to go on from, given their `samples` with the odd layers drawn."""

    def info(self, machine: BoltzmannMachine, chains: States) -> dict[str, float]:
        """Figures of the last step."""
