"""Exact log Z and log-likelihood of a machine one parity of which has few binary units: sum over all of its states."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ebm_pipeline.errors import UserError
from ebm_pipeline.machine import EVEN, ODD, BoltzmannMachine

MOST_UNITS = 25
BLOCK_BITS = 14  # states per block: 2^14, some tens of megabytes of hidden inputs at most


def enumerable_parity(machine: BoltzmannMachine) -> int | None:
    """The parity with the fewest units among those that are all binary, or None if none has at most MOST_UNITS."""
    sizes = {
        parity: sum(machine.layers[index].units for index in machine.parity(parity))
        for parity in (EVEN, ODD)
        if all(machine.layers[index].binary for index in machine.parity(parity))
    }
    small = [parity for parity, units in sizes.items() if units <= MOST_UNITS]
    return min(small, key=lambda parity: sizes[parity], default=None)


def binary_states(units: int) -> Iterator[Tensor]:
    """All states in {0, 1}^units, float64, in blocks (at most 2^BLOCK_BITS, units)."""
    shifts = torch.arange(units)
    for start in range(0, 2**units, 2**BLOCK_BITS):
        numbers = torch.arange(start, min(start + 2**BLOCK_BITS, 2**units))
        yield ((numbers[:, None] >> shifts) & 1).double()


def blocks(machine: BoltzmannMachine) -> int:
    """How many blocks of states `exact_log_partition` goes through."""
    parity = enumerable_parity(machine)
    units = 0 if parity is None else sum(machine.layers[index].units for index in machine.parity(parity))
    return int(2 ** max(0, units - BLOCK_BITS))


def exact_log_partition(machine: BoltzmannMachine, progress: Callable[[int], None] = lambda done: None) -> float:
    """log Z in nats, in float64; `progress` is called after each block of 2^BLOCK_BITS states with the number of those done."""
    parity = enumerable_parity(machine)
    if parity is None:
        raise UserError(
            f"exact log Z needs at most {MOST_UNITS} binary units in the even or in the odd layers; "
            f"this machine has layers of {', '.join(str(layer.units) for layer in machine.layers)} units: use AIS"
        )
    machine = machine.map(lambda tensor: tensor.detach().cpu().double())
    indices = machine.parity(parity)
    sizes = [machine.layers[index].units for index in indices]
    total = torch.tensor(-torch.inf, dtype=torch.float64)
    for done, block in enumerate(binary_states(sum(sizes)), start=1):
        states: list[Tensor | None] = [None] * machine.depth
        for index, part in zip(indices, block.split(sizes, dim=1), strict=True):
            states[index] = part
        total = torch.logaddexp(total, torch.logsumexp(-machine.free_energy(states, summed=1 - parity), 0))
        progress(done)
    return float(total)
