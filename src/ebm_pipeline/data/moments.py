"""Moments of the training images, which transforms are fitted to. Numbers are taken less the mean of the first block, so that
deviations that are small beside their mean keep their digits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Moments:
    """Of numbers (samples, units) as they are stored: mean, deviation and range of each unit (units,), float64.

    covariance (units, units) only where it was asked for.
    """

    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor
    covariance: Tensor | None = None

    @property
    def varies(self) -> Tensor:
        """Which units are not the same in all images: (units,)."""
        return self.high > self.low


def moments(blocks: Iterable[Tensor], *, covariance: bool = False) -> Moments:
    """The moments of all blocks (samples, units)."""
    count = 0
    for block in blocks:
        numbers = block.double()
        if count == 0:
            shift = numbers.mean(0)
            total, squares = torch.zeros_like(shift), torch.zeros_like(shift)
            products = torch.zeros(len(shift), len(shift), dtype=torch.float64) if covariance else None
            low, high = numbers.amin(0), numbers.amax(0)
        low, high = torch.minimum(low, numbers.amin(0)), torch.maximum(high, numbers.amax(0))
        numbers = numbers - shift
        count += len(numbers)
        total += numbers.sum(0)
        squares += numbers.square().sum(0)
        if products is not None:
            products.addmm_(numbers.mT, numbers)
    assert count, "a training part has images"
    mean = total / count
    variance = torch.where(high > low, squares / count - mean.square(), torch.zeros_like(mean)).clamp_min(0)
    spread = None if products is None else products / count - torch.outer(mean, mean)
    return Moments(mean + shift, variance.sqrt(), low, high, spread)
