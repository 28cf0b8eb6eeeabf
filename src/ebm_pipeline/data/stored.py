"""Images in HDF5 files: train/images, train/labels, test/images, test/labels, tables of pandas, or any one array.

The arrays may be of any type of numbers, virtual, or behind links: whose file it is may say where it has its data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ebm_pipeline.data.contained import check_beside
from ebm_pipeline.data.hdf5 import DAMAGE, DIGEST, EXPECTED, get_text, new_file, opened, set_text
from ebm_pipeline.data.parts import (
    NAMES,
    Array,
    ArrayPart,
    Images,
    Part,
    checked,
    collected,
    held_type,
    pixels_of,
    whole_labels,
)
from ebm_pipeline.support.errors import UserError

MOST_NAMED = 10  # arrays in a message


@dataclass(frozen=True)
class Where:
    """An array in a file, or a column of a pandas table."""

    name: str
    column: str | None = None

    def read(self, file: h5py.File, rows: slice = slice(None)) -> Array:
        values = file[self.name][rows] if file[self.name].shape else file[self.name][()]
        return np.asarray(values if self.column is None else values[self.column])

    def shape_and_type(self, file: h5py.File) -> tuple[tuple[int, ...], np.dtype[Any]]:
        dataset = file[self.name]
        if self.column is None:
            return dataset.shape, dataset.dtype
        kind = dataset.dtype[self.column]
        return (*dataset.shape, *kind.shape), kind.base


@dataclass(frozen=True, eq=False)
class StoredPart(Part):
    """A part that is read from its file whenever it is asked for."""

    path: Path
    where: Where
    label_where: Where | None

    def images(self, rows: slice = slice(None)) -> Array:
        with opened(self.path) as file:
            values = np.array(self.where.read(file, rows), dtype=self.dtype, order="C")
        return checked(values.reshape(len(values), self.units), self.what)

    def labels(self) -> Array | None:
        if self.label_where is None:
            return None
        with opened(self.path) as file:
            return whole_labels(self.label_where.read(file), self.count, f"{self.path}: {self.label_where.name}")


def read_hdf5(path: Path, key: str | None = None) -> Images:
    """The images of a file in the layout above, those of the array `key`, or those of the only array in it."""
    with opened(path) as file:
        check_beside(file)
        remarks: tuple[str, ...] = ()
        if key is not None and not _has(file, key):
            raise UserError(f"{path} has no {key}; {_arrays(file)}")
        if key is None and not _has(file, "train/images"):
            key = _only_array(file)
            remarks = (f"{path} has one array, {key}: taken as training images",)
        if key is None:
            found = {name: _part(file, path, f"{name}/images", f"{name}/labels") for name in NAMES}
        else:
            found = {"train": _part(file, path, key, None)}
        parts: dict[str, Part] = {name: own[0] for name, own in found.items() if own is not None}
        assert found["train"] is not None, "it was looked for"
        shape = file.attrs.get("image_shape", found["train"][1]) if key is None else found["train"][1]
        if shape is not None and len(shape) != 2:
            raise UserError(f"{path}: image_shape {tuple(shape)} is not (height, width)")
        images = collected(
            get_text(file, "name", path.stem), str(path), parts,
            None if shape is None else (int(shape[0]), int(shape[1])), remarks,
        )  # fmt: skip
        return replace(images, written=get_text(file, DIGEST, "") or None if key is None else None)


def _part(
    file: h5py.File, path: Path, images: str, labels: str | None
) -> tuple[StoredPart, tuple[int, int] | None] | None:
    """A part and the shape of its images, if the array says it; None if the file has no such part."""
    if not _has(file, images):
        return None
    where = _array_at(file, images)
    shape, dtype = where.shape_and_type(file)
    what = f"{path}: {images}"
    units, pixels = pixels_of(shape, what)
    _check_readable(file, where.name, what)
    label_where = None
    if labels is not None and _has(file, labels):
        label_where = _array_at(file, labels)
        _check_readable(file, label_where.name, f"{path}: {labels}")
        whole_labels(label_where.read(file), shape[0], f"{path}: {labels}")
    return StoredPart(what, shape[0], units, held_type(dtype, what), path, where, label_where), pixels


def _has(file: h5py.File, name: str) -> bool:
    """Whether the file has this; raises UserError where it is behind a link to something that is not there."""
    names = name.split("/")
    for depth in range(1, len(names) + 1):
        step = "/".join(names[:depth])
        try:
            file[step]
        except (KeyError, OSError):
            link = file.get(step, getlink=True)
            if not isinstance(link, h5py.ExternalLink | h5py.SoftLink):
                return False
            target = f"{link.path} of {link.filename}" if isinstance(link, h5py.ExternalLink) else link.path
            raise UserError(
                f"{file.filename}: {step} is a link to {target}, which is not there: bring it beside, or mend the link"
            ) from None
    return True


def _array_at(file: h5py.File, name: str) -> Where:
    """The dataset behind a key: itself, or the values of a pandas table (the study's old mnist.h5)."""
    item = file[name]
    if isinstance(item, h5py.Dataset):
        return Where(name)
    if isinstance(item, h5py.Group) and "table" in item and item["table"].dtype.names is not None:
        blocks = [column for column in item["table"].dtype.names if column.startswith("values_block_")]
        if len(blocks) == 1:
            return Where(f"{name}/table", blocks[0])
    raise UserError(
        f"{file.filename}: {name} is a group, not an array, and no pandas table of one block either. {EXPECTED}; "
        "write such a file with h5py"
    )


def _only_array(file: h5py.File) -> str:
    """The key of the file's one array that may hold images; raises UserError where there is none, or several."""
    able = [
        name for name, (shape, dtype) in _arrays_of(file).items() if len(shape) in (2, 3, 4) and dtype.kind in "biuf"
    ]
    if len(able) != 1:
        raise UserError(
            f"{file.filename} has no train/images; {_arrays(file)}. Name one, data.path={file.filename}:NAME, or write "
            f"train/images. {EXPECTED}"
        )
    return able[0]


def _arrays_of(file: h5py.File) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape and type of every array of a file, by name."""
    found: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}

    def add(name: str, item: h5py.HLObject) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = (item.shape or (), item.dtype)

    file.visititems(add)
    return found


def _arrays(file: h5py.File) -> str:
    named = [f"{name} {shape} {dtype}" for name, (shape, dtype) in _arrays_of(file).items()]
    return f"it has {', '.join(named[:MOST_NAMED])}" if named else "it has no array"


def _check_readable(file: h5py.File, name: str, what: str) -> None:
    """Raise UserError for an array whose numbers are not all there, or that needs a filter that is not."""
    dataset = file[name]
    if dataset.is_virtual:
        _check_sources(Path(file.filename).parent, dataset, what)
    elif dataset.chunks is not None:
        _check_filters(dataset, what)
    elif dataset.external is None and dataset.id.get_storage_size() < dataset.size * dataset.dtype.itemsize:
        raise UserError(
            f"{what} says {dataset.shape} and has {dataset.id.get_storage_size()} bytes: the file is truncated or damaged, take "
            "another copy"
        )


def _check_filters(dataset: h5py.Dataset, what: str) -> None:
    """Raise UserError, with the filter's name, where the array is packed with one that this h5py does not have."""
    properties = dataset.id.get_create_plist()
    filters = [properties.get_filter(index) for index in range(properties.get_nfilters())]
    missing = [(number, label) for number, _, _, label in filters if not h5py.h5z.filter_avail(number)]
    if not missing:
        return
    try:
        dataset[(0,) * dataset.ndim]  # a filter that may be left out may not have been used
    except DAMAGE as error:
        named = ", ".join(
            f"{label.decode(errors='replace') or 'nameless'} (number {number})" for number, label in missing
        )
        raise UserError(
            f"{what} is packed with the filter {named}, which is not installed: pip install hdf5plugin and write the file anew "
            "with gzip or without a filter"
        ) from error


def _check_sources(folder: Path, dataset: h5py.Dataset, what: str) -> None:
    """Raise UserError for a virtual array whose sources are missing: HDF5 would give zeros for them."""
    for source in dataset.virtual_sources():
        if (
            source.file_name == "." or "%" in source.file_name
        ):  # in the file itself, or numbered files, as many as there are
            continue
        path = next((path for path in (folder / source.file_name, Path(source.file_name)) if path.is_file()), None)
        if path is None:
            raise UserError(
                f"{what} is virtual, its numbers lie in {source.file_name}, which is not there: bring it beside"
            )
        with opened(path) as file:
            if source.dset_name.lstrip("/") not in file:
                raise UserError(
                    f"{what} is virtual, its numbers lie in {source.dset_name} of {path}, which has none such"
                )


def write(path: Path, name: str, shape: tuple[int, int], arrays: Mapping[str, Array]) -> None:
    """Write arrays such as train/images and train/labels under their keys, with their digest."""
    with new_file(path) as file:
        set_text(file, "name", name)
        file.attrs["image_shape"] = shape
        for key, array in arrays.items():
            file[key] = array
        parts: dict[str, Part] = {
            part: ArrayPart.of(part, arrays[f"{part}/images"], arrays.get(f"{part}/labels"))
            for part in NAMES
            if f"{part}/images" in arrays
        }
        set_text(file, DIGEST, collected(name, str(path), parts, shape).digest())
