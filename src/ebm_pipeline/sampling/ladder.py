"""The ladder of trajectory tempering: machines from one without couplings up to the machine itself, and their chains.

Rung 0 has independent units, so its log Z is known and each of its sweeps draws anew; the rungs above are what the machine was
at earlier times, or machines halfway between two others; the last is the machine as it is, which is no part of the state.
Arrays have room for as many rungs as there may ever be, so that a checkpoint has the same shapes throughout. The rungs may have
fewer chains than the machine, whose chains then take turns in the exchanges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ebm_pipeline.models.machine import BoltzmannMachine, PartialStates, States

NEW, DOWN, UP = 0, 1, 2  # a walker before it first was at the top; on its way to rung 0; on its way back
# What `counts` holds: sweeps, rungs below the machine, moves, sweep of the last, round trips in the last step, rungs taken out
SWEEPS, RUNGS, MOVES, MOVED_AT, ROUND_TRIPS, TAKEN_OUT = range(6)
NEVER = -1  # `kept` of a rung that the machine never was


class Ladder(NamedTuple):
    """Rows 0 ... rungs - 1 of what has `room` rows are in use."""

    parameters: States  # (room, ...), in the order of the machine's `named_tensors`; vectors are (room, 1, units)
    below: States  # all layers of the rungs, (room, chains of a rung, units)
    top: States  # all layers of the machine, (chains, units)
    walkers: Tensor  # (room, chains of a rung): NEW, DOWN or UP
    top_walkers: Tensor  # (chains,)
    born: Tensor  # (room, chains of a rung): the sweep at which the state was last at rung 0
    top_born: Tensor  # (chains,)
    rates: Tensor  # (room,): running means of the acceptance between a rung and the next
    log_ratios: Tensor  # (room,), float64: running log Z of the next rung less that of the rung
    seen: Tensor  # (room,): exchanges between the two so far
    kept: Tensor  # (room,): the sweep at which the machine was this rung; NEVER of others
    counts: Tensor  # (6,), whole numbers: see SWEEPS, ...

    @property
    def samples(self) -> States:
        """The machine's own chains, one (chains, units) per layer."""
        return self.top

    def completed(self, samples: States) -> Ladder:
        """The ladder with the machine's chains replaced."""
        return self._replace(top=samples)

    @property
    def rungs(self) -> int:
        """Rungs below the machine."""
        return int(self.counts[RUNGS])

    @property
    def room(self) -> int:
        """How many there may be."""
        return len(self.rates)

    @property
    def ages(self) -> Tensor:
        """Sweeps since the state of each of the machine's chains was last at rung 0: (chains,)."""
        return self.counts[SWEEPS] - self.top_born

    @property
    def turn(self) -> Tensor:
        """Which of the machine's chains exchange in this move: (chains of a rung,)."""
        chains, own = len(self.top[0]), self.walkers.shape[1]
        first = int(self.counts[MOVES]) // 2 * own  # of two moves the machine is in one
        return (first + torch.arange(own, device=self.born.device)) % chains

    def numbers(self) -> dict[str, float]:
        """How long the ladder is, its lowest acceptance, the mean age of the machine's chains."""
        return {
            "sampler/rungs": float(self.rungs + 1),
            "sampler/least_swap_rate": float(self.rates[: self.rungs].min()),
            "sampler/chain_age": float(self.ages.double().mean()),
        }

    def machines(self, machine: BoltzmannMachine) -> BoltzmannMachine:
        """The rungs below as one machine that steps on (rungs, chains, units), of the type of `machine`'s products."""
        return self._rows(machine, slice(0, self.rungs))

    def rung(self, machine: BoltzmannMachine, index: int) -> BoltzmannMachine:
        """One rung; `machine` itself is the last."""
        return machine if index == self.rungs else self._rows(machine, index)

    def _rows(self, machine: BoltzmannMachine, rows: slice | int) -> BoltzmannMachine:
        own = machine.named_tensors()
        tensors = zip(own, self.parameters, strict=True)
        return machine.with_tensors({name: tensor[rows].to(own[name].dtype) for name, tensor in tensors})


def stacked(machines: Sequence[BoltzmannMachine]) -> BoltzmannMachine:
    """Machines of the same layers as one that steps on (machines, chains, units)."""
    each = [rows_of(machine) for machine in machines]
    names = machines[0].named_tensors()
    return machines[0].with_tensors({name: torch.stack(tensors) for name, *tensors in zip(names, *each, strict=True)})


def rows_of(machine: BoltzmannMachine) -> States:
    """The tensors of a machine as rows of `Ladder.parameters`: vectors (units,) are (1, units)."""
    return tuple(
        tensor if name.startswith("weights") or tensor.dim() > 1 else tensor[None]
        for name, tensor in machine.named_tensors().items()
    )


def independent_base(machine: BoltzmannMachine, means: PartialStates) -> BoltzmannMachine:
    """Rung 0: no couplings, each layer with its mean (units,) where `means` has one, else of zero bias."""
    machine.check_states(means)
    biases = {
        f"layers/{index}/bias": layer.bias_for_mean(mean)
        for index, (layer, mean) in enumerate(zip(machine.layers, means, strict=True))
        if mean is not None
    }
    return machine.independent().with_tensors(biases)


def between(lower: BoltzmannMachine, upper: BoltzmannMachine) -> BoltzmannMachine:
    """The machine with the mean of both energies."""
    layers = tuple(high.annealed(0.5, low) for low, high in zip(lower.layers, upper.layers, strict=True))
    weights = tuple(torch.lerp(low, high, 0.5) for low, high in zip(lower.weights, upper.weights, strict=True))
    return replace(upper, layers=layers, weights=weights)


