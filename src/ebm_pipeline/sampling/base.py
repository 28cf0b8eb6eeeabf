"""What an objective asks of a sampler: `init` makes a state, `step` takes one and returns the next."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from ebm_pipeline.models.machine import BoltzmannMachine, PartialStates, States

# Numbers of one step, by name; tensors without dimensions where they lie on a device that the host would wait for.
Info = Mapping[str, float | Tensor]


class SamplerState(Protocol):
    """What a sampler goes on from: a NamedTuple of tensors and of tuples of them, passed and returned, never changed."""

    @property
    def samples(self) -> States:
        """The states (chains, units) of the machine itself, one per layer."""

    def completed(self, samples: States) -> Self:
        """The state of an unfinished step, given its `samples` with the odd layers drawn by the caller."""


@runtime_checkable
class Sampler(Protocol):
    """Stateless configuration, one file per algorithm."""

    @property
    def steps(self) -> int:
        """Sweeps per call of `step`."""

    def init(self, machine: BoltzmannMachine, states: States, means: PartialStates) -> Any:
        """A `SamplerState` of states (chains, units), one per layer; `means` are the data's (units,), None for hidden layers."""

    def step(
        self,
        machine: BoltzmannMachine,
        state: Any,
        generator: torch.Generator | None,
        clamped: Collection[int] = (),
        *,
        finish: bool = True,
    ) -> tuple[Any, Info]:
        """The state after some sweeps, and numbers of this step.

        Clamped layers stay. finish=False leaves the last draw of the odd layers to the caller, who then calls `completed`.
        """


def leaves(state: Any) -> Iterator[Tensor]:
    """The tensors of a sampler's state, in order: what a checkpoint holds of it."""
    if isinstance(state, Tensor):
        yield state
    else:
        for part in state:
            yield from leaves(part)


def with_leaves(state: Any, tensors: Iterator[Tensor]) -> Any:
    """A state of the same structure made of other tensors: `with_leaves(state, iter(leaves(state)))` is the state."""
    if isinstance(state, Tensor):
        return next(tensors)
    parts = [with_leaves(part, tensors) for part in state]
    return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
