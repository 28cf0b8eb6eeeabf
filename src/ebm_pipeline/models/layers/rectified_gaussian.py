"""Units x >= 0 with a Gaussian's energy: E(x) = sum_i x_i^2 / (2 variance_i) - bias . x, so x | I is a normal distribution of
mean variance (I + bias) and this variance, cut off below 0 (Harva & Kaban 2007; in RBMs: Tubiana & Monasson 2017).

With t = sqrt(variance) (I + bias): log_partition = log sqrt(2 pi variance) + t^2 / 2 + log Phi(t) and mean = sqrt(variance)
(t + phi(t) / Phi(t)), phi and Phi of the standard normal; both are computed in float64 by erfcx, where they cancel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from ebm_pipeline.models.layers.base import Layer, positive_units
from ebm_pipeline.support.errors import check_number

TAIL = -5.0  # t below which draws come from an exponential distribution, by rejection
BISECTIONS = 60
VARIANCES = 61  # that of_data tries, from 10^-3 to 10^3 mean squares
LEAST_MEAN = 1e-3  # in standard deviations: what bias_for_mean takes a smaller mean for


@dataclass(frozen=True, eq=False)
class RectifiedGaussian(Layer):
    """Rectified Gaussian units; parameters bias (units,) and variance (units,), the variance fixed."""

    kind: ClassVar[str] = "rectified_gaussian"
    needs: ClassVar[str] = "numbers that are not negative"

    variance: Tensor

    @classmethod
    def create(cls, units: int, variance: float = 1.0) -> RectifiedGaussian:
        """A layer of `units` units with zero bias and one variance for all."""
        check_number("variance of rectified Gaussian units", variance, open_low=True)
        return cls(bias=torch.zeros(positive_units(units)), variance=torch.full((units,), float(variance)))

    @property
    def fixed(self) -> tuple[str, ...]:
        return ("variance",)

    def _scaled(self, inputs: Tensor) -> Tensor:
        return (inputs + self.bias).double() * self.variance.double().sqrt()

    def energy(self, x: Tensor) -> Tensor:
        return (x * (0.5 * x / self.variance - self.bias)).sum(-1)

    def log_partition(self, inputs: Tensor) -> Tensor:
        t = self._scaled(inputs)
        above = 0.5 * t.square() + torch.special.log_ndtr(t.clamp_min(0))
        below = torch.special.erfcx(-t.clamp_max(0) / math.sqrt(2)).log() - math.log(2)
        logs = torch.where(t > 0, above, below) + 0.5 * torch.log(2 * math.pi * self.variance.double())
        return logs.sum(-1).to(torch.result_type(inputs, self.bias))

    def mean(self, inputs: Tensor) -> Tensor:
        return (self.variance.double().sqrt() * _standard_mean(self._scaled(inputs))).to(inputs.dtype)

    def mode(self, inputs: Tensor) -> Tensor:
        return (self.variance * (inputs + self.bias)).clamp_min(0).to(inputs.dtype)

    def sample(self, inputs: Tensor, generator: torch.Generator | None) -> Tensor:
        t = self._scaled(inputs)
        uniform = 1 - torch.rand(t.shape, generator=generator, dtype=t.dtype, device=t.device)  # in (0, 1]
        inner = t.clamp_min(TAIL)
        drawn: Tensor = (inner - torch.special.ndtri(uniform * torch.special.ndtr(inner))).clamp_min(0)
        tail = t < TAIL
        drawn[tail] = _tail_draws(t[tail], generator)
        return (self.variance.double().sqrt() * drawn).to(inputs.dtype)

    def bias_for_mean(self, mean: Tensor) -> Tensor:
        spread = self.variance.double().sqrt()
        wanted = (mean.double() / spread).clamp_min(LEAST_MEAN)
        low, high = torch.full_like(wanted, -1 / LEAST_MEAN), wanted.clone()  # the mean is above t and below -1 / t
        for _ in range(BISECTIONS):
            middle = 0.5 * (low + high)
            above = _standard_mean(middle) > wanted
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return (0.5 * (low + high) / spread).to(self.bias.dtype)

    def of_data(self, images: Tensor) -> Self:
        # The likelihood has one peak over the variances; at each of them the best bias is that of the data's mean.
        mean, square = images.double().mean(0), images.double().square().mean(0)
        square = torch.where(square > 0, square, torch.ones_like(square))
        fits = []
        for factor in torch.logspace(-3, 3, VARIANCES, dtype=torch.float64):
            layer = type(self)(bias=torch.zeros_like(square), variance=factor * square)
            layer = layer.with_tensors(bias=layer.bias_for_mean(mean))
            each = [log_partition_each(layer), layer.bias, layer.variance]
            fits.append(torch.stack([layer.bias * mean - 0.5 * square / layer.variance - each[0], *each[1:]]))
        found = torch.stack(fits)  # (variances, 3, units)
        best = found[:, 0].argmax(0)
        bias, variance = found[best, 1:, torch.arange(self.units)].mT
        return self.with_tensors(bias=bias.to(self.bias.dtype), variance=variance.to(self.variance.dtype))

    def annealed(self, beta: float | Tensor, base: Self) -> Self:
        precision = (1 - beta) / base.variance + beta / self.variance
        return self.with_tensors(bias=(1 - beta) * base.bias + beta * self.bias, variance=1 / precision)

    def holds(self, images: Tensor) -> bool:
        return bool((images.isfinite() & (images >= 0)).all())


def log_partition_each(layer: RectifiedGaussian) -> Tensor:
    """log_partition of each unit alone, without inputs: (units,)."""
    rows = layer.with_tensors(bias=layer.bias[:, None], variance=layer.variance[:, None])
    return rows.log_partition(torch.zeros_like(rows.bias))


def _standard_mean(t: Tensor) -> Tensor:
    """t + phi(t) / Phi(t), the mean at variance 1."""
    below = math.sqrt(2 / math.pi) / torch.special.erfcx(-t.clamp_max(0) / math.sqrt(2))
    above = torch.exp(-0.5 * t.square()) / (math.sqrt(2 * math.pi) * torch.special.ndtr(t.clamp_min(0)))
    return t + torch.where(t > 0, above, below)


def _tail_draws(t: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draws at variance 1 for t far below 0: exponential of rate -t, accepted with probability exp(-x^2 / 2)."""
    drawn = torch.empty_like(t)
    waiting = torch.arange(len(t), device=t.device)
    while len(waiting):
        proposed = torch.empty_like(t[waiting]).exponential_(generator=generator) / -t[waiting]
        uniform = torch.rand(proposed.shape, generator=generator, dtype=t.dtype, device=t.device)
        accepted = uniform < torch.exp(-0.5 * proposed.square())
        drawn[waiting[accepted]] = proposed[accepted]
        waiting = waiting[~accepted]
    return drawn
