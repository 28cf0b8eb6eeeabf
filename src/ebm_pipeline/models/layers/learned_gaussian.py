"""Real units whose variance is learned: E(x) = sum_i x_i^2 / (2 variance_i) - bias . x, variance_i >= variance_floor_i.

d E / d variance = -x^2 / (2 variance^2) asks for the second moment. Training moves the variance in the coordinates of Cho,
Ilin & Raiko (2011), see `training.precision`; the floor keeps a pixel that hardly varies from a density without bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from ebm_pipeline.models.layers.base import positive_units
from ebm_pipeline.models.layers.gaussian import Gaussian
from ebm_pipeline.support.errors import UserError, check_number


@dataclass(frozen=True, eq=False)
class LearnedGaussian(Gaussian):
    """Gaussian units; parameters bias (units,) and variance (units,); variance_floor (units,) is fixed."""

    kind: ClassVar[str] = "learned_gaussian"

    variance_floor: Tensor

    @classmethod
    def create(cls, units: int, variance: float = 1.0, variance_floor: float = 0.01) -> LearnedGaussian:
        """A layer of `units` units with zero bias, one variance to start from and one floor for all."""
        check_number("variance_floor of Gaussian units", variance_floor, open_low=True)
        check_number("variance of Gaussian units", variance, open_low=True)
        if variance < variance_floor:
            raise UserError(
                f"the variance that learning starts from, {variance:g}, is below its floor {variance_floor:g}"
            )
        return cls(
            bias=torch.zeros(positive_units(units)),
            variance=torch.full((units,), float(variance)),
            variance_floor=torch.full((units,), float(variance_floor)),
        )

    @property
    def fixed(self) -> tuple[str, ...]:
        return ("variance_floor",)

    @property
    def learned_variances(self) -> dict[str, slice]:
        return {"variance": slice(0, self.units)}

    def further_gradient(self, states: Tensor, sample_weights: Tensor) -> dict[str, Tensor]:
        return {"variance": -(sample_weights @ states.square()) / (2 * self.variance.square())}

    def within(self, variance: Tensor) -> Self:
        return self.with_tensors(variance=torch.maximum(torch.minimum(self.variance, variance), self.variance_floor))
