"""One run, from the data to the saved model."""

from __future__ import annotations

import csv
import logging
import math
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ebm_pipeline import plots, resuming, tracking
from ebm_pipeline.assessment import Settings, assess, noisy_images, record_assessment, write_report
from ebm_pipeline.comparison import COMPARED, shown
from ebm_pipeline.configuration import (
    build,
    build_data,
    call,
    check_keys,
    check_seed,
    open_experiment,
    plain,
    set_up_torch,
)
from ebm_pipeline.data import DataSet
from ebm_pipeline.data.hdf5 import DIGEST, content_digest, new_file, set_text
from ebm_pipeline.errors import DivergedError, UserError, check_number, check_whole
from ebm_pipeline.evaluation.metrics import MonitoredImages, monitor
from ebm_pipeline.evaluation.verdict import DIVERGED, Verdict
from ebm_pipeline.files import remove_partial, whole_file, write_text
from ebm_pipeline.inference import MeanField
from ebm_pipeline.initialization import initialize
from ebm_pipeline.labels import fits
from ebm_pipeline.machine import BoltzmannMachine
from ebm_pipeline.objectives import Objective
from ebm_pipeline.provenance import code_version, hardware, packages
from ebm_pipeline.serving import save_served
from ebm_pipeline.signatures import check_kind
from ebm_pipeline.storage import SavedModel, save_model
from ebm_pipeline.system_metrics import SystemMetrics
from ebm_pipeline.tracking import PARENT_VARIABLE, RunRecord, Tracker
from ebm_pipeline.training import processes
from ebm_pipeline.training.blocks import Blocks
from ebm_pipeline.training.callbacks import EveryEpochs, OwnSignals, Progress, Record
from ebm_pipeline.training.checkpoints import WholeCheckpoints, every_epoch, newest
from ebm_pipeline.training.model import Model
from ebm_pipeline.training.module import BoltzmannTraining, Encoder, Recipe
from ebm_pipeline.training.pictures import Pictures
from ebm_pipeline.training.pretraining import Pretraining, check_depth, pretrain

log = logging.getLogger(__name__)
logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # its tips and adverts
for _name in ("pytorch_lightning", "lightning_fabric"):
    warnings.filterwarnings("ignore", module=_name)

processes.CONTEXT.set_forkserver_preload([__name__])  # what the other processes of a training work with

TRAIN_KEYS = {
    **dict.fromkeys(
        ("data", "model", "initialization", "sampler", "objective", "optimizer", "scheduler", "evaluation", "trainer",
         "training", "mean_field", "tracking", "verdict"), Mapping,
    ),
    "likelihood": Mapping | None, "diagnostics": Mapping | None,
    "seed": int, "output_root": str, "threads": int | None, "resume": str | None, "metric": str | None,
}  # fmt: skip
TRAINING_KEYS = {
    "epochs": int, "chains": int, "products": str, "centring": float | None, "averaging": float | None, "variance_rate": float,
}  # fmt: skip
TRACKING_KEYS = {
    "uri": str | None, "experiment": str, "run_name": str | None, "tags": Mapping, "system_metrics": bool, "log_model": bool,
    "register_as": str | None,
}  # fmt: skip
EXAMPLES = 32  # images shown of a data set
SERVED_EXAMPLES = 2  # images that come with the MLflow model, as the example of its input
VALIDATION = "validation/"  # how figures of the validation images begin, in the store
MOST_INITIALIZING = 10_000  # training images that weights can be initialized by
MOST_MONITORED = 3000  # images per part that the monitored figures are computed on


def build_recipe(config: DictConfig, epochs: int, learning_rate_factor: float, model: Model) -> Recipe:
    """How `epochs` epochs are trained: schedules end with them."""
    if "lr" not in config.optimizer:
        raise UserError("the option optimizer.lr is missing: give the learning rate, optimizer.lr=0.05")
    check_number("optimizer.lr", config.optimizer.lr)
    config = config.copy()
    config.training.epochs = epochs
    config.optimizer.lr = config.optimizer.lr * learning_rate_factor
    recipe = Recipe(
        objective=build(config.objective, "objective", Objective),
        mean_field=build(config.mean_field, "mean_field", MeanField),
        optimizer=build(config.optimizer, "optimizer", Callable),
        scheduler=build(config.scheduler, "scheduler", Callable),
        chains=config.training.chains,
        products=config.training.products,
        centring=config.training.centring,
        average_from=average_from(config.training.averaging, epochs),
        variance_rate=config.training.variance_rate,
        seed=config.seed,
        penalties=tuple(model.penalties),
        constraints=tuple(model.constraints),
        fixed=tuple(model.fixed),
    )
    rehearse(recipe)
    return recipe


