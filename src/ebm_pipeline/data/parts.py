"""A set of images as it lies in memory or in a file: a training part, perhaps a test part, and the labels of both.

Numbers of every type, byte order and memory layout are read; what they mean is found in `values`, never guessed from their type.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ebm_pipeline.support.errors import UserError

Array = NDArray[Any]
NAMES = ("train", "test")
MOST_CLASSES = 10_000
LARGEST = 1e12  # value of a pixel
BLOCK_VALUES = 2**24  # that are read at once of a part
CACHED_VALUES = 2**19  # that are worked on at once, in memory that is there already: a third of the time


def held_type(dtype: np.dtype[Any], what: str) -> np.dtype[Any]:
    """The type, uint8, float32 or float64, that holds numbers of `dtype` unchanged; raises UserError for what are none."""
    if dtype.kind == "b" or dtype == np.uint8:
        return np.dtype(np.uint8)
    if (dtype.kind in "iu" and dtype.itemsize <= 2) or (dtype.kind == "f" and dtype.itemsize <= 4):
        return np.dtype(np.float32)
    if dtype.kind in "iuf":
        return np.dtype(np.float64)
    raise UserError(f"{what} holds {dtype}; expected whole or real numbers, or truth values")


def pixels_of(shape: tuple[int, ...], what: str) -> tuple[int, tuple[int, int] | None]:
    """Units of an image, and (height, width) where the array says it; raises UserError for shapes that are none of images."""
    if len(shape) == 4 and shape[3] == 1:
        shape = shape[:3]
    if len(shape) == 4 and shape[1] == 1:
        shape = (shape[0], *shape[2:])
    if len(shape) not in (2, 3) or 0 in shape:
        colours = ": colours are not modelled, take one channel or grey levels" if len(shape) == 4 else ""
        raise UserError(
            f"{what} has the shape {shape}; expected (count, units), (count, height, width) or (count, height, width, 1){colours}"
        )
    return math.prod(shape[1:]), (shape[1], shape[2]) if len(shape) == 3 else None


def whole_labels(values: Array, count: int, what: str) -> Array:
    """Labels (count,) as int64; raises UserError unless `values` holds one whole number per image."""
    if values.ndim == 0 or values.shape not in ((count,), (count, 1)):
        raise UserError(
            f"{what} should hold one integer per image; got an array of shape {values.shape} for {count} images and "
            f"{len(values) if values.ndim else 1} labels"
        )
    if values.dtype.kind not in "biuf" or (values.dtype.kind == "f" and not np.all(values == np.rint(values))):
        raise UserError(f"{what} should hold one integer per image; got {values.dtype}: number the classes from 0")
    labels: Array = values.reshape(count).astype(np.int64)
    return labels


def cached_rows(units: int) -> int:
    """Images of so many units that are worked on at once."""
    return max(1, CACHED_VALUES // units)


@dataclass(frozen=True, eq=False)
class Part:
    """Images (count, units) and perhaps their labels; `what` names them in messages, `dtype` is the type they are held in."""

    what: str
    count: int
    units: int
    dtype: np.dtype[Any]

    def images(self, rows: slice = slice(None)) -> Array:
        """Rows of the images (count, units), of the part's dtype, contiguous, checked to be finite."""
        raise NotImplementedError

    def labels(self) -> Array | None:
        """Labels (count,) as int64, or None."""
        raise NotImplementedError

    @property
    def bytes(self) -> int:
        """That all images take in memory."""
        return self.count * self.units * self.dtype.itemsize

    def blocks(self) -> Iterator[Array]:
        """All images (count, units), a block after the other."""
        size = max(1, BLOCK_VALUES // self.units)
        for start in range(0, self.count, size):
            yield self.images(slice(start, start + size))

    def pieces(self) -> Iterator[Array]:
        """The same, in smaller pieces of CACHED_VALUES."""
        size = cached_rows(self.units)
        for block in self.blocks():
            for start in range(0, len(block), size):
                yield block[start : start + size]


@dataclass(frozen=True, eq=False)
class ArrayPart(Part):
    """Images of any type and layout in memory, or in a memory map, and their labels (count,)."""

    array: Array
    own_labels: Array | None = None

    @classmethod
    def of(cls, what: str, images: Array, labels: Array | None = None) -> ArrayPart:
        """Raises UserError for arrays that are no images, or not one label for each."""
        dtype = held_type(images.dtype, what)
        units, _ = pixels_of(images.shape, what)
        if labels is not None:
            labels = whole_labels(labels, len(images), f"{what}: its labels")
        return cls(what, len(images), units, dtype, images, labels)

    def images(self, rows: slice = slice(None)) -> Array:
        values = np.array(self.array[rows], dtype=self.dtype, order="C")
        return checked(values.reshape(len(values), self.units), self.what)

    def labels(self) -> Array | None:
        return self.own_labels


def checked(values: Array, what: str) -> Array:
    """`values`, if they are finite and not too large for float32 to add their squares; raises UserError otherwise."""
    if values.dtype != np.uint8 and not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise UserError(
            f"{what} holds NaN or infinite values; expected finite numbers. The first is in image {row}, column {column} of the "
            "block: leave such images out, or fill in what is missing"
        )
    if values.dtype != np.uint8 and max(values.max(initial=0), -values.min(initial=0)) > LARGEST:
        raise UserError(
            f"{what} ranges from {values.min():g} to {values.max():g}; expected at most {LARGEST:g}, "
            "whose squares float32 can still add: scale the images"
        )
    return values


@dataclass(frozen=True, eq=False)
class Images:
    """What was read: parts by name (`train`, perhaps `test`), the shape of an image, and remarks on how it was read.

    written: the digest that the file itself names.
    """

    name: str
    where: str
    parts: dict[str, Part]
    image_shape: tuple[int, int]
    remarks: tuple[str, ...] = ()
    written: str | None = None

    @property
    def train(self) -> Part:
        return self.parts["train"]

    @property
    def test(self) -> Part | None:
        return self.parts.get("test")

    def digest(self) -> str:
        """Short SHA-256 of the arrays: the same for the same images whatever file they lie in."""
        total = hashlib.sha256()
        for name, part in self.parts.items():
            total.update(f"{name} {part.count} {part.units} {part.dtype}".encode())
            for block in part.blocks():
                total.update(block.tobytes())
            labels = part.labels()
            if labels is not None:
                total.update(labels.tobytes())
        return total.hexdigest()[:16]

    def checked_digest(self) -> str:
        """The digest; raises UserError where the file names another: it was changed after it was written."""
        found = self.digest()
        if self.written not in (None, found):
            raise UserError(
                f"{self.where} is damaged: its images and labels have the digest {found}, and it was written with "
                f"{self.written}. Remove it, it is made again; or take another copy"
            )
        return found


def collected(
    name: str, where: str, parts: dict[str, Part], shape: tuple[int, int] | None, remarks: tuple[str, ...] = ()
) -> Images:
    """The parts as one set; raises UserError where they do not go together. shape None: a square where units is one."""
    train = parts.get("train")
    assert train is not None, "a set of images has a training part"
    for part in parts.values():
        if part.units != train.units:
            raise UserError(
                f"{where}: {part.what} has {part.units} columns, {train.what} has {train.units}: give both the same pixels"
            )
    if shape is None:
        side = math.isqrt(train.units)
        shape = (side, side) if side * side == train.units else (1, train.units)
    if math.prod(shape) != train.units:
        raise UserError(f"{where}: image_shape {shape} does not fit images of {train.units} pixels")
    return Images(name, where, parts, shape, remarks)


def check_labels(images: Images, classes: int | None) -> int:
    """The number of classes; raises UserError unless every image of every part has a label from 0 to classes - 1.

    classes None: as many as the largest label asks for.
    """
    found: dict[str, Array] = {}
    for name, part in images.parts.items():
        labels = part.labels()
        if labels is None:
            raise UserError(
                f"{images.where} has no {name}/labels, and data.labels=true models the labels with the images: "
                "add one integer per image, or take a model without labels"
            )
        found[name] = labels
    number = classes or min(MOST_CLASSES, max(2, *(int(labels.max()) + 1 for labels in found.values())))
    for name, labels in found.items():
        if labels.min() < 0 or labels.max() >= number:
            raise UserError(
                f"{images.where}: {name}/labels range from {labels.min()} to {labels.max()}; expected classes from 0 to "
                f"{number - 1}: set data.classes, or number them anew"
            )
    return number
