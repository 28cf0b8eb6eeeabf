"""What an HDF5 file may bring in: itself, and for own data what lies beside it; seen from its structure, before arrays are read.

Links, external storage and virtual arrays name other files of this computer, which are read as if they stood in the file. An
array of which nothing was written, or that is packed too well, takes memory that its file does not show.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import h5py

from ebm_pipeline.support.errors import UserError, check_memory

MOST_OBJECTS = 100_000  # groups and arrays of a file
PACKED = (h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32)  # filters of HDF5 itself
MOST_PACKED = 1100  # times that deflate can make an array smaller
ITSELF = "."  # how a virtual array names its own file


def check_self_contained(file: h5py.File) -> None:
    """Raise UserError unless all of a file lies in the file itself, and is no larger than its size allows."""
    for name, kind in _links(file):
        if kind != h5py.h5l.TYPE_HARD:
            raise UserError(f"{name} is a link, whose target may be any file: take a file that holds its arrays itself")
        item = h5py.h5o.open(file.id, name.encode())
        if isinstance(item, h5py.h5d.DatasetID):
            _check_array(item, name, file.id.get_filesize())


def check_beside(file: h5py.File, seen: frozenset[Path] = frozenset()) -> None:
    """Raise UserError unless all files that own data bring in lie in the folder of the file, or below."""
    folder = Path(file.filename).absolute().resolve().parent
    for name, other in _brought_in(file):
        for place in {(folder / other).resolve(), Path(other).absolute().resolve()}:  # HDF5 looks in both
            if place.exists() and not place.is_relative_to(folder):
                raise UserError(
                    f"{file.filename}: {name} brings in {place}, outside of the file's folder: put both into one folder"
                )
            if place.is_file() and place not in seen and h5py.is_hdf5(place):
                with h5py.File(place, "r") as further:
                    check_beside(further, seen | {place})


def _links(file: h5py.File) -> list[tuple[str, int]]:
    """(path in the file, kind of link) of all its groups and arrays."""
    found: list[tuple[str, int]] = []

    def add(name: bytes, link: h5py.h5l.LinkInfo) -> bool | None:
        found.append((name.decode(errors="surrogateescape"), link.type))
        return True if len(found) > MOST_OBJECTS else None

    file.id.links.visit(add, info=True)
    if len(found) > MOST_OBJECTS:
        raise UserError(f"it has more than {MOST_OBJECTS} groups and arrays")
    return found


def _check_array(item: h5py.h5d.DatasetID, name: str, file_size: int) -> None:
    made = item.get_create_plist()
    if made.get_external_count() or made.get_layout() == h5py.h5d.VIRTUAL:
        raise UserError(
            f"{name} is an array whose numbers lie in other files: take a file that holds its arrays itself"
        )
    filters = {made.get_filter(index)[0] for index in range(made.get_nfilters())}
    if not filters <= set(PACKED):
        raise UserError(f"{name} is packed by a filter that is none of HDF5's own: write it without")
    size = math.prod(item.shape or ()) * item.get_type().get_size()
    if size > file_size * (MOST_PACKED if h5py.h5z.FILTER_DEFLATE in filters else 1):
        raise UserError(f"{name} is said to have the shape {item.shape}, which is more than its file holds")
    check_memory(f"the array {name} {item.shape}", size)


def _brought_in(file: h5py.File) -> Iterator[tuple[str, str]]:
    """(path in the file, other file that it names)."""
    for name, kind in _links(file):
        if kind == h5py.h5l.TYPE_EXTERNAL:
            yield name, file.get(name, getlink=True).filename
        elif kind == h5py.h5l.TYPE_HARD and isinstance(
            item := h5py.h5o.open(file.id, name.encode()), h5py.h5d.DatasetID
        ):
            made = item.get_create_plist()
            for index in range(made.get_external_count()):
                yield name, made.get_external(index)[0].decode(errors="surrogateescape")
            if made.get_layout() == h5py.h5d.VIRTUAL:
                sources = (made.get_virtual_filename(index) for index in range(made.get_virtual_count()))
                yield from (
                    (name, str(Path(source).parent if "%" in source else source))
                    for source in sources
                    if source != ITSELF
                )
