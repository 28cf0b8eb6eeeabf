"""Which classes the samples of a model belong to, and which training images they are near.

A network trained on the training images (`classes`) gives each sample a class; where it is unsure, the sample is counted apart.
Its own error on held-out images is part of the answer, since the shares rest on it. Shares are compared by chi-square, of chains
from noise with chains from data, and of either with the training images. The nearest training image says whether
the model repeats what it was trained on: held-out images, which it cannot have copied, show how near is usual.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ebm_pipeline.evaluation.chi_square import ChiSquare, homogeneity
from ebm_pipeline.evaluation.classes import HIDDEN, SURE, train_classifier

Counts = NDArray[np.int64]
Shares = NDArray[np.float64]

MOST_WRONG = 0.1  # of held-out images: by a worse network the shares say more of it than of the samples
NOTHING = "not compared, as no sample has a class"


@dataclass(frozen=True, eq=False)
class Coverage:
    """Numbers by class of training images and of samples by where their chains started, of those that have a class.

    classes: the labels, in the order of the numbers (classes,); given: the class of each sample (samples,) in that order,
    -1 where unsure, by start. trained_on: images that the network has seen; error: share of the held-out images with a class that
    is not theirs, among those that were given one, nan where none was; unsure_held_out: of those without.

    nearest (samples,): the row of the nearest training image of each sample, by start; distance (samples,) to it,
    root mean square of the pixels; usual: the median distance of held-out images.
    """

    classes: tuple[int, ...]
    training: Counts
    given: dict[str, Counts]
    trained_on: int
    error: float
    unsure_held_out: float
    nearest: dict[str, Counts]
    distance: dict[str, Shares]
    usual: float

    @property
    def data(self) -> Shares:
        """Shares of the training images."""
        return _shares(self.training)

    def counts(self, start: str) -> Counts:
        """Samples of each class."""
        given = self.given[start]
        return np.bincount(given[given >= 0], minlength=len(self.classes))

    def shares(self, start: str) -> Shares:
        """Of the samples that have a class."""
        return _shares(self.counts(start))

    def unsure(self, start: str) -> float:
        """Share of the samples without a class."""
        return float((self.given[start] < 0).mean())

    def error_of(self, start: str) -> Shares:
        """Standard errors of the shares, of as many independent chains as have a class."""
        shares = self.shares(start)
        error: Shares = np.sqrt(shares * (1 - shares) / max(1, self.counts(start).sum()))
        return error

    def against_data(self, start: str) -> ChiSquare | None:
        """Samples of one start against the training images; None where no sample has a class."""
        counts = self.counts(start)
        return homogeneity(counts, self.training) if counts.any() else None

    def starts(self) -> ChiSquare | None:
        """Chains from noise against chains from data; None where one of them has no sample with a class."""
        if not {"noise", "data"} <= self.given.keys():
            return None
        noise, data = self.counts("noise"), self.counts("data")
        return homogeneity(noise, data) if noise.any() and data.any() else None

    @property
    def wrong(self) -> str:
        """The network's error, percent, as a person reads it."""
        return "share of wrong ones not known" if np.isnan(self.error) else f"{100 * self.error:.1f}% wrong"

    @property
    def tells(self) -> bool:
        """Whether the network tells the classes of held-out images well enough for the shares to be of the samples."""
        return self.error <= MOST_WRONG

    def metrics(self, start: str) -> dict[str, float]:
        """Numbers by name, of the samples of one start: those of classes where a sample has one and the network tells them,
        the distance where held-out images do not repeat training images.
        """
        near, starts = float(np.median(self.distance[start])), self.starts() if self.tells else None
        shares = self.shares(start) if self.tells and self.counts(start).any() else None
        return {"sampler/unsure_samples": self.unsure(start)} | {
            name: value
            for name, value in (
                ("sampler/least_class_share", None if shares is None else float(shares.min())),
                ("sampler/most_class_share", None if shares is None else float(shares.max())),
                ("sampler/classes_p_value", None if starts is None else starts.p),
                ("sampler/nearest_training_image", near / self.usual if self.usual > 0 else None),
            )
            if value is not None
        }

    def as_dict(self) -> dict[str, Any]:
        """All numbers, as JSON has them."""
        starts = self.starts()
        return {
            "classes": list(self.classes),
            "training_images": {"counts": self.training.tolist(), "shares": self.data.tolist()},
            "samples": {
                start: {
                    "samples": len(given),
                    "unsure": self.unsure(start),
                    "counts": self.counts(start).tolist(),
                    "shares": self.shares(start).tolist(),
                    "standard_errors": self.error_of(start).tolist(),
                    "against_training_images": _record(self.against_data(start)),
                    "nearest_training_image_median": float(np.median(self.distance[start])),
                }
                for start, given in self.given.items()
            },
            "noise_against_data": None if starts is None else starts._asdict() | {"agree": starts.agree},
            "classifier": {
                "hidden_units": HIDDEN,
                "trained_on": self.trained_on,
                "least_probability": SURE,
                "wrong_held_out": None if np.isnan(self.error) else self.error,
                "unsure_held_out": self.unsure_held_out,
                "tells_classes": self.tells,
            },
            "nearest_training_image_of_held_out_median": self.usual,
        }

    def __str__(self) -> str:
        def percent(shares: Shares) -> str:
            return " ".join(f"{100 * share:.1f}" for share in shares)

        names = " ".join(map(str, self.classes))
        lines = [f"share of each class, percent ({names}): training images {percent(self.data)}"]
        for start, given in self.given.items():
            lines.append(
                f"{len(given)} samples, chains from {start}: {percent(self.shares(start))} "
                f"(+- {100 * self.error_of(start).max():.1f}); "
                f"{100 * self.unsure(start):.1f} unsure; against training images {self.against_data(start) or NOTHING}; "
                f"nearest training image at {np.median(self.distance[start]):.3f} (median; root mean square of pixels)"
            )
        starts = self.starts()
        if starts is None and {"noise", "data"} <= self.given.keys():
            lines.append(f"classes of the two starts: {NOTHING}")
        if starts is not None:
            verdict = "agree" if starts.agree else "do not agree: more sweeps (task.sweeps), whatever R-hat says"
            lines.append(f"classes of the two starts {verdict}: {starts}")
        lines.append(
            f"classes by a network of {HIDDEN} hidden units trained on {self.trained_on} training images: {self.wrong} "
            f"and {100 * self.unsure_held_out:.1f}% unsure (probability below {SURE:g}) of held-out images, "
            f"whose nearest training image lies at {self.usual:.3f}"
        )
        if not self.tells:
            lines.append(
                f"the shares say little: the network is to be wrong for at most {100 * MOST_WRONG:.0f}% of held-out images "
                "(more labelled images, or classes that can be told apart)"
            )
        return "\n".join(lines)


