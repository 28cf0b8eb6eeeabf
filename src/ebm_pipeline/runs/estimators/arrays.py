"""Arrays of a user on their way in and out: NumPy in, NumPy out; torch in, torch out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor


def plain(values: ArrayLike | Tensor) -> Any:
    """What scikit-learn can check: a tensor as an array, images (n, height, width) or (n, height, width, 1) as rows."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    shape: tuple[int, ...] = getattr(values, "shape", ())
    if len(shape) == 4 and shape[3] == 1:
        values = np.asarray(values)[..., 0]
    return np.asarray(values).reshape(shape[0], -1) if len(shape) in (3, 4) else values


def image_shape(values: ArrayLike | Tensor, units: int) -> tuple[int, int]:
    """(height, width) of images: theirs where they have one, a square where `units` is one, else one row."""
    shape: tuple[int, ...] = getattr(values, "shape", ())
    if len(shape) in (3, 4):
        return int(shape[1]), int(shape[2])
    side = round(units**0.5)
    return (side, side) if side * side == units else (1, units)


def like(tensor: Tensor, given: ArrayLike | Tensor) -> Any:
    """The tensor as the user gave his: torch of the same device, else NumPy."""
    if isinstance(given, Tensor):
        return tensor.to(given.device)
    return tensor.cpu().numpy()
