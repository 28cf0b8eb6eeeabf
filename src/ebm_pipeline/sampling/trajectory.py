"""Trajectory tempering: parallel tempering along the machine's own history (Bereux, Decelle, Furtlehner, Rosset & Seoane 2024,
arXiv:2405.15376).

Along inverse temperatures a machine that has learned many modes goes through a transition of first order, where exchanges are
not accepted. Its training went another way, along which modes appeared one after the other. So the rungs are the machine at
earlier times: one is kept whenever exchanges with the last one are accepted too seldom. Neighbours exchange their states, even
and odd pairs in turn, with the odd layers summed out,

    min(1, exp[F_k(x_k) + F_{k+1}(x_{k+1}) - F_k(x_{k+1}) - F_{k+1}(x_k)]),        x: even layers

which leaves the joint distribution of all rungs as it is. The same free energies give log Z from rung to rung (`bennett`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from ebm_pipeline.models.machine import EVEN, ODD, BoltzmannMachine, PartialStates, States
from ebm_pipeline.sampling.base import Info
from ebm_pipeline.sampling.bennett import bennett, bennett_step
from ebm_pipeline.sampling.ladder import (
    DOWN,
    MOVED_AT,
    MOVES,
    NEVER,
    ROUND_TRIPS,
    SWEEPS,
    UP,
    Ladder,
    between,
    distances,
    first_ladder,
    independent_base,
    least_needed,
    stacked,
    with_rung,
    without_rung,
)
from ebm_pipeline.support.errors import UserError, check_memory, check_number, check_whole

MEMORY = 0.25  # least weight of the newest in the running means of the acceptance
LONG_MEMORY = 0.01  # in those of log Z between rungs that stand still
LEAST_SEEN = 3  # exchanges of a pair, before its acceptance decides anything
MOST_RUNGS = 1000


@dataclass(frozen=True)
class TrajectoryTempering:
    """`steps` sweeps of the machine per call of `step`; the rungs below move, and exchange, every `every` * rungs sweeps.

    So the ladder costs as much however long it is; every = 0 moves it at each sweep. A rung is put between two neighbours whose
    acceptance falls below `acceptance`: the machine as it is where it is one of them, else one halfway. A ladder of `rungs`
    machines, the machine itself included, first gives up the one that it needs least, unless that is needed more. `ladder`:
    stacked machines to begin with, of a machine that does not learn any more; then all new rungs are halfway ones.
    warm_up: sweeps in which the ladder may change; None: always.
    """

    steps: int = 1
    rungs: int = 30
    acceptance: float = 0.3
    every: int = 2
    warm_up: int | None = None
    ladder: BoltzmannMachine | None = None

    def __post_init__(self) -> None:
        check_whole("sampler.steps", self.steps, 1)
        check_whole("sampler.rungs", self.rungs, 2, MOST_RUNGS)
        check_number("sampler.acceptance", self.acceptance, 0, 1, open_low=True, open_high=True)
        check_whole("sampler.every", self.every, 0)
        if self.warm_up is not None:
            check_whole("sampler.warm_up, if not null,", self.warm_up, 0)

    def init(self, machine: BoltzmannMachine, states: States, means: PartialStates) -> Ladder:
        """A ladder whose chains all start at `states` (chains, units); rung 0 has the data's means (units,)."""
        machine.check_units(states)
        machine.check_units(means)
        machine = machine.folded()
        room = self.rungs - 1
        numbers = sum(state.numel() for state in states) + sum(
            each.numel() for each in machine.named_tensors().values()
        )
        check_memory(
            f"sampler.rungs={self.rungs} machines of {sum(layer.units for layer in machine.layers)} units with "
            f"{len(states[0])} chains each",
            12 * self.rungs * numbers,
        )
        rungs = stacked([independent_base(machine, means)]) if self.ladder is None else self.ladder
        count = len(rungs.weights[0])
        if count > room:
            raise UserError(f"sampler.rungs={self.rungs} is too few for a ladder of {count} rungs below the machine")
        return first_ladder(rungs, states, room)

    def step(
        self,
        machine: BoltzmannMachine,
        state: Ladder,
        generator: torch.Generator | None,
        clamped: Collection[int] = (),
        *,
        finish: bool = True,
    ) -> tuple[Ladder, Info]:
        """The ladder after `steps` sweeps of the machine. Clamped layers stay; only even ones can be clamped.

        finish=False leaves the last draw of the machine's odd layers to the caller.
        """
        if any(index % 2 == ODD for index in clamped):
            raise UserError("trajectory tempering sums the odd layers out and cannot clamp them: use sampler=gibbs")
        machine = machine.folded()
        ladder = state._replace(counts=state.counts.clone())
        ladder.counts[ROUND_TRIPS] = 0
        for sweep in range(self.steps):
            ladder = ladder._replace(top=machine.sample(ladder.top, EVEN, generator, clamped))
            ladder.counts[SWEEPS] += 1
            if int(ladder.counts[SWEEPS] - ladder.counts[MOVED_AT]) >= self.every * ladder.rungs:
                ladder = self._moved(machine, ladder, generator, clamped)
            if finish or sweep < self.steps - 1:
                ladder = ladder._replace(top=machine.sample(ladder.top, ODD, generator, clamped))
        return ladder, {"sampler/round_trips": int(ladder.counts[ROUND_TRIPS]) / ladder.walkers.shape[1]}

    def _moved(
        self, machine: BoltzmannMachine, ladder: Ladder, generator: torch.Generator | None, clamped: Collection[int]
    ) -> Ladder:
        """A sweep of the rungs below the machine, exchanges, and what these say of the ladder's length."""
        ladder = exchange(machine, swept(machine, ladder, generator, clamped), generator)
        if self.warm_up is None or int(ladder.counts[SWEEPS]) <= self.warm_up:
            return self._adapted(machine, ladder)
        return ladder

    def _adapted(self, machine: BoltzmannMachine, ladder: Ladder) -> Ladder:
        """The ladder with one more rung where two neighbours exchange too seldom, if there is one to spare."""
        rates = torch.where(ladder.seen < LEAST_SEEN, 1.0, ladder.rates)[: ladder.rungs]
        pair = int(rates.argmin())
        if not float(rates[pair]) < self.acceptance:
            return ladder
        if ladder.rungs == ladder.room:
            row, apart = least_needed(ladder)
            if not apart < float(distances(rates[pair])):
                return ladder
            ladder = without_rung(ladder, row)
            pair -= row <= pair
        lower, upper = (ladder.rung(machine, index) for index in (pair, pair + 1))
        if pair == ladder.rungs - 1 and self.ladder is None:
            return with_rung(ladder, pair, upper, int(ladder.counts[SWEEPS]))
        return with_rung(ladder, pair, between(lower, upper), NEVER)


