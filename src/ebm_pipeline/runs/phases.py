"""The trainings of a run, one after the other: layerwise pretraining where the model has it, then the joint one."""

from __future__ import annotations

import logging
import socket
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from matplotlib.figure import Figure
from omegaconf import DictConfig
from torch import Tensor

from ebm_pipeline import plots
from ebm_pipeline.data import DataSet
from ebm_pipeline.data.hdf5 import DIGEST, content_digest, new_file, set_text
from ebm_pipeline.models.machine import BoltzmannMachine
from ebm_pipeline.models.storage import SavedModel, save_model
from ebm_pipeline.runs.plan import Plan, build_recipe, make_trainer
from ebm_pipeline.support.errors import UserError
from ebm_pipeline.tracking.tracker import Tracker
from ebm_pipeline.training import processes
from ebm_pipeline.training.blocks import Blocks
from ebm_pipeline.training.callbacks import AfterEpoch, EveryEpochs, OwnSignals, Patience, Progress, Record
from ebm_pipeline.training.checkpoints import every_epoch, fault_in_restoring, newest
from ebm_pipeline.training.module import BoltzmannTraining, Encoder
from ebm_pipeline.training.pretraining import Pretraining, grow, pretrain

if TYPE_CHECKING:
    from ebm_pipeline.runs.trials import Trial

logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # its tips and adverts
for _name in ("pytorch_lightning", "lightning_fabric"):
    warnings.filterwarnings("ignore", module=_name)


@dataclass
class Phases:
    """What each process of a run does; `folder` is the run's own."""

    config: DictConfig
    plan: Plan
    folder: Path
    epochs: int = field(default=0, init=False)  # that the last training has made

    def run(self) -> tuple[BoltzmannMachine, BoltzmannTraining]:
        """All trainings: the trained machine and the module that trained it last."""
        self.check_same_data()
        machine = self.plan.initial
        if self.plan.model.pretraining is not None:
            machine = self.pretrain(self.plan.model.pretraining, machine)
            self.keep_pretrained(machine)
        plan = self.plan
        begin_at = plan.monitored.training if plan.trained_before else None
        module = BoltzmannTraining(machine, plan.recipe, plan.data_mean, plan.monitored, begin_at=begin_at)
        return self.fit(module, self.config.training.epochs, ""), module

    def check_same_data(self) -> None:
        """Raise UserError unless all processes have the same data: the gradient would be that of neither."""
        digest, machine = self.plan.data.digest, socket.gethostname()
        for rank, (other, where) in enumerate(processes.gathered((digest, machine))):
            if other != digest:
                raise UserError(
                    f"the processes of this training have different data: {digest} on {machine}, {other} on {where} (process "
                    f"{rank}), each in its {self.plan.data.path}: give all of them the same file"
                )

    def pretrain(self, pretraining: Pretraining, machine: BoltzmannMachine) -> BoltzmannMachine:
        """Layerwise pretraining with a Lightning trainer per RBM; the composed machine."""
        plan = self.plan
        recipe = build_recipe(self.config, plan.model, pretraining.epochs, len(plan.data.train_batches()))

        def fit(module: BoltzmannTraining, index: int) -> BoltzmannMachine:
            return self.fit(module, pretraining.epochs, f"pretraining_{index + 1}")

        def training_means(encode: Encoder) -> Tensor:
            batches = list(plan.data.train_batches(seed=int(self.config.seed)))  # one epoch's, in any order
            return torch.stack([encode(batch).sum(0) for batch in batches]).sum(0) / sum(map(len, batches))

        if pretraining.grow:
            return grow(machine, recipe, plan.data_mean, plan.monitored, fit)
        return pretrain(machine, recipe, plan.data_mean, plan.monitored, training_means, fit)

    def fit(self, module: BoltzmannTraining, epochs: int, phase: str) -> BoltzmannMachine:
        """Train the module with Lightning, from its newest checkpoint if there is one. The joint training has no name."""
        checkpoints = self.folder / "checkpoints" / phase
        start = processes.decided(lambda: newest(checkpoints))
        patience = self.config.training.patience if phase == "" else None
        stopping = [] if patience is None else [Patience(patience)]
        callbacks = [*stopping, *self.watching(module, phase, start is None), *self.saving(checkpoints)]
        if processes.count() > 1:
            callbacks.append(OwnSignals())
        trainer = make_trainer(self.config, epochs, callbacks, self.folder)
        if trainer.num_devices * trainer.num_nodes != processes.count():
            raise UserError(
                f"the trainer would use {trainer.num_devices * trainer.num_nodes} devices: several take trainer=ddp, with "
                "their number on this machine as trainer.devices"
            )
        loader = Blocks(self.plan.data.train_batches(trainer.strategy.root_device, int(self.config.seed)))
        try:
            trainer.fit(module, train_dataloaders=loader, val_dataloaders=[torch.zeros(1)], ckpt_path=start)
        except MisconfigurationException as error:
            raise UserError(
                f"the trainer refuses: {str(error).splitlines()[0]} See conf/trainer for what works"
            ) from error
        except Exception as error:
            if start is None or isinstance(error, UserError) or not fault_in_restoring(error):
                raise
            raise UserError(
                f"the checkpoint {start} is none of this training ({str(error).splitlines()[0] if str(error) else error!r}): "
                f"take {checkpoints} away to train from the beginning"
            ) from error
        self.epochs = stopping[0].done if stopping and stopping[0].done else epochs
        if trainer.current_epoch < epochs == self.epochs:
            raise UserError(
                f"the trainer ended after {trainer.current_epoch} of {epochs} epochs: leave out the options of trainer that "
                "end a training early, and set training.epochs"
            )
        return module.result.map(Tensor.cpu)

    def watching(self, module: BoltzmannTraining, phase: str, fresh: bool) -> list[pl.Callback]:
        """What else is done on the way; fresh: the phase starts now."""
        return []

    def saving(self, folder: Path) -> list[pl.Callback]:
        """What writes the checkpoints of a phase."""
        return list(every_epoch(folder))

    def keep_pretrained(self, machine: BoltzmannMachine) -> None:
        """What is done with the machine that pretraining has composed."""


