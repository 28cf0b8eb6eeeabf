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

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebm_pipeline.models.machine import EVEN, BoltzmannMachine, States
from ebm_pipeline.sampling import Gibbs, Sampler, start_at_visible
from ebm_pipeline.support.errors import UserError, check_memory

COMPONENTS = 3  # principal components watched
DRAWS = 50  # states of each chain that R-hat is computed on
WATCHED = 100  # chains, half of either family, whose free energy is kept at every sweep of the second half
COMPONENT_UNITS = 1000  # whose principal components are watched, at most: their covariances take the square of it
LEAST_SWEEPS = 20
LEAST_CHAINS = 4  # of a family, which is split in two
STILL = 1e6  # an R-hat that no moving chains can have: rounding is all that they move by
GIBBS = Gibbs()
CHECKPOINTS = (1, 10, 100, 1000, 10000)  # sweeps after which samples of both families are kept
ENOUGH = 1.01  # R-hat at which sweeps are doubled no more (Vehtari et al. 2021)
MOST_DOUBLINGS = 10


@dataclass(frozen=True)
class Mixing:
    """How single chains move: R-hat over all chains, the largest of the numbers watched; bulk effective sample size (of
    `draws` states) and integrated autocorrelation time (sweeps) of the free energy, at every sweep of up to WATCHED chains.

    The last two are None where the free energy never changes.
    """

    r_hat: float
    bulk_ess: float | None
    draws: int
    autocorrelation_time: float | None


@dataclass(frozen=True, eq=False)
class Equilibrium:
    """The last states (chains, units), in random order, and R-hat between the families of each number watched (`_r_hat`).

    energies: free energies (watched chains, sweeps) in the second half of `sweeps`; visible: states of the visible layer
    (2 * chains, units) by the number of sweeps made; in both the first half of the rows started from data. info: numbers of
    the sampler: swap rates of parallel tempering after the last sweep, and its round trips in all of them, per chain;
    tried: the largest R-hat by the number of sweeps it was computed after, the last of which is `sweeps`.
    """

    states: States
    r_hat: dict[str, float]
    sweeps: int
    mixing: Mixing
    energies: Tensor
    visible: dict[int, Tensor]
    info: dict[str, float]
    tried: dict[int, float]

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
    doublings: int = 0,
) -> Equilibrium:
    """Run 2 * `chains` chains for `sweeps` steps of the sampler, half from `data` (images, units), half from noise.

    Where R-hat is then above ENOUGH the chains go on until they have made twice as many sweeps, at most `doublings` times.
    visible_mean (units,): of the independent units that parallel tempering starts at; None: the mean of `data`. `chains` of
    the chains are returned. Raises UserError where there are too few to compare: each family is split in two.
    """
    if chains < LEAST_CHAINS or sweeps < LEAST_SWEEPS:
        raise UserError(
            f"R-hat needs at least {LEAST_CHAINS} chains and {LEAST_SWEEPS} sweeps; got chains={chains}, sweeps={sweeps}"
        )
    machine = machine.folded().map(Tensor.detach)
    states = from_both(machine, data, chains, generator)
    base = data.mean(0) if visible_mean is None else visible_mean
    state = sampler.init(machine, states, (base.to(states[0].dtype), *(None,) * (machine.depth - 1)))
    watch = _Watch.of(machine, states, sweeps)
    round_trips = 0.0
    info: Mapping[str, float | Tensor] = {}
    tried: dict[int, float] = {}
    while True:
        for done in range(max(tried, default=0) + 1, watch.sweeps + 1):
            state, info = sampler.step(machine, state, generator)
            round_trips += float(info.get("sampler/round_trips", 0.0))
            watch.see(machine, state.samples, done)
            progress(done)
        traces = watch.traces()
        r_hat = {name: _r_hat(trace.reshape(2, -1)) for name, trace in traces.items()}
        tried[watch.sweeps] = max(r_hat.values())
        if tried[watch.sweeps] <= ENOUGH or len(tried) > doublings:
            break
        watch = _Watch.of(machine, state.samples, 2 * watch.sweeps, watch.visible)
    order = torch.randperm(2 * chains, generator=generator, device=states[0].device)[:chains]
    return Equilibrium(
        states=tuple(layer[order] for layer in state.samples),
        r_hat=r_hat,
        sweeps=watch.sweeps,
        mixing=_mixing(watch.fine, max(_r_hat(trace) for trace in traces.values())),
        energies=watch.fine,
        visible=watch.visible,
        info={name: float(value) for name, value in info.items()}
        | ({"sampler/round_trips": round_trips} if "sampler/round_trips" in info else {}),
        tried=tried,
    )


def from_both(machine: BoltzmannMachine, data: Tensor, chains: int, generator: torch.Generator) -> States:
    """States (2 * chains, units): the first half started at images (count, units), the second at noise."""
    chosen = torch.randint(len(data), (chains,), generator=generator, device=data.device)
    blank = machine.independent().layers[0]
    noise = blank.sample(torch.zeros(chains, blank.units, dtype=blank.bias.dtype, device=data.device), generator)
    return start_at_visible(machine, torch.cat((data[chosen].to(noise.dtype), noise)), generator)


