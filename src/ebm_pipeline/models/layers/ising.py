"""Spins x in {-1, +1}: E(x) = -bias . x, p(x = 1 | I) = sigmoid(2 (I + bias)), mean tanh(I + bias)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ebm_pipeline.models.layers.base import Layer, positive_units

MEAN_CLIP = 2e-4  # a spin that never turns in the data may still do so in a test image: its bias stays finite


@dataclass(frozen=True, eq=False)
class Ising(Layer):
    """Ising spins; parameter bias (units,), the field."""

    kind: ClassVar[str] = "ising"
    needs: ClassVar[str] = "-1 and +1"

    @classmethod
    def create(cls, units: int) -> Ising:
        """A layer of `units` spins with zero field."""
        return cls(bias=torch.zeros(positive_units(units)))

    def sites(self) -> list[Tensor]:
        return [torch.tensor([[-1.0], [1.0]], dtype=torch.float64)] * self.units

    def energy(self, x: Tensor) -> Tensor:
        return -(x * self.bias).sum(-1)

    def log_partition(self, inputs: Tensor) -> Tensor:
        field = inputs + self.bias
        return (softplus(2 * field) - field).sum(-1)

    def mean(self, inputs: Tensor) -> Tensor:
        return torch.tanh(inputs + self.bias).to(inputs.dtype)

    def mode(self, inputs: Tensor) -> Tensor:
        return torch.where(inputs + self.bias > 0, 1.0, -1.0).to(inputs.dtype)

    def sample(self, inputs: Tensor, generator: torch.Generator | None) -> Tensor:
        probability = torch.sigmoid(2 * (inputs + self.bias))
        uniform = torch.rand(probability.shape, generator=generator, dtype=probability.dtype, device=probability.device)
        return torch.lt(uniform, probability, out=uniform).mul_(2).sub_(1).to(inputs.dtype)

    def bias_for_mean(self, mean: Tensor) -> Tensor:
        return torch.atanh(mean.to(self.bias.dtype).clamp(MEAN_CLIP - 1, 1 - MEAN_CLIP))

    def annealed(self, beta: float | Tensor, base: Self) -> Self:
        return self.with_tensors(bias=(1 - beta) * base.bias + beta * self.bias)

    def holds(self, images: Tensor) -> bool:
        return bool((images.abs() == 1).all())
