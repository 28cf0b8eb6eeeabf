"""The models that a run leaves in the store: its result, its best and its last weights, with numbers on held-out images."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ebm_pipeline.evaluation.metrics import monitor
from ebm_pipeline.models.machine import BoltzmannMachine
from ebm_pipeline.models.storage import save_model
from ebm_pipeline.runs.phases import Training
from ebm_pipeline.runs.plan import monitored_images
from ebm_pipeline.runs.serve import save_served
from ebm_pipeline.tracking.logged_models import BEST, LAST, RESULT
from ebm_pipeline.training import checkpoints
from ebm_pipeline.training.module import BoltzmannTraining

log = logging.getLogger(__name__)

SERVED_EXAMPLES = 2  # images that come with an MLflow model, as the example of its input
MODEL_NUMBERS = ("reconstruction_error", "denoising_error", "pseudo_likelihood", "classification_error")


def log_models(work: Training, machine: BoltzmannMachine, module: BoltzmannTraining) -> None:
    """The run's logged models, `machine` as the last of them, and its registration.

    The result's folder stays in the run's own, for `ebm-serve`.
    """
    tracker, tracking = work.tracker, work.config.tracking
    for name, one, step in _checkpointed(work, module):
        with tempfile.TemporaryDirectory() as folder:
            weights = Path(folder) / "model.h5"
            save_model(weights, work.saved(one))
            _log_model(work, name, one, step, weights, Path(folder) / name)
    _log_model(work, RESULT, machine, work.steps, work.folder / "model.h5", work.folder / "mlflow_model")
    if tracking.register_as is not None:
        tracker.register(RESULT, str(tracking.register_as))


def dataset_of(work: Training) -> tuple[str, str]:
    """The data set as the store has it."""
    return work.plan.data.name, work.plan.data.digest


def _checkpointed(work: Training, module: BoltzmannTraining) -> Iterator[tuple[str, BoltzmannMachine, int]]:
    """(name, machine, updates) of the best state that was validated, and of the last weights."""
    path = work.folder / "checkpoints" / checkpoints.BEST
    damage = checkpoints.damage_of(path) if path.exists() else "it is missing"
    if damage is None:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        yield BEST, module.result_in(saved["state_dict"]).map(Tensor.cpu), int(saved["global_step"])
    else:
        log.warning(f"the run has no best model in the store: {path} cannot be read ({damage})")
    yield LAST, module.machine.map(Tensor.cpu), work.steps


def _log_model(work: Training, name: str, machine: BoltzmannMachine, step: int, weights: Path, served: Path) -> None:
    save_served(
        served, weights, work.plan.monitored.validation[:SERVED_EXAMPLES], work.tracker.run_id, work.plan.data.visible
    )
    work.tracker.log_model(served, name, step, _parameters(work))
    numbers = _numbers(work, machine, "validation")
    work.tracker.log_numbers_of(name, dataset_of(work), numbers, step)
    if work.plan.data.test and work.config.metric is None:  # no choice goes by test images
        work.tracker.log_numbers_of(name, dataset_of(work), _numbers(work, machine, "test"), work.steps)


def _numbers(work: Training, machine: BoltzmannMachine, part: str) -> dict[str, float]:
    plan, images = work.plan, work.plan.monitored
    if part != "validation":
        images = monitored_images(plan.data, plan.pictures.flips, part)
    found = monitor(machine, images, plan.recipe.mean_field)
    names = [f"{part}/{name}" for name in MODEL_NUMBERS]
    return {name: found[name] for name in names if name in found}


def _parameters(work: Training) -> Mapping[str, str]:
    plan, config = work.plan, work.config
    return {
        "model": plan.model.name, "data": plan.data.name, "transform": plan.data.transform.name,
        "epochs": str(config.training.epochs), "seed": str(config.seed),
    }  # fmt: skip
