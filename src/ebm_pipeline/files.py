"""Files that are written whole or not at all; masks that are read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ebm_pipeline.errors import UserError

PARTIAL = ".partial"  # how the name of a file that is being written ends


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` when all went well; until then what was there stands."""
    partial = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error}): free some space or choose another path") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """A text file, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(text)


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


def remove_partial(folder: Path) -> None:
    """Remove what a process that was killed left half written."""
    for path in folder.rglob(f"*{PARTIAL}"):
        path.unlink(missing_ok=True)