def average_from(share: float | None, epochs: int) -> int | None:
    """The first epoch of the last `share` of the epochs, at least one, whose weights are averaged."""
    if share is None:
        return None
    check_number("training.averaging, if not null,", share, 0, 1, open_low=True)
    return epochs - max(1, round(share * epochs))


def rehearse(recipe: Recipe) -> None:
    """One step of optimizer and scheduler on a single number: what they refuse, they refuse before any work is done."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    parameter.grad = torch.ones(1)
    optimizer = call(recipe.optimizer, "optimizer", [parameter])
    check_kind("optimizer", optimizer, Optimizer)
    scheduler = call(recipe.scheduler, "scheduler", optimizer)
    check_kind("scheduler", scheduler, LRScheduler)
    call(optimizer.step, "optimizer")
    call(scheduler.step, "scheduler")


@dataclass
class Phases:
    """The trainings of a run, one after the other: what each of its processes does; `folder` is the run's own."""

    config: DictConfig
    data: DataSet
    model: Model
    monitored: MonitoredImages
    data_mean: Tensor
    folder: Path

    def fit(self, module: BoltzmannTraining, epochs: int, phase: str) -> BoltzmannMachine:
        """Train the module with Lightning, from its newest checkpoint if there is one. The joint training has no name."""
        checkpoints = self.folder / "checkpoints" / phase
        start = processes.decided(lambda: newest(checkpoints))
        callbacks = [*self.watching(module, phase, start is None), *every_epoch(checkpoints)]
        if processes.count() > 1:
            callbacks.append(OwnSignals())
        trainer = make_trainer(self.config, epochs, callbacks, self.folder)
        if trainer.num_devices * trainer.num_nodes != processes.count():
            raise UserError(
                f"the trainer would use {trainer.num_devices * trainer.num_nodes} devices: several take trainer=ddp, with "
                "their number on this machine as trainer.devices"
            )
        loader = Blocks(self.data.train_batches(trainer.strategy.root_device))
        trainer.fit(module, train_dataloaders=loader, val_dataloaders=[torch.zeros(1)], ckpt_path=start)
        return module.machine.map(Tensor.cpu)

    def watching(self, module: BoltzmannTraining, phase: str, fresh: bool) -> list[pl.Callback]:
        """What else is done on the way; fresh: the phase starts now."""
        return []

    def keep_pretrained(self, machine: BoltzmannMachine) -> None:
        """What is done with the machine that pretraining has composed."""


