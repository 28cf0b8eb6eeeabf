"""Exact log Z and log-likelihood of a machine one parity of which has few discrete units: sum over all of its states."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ebm_pipeline.errors import UserError
from ebm_pipeline.machine import EVEN, ODD, BoltzmannMachine

MOST_UNITS = 25  # of two states each; 2^25 states of other units
BLOCK_BITS = 14  # states per block: 2^14, some tens of megabytes of hidden inputs at most


def enumerable_parity(machine: BoltzmannMachine) -> int | None:
    """The parity with the fewest states among those of discrete units, or None if none has at most 2^MOST_UNITS."""
    bits = {}
    for parity in (EVEN, ODD):
        sites = _sites(machine, parity)
        if sites is not None:
            bits[parity] = sum(math.log2(len(site)) for site in sites)
    small = [parity for parity, size in bits.items() if size <= MOST_UNITS]
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
    count = math.prod(len(site) for site in sites)
    for start in range(0, count, 2**BLOCK_BITS):
        numbers = torch.arange(start, min(start + 2**BLOCK_BITS, count))
        parts = []
        for site in sites:
            parts.append(site[numbers % len(site)])
            numbers = numbers // len(site)
        yield torch.cat(parts, 1)


def blocks(machine: BoltzmannMachine) -> int:
    """How many blocks of states `exact_log_partition` goes through."""
    parity = enumerable_parity(machine)
    sites = None if parity is None else _sites(machine, parity)
    states = math.prod(len(site) for site in sites or ())
    return -(-states // (1 << BLOCK_BITS))


def exact_log_partition(machine: BoltzmannMachine, progress: Callable[[int], None] = lambda done: None) -> float:
    """log Z in nats, in float64; `progress` is called after each block of 2^BLOCK_BITS states with the number of those done."""
    parity = enumerable_parity(machine)
    if parity is None:
        raise UserError(
            f"exact log Z needs at most {MOST_UNITS} binary units or 2^{MOST_UNITS} states in the even or in the odd layers; "
            f"this machine has layers of {', '.join(str(layer.units) for layer in machine.layers)} units: use AIS"
        )
    machine = machine.map(lambda tensor: tensor.detach().cpu().double())
    sites = _sites(machine, parity)
    assert sites is not None
    indices = machine.parity(parity)
    sizes = [machine.layers[index].units for index in indices]
    total = torch.tensor(-torch.inf, dtype=torch.float64)
    for done, block in enumerate(joint_states(sites), start=1):
        states: list[Tensor | None] = [None] * machine.depth
        for index, part in zip(indices, block.split(sizes, dim=1), strict=True):
            states[index] = part
        total = torch.logaddexp(total, torch.logsumexp(-machine.free_energy(states, summed=1 - parity), 0))
        progress(done)
    return float(total)
