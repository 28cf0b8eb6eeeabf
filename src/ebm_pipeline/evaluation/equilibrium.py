"""Chains that are shown to be in equilibrium, or not: where they started must not be seen in them any more.

Half of the chains start from data, half from noise: independent pixels without bias, which know nothing of the data, so that
they also fall into modes that the data do not have. In the second half of the sweeps the two families
are compared as two long chains by the rank-normalised split R-hat (Vehtari et al. 2021; arviz-stats), which so becomes the
nested one (Margossian et al. 2024): it asks that the families agree, not that every chain visits every mode. It is computed
of the free energy, which sees chains that are still on their way, and of the leading principal components of the states,
which see modes that one family has more of, though their energies be the same. A mode that neither start has found stays
unseen; and because a family counts as many independent draws as it has chains, few chains give a blunt comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from arviz_stats.base import array_stats
from torch import Tensor

from ebm_pipeline.errors import UserError
from ebm_pipeline.machine import EVEN, ODD, BoltzmannMachine, States
from ebm_pipeline.samplers import start_at_visible

COMPONENTS = 3  # principal components watched
DRAWS = 50  # states of each chain that R-hat is computed on
LEAST_SWEEPS = 20


@dataclass(frozen=True, eq=False)
class Equilibrium:
    """The last states (chains, units), in random order, and R-hat of each figure watched; `sweeps` in all."""

    states: States
    r_hat: dict[str, float]
    sweeps: int

    @property
    def worst(self) -> float:
        """The largest R-hat."""
        return max(self.r_hat.values())


def equilibrate(
    machine: BoltzmannMachine,
    data: Tensor,
    chains: int,
    sweeps: int,
    generator: torch.Generator,
    progress: Callable[[int], None] = lambda done: None,
) -> Equilibrium:
    """Run 2 * `chains` chains for `sweeps` Gibbs sweeps, half from `data` (images, units), half from noise.

    `chains` of them are returned. Raises UserError where there are too few to compare: each family is split in two.
    """
    if chains < 4 or sweeps < LEAST_SWEEPS:
        raise UserError(
            f"R-hat needs at least 4 chains and {LEAST_SWEEPS} sweeps; got chains={chains}, sweeps={sweeps}"
        )
    machine = machine.folded().map(Tensor.detach)
    chosen = torch.randint(len(data), (chains,), generator=generator, device=data.device)
    blank = machine.independent().layers[0]
    noise = blank.sample(torch.zeros(chains, blank.units, dtype=blank.bias.dtype, device=data.device), generator)
    states = start_at_visible(machine, torch.cat((data[chosen].to(noise.dtype), noise)), generator)
    every = max(1, sweeps // 2 // DRAWS)
    energies, kept = [], []
    for done in range(1, sweeps + 1):
        states = machine.sample(states, EVEN, generator)
        if done > sweeps // 2 and done % every == 0:
            energies.append(machine.free_energy(states))
            kept.append(torch.cat([states[index] for index in machine.parity(EVEN)], 1))
        states = machine.sample(states, ODD, generator)
        progress(done)
    order = torch.randperm(2 * chains, generator=generator, device=noise.device)[:chains]
    traces = {"free_energy": torch.stack(energies, 1)} | _components(torch.stack(kept, 1))
    return Equilibrium(tuple(state[order] for state in states), {k: _r_hat(v) for k, v in traces.items()}, sweeps)


def _components(states: Tensor) -> dict[str, Tensor]:
    """Traces (chains, draws) of the leading principal components of states (chains, draws, units)."""
    flat = states.flatten(0, 1).float()
    centred = flat - flat.mean(0)
    count = min(COMPONENTS, centred.shape[1])
    _, axes = torch.linalg.eigh(centred.mT @ centred)
    scores = (centred @ axes[:, -count:]).unflatten(0, states.shape[:2])
    return {f"component_{index + 1}": scores[..., count - 1 - index] for index in range(count)}


def _r_hat(trace: Tensor) -> float:
    """Of a trace (chains, draws) whose first half of the chains is one family; of one that never changes it is 1."""
    values = trace.double().cpu().numpy().reshape(2, -1)
    if values.max() == values.min():
        return 1.0
    return float(array_stats.rhat(values, chain_axis=0, draw_axis=1, method="rank"))