@dataclass
class Training(Phases):
    """What the first process does beside the trainings: progress, figures and pictures."""

    pictures: Pictures
    tracker: Tracker
    shown: MonitoredImages
    records: list[Record] = field(default_factory=list)  # one per phase, in their order

    @property
    def seed(self) -> int:
        return int(self.config.seed)

    def watching(self, module: BoltzmannTraining, phase: str, fresh: bool) -> list[pl.Callback]:
        """Pretraining phases have a prefix and no pictures of their own."""
        joint = phase == ""
        record = Record(self.tracker, prefix=f"{phase}/" if phase else "")
        self.records.append(record)
        if joint and fresh:
            record.add(module.figures(), 0, 0)
        progress = Progress(f"{self.model.name}{' ' + phase if phase else ''}", len(self.data.train_batches()))
        pictures = [EveryEpochs(self.pictures.every_epochs, self._draw_epoch)] if joint else []
        return [progress, *pictures, record]

    def keep_pretrained(self, machine: BoltzmannMachine) -> None:
        """Saved beside the final one."""
        text = (self.folder / "config.yaml").read_text()
        path = self.folder / "pretrained.h5"
        save_model(path, SavedModel(machine, self.data_mean, self.data.image_shape, text))
        self.tracker.log_file(path)

    def _draw_epoch(self, module: BoltzmannTraining, epochs: int, step: int) -> None:
        self.draw(module.machine.map(Tensor.cpu), step, f"{epochs:04d}")

    def draw(self, machine: BoltzmannMachine, step: int, label: str) -> None:
        """All pictures of the machine, to MLflow's image series and to the run's folder."""
        arrays = self.pictures.arrays(machine, self.shown.validation, self.shown.noisy, self.data_mean, self.seed)
        arrays = {name: self.data.transform.to_grey(images) for name, images in arrays.items()}
        weights = self.data.transform.weights_to_grey(machine.weights[0].mT).mT
        drawn = machine.with_tensors({"weights/0": weights})
        for key, figure in self.pictures.figures(drawn, arrays, self.data.image_shape, self.model.name).items():
            self.show(figure, key, step, label)
        if label == "final":
            images = {name: self.data.visible.images(states) for name, states in arrays.items()}
            write_arrays(self.folder / "pictures.h5", images, self.pictures.descriptions(self.data.visible), self.data)
            self.tracker.log_file(self.folder / "pictures.h5")

    def show(self, figure: Figure, key: str, step: int, label: str) -> None:
        """One figure, to MLflow and as PNG."""
        plots.save(figure, self.folder / "pictures" / f"{key}_{label}.png")
        self.tracker.log_image(plots.to_rgb(figure), key, step)


def train(config: DictConfig, folder: Path) -> dict[str, float]:
    """One run, from the data to the saved model; returns its last figures. With resume=auto, the rest of such a run."""
    with resuming.locked(folder, wait=config.get("resume") is not None and PARENT_VARIABLE in os.environ):
        check_keys(config, TRAIN_KEYS, "")
        resume, digest = resuming.wanted(config), resuming.digest(config)
        config.resume = (
            None  # not a setting of the experiment: what is saved and tracked of a run is the same either way
        )
        earlier = resuming.earlier(folder, digest, config) if resume else None
        if earlier is not None and earlier.status == "FINISHED":
            log.info(f"{earlier.name}: nothing left to do, the run in {folder} is finished")
            return earlier.metrics
        return _train(config, folder, digest, earlier)


@dataclass(frozen=True, eq=False)
class Plan:
    """What a configuration means, checked: what it can get wrong is found here, before a run begins."""

    data: DataSet
    model: Model
    pictures: Pictures
    settings: Settings
    recipe: Recipe
    data_mean: Tensor
    initial: BoltzmannMachine
    monitored: MonitoredImages
    processes: int
    resolved: dict[str, Any]


def prepare(config: DictConfig, folder: Path) -> Plan:
    """Build and rehearse all that a run needs; raises UserError for whatever cannot work."""
    check_keys(config.training, TRAINING_KEYS, "training.")
    check_tracking(config.tracking)
    check_metric(config)
    check_whole("training.epochs", config.training.epochs, 1)
    check_seed(config.seed)
    set_up_torch(config.threads)
    pl.seed_everything(config.seed, verbose=False)
    data = build_data(config)
    model: Model = build(config.model, "model", Model)
    pictures: Pictures = build(config.evaluation, "evaluation", Pictures)
    settings = Settings.of(config)
    recipe = build_recipe(
        config, config.training.epochs, model.pretraining.joint_learning_rate if model.pretraining else 1.0, model
    )
    data_mean = data.train_mean().float()
    generator = torch.Generator().manual_seed(config.seed)
    weights = build(config.initialization, "initialization", Callable)
    layers, examples = list(model.layers.values()), data.images("train", MOST_INITIALIZING)
    initial = call(initialize, "initialization", layers, weights, data_mean, generator, examples)
    monitored = monitored_images(data, pictures.flips, config.seed)
    check_visible(initial, data, monitored.validation)
    settings.check_size(initial)
    if model.pretraining is not None:
        check_depth(initial)
    BoltzmannTraining(initial, recipe, data_mean, monitored)
    make_trainer(config, config.training.epochs, [], folder)
    count = process_count(config, data)
    return Plan(data, model, pictures, settings, recipe, data_mean, initial, monitored, count, plain(config))


