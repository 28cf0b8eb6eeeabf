"""`initialization=run`: a run that begins as the model of another one.

What it begins as is copied into its folder, so that it can be gone on with when the other run is gone.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ebm_pipeline.data import DataSet
from ebm_pipeline.models.growth import begun_as, beyond, change, described, misfit, new_units, posterior_means
from ebm_pipeline.models.inference import MeanField
from ebm_pipeline.models.machine import BoltzmannMachine
from ebm_pipeline.models.storage import SavedModel, load_model, save_model
from ebm_pipeline.runs.reference import model_file
from ebm_pipeline.runs.serving.folder import MLMODEL, is_mlflow_model
from ebm_pipeline.runs.trust import plain_yaml
from ebm_pipeline.support.errors import UserError
from ebm_pipeline.tracking import records
from ebm_pipeline.tracking.records import ORIGIN
from ebm_pipeline.tracking.store import RUN_ID

FILE = "started_from.h5"  # in a run's folder: the model that it began as
MOST_IMAGES = 1000  # that the means of layers are taken of


@dataclass(frozen=True, eq=False)
class Start:
    """The model that a run begins as; origin: the id of its run where that is known, else the file by its digest."""

    saved: SavedModel
    origin: str

    @property
    def name(self) -> str:
        """For a sentence."""
        return f"the run {self.origin}" if RUN_ID.fullmatch(self.origin) else self.origin

    def check(self, fresh: BoltzmannMachine, data: DataSet) -> None:
        """Raise UserError, with both sides, where a model cannot begin as this one."""
        given, shape = self.saved.machine, self.saved.image_shape
        reason = misfit(given, fresh)
        if reason is None and shape != data.image_shape:
            there, here = (" x ".join(map(str, size)) for size in (shape, data.image_shape))
            reason = f"images of {there} pixels there, of {here} here: give data of that shape"
        if reason is not None:
            raise UserError(
                f"initialization=run: {self.name} has the layers {_layers(given)}, the model {_layers(fresh)}; {reason}"
            )

    def begun(
        self, fresh: BoltzmannMachine, images: Tensor, mean_field: MeanField, seed: int
    ) -> tuple[BoltzmannMachine, str]:
        """The machine that begins as this one, `fresh` being what a new one would be, and what is new in it.

        By images (count, units) of the training data.
        """
        given, images = self.saved.machine, images[:MOST_IMAGES]
        added = beyond(given, fresh, posterior_means(given, images, mean_field))
        new = [
            f"{count} units of layer {index}" if index < given.depth else f"layer {index} of {count} units"
            for index, count in new_units(given, fresh).items()
        ]
        said = "nothing is new, and the distribution is the same"
        if new:
            most = change(given, added, images, torch.Generator().manual_seed(seed))
            said = f"new: {', '.join(new)}, with which log p(v) changes by at most {most:.1g} nats (RMS over images)"
        return begun_as(given, added), f"begins as {self.name}, {_layers(given)}; {said}"

    def remarks(self, data: DataSet, pretraining: bool) -> list[str]:
        """What else is to be said of it; pretraining: the model has one."""
        before = self.saved.transform
        said = ["its pretraining is left out: what was taken is trained"] if pretraining else []
        if before is not None and before.name != data.transform.name:
            said.append(
                f"warning: {self.name} was trained with data/transform={before.name}, the data now have {data.transform.name}"
            )
        return said


def _layers(machine: BoltzmannMachine) -> str:
    return " - ".join(map(described, machine.layers))


def find_start(uri: str, reference: str | None, folder: Path) -> Start:
    """What the run in `folder` begins as: its copy where the run has begun, else what `reference` names in the user's store.

    Raises UserError where there is no such model.
    """
    known = records.read_run_file(folder)
    if ORIGIN in known and (folder / FILE).is_file():
        return Start(load_model(folder / FILE), known[ORIGIN])
    if reference is None:
        raise UserError(
            "initialization=run begins as a model that is there: give initialization.run=FOLDER of a run, its id, or a model.h5"
        )
    try:
        path = model_file(uri, reference)
        return Start(load_model(path), _origin(path))
    except UserError as error:
        raise UserError(f"initialization.run={reference}: {error}") from error


def _origin(path: Path) -> str:
    """The id of the run whose model.h5 this is, by the files beside it; else the file's name and digest."""
    run_id = records.read_run_file(path.parent).get("run_id", "")
    if is_mlflow_model(path.parents[1]):
        run_id = str(plain_yaml((path.parents[1] / MLMODEL).read_text(encoding="utf-8")).get("run_id"))
    if RUN_ID.fullmatch(run_id):
        return run_id
    return f"{path.name} ({hashlib.sha256(path.read_bytes()).hexdigest()[:16]})"


def keep_start(start: Start | None, folder: Path) -> dict[str, str]:
    """Copy into a run's folder what it begins as; what its run.json says of that."""
    if start is None:
        return {}
    save_model(folder / FILE, start.saved)
    return {ORIGIN: start.origin}