def swept(
    machine: BoltzmannMachine, ladder: Ladder, generator: torch.Generator | None, clamped: Collection[int]
) -> Ladder:
    """The rungs below the machine after a sweep, all in one call; the chains of rung 0 are new draws."""
    rungs = ladder.machines(machine)
    states = rungs.sample(_partial([state[: ladder.rungs] for state in ladder.below], machine), ODD, generator, clamped)
    below = rungs.sample(states, EVEN, generator, clamped)[EVEN::2]
    return _with_even(ladder, [torch.cat(pair) for pair in zip(below, _top(ladder), strict=True)])


def exchange(machine: BoltzmannMachine, ladder: Ladder, generator: torch.Generator | None) -> Ladder:
    """One round of exchanges: pairs (0, 1), (2, 3), ... or (1, 2), (3, 4), ..., by the number of moves so far."""
    rungs = ladder.rungs
    states = _all_even(ladder)
    lower = torch.arange(int(ladder.counts[MOVES]) % 2, rungs, 2, device=ladder.rates.device)
    partner = torch.arange(rungs + 1, device=lower.device)
    partner[lower], partner[lower + 1] = lower + 1, lower
    own = free_energies(machine, ladder, states)
    other = free_energies(machine, ladder, [state[partner] for state in states])
    low, high = own[lower] - other[lower + 1], other[lower] - own[lower + 1]  # log weights of the states of either rung
    uniform = torch.rand(low.shape, generator=generator, dtype=low.dtype, device=low.device)
    accepted = uniform.log() < low - high

    source = torch.arange(rungs + 1, device=lower.device)[:, None].repeat(1, low.shape[1])
    source[lower] = torch.where(accepted, source[lower + 1], source[lower])
    source[lower + 1] = torch.where(accepted, lower[:, None], source[lower + 1])
    ladder = _with_even(ladder, [state.gather(0, source[..., None].expand_as(state)) for state in states])
    return _learned(_walked(ladder, source), lower, low, high)