def first_ladder(machines: BoltzmannMachine, states: States, room: int, chains: int) -> Ladder:
    """A ladder of stacked `machines` with so many `chains` each, which all start at `states` (chains, units)."""
    machines.check_states(states)
    rows = tuple(machines.named_tensors().values())
    vector = rows[0].new_zeros(room)
    whole = torch.zeros(room, dtype=torch.int64, device=vector.device)
    counts = whole.new_zeros(6)
    counts[RUNGS] = len(rows[0])
    return Ladder(
        parameters=tuple(_padded(row, room) for row in rows),
        below=tuple(state[:chains].expand(room, *state[:chains].shape).clone() for state in states),
        top=states,
        walkers=whole.new_full((room, chains), NEW),
        top_walkers=whole.new_full((len(states[0]),), NEW),
        born=whole.new_zeros(room, chains),
        top_born=whole.new_zeros(len(states[0])),
        rates=vector + 0.5,
        log_ratios=vector.double(),
        seen=whole,
        kept=whole.new_full((room,), NEVER),
        counts=counts,
    )


def _padded(rows: Tensor, room: int) -> Tensor:
    """Rows (count, ...) in an array (room, ...)."""
    array = rows.new_zeros(room, *rows.shape[1:])
    array[: len(rows)] = rows
    return array


# ---------------------------------------------------------------------------------------------- its length


def with_rung(ladder: Ladder, pair: int, machine: BoltzmannMachine, kept: int) -> Ladder:
    """The ladder with `machine` between the rungs of a pair; its chains start as copies of those of the upper rung."""
    row, own = pair + 1, ladder.walkers.shape[1]
    is_top = row == ladder.rungs
    upper = [state[:own] for state in ladder.top] if is_top else [state[row] for state in ladder.below]
    born = ladder.top_born[:own] if is_top else ladder.born[row]
    change = ladder.counts.clone()
    change[RUNGS] += 1
    rates, log_ratios, seen = (
        _with_row(tensor, row, tensor[pair]) for tensor in (ladder.rates, ladder.log_ratios, ladder.seen)
    )
    seen[pair : row + 1] = 0
    if kept == NEVER:  # halfway: neither half is known yet
        log_ratios[pair : row + 1] /= 2
    else:  # what the machine is at this moment
        rates[row], log_ratios[row] = 1, 0
    return ladder._replace(
        parameters=tuple(
            _with_row(rows, row, new) for rows, new in zip(ladder.parameters, rows_of(machine), strict=True)
        ),
        below=tuple(_with_row(rows, row, state) for rows, state in zip(ladder.below, upper, strict=True)),
        walkers=_with_row(ladder.walkers, row, torch.full_like(born, NEW)),
        born=_with_row(ladder.born, row, born),
        rates=rates,
        log_ratios=log_ratios,
        seen=seen,
        kept=_with_row(ladder.kept, row, torch.full_like(ladder.kept[0], kept)),
        counts=change,
    )


def without_rung(ladder: Ladder, row: int) -> Ladder:
    """The ladder without a rung above the first; its neighbours are a pair."""
    assert 0 < row < ladder.rungs, "rung 0 and the machine stay"
    counts = ladder.counts.clone()
    counts[RUNGS] -= 1
    counts[TAKEN_OUT] += 1
    rates, log_ratios, seen = (_without_row(tensor, row) for tensor in (ladder.rates, ladder.log_ratios, ladder.seen))
    rates[row - 1] = acceptance_at(distances(ladder.rates[row - 1 : row + 1]).sum())
    log_ratios[row - 1] = ladder.log_ratios[row - 1 : row + 1].sum()
    seen[row - 1] = 0
    return ladder._replace(
        parameters=tuple(_without_row(rows, row) for rows in ladder.parameters),
        below=tuple(_without_row(rows, row) for rows in ladder.below),
        walkers=_without_row(ladder.walkers, row),
        born=_without_row(ladder.born, row),
        rates=rates,
        log_ratios=log_ratios,
        seen=seen,
        kept=_without_row(ladder.kept, row),
        counts=counts,
    )


def _with_row(rows: Tensor, row: int, new: Tensor) -> Tensor:
    """Rows with a new one at `row`, which the others make way for; the last one is lost."""
    return torch.cat((rows[:row], new.to(rows.dtype)[None], rows[row:-1]))


def _without_row(rows: Tensor, row: int) -> Tensor:
    """Rows without one; the last one is there twice, and not in use."""
    return torch.cat((rows[:row], rows[row + 1 :], rows[-1:]))


def distances(rates: Tensor) -> Tensor:
    """How far apart the rungs of a pair are, given their acceptance: what adds up along a ladder.

    acceptance = erfc(distance) where log weights are normal, as those of large machines are (Predescu et al. 2004,
    doi:10.1063/1.1644093).
    """
    return torch.erfinv((1 - rates.double()).clamp(0, 1 - 1e-9))


def acceptance_at(distance: Tensor) -> Tensor:
    """The inverse of `distances`."""
    return torch.erfc(distance)


def least_needed(ladder: Ladder) -> tuple[int, float]:
    """The rung above the first whose neighbours are nearest to each other, and how far apart they are."""
    steps = distances(ladder.rates[: ladder.rungs])
    apart = steps[:-1] + steps[1:]
    if not len(apart):
        return 0, float("inf")
    row = int(apart.argmin())
    return row + 1, float(apart[row])
