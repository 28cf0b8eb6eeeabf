"""How far samples of a machine are from data. All figures compare two sets of equal size, drawn independently.

*Energy distance* (Szekely & Rizzo 2013): 2 E|X - Y| - E|X - X'| - E|Y - Y'|, 0 for equal distributions, by U-statistics, so
an estimate may be a little below 0; its *coefficient* divides by 2 E|X - Y|.
*Nearest-neighbour adversarial accuracy* (Yale et al. 2020): the mean of two fractions, of the x whose nearest neighbour is
another x rather than a y, and of the y whose nearest neighbour is another y. 0.5 is indistinguishable, 1 is apart, and below
0.5 the samples sit on the data, as copies do.
*Moments*: root mean square difference of the means, and of the covariances, of units; the *mean deviation* is that of the means
over the root mean square deviation of the data.
*Frechet distance* of Gaussians fitted to the leading principal components of the data: in the space of all pixels, many of
them constant, it means nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import sqrtm
from sklearn.decomposition import PCA
from torch import Tensor

from ebm_pipeline.errors import UserError

COMPONENTS = 10  # principal components of the Frechet distance


@dataclass(frozen=True)
class TwoSample:
    """Figures of samples against data; distances in the units of the pixels."""

    energy_distance: float
    energy_coefficient: float
    adversarial_accuracy: float
    mean_error: float
    covariance_error: float
    frechet_distance: float


def compare_samples(samples: Tensor, data: Tensor) -> TwoSample:
    """Samples and data, both (count, units) of one count; raises UserError otherwise."""
    if samples.shape != data.shape or len(samples) < 4:
        raise UserError(
            f"samples and data must be of one shape, at least 4 rows; got {tuple(samples.shape)} and {tuple(data.shape)}"
        )
    x, y = samples.double(), data.double()
    within_x, within_y, between = _distances(x, x), _distances(y, y), _distances(x, y)
    count = len(x)
    pairs = count * (count - 1)
    mean_between = float(between.mean())
    distance = 2 * mean_between - float(within_x.sum() + within_y.sum()) / pairs
    return TwoSample(
        energy_distance=distance,
        energy_coefficient=distance / (2 * mean_between) if mean_between > 0 else 0.0,
        adversarial_accuracy=adversarial_accuracy(within_x, within_y, between),
        mean_error=float((x.mean(0) - y.mean(0)).square().mean().sqrt()),
        covariance_error=float((x.mT.cov() - y.mT.cov()).square().mean().sqrt()),
        frechet_distance=frechet_distance(*(part.numpy() for part in principal_components(y, COMPONENTS, x, y))),
    )


def energy_distance(x: Tensor, y: Tensor) -> float:
    """Of two sets (count, units), whose counts may differ."""
    x, y = x.double(), y.double()
    within = [float(_distances(own, own).sum()) / (len(own) * (len(own) - 1)) for own in (x, y)]
    return 2 * float(_distances(x, y).mean()) - sum(within)


def mean_deviation(samples: Tensor, data: Tensor) -> float:
    """How far the means of samples lie from those of data, both (count, units), in standard deviations of the data.

    Of n independent samples of the data's own distribution it is about 1 / sqrt(n), all units taken together.
    """
    difference = samples.double().mean(0) - data.double().mean(0)
    return float((difference.square().mean() / data.double().var(0).mean()).sqrt())


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distances (rows of x, rows of y); of a row to itself exactly 0."""
    result = torch.cdist(x, y)
    if x is y:
        result.fill_diagonal_(0)
    return result


def adversarial_accuracy(within_x: Tensor, within_y: Tensor, between: Tensor) -> float:
    """From distances (count, count) within and between two sets; a tie, as of a copy, counts half."""

    def fraction_apart(within: Tensor, other: Tensor) -> float:
        own = within + torch.diag(torch.full((len(within),), torch.inf, dtype=within.dtype))
        nearest_own, nearest_other = own.min(1).values, other.min(1).values
        ties = (nearest_own == nearest_other).double()
        return float(((nearest_own < nearest_other).double() + 0.5 * ties).mean())

    return 0.5 * (fraction_apart(within_x, between) + fraction_apart(within_y, between.mT))


def principal_components(reference: Tensor, count: int, *sets: Tensor) -> list[Tensor]:
    """Each set (rows, units) projected on the leading components of the reference: (rows, at most `count`)."""
    pca = PCA(min(count, *reference.shape), svd_solver="covariance_eigh").fit(reference.cpu().double().numpy())
    return [torch.from_numpy(pca.transform(part.cpu().double().numpy())) for part in sets]


def frechet_distance(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """|mean x - mean y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2)) of points (rows, dimensions)."""
    cov_x, cov_y = np.atleast_2d(np.cov(x.T)), np.atleast_2d(np.cov(y.T))
    root = sqrtm(cov_x @ cov_y)
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(cov_x + cov_y - 2 * np.real(root)))
