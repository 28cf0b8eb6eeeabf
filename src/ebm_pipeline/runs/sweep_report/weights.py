"""The weights of several runs side by side, from their model files."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ebm_pipeline import plots
from ebm_pipeline.models.storage import SavedModel, load_model
from ebm_pipeline.support.errors import UserError
from ebm_pipeline.tracking.records import MODEL_FILE, RunRecord
from ebm_pipeline.training.pictures import weight_label, weights_from_pixels

TILES = 16  # first units of each layer


def weights_side_by_side(runs: Mapping[str, RunRecord]) -> tuple[Figure | None, list[str]]:
    """The picture, a panel for each hidden layer, and what is said of runs whose weights cannot be shown."""
    panels: dict[str, tuple[NDArray[np.float32], tuple[int, int]]] = {}
    bars: dict[str, str] = {}
    missing = []
    for name, run in runs.items():
        try:
            saved = load_model(run.output_dir / MODEL_FILE) if run.output_dir is not None else None
        except UserError as error:
            missing.append(f"{name}: {error}")
            continue
        if saved is None:
            missing.append(f"{name}: its folder is not known")
            continue
        own = _layers(name, saved)
        panels |= own
        bars |= {label: weight_label(layer) for layer, label in enumerate(own, start=1)}
    if not panels:
        return None, missing
    return plots.weights_side_by_side(
        panels,
        "Weights",
        f"from the pixels to the first units of each hidden layer, at most {TILES}; of a second layer the products with the "
        "weights below it; each panel has a scale of its own",
        TILES,
        bars,
    ), missing


def _layers(name: str, saved: SavedModel) -> dict[str, tuple[NDArray[np.float32], tuple[int, int]]]:
    """By label: the weights (pixels, units) of each layer as a picture shows them."""
    machine = saved.machine
    if saved.transform is not None:
        machine = machine.with_tensors({"weights/0": saved.transform.weights_to_grey(machine.weights[0].mT).mT})
    layers = weights_from_pixels(machine, saved.visible)
    labels = [name] if len(layers) == 1 else [f"{name}, layer {index}" for index in range(1, len(layers) + 1)]
    return {label: (layer.numpy(), saved.image_shape) for label, layer in zip(labels, layers, strict=True)}
