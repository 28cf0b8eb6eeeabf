"""How far samples of a machine are from data. All numbers compare two sets of equal size, drawn independently.

*Energy distance* (Szekely & Rizzo 2013): 2 E|X - Y| - E|X - X'| - E|Y - Y'|, 0 for equal distributions, by U-statistics, so
an estimate may be a little below 0; its *coefficient* divides by 2 E|X - Y|.
*Nearest-neighbour adversarial accuracy* (Yale et al. 2020): the mean of two fractions, of the x whose nearest neighbour is
another x rather than a y, and of the y whose nearest neighbour is another y. 0.5 is indistinguishable, 1 is apart, and below
0.5 the samples sit on the data, as copies do. The mean alone can be 0.5 of sets that are far from each other: in many dimensions
the nearest neighbour of a noisy image is a plain one, so that one fraction is near 0 and the other near 1. Both are given.
Both come with the error that they have by chance alone: their standard deviations when rows of the two sets change places, which
is what two sets of one distribution show.
*Moments*: root mean square difference of the means, and of the covariances, of units; the *mean deviation* is that of the means
over the root mean square deviation of the data, and the *covariance deviation* that of the covariances over those of the data.
*Frechet distance* of Gaussians fitted to the leading principal components of the data: in the space of all pixels, many of
them constant, it means nothing.

Of more than MOST_UNITS units covariances are those of an even choice of them, and components are found from the rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebm_pipeline.support.errors import UserError

COMPONENTS = 10  # principal components of the Frechet distance
MOST_UNITS = 1000  # whose covariances are computed, all with all
EXCHANGES = 100  # of rows, for the errors by chance
NEIGHBOURS = 24  # nearest rows among which one of either set is looked for in an exchange
LEAST_ROWS = 4


@dataclass(frozen=True)
class TwoSample:
    """Numbers of samples against data; distances in the units of the pixels."""

    energy_distance: float
    energy_coefficient: float
    adversarial_accuracy: float
    adversarial_accuracy_of_samples: float
    adversarial_accuracy_of_data: float
    energy_distance_error: float  # by chance
    adversarial_accuracy_error: float
    mean_error: float
    covariance_error: float
    frechet_distance: float


def compare_samples(samples: Tensor, data: Tensor, seed: int = 0) -> TwoSample:
    """Samples and data, both (count, units) of one count; raises UserError otherwise. seed: of the exchanges of rows."""
    if samples.shape != data.shape or len(samples) < LEAST_ROWS:
        raise UserError(
            f"samples and data must be of one shape, at least {LEAST_ROWS} rows; got {tuple(samples.shape)} and "
            f"{tuple(data.shape)}"
        )
    x, y = samples.double(), data.double()
    within_x, within_y, between = _distances(x, x), _distances(y, y), _distances(x, y)
    mean_between = float(between.mean())
    distance = float(_energy_distances(_joined(within_x, within_y, between), _first_half(len(x))))
    errors = _errors_by_chance(within_x, within_y, between, seed)
    told = _fraction_apart(within_x, between), _fraction_apart(within_y, between.mT)
    return TwoSample(
        energy_distance=distance,
        energy_coefficient=distance / (2 * mean_between) if mean_between > 0 else 0.0,
        adversarial_accuracy=sum(told) / 2,
        adversarial_accuracy_of_samples=told[0],
        adversarial_accuracy_of_data=told[1],
        energy_distance_error=errors[0],
        adversarial_accuracy_error=errors[1],
        mean_error=float((x.mean(0) - y.mean(0)).square().mean().sqrt()),
        covariance_error=float((covariances(x) - covariances(y)).square().mean().sqrt()),
        frechet_distance=frechet_distance(*(part.numpy() for part in principal_components(y, COMPONENTS, x, y))),
    )


def _joined(within_x: Tensor, within_y: Tensor, between: Tensor) -> Tensor:
    """Distances (2 * count, 2 * count) of both sets together."""
    return torch.cat((torch.cat((within_x, between), 1), torch.cat((between.mT, within_y), 1)))


def _first_half(count: int) -> Tensor:
    """Which rows are of the first set: (2 * count, 1), float64."""
    return torch.cat((torch.ones(count, 1), torch.zeros(count, 1))).double()


def _energy_distances(joined: Tensor, first: Tensor) -> Tensor:
    """Energy distance for each choice of the first set: (2 * count, choices) -> (choices,)."""
    count = len(joined) // 2
    sums = joined @ first
    own, other = (first * sums).sum(0), ((1 - first) * (joined.sum(1, keepdim=True) - sums)).sum(0)
    between = (joined.sum() - own - other) / 2
    return 2 * between / count**2 - (own + other) / (count * (count - 1))


def _errors_by_chance(within_x: Tensor, within_y: Tensor, between: Tensor, seed: int) -> tuple[float, float]:
    """Standard deviations of energy distance and adversarial accuracy over random choices of the first set."""
    joined, count = _joined(within_x, within_y, between), len(within_x)
    generator = torch.Generator().manual_seed(seed)
    orders = torch.stack([torch.randperm(2 * count, generator=generator) for _ in range(EXCHANGES)], 1)
    first = (orders < count).double().to(joined.device)
    apart = joined + torch.diag(torch.full((2 * count,), torch.inf, dtype=joined.dtype, device=joined.device))
    distances, nearest = apart.topk(min(NEIGHBOURS, 2 * count - 1), largest=False)
    same = first[nearest] == first[:, None]  # (rows, neighbours, choices)
    own, other = (torch.where(choice, distances[..., None], torch.inf).amin(1) for choice in (same, ~same))
    accuracy = ((own < other).double() + 0.5 * (own == other).double()).mean(0)
    return float(_energy_distances(joined, first).std()), float(accuracy.std())


def covariances(images: Tensor) -> Tensor:
    """Covariances (units, units) of images (count, units); of many units those of an even choice of MOST_UNITS at most."""
    chosen = images[:, :: -(-images.shape[1] // MOST_UNITS)].double()
    return chosen.mT.cov().reshape(chosen.shape[1], chosen.shape[1])  # of one unit cov gives a number


def covariance_deviation(samples: Tensor, data: Tensor, other: Tensor) -> float:
    """How far the covariances of samples lie from those of data, over the size of these, by the Frobenius norm.

    What two sets of the data, `data` and `other`, differ by is taken off (in squares): it is chance. All (count, units).
    """
    own = covariances(data)
    apart = (covariances(samples) - own).square().sum() - (covariances(other) - own).square().sum()
    return _share(float(apart.clamp_min(0).sqrt()), float(own.norm()))


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
    return _share(float(difference.norm()), float(data.double().var(0, correction=0).sum().sqrt()))


def _share(size: float, whole: float) -> float:
    """size / whole; of data that do not vary the size itself."""
    return size / whole if whole > 0 else size


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distances (rows of x, rows of y); of a row to itself exactly 0."""
    result = torch.cdist(x, y)
    if x is y:
        result.fill_diagonal_(0)
    return result


