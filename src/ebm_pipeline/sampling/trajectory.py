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

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

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
    acceptance_at,
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

MEMORY = 0.15  # least weight of the newest in the running means of the acceptance
LONG_MEMORY = 0.03  # in those of log Z
LEAST_SEEN = 5  # exchanges of a pair, before its acceptance decides anything
SPARE = 1.3  # times the acceptance that is asked: what two rungs must have for the one between them to be given up
LAGS = 0.5  # of the acceptance that is asked: a ladder with a pair below it has fallen behind the machine
WORTH = 0.75  # of a gap: how much smaller the one must be that a full ladder leaves to close it
MOST_RUNGS = 1000
GROWTH = 2  # times as long a ladder may become that a finished run brings


@dataclass(frozen=True)
class TrajectoryTempering:
    """`steps` sweeps of the machine per call of `step`; the rungs below have `chains` chains each (None: as many as the machine).

    They move, and exchange, whenever the machine's own chains have made `every` sweeps for each of theirs, so that the ladder
    costs as much however long it is; every = 0 moves it at each sweep. So does a ladder that has fallen behind: two neighbours
    hardly exchange, and there is room for rungs. (A machine may learn modes faster than the ladder grows. Then nothing tells it
    their weights, which drift, and rungs that have one mode alone stand in the way for ever.)
    A rung is put between two neighbours whose acceptance falls below `acceptance`: the machine as it is where it is one of
    them, else one halfway. A rung is given up where its neighbours would exchange often enough without it. A ladder of
    `rungs` machines, the machine itself included, first gives up the one that it needs least, unless that is needed more.
    `ladder`: stacked machines to begin with, of a machine that does not learn any more; then all new rungs are halfway ones.
    warm_up: sweeps in which the ladder may change; None: always.
    """

    steps: int = 1
    rungs: int = 30
    acceptance: float = 0.3
    chains: int | None = 20
    every: float = 3.0
    warm_up: int | None = None
    ladder: BoltzmannMachine | None = None

    def __post_init__(self) -> None:
        check_whole("sampler.steps", self.steps, 1)
        check_whole("sampler.rungs", self.rungs, 2, MOST_RUNGS)
        check_number("sampler.acceptance", self.acceptance, 0, 1, open_low=True, open_high=True)
        check_number("sampler.every", self.every)
        if self.chains is not None:
            check_whole("sampler.chains, if not null,", self.chains, 1)
        if self.warm_up is not None:
            check_whole("sampler.warm_up, if not null,", self.warm_up, 0)

    def init(self, machine: BoltzmannMachine, states: States, means: PartialStates) -> Ladder:
        """A ladder whose chains all start at `states` (chains, units); rung 0 has the data's means (units,)."""
        machine.check_units(states)
        machine.check_units(means)
        machine = machine.folded()
        room = self.rungs - 1
        own = len(states[0]) if self.chains is None else min(self.chains, len(states[0]))
        units = sum(layer.units for layer in machine.layers)
        numbers = own * units + sum(each.numel() for each in machine.named_tensors().values())
        count = f"sampler.rungs={self.rungs}" if self.ladder is None else f"a ladder of up to {self.rungs}"
        check_memory(f"{count} machines of {units} units with {own} chains each", 12 * self.rungs * numbers)
        rungs = stacked([independent_base(machine, means)]) if self.ladder is None else self.ladder
        below = len(rungs.weights[0])
        if below > room:
            raise UserError(f"sampler.rungs={self.rungs} is too few for a ladder of {below} rungs below the machine")
        return first_ladder(rungs, states, room, own)

    def step(
        self,
        machine: BoltzmannMachine,
        state: Ladder,
        generator: torch.Generator | None,
        clamped: Collection[int] = (),
        *,
        finish: bool = True,
    ) -> tuple[Ladder, Info]:
        """The ladder after `steps` sweeps of the machine. Clamped layers stay; only even ones can be clamped, and only where
        all rungs have as many chains.

        finish=False leaves the last draw of the machine's odd layers to the caller.
        """
        if any(index % 2 == ODD for index in clamped):
            raise UserError("trajectory tempering sums the odd layers out and cannot clamp them: use sampler=gibbs")
        if clamped and state.walkers.shape[1] < len(state.top_walkers):
            raise UserError(
                f"layers cannot be clamped where {state.walkers.shape[1]} chains of a rung take turns with "
                f"{len(state.top_walkers)} of the machine, which may be clamped to other states: set sampler.chains=null"
            )
        machine = machine.folded()
        ladder = state._replace(counts=state.counts.clone())
        ladder.counts[ROUND_TRIPS] = 0
        for sweep in range(self.steps):
            ladder = ladder._replace(top=machine.sample(ladder.top, EVEN, generator, clamped))
            ladder.counts[SWEEPS] += 1
            if self._is_due(ladder):
                ladder = self._moved(machine, ladder, generator, clamped)
            if finish or sweep < self.steps - 1:
                ladder = ladder._replace(top=machine.sample(ladder.top, ODD, generator, clamped))
        return ladder, self._info(ladder)

    def _info(self, ladder: Ladder) -> Info:
        """Round trips in this step, per chain; of a machine that does not learn the ladder too (training tells it by epoch)."""
        info = {"sampler/round_trips": int(ladder.counts[ROUND_TRIPS]) / len(ladder.top_walkers)}
        return info if self.ladder is None else info | ladder.numbers()

    def _is_due(self, ladder: Ladder) -> bool:
        """Whether the rungs below the machine move now."""
        waited = int(ladder.counts[SWEEPS] - ladder.counts[MOVED_AT])
        if waited * len(ladder.top_walkers) >= self.every * ladder.rungs * ladder.walkers.shape[1]:
            return True
        return ladder.rungs < ladder.room and float(ladder.rates[: ladder.rungs].min()) < LAGS * self.acceptance

    def _moved(
        self, machine: BoltzmannMachine, ladder: Ladder, generator: torch.Generator | None, clamped: Collection[int]
    ) -> Ladder:
        """A sweep of the rungs below the machine, exchanges, and what these say of the ladder's length."""
        ladder, _ = exchange(machine, swept(machine, ladder, generator, clamped), generator)
        if self.warm_up is None or int(ladder.counts[SWEEPS]) <= self.warm_up:
            return self._adapted(machine, ladder)
        return ladder

    def _adapted(self, machine: BoltzmannMachine, ladder: Ladder) -> Ladder:
        """The ladder with one more rung where two neighbours exchange too seldom, or without one that it can spare.

        The fewer rungs there are, the sooner a state comes up from the first to the machine.
        """
        row, apart = least_needed(ladder)
        known = bool((ladder.seen[max(row - 1, 0) : row + 1] >= LEAST_SEEN).all())
        if row and known and float(acceptance_at(torch.tensor(apart))) > SPARE * self.acceptance:
            return without_rung(ladder, row)
        rates = torch.where(ladder.seen < LEAST_SEEN, 1.0, ladder.rates)[: ladder.rungs]
        pair = int(rates.argmin())
        if not float(rates[pair]) < self.acceptance:
            return ladder
        if ladder.rungs == ladder.room:
            if not apart < WORTH * float(distances(rates[pair])):
                return ladder
            ladder = without_rung(ladder, row)
            pair -= row <= pair
        lower, upper = (ladder.rung(machine, index) for index in (pair, pair + 1))
        if pair == ladder.rungs - 1 and self.ladder is None:
            return with_rung(ladder, pair, upper, int(ladder.counts[SWEEPS]))
        return with_rung(ladder, pair, between(lower, upper), NEVER)


