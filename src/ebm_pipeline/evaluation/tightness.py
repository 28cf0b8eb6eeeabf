"""How far the variational bound of a deep machine lies below its log-likelihood, by AIS with images clamped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ebm_pipeline.evaluation.ais import clamped_log_partition, even_steps
from ebm_pipeline.models.inference import MeanField, bound
from ebm_pipeline.models.machine import BoltzmannMachine

CLAMPED_IMAGES, CLAMPED_CHAINS, CLAMPED_TEMPERATURES = 100, 10, 300

Stage = Callable[
    [str, int], Callable[[int], None]
]  # name and number of steps of a stage -> what to call after each step


def silent(name: str, steps: int) -> Callable[[int], None]:
    """Progress that nobody sees."""
    return lambda done: None


@dataclass(frozen=True)
class Tightness:
    """How far the variational bound lies below the log-likelihood: mean over `images` in nats, its error, the least ESS."""

    nats: float
    std_error: float
    images: int
    chains: int
    temperatures: int
    least_ess: float


def tightness(
    machine: BoltzmannMachine, images: Tensor, mean_field: MeanField, generator: torch.Generator, stage: Stage = silent
) -> Tightness:
    """The gap of the variational bound on the first CLAMPED_IMAGES of `images` (count, units)."""
    chosen = images[:CLAMPED_IMAGES]
    below = bound(machine, mean_field(machine, (chosen, *(None,) * (machine.depth - 1)))).double()
    values, std_errors, ess = clamped_log_partition(
        machine, chosen, mean_field, even_steps(CLAMPED_TEMPERATURES), CLAMPED_CHAINS, generator,
        stage("bound", CLAMPED_TEMPERATURES - 1),
    )  # fmt: skip
    return Tightness(
        float((values - below).mean()), float(std_errors.square().sum().sqrt()) / len(chosen),
        len(chosen), CLAMPED_CHAINS, CLAMPED_TEMPERATURES, float(ess.min()),
    )  # fmt: skip