def _walked(ladder: Ladder, source: Tensor) -> Ladder:
    """The walkers where their states went; `source` (rungs + 1, chains): the rung that each state came from."""
    used = len(source)
    walkers, born, counts = ladder.walkers.clone(), ladder.born.clone(), ladder.counts.clone()
    moved = walkers[:used].gather(0, source)
    counts[ROUND_TRIPS] += (moved[-1] == UP).sum()
    counts[MOVES] += 1
    counts[MOVED_AT] = counts[SWEEPS]
    moved[-1] = DOWN
    moved[0] = torch.where(moved[0] == DOWN, UP, moved[0])
    walkers[:used] = moved
    born[:1] = counts[SWEEPS]  # whatever was there was drawn in this move, before it was exchanged
    born[:used] = born[:used].gather(0, source)
    return ladder._replace(walkers=walkers, born=born, counts=counts)


def _learned(ladder: Ladder, lower: Tensor, low: Tensor, high: Tensor) -> Ladder:
    """The running means of pairs, whose lower rungs are `lower`, with the log weights (pairs, chains) of both in them."""
    rates, log_ratios, seen = ladder.rates.clone(), ladder.log_ratios.clone(), ladder.seen.clone()
    share = 1 / (seen[lower] + 1.0)
    accepted = (low - high).clamp(max=0).exp().mean(1)
    rates[lower] = torch.lerp(rates[lower], accepted.to(rates.dtype), share.clamp_min(MEMORY).to(rates.dtype))
    newest = bennett_step(low.double(), high.double(), log_ratios[lower])
    log_ratios[lower] = torch.lerp(log_ratios[lower], newest, share.clamp_min(LONG_MEMORY).double())
    seen[lower] += 1
    return ladder._replace(rates=rates, log_ratios=log_ratios, seen=seen)


def free_energies(machine: BoltzmannMachine, ladder: Ladder, states: list[Tensor]) -> Tensor:
    """F of each rung, the machine last, at its own even `states` (rungs + 1, chains, units): (rungs + 1, chains)."""
    below = ladder.machines(machine).free_energy(_partial([state[:-1] for state in states], machine))
    return torch.cat((below, machine.free_energy(_partial([state[-1] for state in states], machine))[None]))


def log_partition(machine: BoltzmannMachine, ladder: Ladder) -> float:
    """Running estimate of log Z of `machine` in nats: that of rung 0, which is exact, and the steps above it.

    The last step is taken anew from the states as they are, since the machine in training is not what it was.
    """
    machine = machine.folded()
    base, rungs = ladder.rung(machine, 0), ladder.rungs
    exact = sum(float(layer.log_partition(torch.zeros_like(layer.bias)).double()) for layer in base.layers)
    last = ladder.rung(machine, rungs - 1)

    def weights(states: States | list[Tensor]) -> Tensor:
        partial = _partial(states, machine)
        return (last.free_energy(partial) - machine.free_energy(partial)).double()

    step = bennett(weights([state[rungs - 1] for state in ladder.below]), weights(ladder.top[EVEN::2]))
    return exact + float(ladder.log_ratios[: rungs - 1].sum()) + float(step)


def _partial(even: States | list[Tensor], machine: BoltzmannMachine) -> PartialStates:
    """States of the even layers with None for the odd ones."""
    return [None if index % 2 else even[index // 2] for index in range(machine.depth)]


def _top(ladder: Ladder) -> list[Tensor]:
    return [state[None] for state in ladder.top[EVEN::2]]


def _all_even(ladder: Ladder) -> list[Tensor]:
    """Even layers (rungs + 1, chains, units) of all rungs, the machine last."""
    below = [state[: ladder.rungs] for state in ladder.below]
    return [torch.cat(pair) for pair in zip(below, _top(ladder), strict=True)]


def _with_even(ladder: Ladder, states: list[Tensor]) -> Ladder:
    """The ladder with the even layers (rungs + 1, chains, units) of all rungs, the machine last."""
    top = tuple(states[index // 2][-1] if index % 2 == EVEN else state for index, state in enumerate(ladder.top))
    unused = [state[len(new) - 1 :] for state, new in zip(ladder.below, states, strict=True)]
    below = tuple(torch.cat((new[:-1], rest)) for new, rest in zip(states, unused, strict=True))
    return ladder._replace(below=below, top=top)
