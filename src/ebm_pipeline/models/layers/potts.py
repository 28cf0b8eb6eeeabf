"""Categorical sites as one-hot vectors (Potts): of the units of a site exactly one is 1.

E(x) = -bias . x, p(unit k of a site is 1 | I) = softmax_k(I + bias) over the units of that site. The units of a site stand
side by side: site s has the units s * categories, ..., (s + 1) * categories - 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ebm_pipeline.models.layers.base import MOST_UNITS, Layer, positive_units
from ebm_pipeline.support.errors import UserError, check_whole

MEAN_CLIP = 1e-4  # a category that never comes in the data keeps a finite bias


@dataclass(frozen=True, eq=False)
class Potts(Layer):
    """units / categories sites of `categories` units each; parameter bias (units,)."""

    kind: ClassVar[str] = "potts"
    needs: ClassVar[str] = "0 and 1 with exactly one 1 among the units of each site (one-hot rows)"

    categories: int

    def __post_init__(self) -> None:
        check_whole("categories of a Potts layer", self.categories, 2, MOST_UNITS)
        if self.units % self.categories:
            raise UserError(
                f"a Potts layer has whole sites of {self.categories} categories; {self.units} units are no multiple of it"
            )

    @classmethod
    def create(cls, units: int, categories: int) -> Potts:
        """A layer of `units` units, one for each category of each site, with zero bias."""
        return cls(bias=torch.zeros(positive_units(units)), categories=categories)

    def _by_site(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:-1], -1, self.categories)  # (..., sites, categories)

    def _one_hot(self, choice: Tensor, dtype: torch.dtype) -> Tensor:
        return one_hot(choice, self.categories).flatten(-2).to(dtype)

    def sites(self) -> list[Tensor]:
        return [torch.eye(self.categories, dtype=torch.float64)] * (self.units // self.categories)

    def energy(self, x: Tensor) -> Tensor:
        return -(x * self.bias).sum(-1)

    def log_partition(self, inputs: Tensor) -> Tensor:
        return self._by_site(inputs + self.bias).logsumexp(-1).sum(-1)

    def mean(self, inputs: Tensor) -> Tensor:
        return self._by_site(inputs + self.bias).softmax(-1).flatten(-2).to(inputs.dtype)

    def mode(self, inputs: Tensor) -> Tensor:
        return self._one_hot(self._by_site(inputs + self.bias).argmax(-1), inputs.dtype)

    def sample(self, inputs: Tensor, generator: torch.Generator | None) -> Tensor:
        # Of independent exponential times with rates p_k the k-th is the first with probability p_k.
        probability = self._by_site(inputs + self.bias).softmax(-1)
        times = torch.empty_like(probability).exponential_(generator=generator)
        return self._one_hot((probability / times).argmax(-1), inputs.dtype)

    def bias_for_mean(self, mean: Tensor) -> Tensor:
        return mean.to(self.bias.dtype).clamp_min(MEAN_CLIP).log()

    def annealed(self, beta: float | Tensor, base: Self) -> Self:
        return self.with_tensors(bias=(1 - beta) * base.bias + beta * self.bias)

    def holds(self, images: Tensor) -> bool:
        binary = bool(((images == 0) | (images == 1)).all())
        return binary and bool((self._by_site(images).sum(-1) == 1).all())
