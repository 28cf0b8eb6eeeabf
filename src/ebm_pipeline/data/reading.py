"""Own data: one reader for each format, from a path to `Images`. What is not images of numbers ends in one message.

.npy .npz               NumPy, never pickled; `file.npz:name` takes one of its arrays
.csv .tsv .txt          a row per image; a column named label, class, target or y holds the labels
a folder                of PNG or JPEG; folders in it are classes, or train and test
IDX                     plain or gzipped, as MNIST's files are; labels and test part beside it are found
HDF5                    see `stored`; `file.h5:name` takes one of its arrays
"""

from __future__ import annotations

import csv
import functools
import gzip
import math
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

from ebm_pipeline.data.parts import NAMES, Array, ArrayPart, Images, Part, collected, pixels_of
from ebm_pipeline.data.stored import read_hdf5
from ebm_pipeline.support.errors import UserError

PICTURES = (".png", ".jpg", ".jpeg")
FORMATS = ".npy, .npz, .csv, .tsv, a folder of PNG or JPEG, IDX (plain or .gz), HDF5"
LABEL_COLUMNS = ("label", "labels", "class", "target", "y")
# names of arrays in an .npz that mean the same
SYNONYMS = {
    "train/images": ("train/images", "train_images", "images", "x_train", "X_train", "X", "x", "data", "arr_0"),
    "train/labels": ("train/labels", "train_labels", "labels", "y_train", "Y_train", "y", "Y", "target", "targets"),
    "test/images": ("test/images", "test_images", "x_test", "X_test"),
    "test/labels": ("test/labels", "test_labels", "y_test", "Y_test"),
}
IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
GREY_MODES = {
    "1": None,
    "L": None,
    "I;16": 65535,
    "I;16B": 65535,
    "I": 65535,
}  # of PIL, and what is white where it is not the type's
# What NumPy, PIL and the unpackers raise for damaged files.
UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    SyntaxError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
)


def split_key(path: str) -> tuple[Path, str | None]:
    """A path, and the name of an array in it that stands behind a colon: mine.h5:a/b."""
    whole = Path(path).absolute()
    file, colon, key = path.rpartition(":")
    if colon and key and not whole.exists() and Path(file).is_file():
        return Path(file).absolute(), key
    return whole, None


def read(path: str) -> Images:
    """The images at a path of any format; raises UserError for whatever is wrong with them."""
    place, key = split_key(path)
    if not place.exists():
        raise UserError(f"no data file at {place}: give a file or a folder of one of {FORMATS}")
    if place.is_dir():
        return _read_folder(place)
    suffix = place.suffix.lower()
    if suffix == ".npy":
        return _one(place, _load(place, "NumPy file", lambda: np.lib.format.open_memmap(place, mode="r")))
    if suffix == ".npz":
        return _read_npz(place, key)
    if suffix in (".csv", ".tsv", ".txt"):
        return _read_table(place)
    if suffix in PICTURES:
        raise UserError(f"{place} is one picture: give the folder that holds the pictures")
    if _is_idx(place):
        return _read_idx(place)
    if suffix in (".h5", ".hdf5", ".hdf", ".he5", ".mat", "") or h5py.is_hdf5(place):
        return read_hdf5(place, key)
    raise UserError(f"{place} is none of the formats that are read: {FORMATS}")


def _load(path: Path, what: str, load: Callable[[], Any]) -> Any:
    """What `load` gives; every way in which it fails is one message."""
    try:
        return load()
    except UNREADABLE as error:
        shown = (str(error) or type(error).__name__).splitlines()[0]
        if "pickle" in shown or "Python objects" in shown:
            shown = "it holds Python objects, which are never unpickled: save an array of numbers"
        raise UserError(f"{path} cannot be read as a {what}: {shown}") from error


def _one(path: Path, array: Array) -> Images:
    """A training part that is one array."""
    part = ArrayPart.of(str(path), array)
    return collected(path.stem, str(path), {"train": part}, pixels_of(array.shape, str(path))[1])


