"""What the hidden layers do given the data: mean field, its bound, and the pass up and down that reconstructs.

Mean field (Salakhutdinov & Hinton 2009): mu_l = mean_l(I_l(mu)) iterated odd layers, then even layers, to a tolerance.
Where the layers that are not clamped are no neighbours of each other, one update is exact. Bound on the log-probability
of the clamped states, up to log Z:

    -sum_clamped E_l(x_l) + sum_free [log_partition_l(I_l) - I_l . mu_l] + sum_l (mu_l - o_l)^T W_l (mu_{l+1} - o_{l+1})

with I_l the very inputs that produced mu_l; for an RBM it is -F(v).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ebm_pipeline.models.machine import EVEN, ODD, BoltzmannMachine, PartialStates, States
from ebm_pipeline.support.errors import check_number, check_whole


@dataclass(frozen=True, eq=False)
class Posterior:
    """Clamped states and means of the other layers (samples, units); the inputs that produced those means, None if clamped."""

    means: States
    inputs: tuple[Tensor | None, ...]
    steps: int
    residual: float  # largest change of a mean in the last step; 0 where one update is exact or states are drawn


@dataclass(frozen=True)
class MeanField:
    """Settings of the mean-field iteration: it ends when no mean changes by more than `tolerance`, or after `max_steps`."""

    tolerance: float = 1e-3
    max_steps: int = 25

    def __post_init__(self) -> None:
        check_number("mean_field.tolerance", self.tolerance)
        check_whole("mean_field.max_steps", self.max_steps, 1)

    def __call__(self, machine: BoltzmannMachine, clamped: PartialStates) -> Posterior:
        """Means of the layers that are None in `clamped`, given the others."""
        machine.check_states(clamped)
        free = [index for index, state in enumerate(clamped) if state is None]
        fixed = {index: machine.inputs(clamped, index) for index in free}  # from clamped neighbours: computed once
        inputs: dict[int, Tensor] = dict(fixed)
        if len({index % 2 for index in free}) == 1:
            means = {index: machine.layers[index].mean(inputs[index]) for index in free}
            return _posterior(machine, clamped, means, inputs, 1, 0.0)

        means = _upward(machine, clamped, fixed)
        residual = float("inf")
        steps = 0
        while steps < self.max_steps and residual > self.tolerance:
            change = []
            for parity in (ODD, EVEN):
                for index in (i for i in free if i % 2 == parity):
                    neighbours = [means.get(i) for i in range(machine.depth)]
                    inputs[index] = fixed[index] + machine.inputs(neighbours, index)
                    mean = machine.layers[index].mean(inputs[index])
                    change.append((mean - means[index]).abs_().max())
                    means[index] = mean
            residual = float(torch.stack(change).max())
            steps += 1
        return _posterior(machine, clamped, means, inputs, steps, residual)


def sample_posterior(
    machine: BoltzmannMachine, clamped: PartialStates, sweeps: int, generator: torch.Generator | None
) -> Posterior:
    """The other data phase: `sweeps` block Gibbs sweeps of the layers that are None in `clamped`, given the others.

    They start from the pass upward. In the place of the means stand samples in the even layers and the conditional means
    given those in the odd ones, so that products of neighbours are unbiased once the chains have mixed. Where one
    update is exact (see MeanField) the means are exact and nothing is drawn.
    """
    machine.check_states(clamped)
    free = [index for index, state in enumerate(clamped) if state is None]
    fixed = {index: machine.inputs(clamped, index) for index in free}
    if len({index % 2 for index in free}) == 1:
        return _posterior(machine, clamped, {i: machine.layers[i].mean(fixed[i]) for i in free}, fixed, 1, 0.0)
    states, inputs = _upward(machine, clamped, fixed), dict(fixed)

    def listen(index: int) -> Tensor:
        inputs[index] = fixed[index] + machine.inputs([states.get(i) for i in range(machine.depth)], index)
        return inputs[index]

    for _ in range(sweeps):
        for parity in (ODD, EVEN):
            for index in (i for i in free if i % 2 == parity):
                states[index] = machine.layers[index].sample(listen(index), generator)
    for index in (i for i in free if i % 2 == ODD):
        states[index] = machine.layers[index].mean(listen(index))
    return _posterior(machine, clamped, states, inputs, sweeps, 0.0)


def _posterior(
    machine: BoltzmannMachine,
    clamped: PartialStates,
    means: dict[int, Tensor],
    inputs: dict[int, Tensor],
    steps: int,
    residual: float,
) -> Posterior:
    states = []
    for index in range(machine.depth):
        state = clamped[index]
        states.append(means[index] if state is None else state)
    return Posterior(tuple(states), tuple(inputs.get(index) for index in range(machine.depth)), steps, residual)


def _upward(machine: BoltzmannMachine, clamped: PartialStates, fixed: dict[int, Tensor]) -> dict[int, Tensor]:
    """Start of the iteration: each free layer from the one below, doubled where the layer above is still unknown."""
    means: dict[int, Tensor] = {}
    for index, below_and_above in fixed.items():
        below = [means.get(i) if i == index - 1 else None for i in range(machine.depth)]
        known = below_and_above + machine.inputs(below, index)
        alone = index < machine.depth - 1 and clamped[index + 1] is None
        means[index] = machine.layers[index].mean(2 * known if alone else known)
    return means


def bound(machine: BoltzmannMachine, posterior: Posterior) -> Tensor:
    """Lower bound on the log-probability of the clamped states, without -log Z: (samples,)."""
    states = posterior.means
    total = torch.zeros(())
    for index, (layer, state, inputs) in enumerate(zip(machine.layers, states, posterior.inputs, strict=True)):
        if inputs is None:
            total = total - layer.energy(state)
        else:
            total = total + layer.log_partition(inputs) - (inputs * state).sum(-1)
        if index % 2:
            centred = state - machine.offsets[index] if machine.offsets else state
            total = total + (machine.inputs(states, index) * centred).sum(-1)
    return total


def up_and_down(machine: BoltzmannMachine, visible: Tensor) -> tuple[Tensor, Tensor]:
    """Reconstruction of `visible` (samples, units): its final conditional mean and mode, the same shapes.

    Up through all layers and down again by conditional modes (means for Gaussian units). On the way up a layer whose upper
    neighbour is still unknown takes its input from below twice (Salakhutdinov & Hinton 2009); on the way down a hidden layer
    hears both of its neighbours as they are.
    """
    top = machine.depth - 1
    states: list[Tensor | None] = [visible] + [None] * top
    for index in range(1, top + 1):
        inputs = machine.inputs(states, index)
        states[index] = machine.layers[index].mode(2 * inputs if index < top else inputs)
    for index in range(top - 1, 0, -1):
        states[index] = machine.layers[index].mode(machine.inputs(states, index))
    inputs = machine.inputs(states, 0)
    return machine.layers[0].mean(inputs), machine.layers[0].mode(inputs)
