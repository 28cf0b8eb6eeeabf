"""Chains that are shown to be in equilibrium, or not: where they started must not be seen in them any more.

Half of the chains start from data, half from noise: independent pixels without bias, which know nothing of the data, so that
they also fall into modes that the data do not have. In the second half of the sweeps the two families
are compared as two long chains by the rank-normalised split R-hat (Vehtari et al. 2021; arviz-stats), which so becomes the
nested one (Margossian et al. 2024): it asks that the families agree, not that every chain visits every mode. It is computed
of the free energy, which sees chains that are still on their way, and of the leading principal components of the states,
which see modes that one family has more of, though their energies be the same. A mode that neither start has found stays
unseen; and because a family counts as many independent draws as it has chains, few chains give a blunt comparison.

That the families agree does not say that single chains mix: the families may cover the same modes while no chain goes from one
to another. So the ordinary R-hat over all chains, and bulk effective sample size and autocorrelation time of the free energy, are
measured beside it (`Mixing`); they judge no likelihood, but say how far apart two samples of one chain must be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from arviz_stats.base.array import array_stats
from numpy.typing import NDArray
from torch import Tensor

from ebm_pipeline.errors import UserError, check_memory
from ebm_pipeline.machine import EVEN, BoltzmannMachine, States
from ebm_pipeline.samplers import Gibbs, Sampler, start_at_visible

COMPONENTS = 3  # principal components watched
DRAWS = 50  # states of each chain that R-hat is computed on
WATCHED = 100  # chains, half of either family, whose free energy is kept at every sweep of the second half
LEAST_SWEEPS = 20
GIBBS = Gibbs()
CHECKPOINTS = (1, 10, 100, 1000, 10000)  # sweeps after which samples of both families are kept


@dataclass(frozen=True)
class Mixing:
    """How single chains move: R-hat over all chains, the largest of the figures watched; bulk effective sample size (of
    `draws` states) and integrated autocorrelation time (sweeps) of the free energy, at every sweep of up to WATCHED chains.
    """

    r_hat: float
    bulk_ess: float
    draws: int
    autocorrelation_time: float


@dataclass(frozen=True, eq=False)
class Equilibrium:
    """The last states (chains, units), in random order, and R-hat between the families of each figure watched.

    energies: free energies (watched chains, sweeps) in the second half of `sweeps`; visible: states of the visible layer
    (2 * chains, units) by the number of sweeps made; in both the first half of the rows started from data. info: figures of
    the sampler: swap rates of parallel tempering after the last sweep, and its round trips in all of them, per chain.
    """

    states: States
    r_hat: dict[str, float]
    sweeps: int
    mixing: Mixing
    energies: Tensor
    visible: dict[int, Tensor]
    info: dict[str, float]

    @property
    def worst(self) -> float:
        """The largest R-hat."""
        return max(self.r_hat.values())


def check_size(name: str, chains: int, sweeps: int, units: int) -> None:
    """Raise UserError if `equilibrate` would need more memory than there is; `name`: of the settings, `units`: of the machine."""
    check_memory(f"{name}.chains={chains} chains of {units} units", 2 * chains * units * 4 * DRAWS)
    check_memory(f"{name}.sweeps={sweeps} with the free energies of {WATCHED} chains", 2 * WATCHED * sweeps)


def equilibrate(
    machine: BoltzmannMachine,
    data: Tensor,
    chains: int,
    sweeps: int,
    generator: torch.Generator,
    progress: Callable[[int], None] = lambda done: None,
    sampler: Sampler = GIBBS,
    visible_mean: Tensor | None = None,
) -> Equilibrium:
    """Run 2 * `chains` chains for `sweeps` steps of the sampler, half from `data` (images, units), half from noise.

    visible_mean (units,): of the independent units that parallel tempering starts at; None: the mean of `data`. `chains` of
    the chains are returned. Raises UserError where there are too few to compare: each family is split in two.
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
    few = torch.arange(min(chains, WATCHED // 2), device=noise.device)
    watched = torch.cat((few, chains + few))
    energies, kept, visible = [], [], {}
    # One tensor for all sweeps: small ones that stay, made among large ones that go, would cut the heap into pieces too short
    # to be used again, one piece a sweep.
    fine = torch.empty(sweeps - sweeps // 2, len(watched), dtype=noise.dtype, device=noise.device)
    base = data.mean(0) if visible_mean is None else visible_mean
    moving = sampler.start(machine, states, (base.to(noise.dtype), *(None,) * (machine.depth - 1)))
    round_trips = 0.0
    for done in range(1, sweeps + 1):
        moving = sampler.step(machine, moving, generator)
        states, info = sampler.samples(machine, moving), sampler.info(machine, moving)
        round_trips += info.get("round_trips", 0.0)
        if done > sweeps // 2:
            fine[done - sweeps // 2 - 1] = machine.free_energy([state[watched] for state in states])
            if done % every == 0:
                energies.append(machine.free_energy(states))
                kept.append(torch.cat([states[index] for index in machine.parity(EVEN)], 1))
        if done in CHECKPOINTS or done == sweeps:
            visible[done] = states[0]
        progress(done)
    order = torch.randperm(2 * chains, generator=generator, device=noise.device)[:chains]
    traces = {"free_energy": torch.stack(energies, 1)} | _components(torch.stack(kept, 1))
    fine = fine.mT.contiguous()
    return Equilibrium(
        states=tuple(state[order] for state in states),
        r_hat={name: _r_hat(trace.reshape(2, -1)) for name, trace in traces.items()},
        sweeps=sweeps,
        mixing=Mixing(
            r_hat=max(_r_hat(trace) for trace in traces.values()),
            bulk_ess=float(array_stats.ess(_array(fine), chain_axis=0, draw_axis=1, method="bulk")),
            draws=fine.numel(),
            autocorrelation_time=autocorrelation_time(fine),
        ),
        energies=fine,
        visible=visible,
        info=info | ({"round_trips": round_trips} if "round_trips" in info else {}),
    )


def autocorrelation_time(trace: Tensor) -> float:
    """Integrated autocorrelation time 1 + 2 sum_t rho(t) of a trace (chains, draws), in draws: draws over their effective number.

    The estimate is that of Vehtari et al. (2021), which counts the variance between chains as correlation: of chains that never
    mix it is about as long as the trace, which is to be read as "at least".
    """
    return trace.numel() / float(array_stats.ess(_array(trace), chain_axis=0, draw_axis=1, method="mean"))


def _array(trace: Tensor) -> NDArray[np.float64]:
    return trace.double().cpu().numpy()


def _components(states: Tensor) -> dict[str, Tensor]:
    """Traces (chains, draws) of the leading principal components of states (chains, draws, units)."""
    flat = states.flatten(0, 1).float()
    centred = flat - flat.mean(0)
    count = min(COMPONENTS, centred.shape[1])
    _, axes = torch.linalg.eigh(centred.mT @ centred)
    scores = (centred @ axes[:, -count:]).unflatten(0, states.shape[:2])
    return {f"component_{index + 1}": scores[..., count - 1 - index] for index in range(count)}


def _r_hat(trace: Tensor) -> float:
    """Rank-normalised split R-hat of a trace (chains, draws); of one that never changes it is 1."""
    values = _array(trace)
    if values.max() == values.min():
        return 1.0
    return float(array_stats.rhat(values, chain_axis=0, draw_axis=1, method="rank"))
