"""Which classes the samples of a model belong to, and which training images they are near.

A classifier, the k nearest training images, gives each sample a class; where those do not agree it is unsure, and counted apart.
Its own error on held-out images is part of the answer, since the shares rest on it. The nearest training image says whether
the model repeats what it was trained on: held-out images, which it cannot have copied, show how near is usual.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

NEIGHBOURS, AGREED = 5, 4  # of the nearest training images, and how many must be of one class


@dataclass(frozen=True, eq=False)
class Coverage:
    """Shares by class of training images and of samples by where their chains started, of those that have a class.

    classes: the labels, in the order of the shares; counts: of samples, `unsure`: the share of these without a class.

    error: share of the held-out images with a class that is not theirs, among those that were given one; unsure_held_out: of
    those without. nearest (samples,): the row of the nearest training image of each sample, by start; distance (samples,) to it,
    root mean square of the pixels; usual: the median distance of held-out images.
    """

    classes: tuple[int, ...]
    data: NDArray[np.float64]
    samples: dict[str, NDArray[np.float64]]
    counts: dict[str, int]
    unsure: dict[str, float]
    error: float
    unsure_held_out: float
    nearest: dict[str, NDArray[np.int64]]
    distance: dict[str, NDArray[np.float64]]
    usual: float

    def error_of(self, start: str) -> NDArray[np.float64]:
        """Standard errors of the shares, of as many independent chains as have a class."""
        shares, sure = self.samples[start], self.counts[start] * (1 - self.unsure[start])
        error: NDArray[np.float64] = np.sqrt(shares * (1 - shares) / max(1.0, sure))
        return error

    def metrics(self, start: str) -> dict[str, float]:
        """Numbers by name, of the samples of one start; without the distance where held-out images repeat training images."""
        near = float(np.median(self.distance[start]))
        return {
            "sampler/least_class_share": float(self.samples[start].min()),
            "sampler/most_class_share": float(self.samples[start].max()),
            "sampler/unsure_samples": self.unsure[start],
        } | ({"sampler/nearest_training_image": near / self.usual} if self.usual > 0 else {})

    def __str__(self) -> str:
        def percent(shares: NDArray[np.float64]) -> str:
            return " ".join(f"{100 * share:.1f}" for share in shares)

        names = " ".join(map(str, self.classes))
        lines = [f"share of each class, percent ({names}): training images {percent(self.data)}"]
        for start, shares in self.samples.items():
            lines.append(
                f"{self.counts[start]} samples, chains from {start}: {percent(shares)}; {100 * self.unsure[start]:.1f} unsure; "
                f"nearest training image at {np.median(self.distance[start]):.3f} (median; root mean square of pixels)"
            )
        lines.append(
            f"classes by the {NEIGHBOURS} nearest training images: {100 * self.error:.1f} percent wrong and "
            f"{100 * self.unsure_held_out:.1f} unsure of held-out images, whose nearest training image lies at {self.usual:.3f}"
        )
        return "\n".join(lines)


def coverage(
    samples: Mapping[str, Tensor], images: Tensor, labels: Tensor, held_out: Tensor, held_out_labels: Tensor
) -> Coverage:
    """Of samples (count, pixels) by where their chains started; images and held_out (count, pixels), labels (count,) any numbers.

    >>> import torch
    >>> images = torch.eye(4).repeat_interleave(5, 0)
    >>> labels = torch.arange(4).repeat_interleave(5)
    >>> found = coverage({"noise": torch.eye(4)[:3]}, images, labels, images, labels)
    >>> found.samples["noise"].round(2), found.error
    (array([0.33, 0.33, 0.33, 0.  ]), 0.0)
    """
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=NEIGHBOURS, algorithm="brute").fit(images.float().numpy())
    size = images.shape[1]
    kinds, known = np.unique(labels.numpy(), return_inverse=True)

    def look(queries: Tensor) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """The class of each, -1 where unsure; the nearest training image, and its distance."""
        distances, rows = search.kneighbors(queries.float().numpy())
        votes = np.stack([(known[rows] == label).sum(1) for label in range(len(kinds))], 1)
        return np.where(votes.max(1) >= AGREED, votes.argmax(1), -1), rows[:, 0], distances[:, 0] / np.sqrt(size)

    def shares(given: NDArray[np.int64]) -> NDArray[np.float64]:
        sure = given[given >= 0]
        return np.bincount(sure, minlength=len(kinds)) / max(1, len(sure))

    found = {start: look(states) for start, states in samples.items()}
    given, _, usual = look(held_out)
    sure = given >= 0
    right = kinds[given[sure]] == held_out_labels.numpy()[sure]
    return Coverage(
        classes=tuple(kinds.tolist()),
        data=shares(known),
        samples={start: shares(label) for start, (label, _, _) in found.items()},
        counts={start: len(label) for start, (label, _, _) in found.items()},
        unsure={start: float((label < 0).mean()) for start, (label, _, _) in found.items()},
        error=float(1 - right.mean()) if len(right) else float("nan"),
        unsure_held_out=float((~sure).mean()),
        nearest={start: rows for start, (_, rows, _) in found.items()},
        distance={start: distance for start, (_, _, distance) in found.items()},
        usual=float(np.median(usual)),
    )
