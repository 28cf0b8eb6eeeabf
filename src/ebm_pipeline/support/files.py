"""Files and folders that are written whole or not at all; masks that are read."""

from __future__ import annotations

import functools
import glob
import itertools
import os
import platform
import shutil
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from ebm_pipeline.support.errors import UserError

PARTIAL = ".partial"  # how the name of a file or folder that is being written ends
_attempts = itertools.count()


@functools.cache
def _here() -> str:
    """Of this machine since its start, or of this container: others write to the same folder, under the same process ids.

    Containers of one machine, and machines that nobody gave a name, can have the same host name.
    """
    known = [platform.node()]
    with suppress(OSError):  # elsewhere than on Linux
        known += [Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/pid")]
    return f"{zlib.crc32(' '.join(known).encode()):08x}"


def partial_name(path: Path) -> Path:
    """A name beside `path` to write under, of this machine, process and attempt alone."""
    return path.with_name(f"{path.name}.{_here()}.{os.getpid()}.{next(_attempts)}{PARTIAL}")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` when all went well; until then what was there stands."""
    with _partial(path) as partial:
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """As `whole_file`, of a folder that is not there yet: what was there is removed when the new one is complete."""
    with _partial(path) as partial:
        yield partial
        _remove(path)
        os.rename(partial, path)


@contextmanager
def _partial(path: Path) -> Iterator[Path]:
    partial = partial_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        yield partial
    except OSError as error:
        raise UserError(f"cannot write {path} ({error}): free some space or choose another path") from error
    finally:
        with suppress(OSError):
            _remove(partial)


def write_text(path: Path, text: str) -> None:
    """A text file, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def remove_leftovers(path: Path) -> None:
    """Remove what processes of this machine that were killed since its start left half written of this file or folder."""
    for left in path.parent.glob(f"{glob.escape(path.name)}.{_here()}.*{PARTIAL}*"):
        process = left.name.removeprefix(f"{path.name}.{_here()}.").split(".")[0]
        if process.isdigit() and not psutil.pid_exists(int(process)):
            _remove(left)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def read_truth_values(path: Path, shape: Sequence[int] | None = None) -> NDArray[np.bool_]:
    """Truth values of a .npy file; raises UserError if it is none, damaged, or of another shape than `shape`."""
    if path.suffix != ".npy" or not path.is_file():
        raise UserError(f"a mask is a .npy file that is there; got {path}")
    try:
        array: Any = np.load(path, allow_pickle=False)
    except Exception as error:  # a damaged file can raise anything
        raise UserError(f"{path} is damaged or no .npy file ({error}): write it with numpy.save") from error
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path} is an archive: expected one array, as numpy.save writes it")
    if array.dtype.kind not in "biu" or (shape is not None and array.shape != tuple(shape)):
        wanted = "" if shape is None else f" of the shape {tuple(shape)}"
        raise UserError(f"{path} must hold truth values{wanted}; got {array.dtype} of the shape {array.shape}")
    held: NDArray[np.bool_] = array != 0
    return held


def can_write(folder: Path) -> bool:
    """Whether files can be made in a folder."""
    return os.access(folder, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def remove_partial(folder: Path) -> None:
    """Remove what a process that was killed left half written; no other may be at work in the folder."""
    for path in list(folder.rglob(f"*{PARTIAL}")):
        _remove(path)
