"""Weights of RBMs that other programs trained, read as data: nothing in the file is called or unpickled.

Bernoulli-Bernoulli machines of two layers, E = -v . b - h . c - v W h, by the names of their arrays:

    weights (visible, hidden), visible_bias, hidden_bias                  plain, in .npz or HDF5
    components_ (hidden, visible), intercept_visible_, intercept_hidden_  scikit-learn's BernoulliRBM, saved with numpy.savez
    weight_matrix (visible, hidden), vbias, hbias                         rbms (HDF5): of the last update in the file
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from ebm_pipeline.data.hdf5 import DAMAGE
from ebm_pipeline.models.layers import Bernoulli
from ebm_pipeline.models.machine import BoltzmannMachine, assemble
from ebm_pipeline.support.errors import UserError, check_memory

LAYOUTS = {  # weights, visible bias, hidden bias; whether the weights stand as (hidden, visible)
    ("weights", "visible_bias", "hidden_bias"): False,
    ("components_", "intercept_visible_", "intercept_hidden_"): True,
    ("weight_matrix", "vbias", "hbias"): False,
}
RBMS_KIND = "BBRBM"
EXPECTED = (
    "expected the arrays weights (visible x hidden), visible_bias and hidden_bias in .npz or HDF5; or components_, "
    "intercept_visible_ and intercept_hidden_ of scikit-learn in .npz; or an HDF5 file of rbms"
)
COPIES = 4  # of the weights in memory at a time


def read_foreign(path: Path) -> BoltzmannMachine:
    """The machine whose weights a file holds, float32; raises UserError where it is damaged or holds something else."""
    try:
        arrays = _from_npz(path) if zipfile.is_zipfile(path) else _from_hdf5(path)
        return _machine(arrays)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (*DAMAGE, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} holds no weights that can be read ({error}): {EXPECTED}") from error


def _names(found: Any) -> tuple[str, str, str]:
    """The layout that a file has, by the names in it."""
    for names in LAYOUTS:
        if all(name in found for name in names):
            return names
    raise UserError(f"{EXPECTED}; got {', '.join(sorted(map(str, found))) or 'nothing'}")


def _from_npz(path: Path) -> Mapping[str, NDArray[Any]]:
    with zipfile.ZipFile(path) as archive:
        check_memory("the arrays of the file", COPIES * sum(item.file_size for item in archive.infolist()))
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in _names(file.files)}


def _from_hdf5(path: Path) -> Mapping[str, NDArray[Any]]:
    with h5py.File(path, "r") as file:
        group: Any = file
        updates = [int(found[1]) for found in (re.fullmatch(r"update_(\d+)", name) for name in file) if found]
        if updates:
            kind = file["model_type"][()] if "model_type" in file else RBMS_KIND.encode()
            if kind != RBMS_KIND.encode():
                raise UserError(f"a model of rbms of type {RBMS_KIND} is read, Bernoulli units both; got {kind!r}")
            group = _inside(file, f"update_{max(updates)}")
            group = _inside(group, "params") if "params" in group else group
        return {name: _array(group, name) for name in _names(group)}


def _inside(group: h5py.Group, name: str) -> Any:
    """A member that lies in this very file; a link may name any file of this computer."""
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise UserError(f"{name} is a link to elsewhere, which is not followed: write the arrays into one file")
    return group[name]


def _array(group: h5py.Group, name: str) -> NDArray[Any]:
    found = _inside(group, name)
    if not isinstance(found, h5py.Dataset) or found.is_virtual or found.external is not None:
        raise UserError(f"{name} is no array of this file itself: write the arrays into one file")
    check_memory(f"the array {name} {found.shape}", COPIES * 8 * int(np.prod(found.shape)))
    return np.asarray(found[()])


def _machine(arrays: Mapping[str, NDArray[Any]]) -> BoltzmannMachine:
    names = tuple(arrays)
    weights, visible, hidden = (
        _numbers(name, arrays[name], 2 if index == 0 else 1) for index, name in enumerate(names)
    )
    if LAYOUTS[names]:  # type: ignore[index]
        weights = weights.T
    if weights.shape != (len(visible), len(hidden)):
        raise UserError(
            f"{names[0]} joins {weights.shape[0]} visible to {weights.shape[1]} hidden units, but {names[1]} has {len(visible)} "
            f"and {names[2]} {len(hidden)}"
        )
    tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in (weights, visible, hidden)]
    return assemble([Bernoulli(tensors[1]), Bernoulli(tensors[2])], [tensors[0]])


def _numbers(name: str, array: NDArray[Any], dimensions: int) -> NDArray[np.float32]:
    if array.dtype.kind not in "fiu" or array.ndim != dimensions or array.size == 0:
        shape = "units of two layers" if dimensions == 2 else "units"
        raise UserError(
            f"{name} must be real numbers of the shape ({shape}); got {array.dtype} of the shape {array.shape}"
        )
    numbers = array.astype(np.float32)
    if not np.isfinite(numbers).all():
        raise UserError(f"{name} holds values that are not finite")
    return numbers
