"""Log-likelihood of images in nats without log Z, which `card` brackets; and that of independent units."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ebm_pipeline.models.inference import MeanField, bound
from ebm_pipeline.models.layers import Layer
from ebm_pipeline.models.machine import BoltzmannMachine

ROWS = 5000  # images per block


def independent_units(layer: Layer, images: Tensor) -> Layer:
    """Independent units of the kind of `layer`, fitted to `images` (count, units): float64, as units far from 0 cancel."""
    exact = layer.with_tensors(**{name: value.detach().double() for name, value in layer.named_tensors().items()})
    return exact.of_data(images.double())


def independent_log_likelihood(layer: Layer, images: Tensor) -> float:
    """Nats per image of independent units: what any model must beat; `layer` is that of `independent_units`."""
    return float(independent_each(layer, images).mean())


def independent_each(layer: Layer, images: Tensor) -> Tensor:
    """Log-likelihood of each of `images` (count, units) under a layer alone, without inputs: (count,), float64."""
    return -layer.energy(images.to(layer.bias.dtype)).double() - layer.log_partition(torch.zeros_like(layer.bias))


def highest_log_likelihood(layer: Layer, images: Tensor) -> float | None:
    """The most nats per image that any distribution over the states of `layer` can have on `images` (count, units).

    That is minus the entropy of the images themselves: -log count where all differ (Gibbs' inequality). None where a unit
    is continuous: densities have no bound.
    """
    if layer.sites() is None:
        return None
    _, counts = torch.unique(images, dim=0, return_counts=True)
    shares = counts.double() / len(images)
    return float((shares * shares.log()).sum())


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


def standard_error(values: Tensor) -> float:
    """Of the mean of independent values (count,)."""
    return float(values.double().std()) / math.sqrt(len(values)) if len(values) > 1 else 0.0
