"""model.h5: a machine that can be read without this package.

Datasets weights/0, weights/1, ... (lower units x upper units) and layers/0/bias, ... (units,), with each layer's other
parameters by name. The attributes of layers/0, ... name its kind, units and settings (categories); a layer made of parts has
them in layers/0/parts/0, ..., with one bias for all; the file's attributes hold the resolved config (YAML), the image shape
and a digest of all but these, by which a changed bit is seen (data/hdf5.py has the rest of that); data_mean (units,) is where
chains start; transform names what made states of the data's numbers, with its arrays. Where labels are modelled the visible
units are the height * width pixels and then one for each class. Centring offsets are folded into the biases, so that E =
-sum_l b_l . x_l - sum_l x_l W_l x_{l+1} holds for Bernoulli layers as it stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from ebm_pipeline.data.contained import check_self_contained
from ebm_pipeline.data.fitted import is_known, read_transform, write_transform
from ebm_pipeline.data.hdf5 import DAMAGE, DIGEST, check_digest, content_digest, get_text, new_file, set_text
from ebm_pipeline.data.transforms import Transform
from ebm_pipeline.data.visible import VisibleUnits
from ebm_pipeline.models.labels import fits
from ebm_pipeline.models.layers import Layer, Mixed, known_layers
from ebm_pipeline.models.machine import BoltzmannMachine, assemble
from ebm_pipeline.support.errors import UserError

FORMAT = "ebm_pipeline model 1"
LADDER_FORMAT = "ebm_pipeline ladder 1"
LADDER_FILE = "ladder.h5"
MOST_RUNGS = 999  # below the machine


@dataclass(frozen=True, eq=False)
class SavedModel:
    """What model.h5 holds."""

    machine: BoltzmannMachine
    data_mean: Tensor
    image_shape: tuple[int, int]
    config: str
    transform: Transform | None = None  # that made states of the data's numbers; None: not said
    ladder: BoltzmannMachine | None = (
        None  # in a file of its own: the rungs below the machine, stacked, where a run has them
    )

    @property
    def visible(self) -> VisibleUnits:
        """What the visible units stand for."""
        return VisibleUnits.of(self.image_shape, self.machine.layers[0].units)


def save_model(path: Path, model: SavedModel) -> None:
    """Write the file whole or not at all."""
    machine = model.machine.folded()
    with new_file(path) as file:
        set_text(file, "format", FORMAT)
        set_text(file, "config", model.config)
        file.attrs["image_shape"] = model.image_shape
        file["data_mean"] = model.data_mean.cpu().numpy()
        for name, tensor in machine.named_tensors().items():
            file[name] = tensor.detach().cpu().numpy()
        for index, layer in enumerate(machine.layers):
            _write_kind(file[f"layers/{index}"], layer)
        if model.transform is not None and is_known(model.transform):
            write_transform(file.create_group("transform"), model.transform)
        set_text(file, DIGEST, content_digest(file))


def is_own(path: Path) -> bool:
    """Whether a file says that `save_model` wrote it."""
    try:
        with h5py.File(path) as file:
            return get_text(file, "format", "") == FORMAT
    except DAMAGE:
        return False


def load_model(path: Path) -> SavedModel:
    """Read what `save_model` wrote, on the CPU; raises UserError if the file is missing, damaged or something else."""
    if not path.is_file():
        raise UserError(f"no model file at {path}: train a model first, or give the path of a model.h5")
    try:
        with h5py.File(path) as file:
            check_self_contained(file)
            if get_text(file, "format", "") != FORMAT:
                raise UserError(f"no model file: its attribute 'format' should be {FORMAT!r}")
            layers = [_read_layer(file[f"layers/{index}"]) for index in range(len(file["layers"]))]
            weights = [_tensor(file["weights"], str(index)) for index in range(len(layers) - 1)]
            data_mean = _tensor(file, "data_mean")
            height, width = (int(size) for size in file.attrs["image_shape"])
            config = get_text(file, "config")
            machine = assemble(layers, weights)
            if min(height, width) < 1:
                raise UserError(f"image_shape must be a height and a width; got ({height}, {width})")
            visible = VisibleUnits.of((height, width), layers[0].units)
            if data_mean.shape != (layers[0].units,) or not fits(layers[0], visible):
                raise UserError(
                    f"data_mean {tuple(data_mean.shape)} or image_shape ({height}, {width}) does not fit "
                    f"{layers[0].units} visible units"
                )
            transform = read_transform(file["transform"], visible.pixels) if "transform" in file else None
            check_digest(file)  # after what says more of a file that was changed by hand
        return SavedModel(machine, data_mean, (height, width), config, transform)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except DAMAGE as error:
        raise UserError(f"{path} is damaged or no model file ({error}): train again or take another copy") from error


def save_ladder(path: Path, rungs: BoltzmannMachine, updates: Sequence[int]) -> None:
    """Write ladder.h5, whole or not at all: stacked machines from independent units up to the last before the trained one.

    Datasets as in model.h5, with a first dimension more, (rungs, lower units, upper units) and (rungs, units); `updates`: after
    which update of the training each was the machine, -1 of those that it never was.
    """
    with new_file(path) as file:
        set_text(file, "format", LADDER_FORMAT)
        set_text(file, "machine", repr(rungs))
        file["updates"] = np.asarray(updates, dtype=np.int64)
        for name, tensor in rungs.named_tensors().items():
            rows = tensor.detach().cpu().numpy()
            file[name] = rows if name.startswith("weights") else rows[:, 0]
        set_text(file, DIGEST, content_digest(file))


def load_ladder(path: Path, machine: BoltzmannMachine) -> BoltzmannMachine:
    """The rungs below `machine` that `save_ladder` wrote, stacked; raises UserError for a file that is none, or another's."""
    if not path.is_file():
        raise UserError(
            f"no ladder at {path}: train with sampler=trajectory, whose run keeps it, or take another sampler"
        )
    try:
        with h5py.File(path) as file:
            check_self_contained(file)
            if get_text(file, "format", "") != LADDER_FORMAT:
                raise UserError(f"no ladder: its attribute 'format' should be {LADDER_FORMAT!r}")
            if get_text(file, "machine", "") != repr(machine):
                raise UserError(
                    f"the ladder of another machine: expected {machine!r}, got {get_text(file, 'machine', '')}"
                )
            tensors = {name: _rows(file, name, tensor) for name, tensor in machine.named_tensors().items()}
            check_digest(file)
        rungs = {len(tensor) for tensor in tensors.values()}
        if len(rungs) != 1 or any(tensors[f"weights/{index}"][0].any() for index in range(machine.depth - 1)):
            raise UserError("its arrays must have as many rungs each, the first one without weights")
        return machine.with_tensors(tensors)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except DAMAGE as error:
        raise UserError(
            f"{path} is damaged or no ladder ({error}): take another copy, or do without it (likelihood.trajectory_sweeps=0, "
            "task.sampler=gibbs)"
        ) from error