@dataclass
class _Watch:
    """What is kept of chains (2 * chains, units) on their way: of the second half of the sweeps, but for `visible`."""

    sweeps: int
    every: int
    watched: Tensor  # rows whose free energy is kept after every sweep
    fine: Tensor  # (watched, sweeps - sweeps // 2)
    energies: list[Tensor] = field(default_factory=list)
    kept: list[Tensor] = field(default_factory=list)
    visible: dict[int, Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls, machine: BoltzmannMachine, states: States, sweeps: int, visible: dict[int, Tensor] | None = None
    ) -> _Watch:
        chains, device = len(states[0]) // 2, states[0].device
        few = torch.arange(min(chains, WATCHED // 2), device=device)
        watched = torch.cat((few, chains + few))
        # One tensor for all sweeps: small ones that stay, made among large ones that go, would cut the heap into pieces too
        # short to be used again, one piece a sweep.
        fine = torch.empty(sweeps - sweeps // 2, len(watched), dtype=states[0].dtype, device=device)
        return cls(sweeps, max(1, sweeps // 2 // DRAWS), watched, fine.mT, visible=visible or {})

    def see(self, machine: BoltzmannMachine, states: States, done: int) -> None:
        """Keep what is to be kept of the states after `done` sweeps."""
        if done > self.sweeps // 2:
            energies = machine.free_energy([state[self.watched] for state in states])
            self.fine[:, done - self.sweeps // 2 - 1] = energies
            if done % self.every == 0:
                self.energies.append(machine.free_energy(states))
                self.kept.append(few_units(torch.cat([states[index] for index in machine.parity(EVEN)], 1)))
        if done in CHECKPOINTS or done == self.sweeps:
            self.visible[done] = states[0]

    def traces(self) -> dict[str, Tensor]:
        """Free energy and leading principal components of all chains, (2 * chains, draws) each; `fine` made contiguous."""
        self.fine = self.fine.contiguous()
        return {"free_energy": torch.stack(self.energies, 1)} | _components(torch.stack(self.kept, 1))


def _mixing(energies: Tensor, r_hat: float) -> Mixing:
    """How single chains mix, by their free energies (chains, sweeps)."""
    if bool((energies == energies[:1, :1]).all()):
        return Mixing(r_hat, None, energies.numel(), None)
    return Mixing(
        r_hat=r_hat,
        bulk_ess=float(_estimates().ess(_array(energies), chain_axis=0, draw_axis=1, method="bulk")),
        draws=energies.numel(),
        autocorrelation_time=autocorrelation_time(energies),
    )


def few_units(states: Tensor) -> Tensor:
    """An even choice of at most COMPONENT_UNITS of the units of states (chains, units), for the principal components."""
    return states[:, :: -(-states.shape[1] // COMPONENT_UNITS)].contiguous()


def autocorrelation_time(trace: Tensor) -> float:
    """Integrated autocorrelation time 1 + 2 sum_t rho(t) of a trace (chains, draws), in draws: draws over their effective number.

    The estimate is that of Vehtari et al. (2021), which counts the variance between chains as correlation: of chains that never
    mix it is about as long as the trace, which is to be read as "at least".
    """
    return trace.numel() / float(_estimates().ess(_array(trace), chain_axis=0, draw_axis=1, method="mean"))


def _estimates() -> Any:
    """ArviZ's estimates, which a run without diagnostics and likelihood has no need of: with SciPy they take a second to load."""
    from arviz_stats.base.array import array_stats

    return array_stats


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
    """Rank-normalised split R-hat of a trace (chains, draws).

    It is 1 where all chains always have one value, inf (which is to say not defined) where no chain moves but they stand apart,
    and nan of values that are not finite.
    """
    values = _array(trace)
    if not np.isfinite(values).all():
        return math.nan
    if values.max() == values.min():
        return 1.0
    with np.errstate(
        divide="ignore", invalid="ignore"
    ):  # the ranks, or the folded ones, may not vary within the chains
        found = float(_estimates().rhat(values, chain_axis=0, draw_axis=1, method="rank"))
    return found if found < STILL else math.inf


def shown_r_hat(value: float, digits: int = 3) -> str:
    """An R-hat as a person reads it."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "not defined (no chain moves, though they stand apart)"


def above(value: float, most: float) -> str:
    """What follows an R-hat that is too large: its threshold, where there is a number to compare with it."""
    return f", above {most:g}" if math.isfinite(value) else ""


def defined(metrics: Mapping[str, float | None]) -> dict[str, float]:
    """Without those that are not defined: None and inf. One that is nan stays, as something has diverged."""
    return {name: value for name, value in metrics.items() if value is not None and not math.isinf(value)}
