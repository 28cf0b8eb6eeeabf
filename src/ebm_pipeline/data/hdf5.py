"""Reading, checking, describing, writing and shuffling HDF5 files of images. Files are written whole or not at all.

Damage is seen when a file is read: libhdf5 checks its own structures where the file is of its format of 2008 (v108) or newer,
and a digest checks the arrays. Texts have a fixed length, so that they lie in those structures: texts of variable length lie
in a heap without checksums, which libhdf5 reads without end after some damages.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ebm_pipeline.errors import UserError
from ebm_pipeline.files import whole_file

Array = NDArray[Any]
PARTS = ("train", "test")
MOST_CLASSES = 10_000
EXPECTED = "expected HDF5 with train/images (count x units, uint8 or float32), optionally train/labels, test/images, test/labels"
# What h5py raises when it reads a damaged file.
DAMAGE = (
    OSError,
    RuntimeError,
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
    IndexError,
    OverflowError,
    MemoryError,
)
LARGEST = 1e12  # value of a pixel
DIGEST = "digest"  # attribute of the files written here: a changed bit is seen
FILE_FORMAT = "v108"  # the oldest whose structures have checksums


@dataclass(frozen=True)
class Source:
    """One part of a file: where its images and labels are, without reading them."""

    images: str
    field: str | None  # column of a pandas table that holds the pixels
    labels: str | None
    label_field: str | None
    count: int
    units: int
    dtype: np.dtype[Any]


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """The file, open for reading; every way in which HDF5 fails becomes one message."""
    if not path.is_file():
        raise UserError(f"no data file at {path}: {EXPECTED}")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except DAMAGE as error:
        raise UserError(
            f"{path} cannot be read ({error}): it is no HDF5 file, or truncated or damaged. {EXPECTED}"
        ) from error


def locate(file: h5py.File, part: str) -> Source | None:
    """Find and check one part of an open file; None if the file has no such part."""
    path = file.filename
    if f"{part}/images" not in file:
        return None
    name, field = _array_at(file, f"{part}/images")
    dataset = file[name]
    dtype, shape = dataset.dtype, dataset.shape
    if field is not None:
        dtype, shape = dataset.dtype[field].base, (*dataset.shape, *dataset.dtype[field].shape)
    if len(shape) not in (2, 3) or 0 in shape:
        raise UserError(
            f"{path}: {part}/images has the shape {shape}; expected (count, units) or (count, height, width)"
        )
    if dtype not in (np.dtype("uint8"), np.dtype("float32")):
        raise UserError(f"{path}: {part}/images holds {dtype}; expected uint8 (0-255) or float32")
    if dataset.chunks is None and dataset.id.get_storage_size() < dataset.size * dataset.dtype.itemsize:
        raise UserError(
            f"{path}: {part}/images says {shape} and has {dataset.id.get_storage_size()} bytes: the file is truncated or "
            "damaged, take another copy"
        )
    labels, label_field = (None, None)
    if f"{part}/labels" in file:
        labels, label_field = _array_at(file, f"{part}/labels")
        if len(file[labels]) != shape[0]:
            raise UserError(
                f"{path}: {part} has {shape[0]} images and {len(file[labels])} labels; expected as many of both"
            )
    return Source(name, field, labels, label_field, shape[0], math.prod(shape[1:]), dtype)


def _array_at(file: h5py.File, name: str) -> tuple[str, str | None]:
    """The dataset behind a key: itself, or the values of a pandas table (the study's old mnist.h5)."""
    item = file[name]
    if isinstance(item, h5py.Dataset):
        return name, None
    if "table" in item and item["table"].dtype.names is not None:
        blocks = [field for field in item["table"].dtype.names if field.startswith("values_block_")]
        if len(blocks) == 1:
            return f"{name}/table", blocks[0]
    raise UserError(
        f"{file.filename}: {name} is a group, not an array, and no pandas table of one block either. {EXPECTED}; "
        "write such a file with h5py"
    )


def read_images(file: h5py.File, source: Source, rows: slice = slice(None)) -> Array:
    """Rows of the images (count, units), checked to be finite."""
    values = file[source.images][rows]
    if source.field is not None:
        values = values[source.field]
    values = np.ascontiguousarray(values).reshape(len(values), source.units)
    if values.dtype != np.uint8 and not np.isfinite(values).all():
        raise UserError(f"{file.filename}: {source.images} holds NaN or infinite values; expected finite numbers")
    if values.dtype != np.uint8 and max(values.max(initial=0), -values.min(initial=0)) > LARGEST:
        raise UserError(
            f"{file.filename}: {source.images} ranges from {values.min():g} to {values.max():g}; expected at most {LARGEST:g}, "
            "whose squares float32 can still add: scale the images"
        )
    return values


def read_labels(file: h5py.File, source: Source) -> Array | None:
    """Labels (count,) as int64, or None."""
    if source.labels is None:
        return None
    values = file[source.labels][:]
    if source.label_field is not None:
        values = values[source.label_field]
    values = np.asarray(values).reshape(len(values), -1)
    if values.shape[1] != 1 or not np.issubdtype(values.dtype, np.integer):
        raise UserError(
            f"{file.filename}: {source.labels} should hold one integer per image; got {values.dtype} {values.shape}"
        )
    labels: Array = values[:, 0].astype(np.int64)
    return labels


def check_labels(file: h5py.File, classes: int | None) -> int:
    """The number of classes; raises UserError unless every image of every part has a label from 0 to classes - 1.

    classes None: as many as the largest label asks for.
    """
    found: dict[str, Array] = {}
    for part in PARTS:
        source = locate(file, part)
        if source is None:
            continue
        labels = read_labels(file, source)
        if labels is None:
            raise UserError(
                f"{file.filename} has no {part}/labels, and data.labels=true models the labels with the images: "
                "add one integer per image, or take a model without labels"
            )
        found[part] = labels
    number = classes or min(MOST_CLASSES, max(2, *(int(labels.max()) + 1 for labels in found.values())))
    for part, labels in found.items():
        if labels.min() < 0 or labels.max() >= number:
            raise UserError(
                f"{file.filename}: {part}/labels range from {labels.min()} to {labels.max()}; expected classes from 0 to "
                f"{number - 1}: set data.classes, or number them anew"
            )
    return number


def image_shape(file: h5py.File, units: int) -> tuple[int, int]:
    """(height, width) from the attribute, from three-dimensional images, or a square."""
    shape = file.attrs.get("image_shape")
    images = file["train/images"]
    if shape is None and isinstance(images, h5py.Dataset) and len(images.shape) == 3:
        shape = images.shape[1:]
    if shape is None:
        side = math.isqrt(units)
        shape = (side, side) if side * side == units else (1, units)
    if len(shape) != 2 or int(shape[0]) * int(shape[1]) != units:
        raise UserError(f"{file.filename}: image_shape {tuple(shape)} does not fit images of {units} pixels")
    return int(shape[0]), int(shape[1])


@contextmanager
def new_file(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file to fill, which takes its place at `path` when all went well: whole or not at all."""
    with whole_file(path) as partial, h5py.File(partial, "w", libver=FILE_FORMAT) as file:
        yield file


def set_text(item: h5py.HLObject, name: str, text: str) -> None:
    """Give a file, group or array an attribute that is a text (UTF-8)."""
    content = text.encode()
    item.attrs.create(name, content, dtype=h5py.string_dtype("utf-8", max(1, len(content))))


def get_text(item: h5py.HLObject, name: str, default: str | None = None) -> str:
    """An attribute that is a text, of fixed or of variable length; KeyError where there is none and no `default`."""
    value = item.attrs[name] if default is None else item.attrs.get(name, default)
    return value.decode() if isinstance(value, bytes) else str(value)


def check_digest(file: h5py.File) -> None:
    """Raise UserError if the file's digest is not that of its content; a file without one passes."""
    if DIGEST in file.attrs and get_text(file, DIGEST) != content_digest(file):
        raise UserError("its arrays are not those that were written")


def write(path: Path, name: str, shape: tuple[int, int], arrays: Mapping[str, Array]) -> None:
    """Write arrays such as train/images under their keys."""
    with new_file(path) as file:
        set_text(file, "name", name)
        file.attrs["image_shape"] = shape
        for key, array in arrays.items():
            file[key] = array
        set_text(file, DIGEST, _digest(file))


def digest(path: Path) -> str:
    """Short SHA-256 of the file's arrays, by key: the same for the same images whatever wrote them.

    Raises UserError where the file says another: it was changed after it was written.
    """
    with opened(path) as file:
        found = _digest(file)
        written = get_text(file, DIGEST, found)
        if written != found:
            raise UserError(
                f"{path} is damaged: its images and labels have the digest {found}, and it was written with "
                f"{written}. Remove it, it is made again; or take another copy"
            )
    return found


def _digest(file: h5py.File) -> str:
    total = hashlib.sha256()
    for part in PARTS:
        source = locate(file, part)
        if source is None:
            continue
        total.update(f"{part} {source.count} {source.units} {source.dtype}".encode())
        block = max(1, 2**24 // source.units)
        for start in range(0, source.count, block):
            total.update(read_images(file, source, slice(start, start + block)).tobytes())
        labels = read_labels(file, source)
        if labels is not None:
            total.update(labels.tobytes())
    return total.hexdigest()[:16]


def content_digest(file: h5py.File) -> str:
    """SHA-256 of all arrays and of the groups' attributes, by name; not of the file's own attributes."""
    total = hashlib.sha256()

    def add(name: str, item: h5py.HLObject) -> None:
        for key in sorted(item.attrs):
            total.update(f"{name} {key} {np.asarray(item.attrs[key]).tolist()!r}".encode())
        if isinstance(item, h5py.Dataset):
            total.update(f"{name} {item.shape} {item.dtype}".encode())
            total.update(np.ascontiguousarray(item[()]).tobytes())

    file.visititems(add)
    return total.hexdigest()


def describe(path: Path) -> str:
    """A table of what a file holds, after checking all of it."""
    lines = [f"{path}  ({path.stat().st_size / 1e6:.1f} MB)" if path.is_file() else str(path)]
    with opened(path) as file:
        found = {part: locate(file, part) for part in PARTS}
        train = found["train"]
        if train is None:
            raise UserError(f"{path} has no train/images. {EXPECTED}")
        lines.append(
            f"  name {get_text(file, 'name', '-')}, images {' x '.join(map(str, image_shape(file, train.units)))}"
        )
        for part, source in found.items():
            if source is None:
                lines.append(f"  {part:5} none")
                continue
            images = read_images(file, source)
            lines.append(
                f"  {part:5} {source.count} images of {source.units} pixels, {source.dtype}, "
                f"from {images.min():g} to {images.max():g}, mean {images.mean():.4g}"
            )
            labels = read_labels(file, source)
            if labels is not None:
                values, counts = np.unique(labels, return_counts=True)
                shown = ", ".join(f"{value}: {count}" for value, count in zip(values[:20], counts[:20], strict=True))
                lines.append(f"        labels {shown}{' ...' if len(values) > 20 else ''}")
    lines.append(f"  digest {digest(path)}")
    return "\n".join(lines)


def shuffled_copy(path: Path, target: Path, seed: int) -> None:
    """A copy with the rows of each part in an order that depends on the seed alone; labels stay with their images."""
    if target.resolve() == path.resolve():
        raise UserError(f"a shuffled copy cannot take the place of its source {path}: give another file")
    arrays: dict[str, Array] = {}
    with opened(path) as file:
        train = locate(file, "train")
        if train is None:
            raise UserError(f"{path} has no train/images. {EXPECTED}")
        for number, part in enumerate(PARTS):
            source = locate(file, part)
            if source is None:
                continue
            order = np.random.default_rng([seed, number]).permutation(source.count)
            arrays[f"{part}/images"] = read_images(file, source)[order]
            labels = read_labels(file, source)
            if labels is not None:
                arrays[f"{part}/labels"] = labels[order]
        write(target, get_text(file, "name", path.stem), image_shape(file, train.units), arrays)