def make_trainer(config: DictConfig, epochs: int, callbacks: list[pl.Callback], folder: Path) -> pl.Trainer:
    """Lightning's trainer, without what this package does itself."""
    trainer: pl.Trainer = call(
        build(config.trainer, "trainer", Callable),
        "trainer",
        max_epochs=epochs,
        callbacks=callbacks,
        plugins=[WholeCheckpoints()],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
        strategy=processes.ProcessStrategy() if processes.count() > 1 else "auto",
    )
    check_kind("trainer", trainer, pl.Trainer)
    return trainer


def _train(config: DictConfig, folder: Path, digest: str, earlier: RunRecord | None) -> dict[str, float]:
    plan = prepare(config, folder)
    data, model, resolved = plan.data, plan.model, plan.resolved
    text = OmegaConf.to_yaml(OmegaConf.create(resolved))
    remove_partial(folder)
    if earlier is None:
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # of a run that this one takes the place of
        write_text(folder / "config.yaml", text)
        uri, experiment_id = open_experiment(config)
        tags = {
            "model": model.name,
            "data": data.name,
            **code_version(Path(__file__).parent),
            **hardware(),
            **resolved["tracking"]["tags"],
        }
        parent = os.environ.get(PARENT_VARIABLE)
        run = Tracker.begin(folder, uri, experiment_id, config.tracking.run_name, tags, digest, parent)
    else:
        run = Tracker.resume(tracking.run_of(folder)["tracking_uri"], earlier.run_id, folder)
        log.info(f"{earlier.name}: going on with the run {earlier.run_id} in {folder}")
    with run as tracker, SystemMetrics(tracker) if config.tracking.system_metrics else nullcontext():
        tracker.log_parameters(resolved)
        tracker.log_text(text, "config.yaml")
        tracker.log_text(packages(), "packages.txt")
        tracker.log_dataset(
            data.name, data.digest, str(data.path),
            {"train": len(data.training_rows), "validation": len(data.validation_rows), "units": data.units,
             "test": data.test.count if data.test else 0, "transform": data.transform.name},
        )  # fmt: skip
        work = Training(
            config, data, model, plan.monitored, plan.data_mean, folder, plan.pictures, tracker, plan.monitored
        )
        work.show(data_examples(data), "data", 0, "examples")
        try:
            with processes.started(plan.processes, follow, (resolved, folder)):
                machine, module = run_phases(work, plan.initial, plan.recipe)
        except DivergedError as error:
            tracker.set_tags(Verdict(DIVERGED, str(error)).tags())
            raise
        record = work.records[-1]
        seconds = sum(phase.seconds for phase in work.records)
        step = len(data.train_batches()) * config.training.epochs
        saved = SavedModel(machine, plan.data_mean, data.image_shape, text)
        save_model(folder / "model.h5", saved)
        tracker.log_file(folder / "model.h5")
        for path in sorted((folder / "checkpoints").glob("*.ckpt")):
            tracker.log_file(path, "checkpoints")
        if config.tracking.log_model:
            log_model(work, plan.monitored.validation[:SERVED_EXAMPLES])
        work.draw(machine, step, "final")
        curves = {name: {model.name: history} for name, history in record.history.items() if "seconds" not in name}
        work.show(plots.learning_curves(curves, f"{model.name}: learning curves"), "learning_curves", step, "final")
        last = {name: values[-1] for name, (_, values) in record.history.items()}
        last |= {"parameters": float(count_parameters(module)), "training_seconds": seconds}
        tracker.log_metrics({name: last[name] for name in ("parameters", "training_seconds")}, step)
        last |= record_averaged(work, module, saved, step)
        write_history(folder / "metrics.csv", record)
        chosen_by = str(config.metric).startswith(VALIDATION)
        part = "test" if data.test and config.likelihood is not None and not chosen_by else "validation"
        found = assess(plan.settings, saved, data, part, last, plan.recipe.mean_field, config.seed)
        tracker.log_metrics(found.figures, step)
        record_assessment(found, model.name, data.image_shape, folder, tracker)
        about = f"{data.name}, transform {data.quantity}; {config.training.epochs} epochs; run {tracker.run_id}"
        write_report(found, last | found.figures, model.name, about, folder, folder, tracker)
        last |= found.figures
        log.info("\n".join(f"{model.name}: {line}" for line in str(found).splitlines()))
        report(model.name, last, record, folder)
    return last


