"""log Z along the machine's own history: the third estimate, beside AIS from both sides (Bereux et al. 2024, arXiv:2405.15376).

Chains of trajectory tempering in every rung, in equilibrium or nearly, give log Z of each over that of the one below by
Bennett's acceptance ratio (`sampling.bennett`); rung 0 has independent units, whose log Z is known. It rests on samples as the
reverse AIS does, but these come up from independent units, where chains mix, and not from one start.

A column is one chain of each rung. Columns never meet, so they are independent, and the error is the jackknife's over groups
of them: it holds whatever a column's own states owe to each other, and to those of the next rung. Half of the columns start
from data and half from noise; where the two families differ by more than chance, half of the difference is the error.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ebm_pipeline.evaluation.ais import LogPartition, base_log_partition, constant, no_progress
from ebm_pipeline.evaluation.equilibrium import from_both
from ebm_pipeline.models.machine import EVEN, ODD, BoltzmannMachine
from ebm_pipeline.sampling import Ladder
from ebm_pipeline.sampling.bennett import bennett, bennett_step
from ebm_pipeline.sampling.ladder import SWEEPS
from ebm_pipeline.sampling.trajectory import Exchanged, along, exchange, longest, swept
from ebm_pipeline.support.errors import UserError, check_memory

LEAST_COLUMNS = 8
GROUPS = 20  # of columns, at most
WARM_UP = 0.4  # share of the sweeps: in the first half of them the ladder may grow
DIFFERENT = 3.0  # errors by which the two families must not differ
BYTES = 12  # of a log weight: as it is seen, and in float64


def check_size(chains: int, sweeps: int, below: int) -> None:
    """Raise UserError if the log weights along a ladder of so many rungs below the machine need more memory than there is."""
    machines = longest(below)
    check_memory(
        f"likelihood.trajectory_sweeps={sweeps} of likelihood.trajectory_chains={chains} chains of each of up to {machines} "
        "machines",
        BYTES * chains * sweeps * machines,
    )


def trajectory_log_partition(
    machine: BoltzmannMachine,
    rungs: BoltzmannMachine,
    data: Tensor,
    chains: int,
    sweeps: int,
    generator: torch.Generator,
    progress: Callable[[int], None] = no_progress,
) -> LogPartition:
    """Estimate of log Z of `machine` along the stacked `rungs` below it, by `chains` columns that make so many `sweeps`.

    data (images, units): where half of the columns start. ess: so many independent states of each rung would have this error.
    """
    check_size(chains, sweeps, len(rungs.weights[0]))
    machine = machine.map(Tensor.detach)
    folded = machine.folded()
    ladder = _warmed_up(folded, rungs, data, chains, round(WARM_UP * sweeps), generator, progress)
    start = round(WARM_UP * sweeps)
    low: dict[int, list[Tensor]] = {}
    high: dict[int, list[Tensor]] = {}
    for done in range(start, sweeps):
        ladder, seen = _sweep(folded, ladder, generator)
        for pair, below, above in zip(seen.lower.tolist(), seen.low, seen.high, strict=True):
            low.setdefault(pair, []).append(below)
            high.setdefault(pair, []).append(above)
        progress(done + 1)
    known = float(base_log_partition(ladder.rung(folded, 0)))
    pairs = [(torch.stack(low[pair]).double(), torch.stack(high[pair]).double()) for pair in range(ladder.rungs)]
    value, std_error, ess = _summed(pairs)
    if not math.isfinite(known + value + std_error):
        raise UserError(
            "log Z along the trajectory is not finite: the ladder has machines whose energies are beyond float32; "
            "likelihood.trajectory_sweeps=0 does without it"
        )
    return LogPartition(known + constant(machine) + value, std_error, ess, 2 * (chains // 2), ladder.rungs + 1)


def _warmed_up(
    machine: BoltzmannMachine,
    rungs: BoltzmannMachine,
    data: Tensor,
    chains: int,
    sweeps: int,
    generator: torch.Generator,
    progress: Callable[[int], None],
) -> Ladder:
    """A ladder of columns from data and from noise by turns, after so many sweeps; it grows in the first half of them."""
    sampler = along(rungs, 1, sweeps // 2)
    states = from_both(machine, data, chains // 2, generator)
    turns = torch.arange(2 * (chains // 2), device=data.device).view(2, -1).mT.flatten()
    ladder = sampler.init(machine, tuple(state[turns] for state in states), (None,) * machine.depth)
    for done in range(sweeps):
        ladder, _ = sampler.step(machine, ladder, generator)
        progress(done + 1)
    return ladder


def _sweep(machine: BoltzmannMachine, ladder: Ladder, generator: torch.Generator) -> tuple[Ladder, Exchanged]:
    """A sweep of all rungs with exchanges, and what these saw."""
    counts = ladder.counts.clone()
    counts[SWEEPS] += 1
    ladder = ladder._replace(top=machine.sample(ladder.top, EVEN, generator), counts=counts)
    ladder, seen = exchange(machine, swept(machine, ladder, generator, ()), generator)
    return ladder._replace(top=machine.sample(ladder.top, ODD, generator)), seen


def _summed(pairs: list[tuple[Tensor, Tensor]]) -> tuple[float, float, float]:
    """Sum of the pairs' log ratios from log weights (draws, columns) of either rung; its error, its effective sample size.

    Each pair's c is held at the estimate from all columns, at which the ratio's error does not depend on it to first order.
    """
    columns = pairs[0][0].shape[1]
    groups = torch.arange(columns, device=pairs[0][0].device) // 2 % min(GROUPS, columns // 2)
    family = torch.arange(columns, device=groups.device) % 2
    value, naive = 0.0, 0.0
    left_out = torch.zeros(int(groups.max()) + 1, dtype=torch.float64)
    families = torch.zeros(2, dtype=torch.float64)
    for low, high in pairs:
        found = bennett(low.flatten(), high.flatten())
        value += float(found)
        naive += _variance(torch.sigmoid(low - found)) + _variance(torch.sigmoid(found - high))
        for index in range(len(left_out)):
            left_out[index] += float(
                bennett_step(low[:, groups != index].flatten(), high[:, groups != index].flatten(), found)
            )
        for index in range(2):
            families[index] += float(
                bennett_step(low[:, family == index].flatten(), high[:, family == index].flatten(), found)
            )
    count = len(left_out)
    variance = (count - 1) / count * float((left_out - left_out.mean()).square().sum())
    error = math.sqrt(variance)
    apart = abs(float(families[0] - families[1]))
    if apart > DIFFERENT * 2 * error:  # each family has half of the columns
        error = max(error, apart / 2)
    draws = sum(low.numel() for low, _ in pairs) / len(pairs)
    return value, error, min(draws, draws * naive / error**2) if error > 0 else draws


def _variance(shares: Tensor) -> float:
    """Of the logarithm of the mean of independent shares."""
    return float(shares.var() / shares.mean().square()) / shares.numel()
