"""Data sets as arrays."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ebm_pipeline.runs.configuration import build_data
from ebm_pipeline.runs.estimators.base import value_errors
from ebm_pipeline.runs.estimators.settings import composed


class Images(NamedTuple):
    """Images (count, height, width) of 0 and 1, float32, and labels (count,), None where there are none."""

    train: NDArray[np.float32]
    test: NDArray[np.float32] | None
    train_labels: NDArray[Any] | None
    test_labels: NDArray[Any] | None


def flipped(images: NDArray[np.float32], fraction: float = 0.15, seed: int = 137) -> NDArray[np.float32]:
    """Images of 0 and 1, of any shape, with this fraction of their pixels exchanged for the other value: to be denoised.

    Raises ValueError for images of other values.

    >>> flipped(np.zeros((2, 3)), fraction=1.0)
    array([[1., 1., 1.],
           [1., 1., 1.]])
    """
    if not np.isin(images, (0, 1)).all():
        raise ValueError(f"expected images of 0 and 1; got values from {np.min(images):g} to {np.max(images):g}")
    return np.where(np.random.default_rng(seed).random(images.shape) < fraction, 1 - images, images)


def load_data(name: str = "digits", transform: str = "threshold") -> Images:
    """A data set of conf/data, whole: digits (8 x 8, in scikit-learn), mnist, fashion_mnist, bars_and_stripes.

    transform: as in conf/data/transform. Kept as HDF5 under `outputs/data`. Raises ValueError for names that are not there, and
    where a download fails.

    >>> images = load_data("bars_and_stripes")
    >>> images.train.shape[1:], sorted(set(images.train.ravel()))
    ((4, 4), [np.float32(0.0), np.float32(1.0)])
    """
    with value_errors():
        config = composed([f"data={name}", f"data/transform={transform}"])
        data = build_data(config)
        height, width = data.image_shape

        def images(part: str) -> NDArray[np.float32]:
            return data.visible.images(data.images(part)).reshape(-1, height, width).numpy()

        def labels(part: str) -> NDArray[Any] | None:
            found = data.labels(part)
            return None if found is None else found.numpy()

        whole = np.concatenate([images("train"), images("validation")])
        parts = [labels("train"), labels("validation")]
        known = (
            None
            if any(part is None for part in parts)
            else np.concatenate([part for part in parts if part is not None])
        )
        test = data.test is not None
        return Images(whole, images("test") if test else None, known, labels("test") if test else None)
