"""A fitted transform in an HDF5 group: its name and settings, what the numbers were, and the arrays that it was fitted to."""

from __future__ import annotations

from dataclasses import fields

import h5py
import numpy as np
import torch
from torch import Tensor

from ebm_pipeline.data import transforms
from ebm_pipeline.data.hdf5 import get_text, set_text
from ebm_pipeline.data.transforms import Transform
from ebm_pipeline.data.values import KINDS, MOST_CATEGORIES, Values
from ebm_pipeline.support.errors import UserError

KNOWN: dict[str, type[Transform]] = {
    kind.name: kind
    for kind in (
        transforms.Threshold, transforms.Spin, transforms.Stochastic, transforms.Scale, transforms.Dequantise,
        transforms.Decorrelate, transforms.Standardize, transforms.OneHot, transforms.Identity,
    )
}  # fmt: skip
RANGES = {name: f"values_{name}" for name in ("low", "high", "levels", "categories")}
POSITIVE = ("unit", "std")


def is_known(transform: Transform) -> bool:
    """Whether it is one of ours, so that a file can say which; a user's own class is not written."""
    return type(transform) is KNOWN.get(transform.name)


def write_transform(group: h5py.Group, transform: Transform) -> None:
    """Arrays as datasets, the rest as attributes."""
    set_text(group, "name", transform.name)
    set_text(group, "values", transform.values.kind)
    for name, attribute in RANGES.items():
        group.attrs[attribute] = getattr(transform.values, name)
    for name in (field.name for field in fields(transform) if field.name != "values"):
        value = getattr(transform, name)
        if isinstance(value, Tensor):
            group[name] = value.cpu().numpy()
        else:
            group.attrs[name] = value


def read_transform(group: h5py.Group, pixels: int) -> Transform:
    """What `write_transform` wrote, for images of `pixels` numbers; raises UserError for anything else."""
    kind = KNOWN.get(get_text(group, "name"))
    if kind is None:
        raise UserError(f"its transform is {get_text(group, 'name')!r}; known: {', '.join(KNOWN)}")
    settings = {
        name: _array(group, name, pixels) if name in group else float(group.attrs[name])
        for name in (field.name for field in fields(kind) if field.name != "values")
    }
    return kind(values=_values(group), **settings)


def _values(group: h5py.Group) -> Values:
    kind = get_text(group, "values")
    low, high, levels, categories = (group.attrs[attribute] for attribute in RANGES.values())
    if kind not in KINDS or not 0 <= categories <= MOST_CATEGORIES or not low <= high:
        raise UserError(f"its transform is of values {kind!r}, {categories} categories, from {low} to {high}")
    return Values(kind, float(low), float(high), int(categories), bool(levels))


def _array(group: h5py.Group, name: str, pixels: int) -> Tensor:
    array = np.asarray(group[name])
    shape = (pixels, pixels) if name == "components" else (pixels,)
    if array.shape != shape or array.dtype not in (np.float32, np.float64) or not np.isfinite(array).all():
        raise UserError(
            f"{group.name}/{name} must be finite numbers of the shape {shape}; it is {array.dtype} {array.shape}"
        )
    if name in POSITIVE and not (array > 0).all():
        raise UserError(f"{group.name}/{name} must be above 0")
    return torch.from_numpy(array)