def _read_npz(path: Path, key: str | None) -> Images:
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path} is no archive as numpy.savez writes it, or damaged: take another copy")
    loaded = _load(path, "NumPy archive", lambda: dict(np.load(path, allow_pickle=False)))
    arrays: dict[str, Array] = {name: array for name, array in loaded.items() if isinstance(array, np.ndarray)}
    if key is not None:
        if key not in arrays:
            raise UserError(f"{path} has no array {key}; it has {', '.join(arrays) or 'none'}")
        return _one(path, arrays[key])
    chosen = {own: next((name for name in names if name in arrays), None) for own, names in SYNONYMS.items()}
    if chosen["train/images"] is None and len(arrays) == 1:
        chosen["train/images"] = next(iter(arrays))
    if chosen["train/images"] is None:
        shown = ", ".join(f"{name} {array.shape}" for name, array in arrays.items()) or "none"
        raise UserError(f"{path} has the arrays {shown}: name that of the images, data.path={path}:NAME")
    found = {own: name for own, name in chosen.items() if name is not None}
    remark = f"{path}: " + ", ".join(f"{own} is {name}" for own, name in found.items())
    return _of_arrays(path, {own: arrays[name] for own, name in found.items()}, (remark,))


def _of_arrays(path: Path, arrays: Mapping[str, Array], remarks: tuple[str, ...] = ()) -> Images:
    """Parts from arrays by the keys of the HDF5 layout."""
    parts: dict[str, Part] = {
        name: ArrayPart.of(f"{path}: {name}/images", arrays[f"{name}/images"], arrays.get(f"{name}/labels"))
        for name in NAMES
        if f"{name}/images" in arrays
    }
    _, shape = pixels_of(arrays["train/images"].shape, str(path))
    return collected(path.stem, str(path), parts, shape, remarks)


# ---------------------------------------------------------------------------------------------- tables


def _read_table(path: Path) -> Images:
    delimiter, header = _header(path)
    label, unnamed = None, []
    for index, name in enumerate(header):
        if name.strip().lower() in LABEL_COLUMNS and label is None:
            label = index
        elif not name.strip():
            unnamed.append(index)
    remarks = [f"{path}: column {header[label]!r} holds the labels"] if label is not None else []
    if unnamed:
        remarks.append(f"{path}: column {unnamed[0] + 1} has no name: taken for row numbers, left out")
    columns = [index for index in range(len(header)) if index != label and index not in unnamed] if header else None

    def table(columns: Any, dtype: Any) -> Array:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # a table without rows
            return np.loadtxt(
                path, dtype, comments=None, delimiter=delimiter, skiprows=int(bool(header)), usecols=columns, ndmin=2,
                encoding="utf-8-sig", quotechar='"',
            )  # fmt: skip

    try:
        values = _load(path, "table of numbers", lambda: table(columns, np.float64))
    except UserWarning as error:
        raise UserError(f"{path} has no rows of numbers: give one row per image") from error
    arrays = {"train/images": _narrow(values)}
    if label is not None:
        names = _load(path, "table", lambda: table([label], str)[:, 0])
        arrays["train/labels"], said = _numbered(names)
        remarks += [f"{path}: {said}"] if said else []
    return _of_arrays(path, arrays, tuple(remarks))


def _header(path: Path) -> tuple[str | None, list[str]]:
    """The sign between columns (None: blanks), and their names; none where the first line has numbers alone."""

    def first() -> str:
        with open(path, encoding="utf-8-sig") as file:
            return file.readline().rstrip("\r\n")

    line: str = _load(path, "table", first)
    signs = [sign for sign in ("\t", ";", ",") if sign in line]
    delimiter = signs[0] if signs else "," if path.suffix.lower() == ".csv" else None
    cells = next(csv.reader([line], delimiter=delimiter)) if delimiter else line.split()
    return delimiter, [] if all(_is_number(cell) for cell in cells) else cells


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _narrow(values: Array) -> Array:
    """Whole numbers from 0 to 255 as bytes, which take an eighth of the memory."""
    if values.size and values.min() >= 0 and values.max() <= 255 and (values == np.rint(values)).all():
        return values.astype(np.uint8)
    return values


def _numbered(names: Array) -> tuple[Array, str]:
    """Labels as whole numbers, and how names were numbered, if they are names."""
    if all(_is_number(name) and float(name) == round(float(name)) for name in names):
        return names.astype(np.float64).astype(np.int64), ""
    known, numbers = np.unique(names, return_inverse=True)
    return numbers, "labels " + ", ".join(f"{number} {name}" for number, name in enumerate(known[:20]))


# ---------------------------------------------------------------------------------------------- pictures