def _fraction_apart(within: Tensor, between: Tensor) -> float:
    """Rows whose nearest neighbour is of their own set, by distances (rows, rows) within it and to another; a tie is a half."""
    own = within + torch.diag(torch.full((len(within),), torch.inf, dtype=within.dtype))
    nearest_own, nearest_other = own.min(1).values, between.min(1).values
    ties = (nearest_own == nearest_other).double()
    return float(((nearest_own < nearest_other).double() + 0.5 * ties).mean())


def principal_components(reference: Tensor, count: int, *sets: Tensor) -> list[Tensor]:
    """Each set (rows, units) projected on the leading components of the reference: (rows, at most `count`).

    The components are those of the smaller of the two Gram matrices, of units or of rows.
    """
    mean = reference.double().mean(0)
    centred = reference.double() - mean
    count = min(count, *reference.shape)
    if len(centred) < centred.shape[1]:
        axes = centred.mT @ torch.linalg.eigh(centred @ centred.mT)[1][:, -count:].flip(1)
        lengths = axes.norm(dim=0)
        axes = torch.where(
            lengths > 1e-9 * lengths.max(), axes / lengths.clamp_min(1e-300), 0.0
        )  # fewer rows than components
    else:
        axes = torch.linalg.eigh(centred.mT @ centred)[1][:, -count:].flip(1)
    axes = (
        axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    )  # a component's sign is free: its largest is above 0
    return [((part.double() - mean) @ axes).cpu() for part in sets]


def frechet_distance(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """|mean x - mean y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2)) of points (rows, dimensions)."""
    cov_x, cov_y = np.atleast_2d(np.cov(x.T)), np.atleast_2d(np.cov(y.T))
    # C_x C_y has the eigenvalues of the symmetric R C_y R with R = C_x^(1/2), also where it is singular
    values, axes = np.linalg.eigh(cov_x)
    root = axes * np.sqrt(values.clip(0)) @ axes.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ cov_y @ root).clip(0)).sum()
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(cov_x + cov_y) - 2 * shared)
