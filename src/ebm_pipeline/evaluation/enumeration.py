"""Exact log Z, means and samples of a machine one parity of which has few discrete units: sum over all of its states."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ebm_pipeline.models.machine import EVEN, ODD, BoltzmannMachine, States
from ebm_pipeline.support.errors import UserError

MOST_UNITS = 25  # of two states each; 2^25 states of other units
BLOCK_BITS = 14  # states per block: 2^14, some tens of megabytes of hidden inputs at most


def enumerable_parity(machine: BoltzmannMachine, most_units: int = MOST_UNITS) -> int | None:
    """The parity with the fewest states among those of discrete units, or None if none has at most 2^most_units."""
    bits = {}
    for parity in (EVEN, ODD):
        sites = _sites(machine, parity)
        if sites is not None:
            bits[parity] = sum(math.log2(len(site)) for site in sites)
    small = [parity for parity, size in bits.items() if size <= most_units]
    return min(small, key=lambda parity: bits[parity], default=None)


def _sites(machine: BoltzmannMachine, parity: int) -> list[Tensor] | None:
    """The states of each independent site of the layers of one parity; None if one of them is continuous."""
    sites: list[Tensor] = []
    for index in machine.parity(parity):
        own = machine.layers[index].sites()
        if own is None:
            return None
        sites += own
    return sites


def joint_states(sites: Sequence[Tensor]) -> Iterator[Tensor]:
    """All joint states of sites, each with states (states, units), in blocks (at most 2^BLOCK_BITS, units of all)."""
    for number in range(_count_blocks(sites)):
        yield _block(sites, number)


def _count_blocks(sites: Sequence[Tensor]) -> int:
    return -(-math.prod(len(site) for site in sites) // (1 << BLOCK_BITS))


def _block(sites: Sequence[Tensor], number: int) -> Tensor:
    """The joint states of one block (states, units)."""
    start, count = number * 2**BLOCK_BITS, math.prod(len(site) for site in sites)
    numbers = torch.arange(start, min(start + 2**BLOCK_BITS, count))
    parts = []
    for site in sites:
        parts.append(site[numbers % len(site)])
        numbers = numbers // len(site)
    return torch.cat(parts, 1)


def blocks(machine: BoltzmannMachine) -> int:
    """How many blocks of states `exact_log_partition` goes through."""
    parity = enumerable_parity(machine)
    return _count_blocks((None if parity is None else _sites(machine, parity)) or ())


@dataclass(frozen=True, eq=False)
class Block:
    """Some joint states of the enumerated parity: states of its layers, None for the others; log weights -F (states,)."""

    states: tuple[Tensor | None, ...]
    log_weights: Tensor


def _weighed(machine: BoltzmannMachine, parity: int, block: Tensor) -> Block:
    """The states (states, units) of one parity, by layer, with their log weights."""
    indices = machine.parity(parity)
    states: list[Tensor | None] = [None] * machine.depth
    for index, part in zip(
        indices, block.split([machine.layers[index].units for index in indices], dim=1), strict=True
    ):
        states[index] = part
    return Block(tuple(states), -machine.free_energy(states, summed=1 - parity))


def _exact(machine: BoltzmannMachine) -> BoltzmannMachine:
    return machine.map(lambda tensor: tensor.double())


@dataclass(frozen=True, eq=False)
class Enumeration:
    """All joint states of one parity of a machine, in float64: log Z, exact means, independent samples."""

    machine: BoltzmannMachine
    parity: int
    log_weights: Tensor  # (blocks,), log sum exp(-F) of each
    visible_mean: Tensor  # (units,), exact

    @property
    def log_partition(self) -> float:
        return float(self.log_weights.logsumexp(0))

    def sample(self, count: int, generator: torch.Generator) -> States:
        """Independent samples (count, units) of every layer, of the machine's own dtype."""
        wanted = torch.multinomial(torch.softmax(self.log_weights, 0), count, replacement=True, generator=generator)
        exact, drawn = _exact(self.machine), []
        sites = _sites(self.machine, self.parity)
        assert sites is not None
        for number in wanted.unique().tolist():
            block = _weighed(exact, self.parity, _block(sites, number))
            rows = torch.multinomial(
                torch.softmax(block.log_weights, 0), int((wanted == number).sum()), True, generator=generator
            )
            chosen = [None if state is None else state[rows] for state in block.states]
            drawn.append(exact.sample(chosen, 1 - self.parity, generator))
        dtype = self.machine.layers[0].bias.dtype
        order = torch.randperm(count, generator=generator)
        return tuple(torch.cat(layer)[order].to(dtype) for layer in zip(*drawn, strict=True))


def enumerate_machine(
    machine: BoltzmannMachine, progress: Callable[[int], None] = lambda done: None, most_units: int = MOST_UNITS
) -> Enumeration:
    """Go through all states once, on the CPU; `progress` is called after each block with the number of those done."""
    parity = enumerable_parity(machine, most_units)
    if parity is None:
        raise UserError(
            f"exact log Z needs at most {most_units} binary units or 2^{most_units} states in the even or in the odd layers; "
            f"this machine has layers of {', '.join(str(layer.units) for layer in machine.layers)} units: use AIS"
        )
    machine = machine.map(lambda tensor: tensor.detach().cpu())
    exact, sites = _exact(machine), _sites(machine, parity)
    assert sites is not None
    sums, means = [], []
    for number in range(_count_blocks(sites)):
        block = _weighed(exact, parity, _block(sites, number))
        sums.append(block.log_weights.logsumexp(0))
        visible = block.states[0]
        if visible is None:
            visible = exact.layers[0].mean(exact.inputs(block.states, 0))
        means.append(torch.softmax(block.log_weights, 0) @ visible)
        progress(number + 1)
    log_weights = torch.stack(sums)
    if not (log_weights.isfinite().all() and torch.stack(means).isfinite().all()):
        raise UserError("the energies of this machine are not finite: its weights are too large; lower optimizer.lr")
    return Enumeration(machine, parity, log_weights, torch.softmax(log_weights, 0) @ torch.stack(means))


def exact_log_partition(machine: BoltzmannMachine, progress: Callable[[int], None] = lambda done: None) -> float:
    """log Z in nats, in float64; `progress` is called after each block of 2^BLOCK_BITS states with the number of those done."""
    return enumerate_machine(machine, progress).log_partition
