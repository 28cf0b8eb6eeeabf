"""The learning signal shared by the contrastive objectives.

The gradient of -log p is the mean of d E over the data minus its mean over the model. The chains stand for the model:
their even layers are samples, their odd layers conditional means given those (Rao-Blackwellized); a draw takes the place of
the mean in layers whose energy asks for more than the mean (a learned variance).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ebm_pipeline.models.inference import MeanField, Posterior, sample_posterior
from ebm_pipeline.models.layers import Layer
from ebm_pipeline.models.machine import ODD, BoltzmannMachine, PartialStates, States
from ebm_pipeline.sampling import Sampler
from ebm_pipeline.sampling.base import Info
from ebm_pipeline.support.errors import check_whole


@dataclass(frozen=True, eq=False)
class Learning:
    """Gradient of -log p by parameter name, the state to go on from, and the data phase's states (samples, units)."""

    gradient: dict[str, Tensor]
    chains: Any  # of an objective that keeps none: None
    data: States
    info: Info


@runtime_checkable
class Objective(Protocol):
    """A rule that makes a gradient from clamped data (None marks the layers to infer) and chains."""

    @property
    def persistent(self) -> bool:
        """Whether chains are kept from one step to the next."""

    def init(self, machine: BoltzmannMachine, states: States, means: PartialStates) -> Any:
        """The state to keep, tensors and tuples of them, of states (chains, units).

        `means` (units,) are the data's, None for the layers to infer.
        """

    def __call__(
        self, machine: BoltzmannMachine, clamped: PartialStates, chains: Any, generator: torch.Generator
    ) -> Learning:
        """The learning signal of one batch; `chains` is the state that is kept, None where none is."""


@dataclass(frozen=True)
class Contrastive:
    """What contrastive objectives share: sweeps of the chains, and the data phase of machines of more than two layers.

    That is mean field, or with `data_sweeps` so many block Gibbs sweeps from the pass upward.
    """

    sampler: Sampler
    mean_field: MeanField
    data_sweeps: int | None = None

    def __post_init__(self) -> None:
        if self.data_sweeps is not None:
            check_whole("objective.data_sweeps, if not null,", self.data_sweeps, 1)

    def init(self, machine: BoltzmannMachine, states: States, means: PartialStates) -> Any:
        """The sampler's state."""
        return self.sampler.init(machine, states, means)

    def infer(self, machine: BoltzmannMachine, clamped: PartialStates, generator: torch.Generator) -> Posterior:
        """The layers that are None in `clamped`, given the others."""
        if self.data_sweeps is None:
            return self.mean_field(machine, clamped)
        return sample_posterior(machine, clamped, self.data_sweeps, generator)


def odd_layers_are_free(machine: BoltzmannMachine, clamped: PartialStates) -> bool:
    """Whether just the odd layers are to be inferred: then one product serves data and chains together."""
    machine.check_states(clamped)
    return all((state is None) == (index % 2 == ODD) for index, state in enumerate(clamped))


def contrast_exact(
    machine: BoltzmannMachine, clamped: PartialStates, chains: PartialStates, generator: torch.Generator
) -> Learning:
    """The signal where all odd layers are free; the chains' odd layers are not read, but drawn."""
    machine.check_states(clamped)
    machine.check_states(chains)
    stacked: list[Tensor | None] = [
        None if data is None or chain is None else torch.cat((data, chain))
        for data, chain in zip(clamped, chains, strict=True)
    ]
    data_size = next(len(state) for state in clamped if state is not None)
    completed = list(chains)
    for index in machine.parity(ODD):
        inputs = machine.inputs(stacked, index)
        stacked[index] = _statistic(machine.layers[index], inputs, generator)
        completed[index] = machine.layers[index].sample(inputs[data_size:], generator)
    return _learning(machine, _complete(stacked), _complete(completed), data_size)


def contrast(
    machine: BoltzmannMachine, posterior: Posterior, chains: PartialStates, generator: torch.Generator
) -> Learning:
    """The signal for any machine, given the data's posterior means."""
    means, completed = list(chains), list(chains)
    for index in machine.parity(ODD):
        inputs = machine.inputs(chains, index)
        means[index] = _statistic(machine.layers[index], inputs, generator)
        completed[index] = machine.layers[index].sample(inputs, generator)
    data = (
        state if inputs is None or layer.linear else layer.sample(inputs, generator)
        for layer, state, inputs in zip(machine.layers, posterior.means, posterior.inputs, strict=True)
    )
    stacked = tuple(torch.cat(pair) for pair in zip(data, _complete(means), strict=True))
    info: Info = {"train/mean_field_steps": float(posterior.steps)} if machine.depth > 2 else {}
    return _learning(machine, stacked, _complete(completed), len(posterior.means[0]), info)


def _statistic(layer: Layer, inputs: Tensor, generator: torch.Generator) -> Tensor:
    """What stands for the state of a layer in the gradient, given its inputs."""
    return layer.mean(inputs) if layer.linear else layer.sample(inputs, generator)


def _learning(
    machine: BoltzmannMachine, stacked: States, chains: States, data_size: int, info: Info | None = None
) -> Learning:
    """Mean of d E over the first `data_size` rows, the data's, minus its mean over the others, the chains'.

    Where states are of fewer bits than the parameters (products=bfloat16), the weights of rows are whole numbers, which those
    hold: 1 / data_size and 1 / chains would be rounded apart, so that data and chains that agree would still have a gradient.
    """
    dtype = machine.layers[0].bias.dtype
    size, count = len(stacked[0]), len(stacked[0]) - data_size
    exact = stacked[0].dtype == dtype
    whole = 1 if exact else data_size * count // math.gcd(data_size, count)
    sample_weights = torch.full((size,), whole / data_size, device=stacked[0].device, dtype=dtype)
    sample_weights[data_size:] = -whole / count
    gradient = machine.energy_gradient(stacked, sample_weights)
    if not exact:
        for value in gradient.values():
            value.div_(whole)
    data = tuple(state[:data_size] for state in stacked)
    return Learning(gradient, chains, data, info or {})


def _complete(states: PartialStates) -> States:
    complete = tuple(state for state in states if state is not None)
    assert len(complete) == len(states), "a layer has no state"
    return complete