def follow(resolved: dict[str, Any], folder: Path) -> None:
    """What the other processes of a run do: its trainings, from the resolved configuration."""
    config = OmegaConf.create(resolved)
    plan = prepare(config, folder)
    work = Phases(config, plan.data, plan.model, plan.monitored, plan.data_mean, folder)
    run_phases(work, plan.initial, plan.recipe)


def process_count(config: DictConfig, data: DataSet) -> int:
    """Processes that train together: trainer.devices with trainer=ddp; raises UserError if they cannot share evenly."""
    strategy = config.trainer.get("strategy", "auto")
    if strategy not in ("auto", "ddp"):
        raise UserError(f"trainer.strategy must be ddp (several processes) or auto; got {strategy!r}")
    if strategy == "auto":
        return 1
    count = config.trainer.devices
    check_whole("trainer.devices, with trainer=ddp,", count, 1)
    for name, size in (("data.batch_size", data.batch_size), ("training.chains", config.training.chains)):
        if size % count:
            raise UserError(f"{name}={size} cannot be shared evenly by {count} processes: give a multiple of {count}")
    return int(count)


def check_visible(machine: BoltzmannMachine, data: DataSet, images: Tensor) -> None:
    """Raise unless the visible layer has the data's units, and their values are states of it."""
    if not fits(machine.layers[0], data.visible):
        raise UserError(
            f"data.labels=true appends labels of {data.visible.classes} classes to the images: the visible layer must be mixed, "
            f"its last part a Potts layer of one site of {data.visible.classes} units, as in model=rbm_labels"
        )
    machine.layers[0].check_data(images)


def check_tracking(tracking_config: DictConfig) -> None:
    """Raise for what `tracking` gets wrong, before any work is done."""
    check_keys(tracking_config, TRACKING_KEYS, "tracking.")
    if tracking_config.register_as is not None:
        tracking.check_registration(str(tracking_config.register_as))
        if not tracking_config.log_model:
            raise UserError("tracking.register_as needs the MLflow model: set tracking.log_model=true")


def check_metric(config: DictConfig) -> None:
    """Raise for a `metric` that no run can have, before any work is done."""
    metric = config.metric
    if metric is None:
        return
    if not isinstance(metric, str) or metric.startswith(("test/", "train/")):
        raise UserError(
            f"metric must be null or the name of a figure on validation images (the test images are for the end), such as "
            f"pseudo_likelihood or {VALIDATION}log_likelihood_low; got {metric!r}"
        )
    if metric.startswith(VALIDATION) and config.likelihood is None:
        raise UserError(f"metric={metric} needs the likelihood card: set evaluation=full, or another metric")


def metric_of(config: DictConfig, figures: Mapping[str, float]) -> float | None:
    """The figure that an optimizer goes by, None where none is asked for; raises UserError where the run has none."""
    if config.metric is None:
        return None
    value = figures.get(config.metric, math.nan)
    if not math.isfinite(value):
        raise UserError(
            f"the run has no finite figure {config.metric}, which metric asks for (a likelihood can be not determined); it has "
            f"{', '.join(sorted(name for name in figures if not name.startswith('system/')))}"
        )
    return value


def log_model(work: Training, example: Tensor) -> None:
    """model.h5 as an MLflow model, in the run's folder and in the store, and registered if that is configured."""
    folder = work.folder / "mlflow_model"
    save_served(folder, work.folder / "model.h5", example, work.tracker.run_id, work.data.visible)
    work.tracker.log_file(folder, folder.name)
    if work.config.tracking.register_as is not None:
        work.tracker.register(folder.name, str(work.config.tracking.register_as))


