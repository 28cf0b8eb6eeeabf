"""Annealed importance sampling of log Z (Neal 2001; Salakhutdinov & Murray 2008), for any depth and unit type.

Chains go from a machine without couplings, whose log Z is known, through machines of growing beta to the one in question.
One parity of the layers is summed out; the other is the state x of the chain, and its weight gathers
F_{beta_k}(x_k) - F_{beta_{k+1}}(x_k). log Z is estimated by log Z_base + log mean exp(log_weight).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ebm_pipeline.machine import EVEN, ODD, BoltzmannMachine, States


@dataclass(frozen=True)
class LogPartition:
    """Estimate of log Z in nats with its standard error and the effective sample size of its weights."""

    value: float
    std_error: float
    ess: float
    chains: int
    temperatures: int


def annealed_importance_sampling(
    machine: BoltzmannMachine,
    base: BoltzmannMachine,
    betas: Tensor,
    chains: int,
    generator: torch.Generator,
    progress: Callable[[int], None] = lambda done: None,
) -> LogPartition:
    """Estimate log Z of `machine` from `chains` chains through `betas` (count,), which begins at 0 and ends at 1.

    Two matrix products per temperature: one gives the inputs of the layers that are summed out, which serve the energies
    at both neighbouring temperatures and the draw; one gives the inputs of the others.
    """
    sizes = {parity: sum(machine.layers[index].units for index in machine.parity(parity)) for parity in (EVEN, ODD)}
    summed = ODD if sizes[ODD] <= sizes[EVEN] else EVEN
    bare = replace(machine.map(Tensor.detach), scale=1.0)
    states = _draw(base, chains, generator)
    log_weights = torch.zeros(chains, dtype=torch.float64, device=states[0].device)
    schedule = betas.tolist()
    current = machine.annealed(schedule[0], base)
    for done, beta in enumerate(schedule[1:], start=1):
        following = machine.annealed(beta, base)
        fields = {index: bare.inputs(states, index) for index in bare.parity(summed)}
        log_weights += _free_energy(current, states, fields, summed) - _free_energy(following, states, fields, summed)
        drawn = list(states)
        for index, field in fields.items():
            drawn[index] = following.layers[index].sample(following.scale * field, generator)
        states = following.sample(drawn, 1 - summed, generator)
        current = following
        progress(done)
    base_log_partition = sum(float(layer.log_partition(torch.zeros_like(layer.bias))) for layer in base.layers)
    return summarize(log_weights, base_log_partition, len(schedule))


def _free_energy(machine: BoltzmannMachine, states: States, fields: dict[int, Tensor], summed: int) -> Tensor:
    """machine.free_energy(states, summed) from inputs at scale 1 that are known already: (chains,)."""
    total = torch.zeros((), device=states[0].device)
    for index in machine.parity(1 - summed):
        total = total + machine.layers[index].energy(states[index])
    for index, field in fields.items():
        inputs = machine.scale * field
        total = total - machine.layers[index].log_partition(inputs)
        if machine.offsets:
            total = total + inputs @ machine.offsets[index]
    return total


def _draw(base: BoltzmannMachine, chains: int, generator: torch.Generator) -> States:
    return tuple(
        layer.sample(torch.zeros(chains, layer.units, dtype=layer.bias.dtype, device=layer.bias.device), generator)
        for layer in base.layers
    )


def summarize(log_weights: Tensor, base_log_partition: float, count: int) -> LogPartition:
    """log Z_base + log mean w, the delta-method standard error of the log, and (sum w)^2 / sum w^2."""
    chains = len(log_weights)
    weights = torch.exp(log_weights - log_weights.max())
    return LogPartition(
        value=base_log_partition + float(torch.logsumexp(log_weights, 0)) - math.log(chains),
        std_error=float(weights.std() / weights.mean() / math.sqrt(chains)),
        ess=float(weights.sum() ** 2 / weights.square().sum()),
        chains=chains,
        temperatures=count,
    )
