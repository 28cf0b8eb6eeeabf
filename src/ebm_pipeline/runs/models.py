"""The models that a run leaves in the store: its result, its best and its last weights, with numbers on held-out images."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ebm_pipeline.evaluation.metrics import MonitoredImages, monitor
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
    tracker, tracking, numbers = work.tracker, work.config.tracking, Numbers(work)
    for name, one, step in _checkpointed(work, module):
        with tempfile.TemporaryDirectory() as folder:
            weights = Path(folder) / "model.h5"
            save_model(weights, work.saved(one))
            _log_model(work, name, one, step, weights, Path(folder) / name, numbers)
    _log_model(work, RESULT, machine, work.steps, work.folder / "model.h5", work.folder / "mlflow_model", numbers)
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


@dataclass
class Numbers:
    """Numbers of the models of a run on held-out images; the best model is often the result, and is measured once."""

    work: Training
    images: dict[str, MonitoredImages] = field(default_factory=dict)  # by part
    measured: list[tuple[BoltzmannMachine, str, dict[str, float]]] = field(default_factory=list)

    def of(self, machine: BoltzmannMachine, part: str) -> dict[str, float]:
        """Those of MODEL_NUMBERS that the machine has, on a part of the data."""
        for known, its_part, numbers in self.measured:
            if part == its_part and same_parameters(machine, known):
                return numbers
        found = monitor(machine, self._images(part), self.work.plan.recipe.mean_field)
        names = [f"{part}/{name}" for name in MODEL_NUMBERS]
        numbers = {name: found[name] for name in names if name in found}
        self.measured.append((machine, part, numbers))
        return numbers

    def _images(self, part: str) -> MonitoredImages:
        if part not in self.images:
            plan = self.work.plan
            own = plan.monitored if part == "validation" else monitored_images(plan.data, plan.pictures.flips, part)
            self.images[part] = own
        return self.images[part]


def same_parameters(one: BoltzmannMachine, other: BoltzmannMachine) -> bool:
    """Whether two machines of the same layers have equal numbers."""
    pairs = zip(one.named_tensors().values(), other.named_tensors().values(), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


def _log_model(
    work: Training, name: str, machine: BoltzmannMachine, step: int, weights: Path, served: Path, numbers: Numbers
) -> None:
    save_served(
        served, weights, work.plan.monitored.validation[:SERVED_EXAMPLES], work.tracker.run_id, work.plan.data.visible
    )
    work.tracker.log_model(served, name, step, _parameters(work))
    work.tracker.log_numbers_of(name, dataset_of(work), numbers.of(machine, "validation"), step)
    if work.plan.data.test and work.config.metric is None:  # no choice goes by test images
        work.tracker.log_numbers_of(name, dataset_of(work), numbers.of(machine, "test"), work.steps)


def _parameters(work: Training) -> Mapping[str, str]:
    plan, config = work.plan, work.config
    return {
        "model": plan.model.name, "data": plan.data.name, "transform": plan.data.transform.name,
        "epochs": str(config.training.epochs), "seed": str(config.seed),
    }  # fmt: skip
