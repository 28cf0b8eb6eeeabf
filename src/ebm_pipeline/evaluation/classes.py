"""A network that tells the classes of images, trained on those that have one: scikit-learn's MLPClassifier, one hidden layer.

Training takes a bounded number of multiplications, whatever the number and the size of the images are, and one thread: the same
images and seed give the same network, on one core within about 15 s.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

HIDDEN = 256
BATCH = 200
PIXELS = 500_000_000  # that training sees in all: 12 times the training images of MNIST
LEAST_PASSES, MOST_PASSES = 5, 100  # over the images
# Probability of the first class, below which an image has none. A higher one is right more often, but leaves out more of the
# classes that are hard to tell in samples: of an RBM's on MNIST 0.9 left out 14 percent, and made of 12.2 percent ones 13.1.
SURE = 0.5


@dataclass(frozen=True, eq=False)
class Classifier:
    """Calling it with images (count, pixels) gives the class of each as a number in the order of `classes`, -1 where unsure.

    classes: the labels, any numbers, in ascending order; images: how many it was trained on.
    """

    classes: tuple[int, ...]
    images: int
    network: Any
    mean: NDArray[np.float32]
    scale: float

    def __call__(self, images: Tensor) -> NDArray[np.int64]:
        probabilities = self.probabilities(images)
        first = self.network.classes_[probabilities.argmax(1)]
        return np.where(probabilities.max(1) >= SURE, first, -1)

    def probabilities(self, images: Tensor) -> NDArray[np.float32]:
        """(count, classes among the images it was trained on)"""
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1):
            found: NDArray[np.float32] = self.network.predict_proba((_array(images) - self.mean) / self.scale)
        return found


def train_classifier(images: Tensor, labels: Tensor, seed: int) -> Classifier:
    """Of images (count, pixels) and labels (count,), any numbers of which there are two or more.

    >>> import torch
    >>> images = torch.eye(4).repeat_interleave(5, 0)
    >>> classifier = train_classifier(images, torch.tensor([3, 3, 7, 7]).repeat_interleave(5), seed=0)
    >>> classifier.classes, classifier(torch.eye(4)).tolist()
    ((3, 7), [0, 0, 1, 1])
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier
    from threadpoolctl import threadpool_limits

    kinds, known = np.unique(labels.numpy(), return_inverse=True)
    pixels = images.shape[1]
    most = max(len(kinds), PIXELS // (LEAST_PASSES * pixels))
    rows = np.arange(len(images)) if len(images) <= most else np.linspace(0, len(images) - 1, most).astype(np.int64)
    shown = _array(images[rows])
    mean = shown.mean(0)
    scale = float((shown - mean).std()) or 1.0
    network = MLPClassifier(
        (HIDDEN,), batch_size=min(BATCH, len(rows)), tol=1e-3, random_state=seed % 2**32,
        max_iter=min(MOST_PASSES, max(LEAST_PASSES, round(PIXELS / shown.size))),
    )  # fmt: skip
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)  # the passes are few on purpose
        network.fit((shown - mean) / scale, known[rows])
    return Classifier(tuple(kinds.tolist()), len(rows), network, mean, scale)


def _array(images: Tensor) -> NDArray[np.float32]:
    return images.float().numpy()
