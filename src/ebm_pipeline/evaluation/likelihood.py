"""Log-likelihood of images in nats: exact where log Z is, else by AIS, with the estimate of log Z that it rests on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ebm_pipeline.evaluation.ais import LogPartition, annealed_importance_sampling
from ebm_pipeline.evaluation.enumeration import enumerable_parity, exact_log_partition
from ebm_pipeline.inference import MeanField, bound
from ebm_pipeline.machine import BoltzmannMachine

ROWS = 5000  # images per block


@dataclass(frozen=True)
class LogLikelihood:
    """Mean over images, in nats per image; for machines of more than two layers a lower bound, given log Z."""

    nats: float
    is_bound: bool
    log_partition: LogPartition | float  # a plain number is exact

    def __str__(self) -> str:
        what = "variational bound" if self.is_bound else "log-likelihood"
        estimate = self.log_partition
        if isinstance(estimate, float):
            return f"{what} {self.nats:.2f} nats (log Z exact)"
        return (
            f"{what} {self.nats:.2f} nats (log Z by AIS: {estimate.temperatures} temperatures, {estimate.chains} chains, "
            f"standard error {estimate.std_error:.2f}, effective sample size {estimate.ess:.1f}; "
            "AIS tends to underestimate log Z, so this tends to be too high)"
        )


def independent_log_likelihood(machine: BoltzmannMachine, data_mean: Tensor, images: Tensor) -> float:
    """Nats per image of independent pixels at the data mean: what any model must beat."""
    return float(independent_each(machine, data_mean, images).mean())


def independent_each(machine: BoltzmannMachine, data_mean: Tensor, images: Tensor) -> Tensor:
    """Log-likelihood of each of `images` (count, units) by independent pixels at the data mean: (count,), float64."""
    layer = machine.independent(data_mean).layers[0]
    return -layer.energy(images).double() - layer.log_partition(torch.zeros_like(layer.bias))


def unnormalized(machine: BoltzmannMachine, images: Tensor, mean_field: MeanField) -> float:
    """Mean of -F(v), or of the variational bound for deeper machines, without log Z."""
    return float(unnormalized_each(machine, images, mean_field).mean())


def unnormalized_each(machine: BoltzmannMachine, images: Tensor, mean_field: MeanField) -> Tensor:
    """-F(v), or the variational bound, without log Z, of each of `images` (count, units): (count,), float64."""
    hidden = (None,) * (machine.depth - 1)
    return torch.cat(
        [
            -machine.free_energy((block, None)).double()
            if machine.depth == 2
            else bound(machine, mean_field(machine, (block, *hidden))).double()
            for block in images.split(ROWS)
        ]
    )


def log_likelihood(
    machine: BoltzmannMachine,
    data_mean: Tensor,
    images: Tensor,
    mean_field: MeanField,
    temperatures: int,
    chains: int,
    seed: int,
    progress: Callable[[int], None] = lambda done: None,
) -> LogLikelihood:
    """Log-likelihood of `images` (count, units); AIS starts from independent pixels at `data_mean`."""
    machine = machine.folded()
    log_partition: LogPartition | float
    if enumerable_parity(machine) is not None:
        log_partition = exact_log_partition(machine)
        value = log_partition
    else:
        betas = torch.linspace(0, 1, temperatures, dtype=torch.float64)
        generator = torch.Generator(device=data_mean.device).manual_seed(seed)
        log_partition = annealed_importance_sampling(
            machine, machine.independent(data_mean), betas, chains, generator, progress
        )
        value = log_partition.value
    return LogLikelihood(unnormalized(machine, images, mean_field) - value, machine.depth > 2, log_partition)