def record_averaged(work: Training, module: BoltzmannTraining, last: SavedModel, step: int) -> dict[str, float]:
    """The averaged weights, if there are any, as a file beside that of the `last`; their monitored figures."""
    averaged = module.averaged_machine
    if averaged is None:
        return {}
    machine = averaged.map(Tensor.cpu)
    path = work.folder / tracking.AVERAGED_FILE
    save_model(path, replace(last, machine=machine))
    work.tracker.log_file(path)
    found = monitor(machine, work.monitored, module.recipe.mean_field, module.recipe.seed)
    shown_figures = "  ".join(f"{label} {shown(key, found)}" for key, label in COMPARED.items() if key in found)
    log.info(f"{work.model.name}, averaged weights: {shown_figures}")
    figures = {f"averaged/{name}": value for name, value in found.items()}
    work.tracker.log_metrics(figures, step)
    return figures


def monitored_images(data: DataSet, flips: float, seed: int) -> MonitoredImages:
    """The validation images, as many training images, and the validation images with flipped pixels."""
    validation = data.images("validation", MOST_MONITORED)
    noisy = noisy_images(data, validation, flips, seed)
    return MonitoredImages(validation, data.images("train", len(validation)), noisy, data.visible.classes)


def run_phases(work: Phases, machine: BoltzmannMachine, recipe: Recipe) -> tuple[BoltzmannMachine, BoltzmannTraining]:
    """Pretraining if the model has it, then the joint training: the trained machine and the module that trained it."""
    if work.model.pretraining is not None:
        machine = pretrain_model(work, work.model.pretraining, machine)
        work.keep_pretrained(machine)
    module = BoltzmannTraining(machine, recipe, work.data_mean, work.monitored)
    return work.fit(module, work.config.training.epochs, ""), module


def pretrain_model(work: Phases, pretraining: Pretraining, machine: BoltzmannMachine) -> BoltzmannMachine:
    """Layerwise pretraining with a Lightning trainer per RBM; the composed machine."""
    recipe = build_recipe(work.config, pretraining.epochs, 1.0, work.model)

    def fit(module: BoltzmannTraining, index: int) -> BoltzmannMachine:
        return work.fit(module, pretraining.epochs, f"pretraining_{index + 1}")

    def training_means(encode: Encoder) -> Tensor:
        batches = list(work.data.train_batches())  # one epoch's, in any order
        return torch.stack([encode(batch).sum(0) for batch in batches]).sum(0) / sum(len(batch) for batch in batches)

    return pretrain(machine, recipe, work.data_mean, work.monitored, training_means, fit)


def count_parameters(module: BoltzmannTraining) -> int:
    """Numbers that training changes."""
    return sum(parameter.numel() for parameter in module.tensors.values() if parameter.requires_grad)


def data_examples(data: DataSet) -> Figure:
    """The first training images with their labels."""
    labels = data.labels("train", EXAMPLES)
    return plots.data_examples(
        data.transform.to_grey(data.visible.images(data.images("train", EXAMPLES))).numpy(),
        None if labels is None else labels.numpy(),
        data.image_shape,
        f"{data.name}: training images",
        f"transform {data.transform.name}; {len(data.training_rows)} for training, {len(data.validation_rows)} for validation",
    )


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


def write_history(path: Path, record: Record) -> None:
    """The figures of each epoch as CSV."""
    names = list(record.history)
    by_epoch = {name: dict(zip(*record.history[name], strict=True)) for name in names}
    epochs = sorted({epoch for name in names for epoch in by_epoch[name]})
    with whole_file(path) as partial, open(partial, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", *names])
        writer.writerows([epoch, *(by_epoch[name].get(epoch, "") for name in names)] for epoch in epochs)


def report(name: str, last: Mapping[str, float], record: Record, folder: Path) -> None:
    """What the person at the terminal reads at the end of a run."""
    training, validation = sum(record.training_seconds), sum(record.validation_seconds)
    figures = "  ".join(f"{label} {shown(key, last)}" for key, label in COMPARED.items() if key in last)
    log.info(f"{name}: {figures}")
    log.info(f"{name}: {training:.1f} s in training batches, {validation:.1f} s in validation and pictures; {folder}")
