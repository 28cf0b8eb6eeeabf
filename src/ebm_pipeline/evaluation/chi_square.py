"""Whether two samples have the same shares of each class: Pearson's chi-square test of homogeneity.

X^2 = sum (n - e)^2 / e over the numbers n of a table, e what they would be with the same shares; its distribution has
(rows - 1)(columns - 1) degrees of freedom where the draws are independent and no e is small.
Pearson (1900), doi:10.1080/14786440009463897.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

LEVEL = 0.01  # of p, below which shares differ
FEW = 5  # expected in a class, below which the test is rough


class ChiSquare(NamedTuple):
    """The statistic, its degrees of freedom, the chance p of one as large where the shares are the same, the smallest e."""

    statistic: float
    degrees: int
    p: float
    least_expected: float

    @property
    def agree(self) -> bool:
        """Whether nothing speaks against the same shares."""
        return self.p >= LEVEL

    def __str__(self) -> str:
        p = f"p = {self.p:.2g}" if self.p >= 1e-4 else "p < 0.0001"
        rough = f", rough: {self.least_expected:.1f} expected in a class" if self.least_expected < FEW else ""
        return f"chi-square {self.statistic:.1f}, {self.degrees} degrees of freedom, {p}{rough}"


def homogeneity(first: NDArray[np.int64], second: NDArray[np.int64]) -> ChiSquare:
    """Of two rows of numbers (classes,); classes that neither has are left out.

    An empty row, or a single class, differs in nothing: no degrees of freedom, p = 1.

    >>> import numpy as np
    >>> print(homogeneity(np.array([10, 20, 0]), np.array([20, 10, 0])))
    chi-square 6.7, 1 degrees of freedom, p = 0.0098
    """
    table = np.stack((first, second)).astype(np.float64)
    table = table[:, table.sum(0) > 0]
    degrees = table.shape[1] - 1
    if degrees < 1 or not table.sum(1).all():
        return ChiSquare(0.0, 0, 1.0, 0.0)
    expected = np.outer(table.sum(1), table.sum(0)) / table.sum()
    statistic = float(((table - expected) ** 2 / expected).sum())
    halves = torch.tensor((degrees / 2, statistic / 2), dtype=torch.float64)
    return ChiSquare(statistic, degrees, float(torch.special.gammaincc(*halves)), float(expected.min()))