@dataclass
class Training(Phases):
    """What the first process does beside the trainings: progress, metrics and pictures. text: the resolved configuration."""

    text: str
    tracker: Tracker
    began: float  # when the job did, on the clock of time.perf_counter
    trial: Trial | None = None  # of a search
    records: list[Record] = field(default_factory=list)  # one per phase, in their order

    @property
    def steps(self) -> int:
        """Updates of the joint training, where that has ended."""
        return len(self.plan.data.train_batches()) * int(self.epochs or self.config.training.epochs)

    def saved(self, machine: BoltzmannMachine) -> SavedModel:
        """The machine with what is saved beside it."""
        data = self.plan.data
        return SavedModel(machine, self.plan.data_mean, data.image_shape, self.text, data.transform)

    def watching(self, module: BoltzmannTraining, phase: str, fresh: bool) -> list[pl.Callback]:
        """Pretraining phases have names of their own and no pictures."""
        joint = phase == ""
        record = Record(self.tracker, phase)
        self.records.append(record)
        if joint and fresh:
            record.add(module.metrics(), 0, 0)
            self._draw_epoch(module, 0, 0)
        name = f"{self.plan.model.name}{' ' + phase if phase else ''}"
        progress = Progress(name, len(self.plan.data.train_batches()))
        pictures = [EveryEpochs(self.plan.pictures.every_epochs, self._draw_epoch)] if joint else []
        trial = [AfterEpoch(self.trial.after_epoch)] if joint and self.trial else []
        return [progress, *pictures, record, *trial]

    def keep_pretrained(self, machine: BoltzmannMachine) -> None:
        """Saved beside the final one."""
        path = self.folder / "pretrained.h5"
        save_model(path, self.saved(machine))
        self.tracker.log_file(path)

    def _draw_epoch(self, module: BoltzmannTraining, epochs: int, step: int) -> None:
        self.draw(module.result.map(Tensor.cpu), step, f"{epochs:04d}")

    def draw(self, machine: BoltzmannMachine, step: int, label: str) -> None:
        """All pictures of the machine, to MLflow's image series and to the run's folder; what is drawn has its own generator."""
        plan, data = self.plan, self.plan.data
        arrays = plan.pictures.arrays(
            machine, plan.monitored.validation, plan.monitored.noisy, plan.data_mean, int(self.config.seed)
        )
        arrays = {name: data.transform.to_grey(images) for name, images in arrays.items()}
        weights = data.transform.weights_to_grey(machine.weights[0].mT).mT
        drawn = machine.with_tensors({"weights/0": weights})
        figures = plan.pictures.figures(
            drawn, arrays, data.image_shape, plan.model.name, units_are_pixels=data.transform.units_are_pixels
        )
        for key, figure in figures.items():
            self.show(figure, key, step, label)
        if label == "final":
            images = {name: data.visible.images(states) for name, states in arrays.items()}
            write_arrays(
                self.folder / "pictures.h5", images, plan.pictures.descriptions(machine.layers[0], data.visible), data
            )
            self.tracker.log_file(self.folder / "pictures.h5")

    def show(self, figure: Figure, key: str, step: int, label: str) -> None:
        """One figure, to MLflow and to files."""
        self._shown(figure, key, label, step)

    def show_throughout(self, figure: Figure, key: str, label: str) -> None:
        """As `show`, one figure of the whole run: at the first step too, where the sliders of MLflow's pages rest."""
        self._shown(figure, key, label, 0, self.steps)

    def _shown(self, figure: Figure, key: str, label: str, *steps: int) -> None:
        path = self.folder / "pictures" / f"{key}_{label}.png"
        plots.save(figure, path, self.plan.files)
        self.tracker.log_image(path, key, *steps)


def write_arrays(path: Path, arrays: Mapping[str, Tensor], made: Mapping[str, str], data: DataSet) -> None:
    """The images behind the final pictures, as HDF5, with how they were made."""
    with new_file(path) as file:
        file.attrs["image_shape"] = data.image_shape
        set_text(file, "data", f"{data.name} {data.digest}")
        for name, tensor in arrays.items():
            file[name] = tensor.cpu().numpy()
        for name, description in made.items():
            set_text(file[name], "made", description)
        set_text(file, DIGEST, content_digest(file))
