"""One fit: the trainings of `ebm-train`, on arrays in memory, in a temporary folder that is gone afterwards."""

from __future__ import annotations

import csv
import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import yaml
from numpy.typing import NDArray
from torch import Tensor

from ebm_pipeline.data.stored import write
from ebm_pipeline.models.storage import SavedModel, load_model
from ebm_pipeline.runs.assess import MOST_TRAINING_IMAGES
from ebm_pipeline.runs.configuration import build_data
from ebm_pipeline.runs.estimators import tracked
from ebm_pipeline.runs.estimators.settings import composed, undisturbed
from ebm_pipeline.runs.phases import Phases
from ebm_pipeline.runs.plan import prepare
from ebm_pipeline.support.errors import UserError
from ebm_pipeline.support.names import EPOCH
from ebm_pipeline.tracking import records
from ebm_pipeline.training.callbacks import Progress, Record
from ebm_pipeline.training.module import BoltzmannTraining

IN_PYTHON = {  # longer words first
    "model=rbm_categories (data/transform=one_hot)": 'ebm.RBM(visible="potts", categories=...)',
    "data/transform=threshold or stochastic with model=rbm": "ebm.RBM on X > 0.5 of the largest value",
    "data/transform=threshold, which makes 0 of -1": "ebm.RBM on X > 0",
    ", or data/transform=threshold or stochastic if they were made of grey levels": "",
    ", after data/transform=none,": "",
    "model=ising": 'ebm.RBM(visible="ising")',
    "model=grbm": "ebm.GaussianRBM",
    "model=rbm": "ebm.RBM",
}


class Nowhere:
    """Where the numbers of an epoch go that nobody tracks."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """They stay in the record."""


@dataclass
class Fitting(Phases):
    """The trainings with their progress, and the numbers of each epoch kept."""

    verbose: bool = True
    records: list[Record] = field(default_factory=list)

    def watching(self, module: BoltzmannTraining, phase: str, fresh: bool) -> list[pl.Callback]:
        """A bar, and the record of the joint training."""
        self.records.append(Record(Nowhere()))
        name = f"{self.plan.model.name}{' ' + phase if phase else ''}"
        progress = [Progress(name, len(self.plan.data.train_batches()))] if self.verbose else []
        return [*progress, self.records[-1]]

    def saving(self, folder: Path) -> list[pl.Callback]:
        """No checkpoints."""
        return []


@dataclass(frozen=True, eq=False)
class Fitted:
    """What a fit has made: the model, states (count, units) of both parts, and by metric its epochs and values."""

    model: SavedModel
    parts: dict[str, Tensor]
    quantity: str  # of a likelihood, by the transform
    history: dict[str, tuple[list[int], list[float]]]
    run: Path | None = None  # the folder of a tracked run


def fit(
    arrays: Mapping[str, NDArray[Any]],
    shape: tuple[int, int],
    overrides: Sequence[str],
    values: Mapping[str, Any],
    verbose: bool,
) -> Fitted:
    """Train on arrays such as train/images (count, units) and train/labels (count,)."""
    with tempfile.TemporaryDirectory(prefix="ebm_") as name, undisturbed(values.get("threads")):
        folder = Path(name)
        with in_python_words(folder / "data.h5"):
            return _trained(folder, arrays, shape, overrides, values, verbose)


def _trained(
    folder: Path,
    arrays: Mapping[str, NDArray[Any]],
    shape: tuple[int, int],
    overrides: Sequence[str],
    values: Mapping[str, Any],
    verbose: bool,
) -> Fitted:
    write(folder / "data.h5", "array", shape, {key: np.ascontiguousarray(array) for key, array in arrays.items()})
    places = {"output_root": str(folder), "data.path": str(folder / "data.h5")}
    config = composed(["data=file", *overrides], places | dict(values))
    plan = prepare(config, folder)
    work = Fitting(config, plan, folder, verbose)
    machine, _ = work.run()
    parts = {part: plan.data.images(part, MOST_TRAINING_IMAGES) for part in ("validation", "train")}
    shape, text = plan.data.image_shape, plan_text(plan.resolved)
    saved = SavedModel(machine.map(Tensor.detach), plan.data_mean, shape, text, plan.data.transform)
    return Fitted(saved, parts, plan.data.quantity, work.records[-1].history)


def fit_tracked(
    arrays: Mapping[str, NDArray[Any]], shape: tuple[int, int], overrides: Sequence[str], values: Mapping[str, Any]
) -> Fitted:
    """The same as a run of `ebm-train`: its folder under `outputs`, in MLflow, its data as a file under `outputs/data`."""
    with undisturbed(values.get("threads")):
        root = Path(composed([]).output_root).absolute()
        digest = hashlib.sha256(repr((shape, *arrays)).encode())
        for array in arrays.values():
            digest.update(np.ascontiguousarray(array).tobytes())
        path = root / "data" / f"array_{digest.hexdigest()[:16]}.h5"
        with in_python_words(path):
            if not path.exists():
                write(path, "array", shape, {key: np.ascontiguousarray(array) for key, array in arrays.items()})
            config = composed(
                ["data=file", *overrides], {"output_root": str(root), "data.path": str(path)} | dict(values)
            )
            folder, _ = tracked.run(config)
            data = build_data(config)
            parts = {part: data.images(part, MOST_TRAINING_IMAGES) for part in ("validation", "train")}
            saved = load_model(folder / records.MODEL_FILE)
            return Fitted(saved, parts, data.quantity, _history(folder / "metrics.csv"), folder)


def _history(path: Path) -> dict[str, tuple[list[int], list[float]]]:
    """metrics.csv: by metric its epochs and values."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name != EPOCH]
    found = {name: [(int(row[EPOCH]), float(row[name])) for row in rows if row[name]] for name in names}
    return {name: ([epoch for epoch, _ in pairs], [value for _, value in pairs]) for name, pairs in found.items()}


@contextmanager
def in_python_words(path: Path | None = None) -> Iterator[None]:
    """What a message of the commands advises, as one writes it in Python."""
    try:
        yield
    except UserError as error:
        text = str(error)
        for words in () if path is None else (f"the train images of {path}", f"{path}: train/images", str(path)):
            text = text.replace(words, "X")
        for words, python in IN_PYTHON.items():
            text = text.replace(words, python)
        raise UserError(text) from error


def plan_text(resolved: Mapping[str, Any]) -> str:
    """The resolved configuration as YAML, without the temporary files that it was made with."""
    kept = {key: value for key, value in resolved.items() if key not in ("output_root", "tracking")}
    kept["data"] = {**kept["data"], "path": None}
    return str(yaml.safe_dump(kept, sort_keys=False))