def with_ladder(saved: SavedModel, folder: Path) -> SavedModel:
    """The model with the ladder of its run's folder, where that has one."""
    path = folder / LADDER_FILE
    return replace(saved, ladder=load_ladder(path, saved.machine)) if path.is_file() else saved


def _rows(file: h5py.File, name: str, like: Tensor) -> Tensor:
    """An array of a ladder, (rungs, ...) of what is `like` one of them; vectors (units,) as (rungs, 1, units)."""
    rows = _tensor(file[name].parent, name.rsplit("/", 1)[-1])
    if rows.dim() != like.dim() + 1 or rows.shape[1:] != like.shape or not 1 <= len(rows) <= MOST_RUNGS:
        raise UserError(
            f"{name} has the shape {tuple(rows.shape)}, not (1 to {MOST_RUNGS} rungs, {', '.join(map(str, like.shape))})"
        )
    return rows if name.startswith("weights") else rows[:, None]


def _write_kind(group: h5py.Group, layer: Layer) -> None:
    """A layer's kind, units and settings as attributes; its parts as groups."""
    set_text(group, "kind", layer.kind)
    group.attrs["units"] = layer.units
    if isinstance(layer, Mixed):
        for index, part in enumerate(layer.parts):
            _write_kind(group.require_group(f"parts/{index}"), part)
    else:
        group.attrs.update(layer.settings())


def _read_layer(group: h5py.Group, bias: Tensor | None = None) -> Layer:
    """The layer of a group; a part of a mixed layer is given its share of the bias."""
    known = known_layers()
    kind = known.get(get_text(group, "kind"))
    if kind is None:
        raise UserError(
            f"layer {group.name.removeprefix('/layers/')} is of kind {get_text(group, 'kind')!r}; known: {', '.join(known)}. "
            "If it is your own, name the module that defines it: trust=[module], or EBM_TRUST=module"
        )
    if bias is None:
        bias = _tensor(group, "bias")
    if kind is Mixed:
        parts = [group[f"parts/{index}"] for index in range(len(group["parts"]))]
        shares = bias.split([int(part.attrs["units"]) for part in parts])
        return Mixed(bias, tuple(_read_layer(part, share) for part, share in zip(parts, shares, strict=True)))
    values: dict[str, Any] = {"bias": bias}
    for name in (field.name for field in fields(kind) if field.name != "bias"):
        values[name] = int(group.attrs[name]) if name in group.attrs else _tensor(group, name)
    return kind(**values)


def _tensor(group: h5py.Group, name: str) -> Tensor:
    array = np.asarray(group[name], dtype=np.float32)
    if not np.isfinite(array).all():
        raise UserError(f"{group.name}/{name} holds values that are not finite")
    if name.startswith("variance") and not (array > 0).all():
        raise UserError(f"{group.name}/{name} holds variances that are not positive")
    return torch.from_numpy(array)
