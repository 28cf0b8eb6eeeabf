"""Log-likelihood of images in nats without log Z, which `card` brackets; and that of independent pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from ebm_pipeline.inference import MeanField, bound
from ebm_pipeline.machine import BoltzmannMachine

ROWS = 5000  # images per block


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