def along(ladder: BoltzmannMachine, sweeps: int, warm_up: int) -> TrajectoryTempering:
    """The sampler of a machine that does not learn any more, from its stacked `ladder`, which may grow in the warm-up."""
    rungs = longest(len(ladder.weights[0]))
    return TrajectoryTempering(sweeps, rungs, chains=None, every=0, warm_up=warm_up, ladder=ladder)


def longest(below: int) -> int:
    """How many machines a ladder of a finished run can come to, of so many below the machine."""
    return min(MOST_RUNGS, GROWTH * below + 2)


def swept(
    machine: BoltzmannMachine, ladder: Ladder, generator: torch.Generator | None, clamped: Collection[int]
) -> Ladder:
    """The even layers of the rungs below the machine drawn anew, all in one call; those of rung 0 depend on nothing."""
    rungs = ladder.machines(machine)
    below = rungs.sample(tuple(state[: ladder.rungs] for state in ladder.below), EVEN, generator, clamped)
    born = ladder.born.clone()
    born[0] = ladder.counts[SWEEPS]
    return _with_below(ladder, below)._replace(born=born)


class Exchanged(NamedTuple):
    """What an exchange saw: the lower rungs of its pairs (pairs,), and log weights w (pairs, chains) of states of either rung."""

    lower: Tensor
    low: Tensor
    high: Tensor


def exchange(machine: BoltzmannMachine, ladder: Ladder, generator: torch.Generator | None) -> tuple[Ladder, Exchanged]:
    """One round of exchanges: pairs (0, 1), (2, 3), ... or (1, 2), (3, 4), ..., by the number of moves so far.

    The odd layers of the rungs below the machine are drawn afterwards, those of the machine are left to the caller.
    """
    rungs, turn, even = ladder.rungs, ladder.turn, machine.parity(EVEN)
    states = {index: torch.cat((ladder.below[index][:rungs], ladder.top[index][turn][None])) for index in even}
    lower = torch.arange(int(ladder.counts[MOVES]) % 2, rungs, 2, device=turn.device)
    partner = torch.arange(rungs + 1, device=turn.device)
    partner[lower], partner[lower + 1] = lower + 1, lower
    there = {index: state[partner] for index, state in states.items()}
    energies, inputs = _free(machine, ladder, {index: torch.cat((states[index], there[index]), 1) for index in even})
    own, other = energies.chunk(2, 1)
    seen = Exchanged(lower, own[lower] - other[lower + 1], other[lower] - own[lower + 1])
    uniform = torch.rand(seen.low.shape, generator=generator, dtype=own.dtype, device=own.device)
    accepted = torch.zeros_like(own, dtype=torch.bool)
    accepted[lower] = accepted[lower + 1] = uniform.log() < seen.low - seen.high

    rungs_of = torch.arange(rungs + 1, device=turn.device)[:, None]
    source = torch.where(accepted, partner[:, None], rungs_of)  # (rungs + 1, chains): where each state was
    moved = {index: torch.where(accepted[..., None], there[index], states[index]) for index in even}
    top = tuple(
        state.index_copy(0, turn, moved[index][-1]) if index in moved else state
        for index, state in enumerate(ladder.top)
    )
    machines, below = ladder.machines(machine), [state[:-1] for _, state in sorted(moved.items())]
    for index in machine.parity(ODD):
        before, after = inputs[index].chunk(2, 1)
        field = torch.where(accepted[:-1, :, None], after, before)
        below.insert(index, machines.layers[index].sample(field, generator))
    ladder = _walked(_with_below(ladder._replace(top=top), below), source, turn)
    return _learned(ladder, seen), seen


