"""Runs from Python: what `ebm-train` does, and models that are saved."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ebm_pipeline.data.transforms import OneHot
from ebm_pipeline.data.values import Values
from ebm_pipeline.evaluation.verdict import Verdict
from ebm_pipeline.models.layers import Bernoulli, Gaussian, LearnedGaussian
from ebm_pipeline.models.storage import SavedModel, load_model
from ebm_pipeline.runs.configuration import tracking_uri
from ebm_pipeline.runs.estimators import tracked
from ebm_pipeline.runs.estimators.base import BoltzmannEstimator, value_errors
from ebm_pipeline.runs.estimators.machines import DBM, RBM, GaussianRBM, Hopfield
from ebm_pipeline.runs.estimators.settings import composed, undisturbed
from ebm_pipeline.runs.reference import model_file
from ebm_pipeline.support.errors import UserError
from ebm_pipeline.tracking import records
from ebm_pipeline.tracking.environment import set_up_mlflow


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, its metrics by name, its MLflow id."""

    folder: Path
    metrics: dict[str, float]
    run_id: str

    @functools.cached_property
    def model(self) -> BoltzmannEstimator:
        """What the run has trained."""
        return load(self.folder)

    @property
    def verdict(self) -> Verdict:
        """Whether the run's numbers can be believed."""
        return Verdict(**json.loads((self.folder / "verdict.json").read_text(encoding="utf-8")))


def train(*overrides: str) -> Run:
    """One run, as `ebm-train` with these words makes it: tracked in MLflow, its files in a folder under `outputs`.

    Raises ValueError for what the words get wrong.

    >>> run = train("experiment=smoke", "model=rbm")
    >>> run.verdict.name, run.metrics["validation/pseudo_likelihood"] < 0
    ('not evaluated', True)
    """
    with value_errors(), undisturbed(None):
        folder, metrics = tracked.run(composed(overrides))
        return Run(folder, metrics, records.run_of(folder)["run_id"])


def load(reference: str | Path) -> BoltzmannEstimator:
    """A trained model: of a model.h5, a run's folder, an MLflow run id (or its beginning), a folder mlflow_model, or
    models:/NAME@ALIAS or models:/m-....

    Raises ValueError where there is none, or where the file is damaged. Its arrays are read, nothing that it names is called.
    A loaded model holds no training images: chains start from independent pixels, and a verdict takes `ebm-evaluate`. Rows are
    numbers as its training data were (0 to 255, reals, ...), or states of its units where those are discrete; of a model.h5 of
    before, and of one with a transform of your own, states.
    """
    with value_errors():
        set_up_mlflow()
        return estimator_of(load_model(model_file(tracking_uri(composed([], name="sample")), str(reference))))


def estimator_of(saved: SavedModel) -> BoltzmannEstimator:
    """The estimator of a machine, fitted: by its layers, since the file's configuration is only read."""
    machine = saved.machine
    visible, first, sizes = machine.layers[0], machine.layers[1], tuple(layer.units for layer in machine.layers[1:])
    if machine.depth > 2:
        estimator: BoltzmannEstimator = DBM(hidden=sizes)
    elif isinstance(visible, LearnedGaussian):
        estimator = GaussianRBM(hidden=sizes[0])
    elif isinstance(visible, Bernoulli) and isinstance(first, Gaussian):
        estimator = Hopfield(hidden=sizes[0])
    else:
        kind = visible.kind if visible.kind in ("bernoulli", "ising", "gaussian", "potts") else "bernoulli"
        settings = visible.settings()
        categories = settings.get("categories")
        estimator = RBM(hidden=sizes[0], visible=kind, categories=categories if isinstance(categories, int) else None)
        if saved.transform is None and isinstance(categories, int):
            saved = replace(saved, transform=OneHot(values=Values("categories", categories=categories)))
    estimator.model_ = saved
    estimator.history_ = {}
    estimator.n_features_in_ = saved.visible.pixels // (1 if saved.transform is None else saved.transform.units(1))
    estimator._assessed = None
    if saved.visible.classes:
        estimator.classes_ = np.arange(saved.visible.classes)
    if saved.visible.pixels == 0:
        raise UserError("the model has no visible pixels")
    return estimator
