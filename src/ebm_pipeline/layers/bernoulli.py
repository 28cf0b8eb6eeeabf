"""Binary units x in {0, 1}: E(x) = -bias . x, p(x = 1 | I) = sigmoid(I + bias)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ebm_pipeline.layers.base import Layer, positive_units

MEAN_CLIP = 1e-4  # a pixel that is never on in the data may still be on in a test image: its bias stays finite


@dataclass(frozen=True, eq=False)
class Bernoulli(Layer):
    """Bernoulli units; parameter bias (units,)."""

    kind: ClassVar[str] = "bernoulli"
    binary: ClassVar[bool] = True

    @classmethod
    def create(cls, units: int) -> Bernoulli:
        """A layer of `units` units with zero bias."""
        return cls(bias=torch.zeros(positive_units(units)))

    def energy(self, x: Tensor) -> Tensor:
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
        uniform = torch.rand(probability.shape, generator=generator, dtype=probability.dtype, device=probability.device)
        # Writing the comparison into a floating tensor is many times cheaper than converting a Boolean one.
        return torch.lt(uniform, probability, out=torch.empty_like(inputs))

    def bias_for_mean(self, mean: Tensor) -> Tensor:
        return torch.logit(mean.to(self.bias.dtype), eps=MEAN_CLIP)

    def annealed(self, beta: float | Tensor, base: Self) -> Self:
        return self.with_tensors(bias=(1 - beta) * base.bias + beta * self.bias)
