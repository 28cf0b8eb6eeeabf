"""HDF5 files: opened with one message for every failure, written whole or not at all, texts and digests in them.

Damage is seen when a file is read: libhdf5 checks its own structures where the file is of its format of 2008 (v108) or newer,
and a digest checks the arrays. Texts have a fixed length, so that they lie in those structures: texts of variable length lie
in a heap without checksums, which libhdf5 reads without end after some damages.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ebm_pipeline.support.errors import UserError
from ebm_pipeline.support.files import whole_file

EXPECTED = (
    "expected HDF5 with train/images (count x units or count x height x width), optionally train/labels, test/images, "
    "test/labels"
)
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
DIGEST = "digest"  # attribute of the files written here: a changed bit is seen
FILE_FORMAT = "v108"  # the oldest whose structures have checksums


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


class _Output(io.FileIO):
    """A file to which writing never fails: HDF5 writes also when it closes, and prints what it can no longer raise there.

    `failure` is the first one; what was written from then on is lost.
    """

    failure: OSError | None = None

    def write(self, content: Any) -> int:
        left = memoryview(content).cast("B")
        size = len(left)
        try:
            while left and self.failure is None:
                left = left[super().write(left) :]
        except OSError as error:
            self.failure = error
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.failure = self.failure or error
            return size or 0


@contextmanager
def new_file(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file to fill, which takes its place at `path` when all went well: whole or not at all."""
    with whole_file(path) as partial, _Output(partial, "w+") as output:
        try:
            with h5py.File(output, "w", libver=FILE_FORMAT) as file:
                yield file
        finally:
            if output.failure is not None:
                raise output.failure


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
