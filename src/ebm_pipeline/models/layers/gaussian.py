"""Real units: E(x) = sum_i x_i^2 / (2 variance_i) - bias . x, so x | I ~ Normal(variance (I + bias), variance).

The coupling to the neighbours is x^T W h: inputs are not scaled by the variance. With bias = mean / variance this is the
usual E(x) = sum_i (x_i - mean_i)^2 / (2 variance_i) up to a constant.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from ebm_pipeline.models.layers.base import Layer, positive_units
from ebm_pipeline.support.errors import check_number

CONSTANT = 1e-12  # share of its mean square below which the variance of a unit is rounding


@dataclass(frozen=True, eq=False)
class Gaussian(Layer):
    """Gaussian units; parameters bias (units,) and variance (units,), the variance fixed."""

    kind: ClassVar[str] = "gaussian"

    variance: Tensor

    @property
    def fixed(self) -> tuple[str, ...]:
        return ("variance",)

    @classmethod
    def create(cls, units: int, variance: float = 1.0) -> Gaussian:
        """A layer of `units` units with zero bias and one variance for all."""
        check_number("variance of Gaussian units", variance, open_low=True)
        return cls(bias=torch.zeros(positive_units(units)), variance=torch.full((units,), float(variance)))

    def energy(self, x: Tensor) -> Tensor:
        return (x * (0.5 * x / self.variance - self.bias)).sum(-1)

    def log_partition(self, inputs: Tensor) -> Tensor:
        field = inputs + self.bias
        return 0.5 * (self.variance * field.square() + torch.log(2 * math.pi * self.variance)).sum(-1)

    def mean(self, inputs: Tensor) -> Tensor:
        return (self.variance * (inputs + self.bias)).to(inputs.dtype)

    def mode(self, inputs: Tensor) -> Tensor:
        return self.mean(inputs)

    def sample(self, inputs: Tensor, generator: torch.Generator | None) -> Tensor:
        mean = self.variance * (inputs + self.bias)
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        return torch.addcmul(mean, noise, self.variance.sqrt()).to(inputs.dtype)

    def bias_for_mean(self, mean: Tensor) -> Tensor:
        return mean.to(self.bias.dtype) / self.variance

    def fitted(self, states: Tensor) -> Self:
        # not below the layer's own: a pixel that is constant in the data has a variance in the machine
        wide = self.with_tensors(
            variance=torch.maximum(states.var(0, correction=0).to(self.variance.dtype), self.variance)
        )
        return wide.with_tensors(bias=wide.bias_for_mean(states.mean(0)))

    def of_data(self, images: Tensor) -> Self:
        variance = own_variances(images).to(self.variance.dtype)
        return self.with_tensors(variance=variance, bias=images.mean(0).to(self.bias.dtype) / variance)

    def annealed(self, beta: float | Tensor, base: Self) -> Self:
        precision = (1 - beta) / base.variance + beta / self.variance
        return self.with_tensors(bias=(1 - beta) * base.bias + beta * self.bias, variance=1 / precision)


def own_variances(images: Tensor) -> Tensor:
    """Variances (units,) of images (count, units), float64; a unit that does not vary gets the mean of those that do.

    The density of a unit that is constant has no bound, so that any finite variance is a choice: this one is of the data's scale.
    """
    variance = images.double().var(0, correction=0)
    varies = variance > CONSTANT * images.double().square().mean(0).clamp_min(torch.finfo(torch.float64).tiny)
    usual = variance[varies].mean() if varies.any() else torch.ones((), dtype=torch.float64)
    return torch.where(varies, variance, usual)