def coverage(
    samples: Mapping[str, Tensor],
    images: Tensor,
    labels: Tensor,
    held_out: Tensor,
    held_out_labels: Tensor,
    seed: int = 0,
) -> Coverage:
    """Of samples (count, pixels) by where their chains started; images and held_out (count, pixels), labels (count,) any numbers.

    >>> import torch
    >>> images = torch.eye(4).repeat_interleave(5, 0)
    >>> labels = torch.arange(4).repeat_interleave(5)
    >>> found = coverage({"noise": torch.eye(4)[:3]}, images, labels, images, labels)
    >>> found.shares("noise").round(2), found.error
    (array([0.33, 0.33, 0.33, 0.  ]), 0.0)
    """
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(images.float().numpy())
    classify = train_classifier(images, labels, seed)

    def look(queries: Tensor) -> tuple[Counts, Shares]:
        """The row of the nearest training image of each, and its distance."""
        distances, rows = search.kneighbors(queries.float().numpy())
        return rows[:, 0], distances[:, 0] / np.sqrt(images.shape[1])

    found = {start: look(states) for start, states in samples.items()}
    given = classify(held_out)
    sure = given >= 0
    kinds = np.array(classify.classes)
    right = kinds[given[sure]] == held_out_labels.numpy()[sure]
    return Coverage(
        classes=classify.classes,
        training=np.unique(labels.numpy(), return_counts=True)[1],
        given={start: classify(states) for start, states in samples.items()},
        trained_on=classify.images,
        error=float(1 - right.mean()) if len(right) else float("nan"),
        unsure_held_out=float((~sure).mean()),
        nearest={start: rows for start, (rows, _) in found.items()},
        distance={start: distance for start, (_, distance) in found.items()},
        usual=float(np.median(look(held_out)[1])),
    )


def _record(test: ChiSquare | None) -> dict[str, float] | None:
    return None if test is None else test._asdict()


def _shares(counts: Counts) -> Shares:
    shares: Shares = counts / max(1, counts.sum())
    return shares
