"""Binary units x in {0, 1}: E(x) = -bias . x, p(x = 1 | I) = sigmoid(I + bias)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ebm_pipeline.models.layers.base import Layer, positive_units
from ebm_pipeline.models.numerics import thin_products

RANGE = 80.0  # largest logarithm of a product of float32 numbers that is computed without softplus
MEAN_CLIP = 1e-4  # a pixel that is never on in the data may still be on in a test image: its bias stays finite


@dataclass(frozen=True, eq=False)
class Bernoulli(Layer):
    """Bernoulli units; parameter bias (units,)."""

    kind: ClassVar[str] = "bernoulli"
    binary: ClassVar[bool] = True
    needs: ClassVar[str] = "0 and 1"

    @classmethod
    def create(cls, units: int) -> Bernoulli:
        """A layer of `units` units with zero bias."""
        return cls(bias=torch.zeros(positive_units(units)))

    def sites(self) -> list[Tensor]:
        return [torch.tensor([[0.0], [1.0]], dtype=torch.float64)] * self.units

    def holds(self, images: Tensor) -> bool:
        return bool(((images == 0) | (images == 1)).all())

    def energy(self, x: Tensor) -> Tensor:
        if self.bias.ndim == 1 and x.dtype == self.bias.dtype:
            with thin_products():
                return -(x @ self.bias)
        return -(x * self.bias).sum(-1)

    def log_partition(self, inputs: Tensor) -> Tensor:
        return softplus(inputs + self.bias).sum(-1)

    def mean(self, inputs: Tensor) -> Tensor:
        return (inputs + self.bias).sigmoid_().to(inputs.dtype)

    def mode(self, inputs: Tensor) -> Tensor:
        return (inputs + self.bias > 0).to(inputs.dtype)

    def sample(self, inputs: Tensor, generator: torch.Generator | None) -> Tensor:
        # The bias is never below float32, so neither is the sum, which decides how fine the probabilities are.
        probability = (inputs + self.bias).sigmoid_()
        uniform = uniform_like(probability, generator)
        # Writing the comparison into a floating tensor is many times cheaper than converting a Boolean one, and a tensor
        # that is there already spares the page faults of a large new one.
        return torch.lt(
            uniform, probability, out=uniform if uniform.dtype == inputs.dtype else torch.empty_like(inputs)
        )

    def bias_for_mean(self, mean: Tensor) -> Tensor:
        return torch.logit(mean.to(self.bias.dtype), eps=MEAN_CLIP)

    def annealed(self, beta: float | Tensor, base: Self) -> Self:
        return self.with_tensors(bias=(1 - beta) * base.bias + beta * self.bias)

    def anneal_step(
        self, field: Tensor, scale: float, earlier: Self, earlier_scale: float, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        if not field.is_cpu:  # the host would wait for the device to tell whether the products are in range
            return super().anneal_step(field, scale, earlier, earlier_scale, generator)
        # sum softplus(a) - softplus(b) = log prod (1 + e^a) / (1 + e^b): one logarithm per sample in place of two per unit,
        # and 1 + e^a draws the unit as well. Base 2 because exp2 costs half of exp.
        normalizer = _exp(self.bias, field, scale).add_(1)
        ratio = _exp(earlier.bias, field, earlier_scale).add_(1)
        change = torch.div(normalizer, ratio, out=ratio).prod(-1).log_()
        if not (change.abs() < RANGE).all():
            change = self.log_partition(scale * field) - earlier.log_partition(earlier_scale * field)
        drawn = uniform_like(normalizer, generator).mul_(normalizer)
        return change, torch.gt(drawn, 1, out=drawn)


def _exp(bias: Tensor, field: Tensor, scale: float) -> Tensor:
    return torch.add(bias / math.log(2), field, alpha=scale / math.log(2)).exp2_()


def uniform_like(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Uniform numbers in [0, 1) of the shape of `like`.

    In float32 on the CPU each is a multiple of 2^-24, as torch.rand's are, for half of the bits: 16 of its own, and 8
    that all numbers of a call share. So each alone is uniform, and two draws of one call (x = 1 where the number is below p)
    have a covariance of at most 2^-34, since the shared bits matter only where the others do not decide.
    """
    if like.is_cpu and like.dtype == torch.float32:
        bits = torch.empty(like.numel() // 4 + 1, dtype=torch.int64).random_(-(2**63), None, generator=generator)
        numbers = bits.view(torch.int16)  # one at least is left over
        shared = torch.full((), 0.5 + (int(numbers[-1]) & 255) * 2.0**-24)
        drawn = numbers[: like.numel()].view(like.shape).float()
        return torch.add(shared, drawn, alpha=2.0**-16, out=drawn)
    return torch.rand(like.shape, generator=generator, dtype=like.dtype, device=like.device)