def _read_folder(folder: Path) -> Images:
    """PNG and JPEG files of one size; folders named train and test are parts, other folders classes."""
    tops = [name for name in NAMES if (folder / name).is_dir()]
    if "test" in tops and "train" not in tops:
        raise UserError(f"{folder} has a folder test and none train: name the other train")
    arrays: dict[str, Array] = {}
    remarks: list[str] = []
    for name, top in [(name, folder / name) for name in tops] or [("train", folder)]:
        files = {path: path.parent for path in sorted(top.rglob("*")) if path.suffix.lower() in PICTURES}
        if not files:
            raise UserError(f"{top} holds no PNG or JPEG files")
        arrays[f"{name}/images"] = _pictures(list(files), remarks)
        if all(parent.parent == top for parent in files.values()):
            labels, said = _numbered(np.array([parent.name for parent in files.values()]))
            arrays[f"{name}/labels"] = labels
            remarks.append(f"{top}: the folders in it are classes{f', {said}' if said else ''}")
    if len({f"{name}/labels" in arrays for name in tops}) > 1:
        raise UserError(
            f"{folder}: one of its parts has folders for classes and the other has none: give both, or none"
        )
    return _of_arrays(folder, arrays, tuple(remarks))


def _pictures(files: list[Path], remarks: list[str]) -> Array:
    """Pictures of one size (count, height, width): bytes, or grey levels from 0 to 1 where a file has 16 bits."""
    first, _ = _load(files[0], "picture", lambda: _picture(files[0]))
    images = np.empty((len(files), *first.shape), first.dtype)
    number = 0
    for index, path in enumerate(files):
        image, colour = _load(path, "picture", functools.partial(_picture, path))
        if image.shape != first.shape or image.dtype != first.dtype:
            raise UserError(
                f"{path} has {image.shape[1]} x {image.shape[0]} pixels of {image.dtype}, and {files[0]} has {first.shape[1]} x "
                f"{first.shape[0]} of {first.dtype}: bring all pictures to one size and depth"
            )
        images[index] = image
        number += colour
    if number:
        remarks.append(f"{files[0].parent}: {number} of {len(files)} pictures have colours, turned to grey levels")
    return images


def _picture(path: Path) -> tuple[Array, bool]:
    """(height, width), and whether the picture had colours."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(path) as image:
                if image.mode in GREY_MODES:
                    white = GREY_MODES[image.mode]
                    values = np.asarray(image)
                    grey = values.astype(np.uint8) * 255 if image.mode == "1" else values
                    return (grey if white is None else (grey / white).astype(np.float32)), False
                return np.asarray(image.convert("L")), image.mode not in ("LA", "La")
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise ValueError(str(error)) from error


# ---------------------------------------------------------------------------------------------- IDX


def _is_idx(path: Path) -> bool:
    with open(path, "rb") as file:
        start = file.read(4)
    return (
        path.suffix == ".gz"
        or "idx" in path.name
        or (len(start) == 4 and start[:2] == b"\0\0" and start[2] in IDX_TYPES)
    )


def _read_idx(path: Path) -> Images:
    """The array of an IDX file; beside train-images-idx3-ubyte its labels and t10k files are taken too."""
    names = {"train/images": path.name}
    if "images" in path.name:
        names["train/labels"] = path.name.replace("images", "labels").replace("idx3", "idx1")
        if "train" in path.name:
            names |= {key.replace("train", "test"): name.replace("train", "t10k") for key, name in names.items()}
    there = {key: path.with_name(name) for key, name in names.items() if path.with_name(name).is_file()}
    arrays = {key: parse_idx(_unpacked(own), str(own)) for key, own in there.items()}
    beside = [own.name for key, own in there.items() if key != "train/images"]
    return _of_arrays(path, arrays, (f"{path}: {', '.join(beside)} beside it taken too",) if beside else ())


def _unpacked(path: Path) -> bytes:
    content = path.read_bytes()
    if content[:2] != b"\x1f\x8b":
        return content
    unpacked: bytes = _load(path, "gzip file", lambda: gzip.decompress(content))
    return unpacked


def parse_idx(raw: bytes, origin: str) -> Array:
    """The array in an unpacked IDX file (LeCun's format: big-endian numbers behind their type and shape)."""
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in IDX_TYPES:
        raise UserError(f"{origin} is no IDX file: take another copy")
    dtype, dimensions = np.dtype(IDX_TYPES[raw[2]]), raw[3]
    start = 4 + 4 * dimensions
    shape = struct.unpack(f">{dimensions}I", raw[4:start]) if len(raw) >= start else ()
    if not shape or len(raw) - start != math.prod(shape) * dtype.itemsize:
        raise UserError(f"{origin} says {shape} and holds {max(len(raw) - start, 0)} bytes: it is truncated or damaged")
    return np.frombuffer(raw, dtype=dtype, offset=start).reshape(shape)