def _free(machine: BoltzmannMachine, ladder: Ladder, even: Mapping[int, Tensor]) -> tuple[Tensor, dict[int, Tensor]]:
    """F of each rung, the machine last, at even layers (rungs + 1, chains, units): (rungs + 1, chains); and what these send
    to the odd layers of the rungs below the machine.
    """
    rungs = ladder.machines(machine)
    states = [even[index][:-1] if index in even else None for index in range(machine.depth)]
    inputs = {index: rungs.inputs(states, index) for index in machine.parity(ODD)}
    energies = [rungs.layers[index].energy(state) for index, state in enumerate(states) if state is not None]
    energies += [-rungs.layers[index].log_partition(field) for index, field in inputs.items()]
    top = machine.free_energy([even[index][-1] if index in even else None for index in range(machine.depth)])
    return torch.cat((torch.stack(energies).sum(0), top[None])), inputs


def _walked(ladder: Ladder, source: Tensor, turn: Tensor) -> Ladder:
    """What is known of the states, where they went; source (rungs + 1, chains): the rung that each came from."""
    rungs, counts = ladder.rungs, ladder.counts.clone()
    walkers, top_walkers, born, top_born = (
        known.clone() for known in (ladder.walkers, ladder.top_walkers, ladder.born, ladder.top_born)
    )
    moved = torch.cat((walkers[:rungs], top_walkers[turn][None])).gather(0, source)
    counts[ROUND_TRIPS] += (moved[-1] == UP).sum()
    counts[MOVES] += 1
    counts[MOVED_AT] = counts[SWEEPS]
    walkers[:rungs], top_walkers[turn] = moved[:-1], DOWN
    walkers[0] = torch.where(walkers[0] == DOWN, UP, walkers[0])
    births = torch.cat((born[:rungs], top_born[turn][None])).gather(0, source)
    born[:rungs], top_born[turn] = births[:-1], births[-1]
    return ladder._replace(walkers=walkers, top_walkers=top_walkers, born=born, top_born=top_born, counts=counts)


def _learned(ladder: Ladder, exchanged: Exchanged) -> Ladder:
    """The running means of pairs, with what an exchange saw of them."""
    lower, low, high = exchanged
    rates, log_ratios, seen = ladder.rates.clone(), ladder.log_ratios.clone(), ladder.seen.clone()
    share = 2 / (seen[lower] + 2.0)  # the later an exchange, the better its chains know their rung
    accepted = (low - high).clamp(max=0).exp().mean(1)
    rates[lower] = torch.lerp(rates[lower], accepted.to(rates.dtype), share.clamp_min(MEMORY).to(rates.dtype))
    newest = bennett_step(low.double(), high.double(), log_ratios[lower])
    log_ratios[lower] = torch.lerp(log_ratios[lower], newest, share.clamp_min(LONG_MEMORY).double())
    seen[lower] += 1
    return ladder._replace(rates=rates, log_ratios=log_ratios, seen=seen)


def log_partition(machine: BoltzmannMachine, ladder: Ladder) -> float:
    """Running estimate of log Z of `machine` in nats: that of rung 0, which is exact, and the steps above it.

    The last step is taken anew from the states as they are, since the machine in training is not what it was; for no offsets.
    """
    assert not machine.offsets, "fold the offsets first"
    base, rungs = ladder.rung(machine, 0), ladder.rungs
    exact = sum(float(layer.log_partition(torch.zeros_like(layer.bias)).double()) for layer in base.layers)
    last = ladder.rung(machine, rungs - 1)

    def weights(states: States) -> Tensor:
        return (last.free_energy(states) - machine.free_energy(states)).double()

    step = bennett(weights(tuple(state[rungs - 1] for state in ladder.below)), weights(ladder.top))
    return exact + float(ladder.log_ratios[: rungs - 1].sum()) + float(step)


def _with_below(ladder: Ladder, states: Sequence[Tensor]) -> Ladder:
    """The ladder with other states (rungs, chains, units) of its rungs, one per layer, which are written into new arrays."""
    below = tuple(torch.cat((new, old[len(new) :])) for new, old in zip(states, ladder.below, strict=True))
    return ladder._replace(below=below)
