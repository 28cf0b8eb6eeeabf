"""Energy-based models of the Boltzmann family: Hopfield network, RBM, Gaussian RBM, DBM.

    import ebm_pipeline as ebm
    rbm = ebm.RBM(hidden=200, epochs=20).fit(images)

The names below are loaded when they are asked for, so that the commands start at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ebm_pipeline.evaluation.card import LikelihoodCard
    from ebm_pipeline.evaluation.verdict import Verdict
    from ebm_pipeline.models.machine import BoltzmannMachine
    from ebm_pipeline.runs.estimators.datasets import Images, flipped, load_data
    from ebm_pipeline.runs.estimators.machines import DBM, RBM, GaussianRBM, Hopfield
    from ebm_pipeline.runs.estimators.runs import Run, load, train

_HOMES = {
    "BoltzmannMachine": "models.machine",
    "DBM": "runs.estimators.machines",
    "GaussianRBM": "runs.estimators.machines",
    "Hopfield": "runs.estimators.machines",
    "Images": "runs.estimators.datasets",
    "LikelihoodCard": "evaluation.card",
    "RBM": "runs.estimators.machines",
    "Run": "runs.estimators.runs",
    "Verdict": "evaluation.verdict",
    "flipped": "runs.estimators.datasets",
    "load": "runs.estimators.runs",
    "load_data": "runs.estimators.datasets",
    "train": "runs.estimators.runs",
}

__all__ = [
    "DBM", "RBM", "BoltzmannMachine", "GaussianRBM", "Hopfield", "Images", "LikelihoodCard", "Run", "Verdict", "flipped",
    "load", "load_data", "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"ebm_pipeline has no {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"ebm_pipeline.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
