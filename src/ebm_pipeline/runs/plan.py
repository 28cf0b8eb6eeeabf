"""What a configuration means, checked: what it can get wrong is found here, before a run begins."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ebm_pipeline.data import DataSet
from ebm_pipeline.data.information import repeats
from ebm_pipeline.evaluation.metrics import MonitoredImages
from ebm_pipeline.models.inference import MeanField
from ebm_pipeline.models.initialization import FromRun, initialize
from ebm_pipeline.models.labels import fits
from ebm_pipeline.models.machine import BoltzmannMachine
from ebm_pipeline.plots import Files
from ebm_pipeline.runs.assess import Settings, check_states, noisy_images
from ebm_pipeline.runs.configuration import (
    build,
    build_data,
    call,
    check_keys,
    check_seed,
    plain,
    set_up_torch,
    tracking_uri,
)
from ebm_pipeline.runs.start import Start, find_start
from ebm_pipeline.sampling import TrajectoryTempering
from ebm_pipeline.support.errors import UserError, check_number, check_whole
from ebm_pipeline.support.glossary import LIKELIHOOD, SAMPLES
from ebm_pipeline.support.launched import launched
from ebm_pipeline.support.names import current, names_of
from ebm_pipeline.support.signatures import check_kind
from ebm_pipeline.tracking import tracker
from ebm_pipeline.training import processes
from ebm_pipeline.training.checkpoints import WholeCheckpoints
from ebm_pipeline.training.model import Model
from ebm_pipeline.training.module import BoltzmannTraining
from ebm_pipeline.training.objectives import Objective
from ebm_pipeline.training.pictures import Pictures
from ebm_pipeline.training.pretraining import check_depth
from ebm_pipeline.training.recipe import Recipe

TRAIN_KEYS = {
    **dict.fromkeys(
        ("data", "model", "initialization", "sampler", "objective", "optimizer", "scheduler", "evaluation", "trainer",
         "training", "mean_field", "tracking", "verdict", "plots"), Mapping,
    ),
    "likelihood": Mapping | None, "diagnostics": Mapping | None,
    "seed": int, "trust": Sequence | None, "output_root": str, "threads": int | None, "resume": str | None,
    "metric": str | None, "hidden_units": int,
}  # fmt: skip
TRAINING_KEYS = {
    "epochs": int, "chains": int, "products": str, "centring": float | None, "averaging": float | None, "variance_rate": float,
    "rates": Mapping | None,
    "patience": int | None,
}  # fmt: skip
TRACKING_KEYS = {
    "uri": str | None, "experiment": str, "run_name": str | None, "tags": Mapping, "system_metrics": bool, "log_model": bool,
    "register_as": str | None,
}  # fmt: skip
TRAINER_KEYS = (
    "accelerator",
    "devices",
    "num_nodes",
    "strategy",
    "deterministic",
    "benchmark",
    "detect_anomaly",
    "profiler",
)
INSTEAD = {  # what does here what an option of Lightning's Trainer does elsewhere
    "accumulate_grad_batches": "set data.batch_size",
    "gradient_clip_val": "lower optimizer.lr",
    "limit_train_batches": "set data.batch_size, or train on a smaller file",
    "max_epochs": "set training.epochs",
    "max_steps": "set training.epochs",
    "precision": "set training.products",
}
VALIDATION = "validation/"  # how numbers of the validation images begin, in the store
MOST_INITIALIZING = 10_000  # training images that weights can be initialized by
FEW_IMAGES = 100  # parameters for each training image, above which it is said
MOST_MONITORED = 3000  # images per part that the monitored numbers are computed on


@dataclass(frozen=True, eq=False)
class Plan:
    """What a configuration means, checked: what it can get wrong is found here, before a run begins."""

    data: DataSet
    model: Model
    pictures: Pictures
    files: Files
    settings: Settings
    recipe: Recipe
    data_mean: Tensor
    initial: BoltzmannMachine
    monitored: MonitoredImages
    processes: int
    resolved: dict[str, Any]
    start: Start | None = None  # what the machine begins as
    said: Sequence[str] = ()  # of that

    @property
    def trained_before(self) -> bool:
        """Whether the joint training starts with a machine that is trained already."""
        return self.start is not None or self.model.pretraining is not None


def prepare(config: DictConfig, folder: Path) -> Plan:
    """Build and rehearse all that a run needs; raises UserError for whatever cannot work."""
    check_keys(config.training, TRAINING_KEYS, "training.")
    check_tracking(config.tracking)
    tracking_uri(config)  # raises for what is no address
    check_metric(config)
    check_whole("training.epochs", config.training.epochs, 1)
    if config.training.patience is not None:
        check_whole("training.patience, if not null,", config.training.patience, 1)
    check_seed(config.seed)
    set_up_torch(config.threads)
    pl.seed_everything(config.seed, verbose=False)
    data = build_data(config)
    model: Model = build(config.model, "model", Model)
    pictures: Pictures = build(config.evaluation, "evaluation", Pictures)
    files: Files = build(config.plots, "plots", Files)
    settings = Settings.of(config)
    factor = model.pretraining.joint_learning_rate if model.pretraining else 1.0
    recipe = build_recipe(config, model, config.training.epochs, len(data.train_batches()), factor)
    sampler = getattr(recipe.objective, "sampler", None)
    rungs = sampler.rungs - 1 if isinstance(sampler, TrajectoryTempering) else 0
    if config.training.patience is not None and not rungs:
        raise UserError(
            "training.patience goes by the log-likelihood that a ladder gives: set sampler=trajectory with objective=pcd, or "
            "training.patience=null"
        )
    data_mean = data.train_mean().float()
    generator = torch.Generator().manual_seed(config.seed)
    weights = build(config.initialization, "initialization", Callable)
    layers, examples = list(model.layers.values()), data.images("train", MOST_INITIALIZING)
    initial = call(initialize, "initialization", layers, weights, data_mean, generator, examples)
    monitored = monitored_images(data, pictures.flips)
    check_visible(initial, data)
    settings.check_size(initial, rungs)
    settings.check_images(data, assessed_part(config, data))
    if model.pretraining is not None:
        check_depth(initial)
    start, said = None, []
    if isinstance(weights, FromRun):
        start = find_start(tracking_uri(config), weights.run, folder)
        start.check(initial, data)
        initial, begun = start.begun(initial, examples, recipe.mean_field, config.seed)
        said = [f"{model.name} {begun}", *start.remarks(data, model.pretraining is not None)]
        model = replace(model, pretraining=None)  # what is taken is trained, and what is new begins without effect
    BoltzmannTraining(initial, recipe, data_mean, monitored).rehearse(examples[:1])
    check_trainer(config.trainer)
    make_trainer(config, config.training.epochs, [], folder)
    count = process_count(config, data)
    return Plan(
        data, model, pictures, files, settings, recipe, data_mean, initial, monitored, count, plain(config), start, said
    )


def build_recipe(
    config: DictConfig, model: Model, epochs: int, batches: int, learning_rate_factor: float = 1.0
) -> Recipe:
    """How `epochs` epochs of `batches` updates are trained: schedules end with them."""
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
        average_from=average_from(config.training.averaging, epochs * batches),
        rates=config.training.rates or {},
        variance_rate=config.training.variance_rate,
        seed=config.seed,
        penalties=tuple(model.penalties),
        constraints=tuple(model.constraints),
        fixed=tuple(model.fixed),
    )
    rehearse(recipe)
    return recipe


def average_from(share: float | None, updates: int) -> int | None:
    """How many of the updates stand before the last `share` of them, at least one, whose parameters are averaged."""
    if share is None:
        return None
    check_number("training.averaging, if not null,", share, 0, 1, open_low=True)
    return updates - max(1, round(share * updates))


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


def check_trainer(trainer: DictConfig) -> None:
    """Raise UserError for options of Lightning's Trainer that mean nothing, or something else, in this training."""
    if trainer.get("_target_") != "pytorch_lightning.Trainer":  # a trainer of one's own knows its options itself
        return
    for name in map(str, trainer):
        if name not in TRAINER_KEYS and not name.startswith("_"):
            cure = INSTEAD.get(name, "leave it out")
            raise UserError(
                f"trainer.{name} is no option of this training, which makes its own steps, batches and records: {cure}. "
                f"Options of trainer: {', '.join(TRAINER_KEYS)}"
            )


def make_trainer(config: DictConfig, epochs: int, callbacks: list[pl.Callback], folder: Path) -> pl.Trainer:
    """Lightning's trainer, without what this package does itself."""
    trainer: pl.Trainer = call(
        build(config.trainer, "trainer", Callable),
        "trainer",
        max_epochs=epochs,
        callbacks=callbacks,
        plugins=[WholeCheckpoints(), *processes.environment()],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
        strategy=processes.ProcessStrategy() if processes.count() > 1 else "auto",
    )
    check_kind("trainer", trainer, pl.Trainer)
    return trainer


def process_count(config: DictConfig, data: DataSet) -> int:
    """Processes that train together: those of all machines with trainer=ddp; raises UserError if they cannot share evenly."""
    strategy, nodes = config.trainer.get("strategy", "auto"), config.trainer.get("num_nodes", 1)
    if strategy not in ("auto", "ddp"):
        raise UserError(f"trainer.strategy must be ddp (several processes) or auto; got {strategy!r}")
    check_whole("trainer.num_nodes", nodes, 1)
    if strategy == "auto":
        if nodes > 1:
            raise UserError(f"trainer.num_nodes={nodes} takes trainer=nodes; got trainer.strategy=auto")
        return 1
    devices = config.trainer.devices
    check_whole("trainer.devices, with trainer=ddp,", devices, 1)
    cores = max(2, len(os.sched_getaffinity(0)))
    if devices > cores and not torch.cuda.is_available():
        raise UserError(f"trainer.devices={devices} processes on a machine with {cores} cores: give {cores} at most")
    count, others = devices * nodes, launched()
    if others is None and nodes > 1:
        raise UserError(
            f"trainer.num_nodes={nodes} machines train together where torchrun or srun starts this command on each of them: "
            "see docs/scaling.md, or train on one machine with trainer=ddp"
        )
    if others is not None and others.count != count:
        raise UserError(
            f"{others.by} has started {others.count} processes, and trainer.devices={devices} on each of "
            f"trainer.num_nodes={nodes} machines are {count}: give as many as are started"
        )
    for name, size in (("data.batch_size", data.batch_size), ("training.chains", config.training.chains)):
        if size % count:
            raise UserError(f"{name}={size} cannot be shared evenly by {count} processes: give a multiple of {count}")
    return int(count)


def assessed_part(config: DictConfig, data: DataSet) -> str:
    """The part that a run is assessed on at its end: test images only for a likelihood that no choice goes by."""
    chosen_by = current(str(config.metric))
    at_its_end = chosen_by.startswith(VALIDATION) and names_of((*LIKELIHOOD, *SAMPLES), chosen_by)
    return "test" if data.test and config.likelihood is not None and not at_its_end else "validation"


def check_visible(machine: BoltzmannMachine, data: DataSet) -> None:
    """Raise unless the visible layer has the data's units, and every image of every part is a state of it."""
    if not fits(machine.layers[0], data.visible):
        raise UserError(
            f"data.labels=true appends labels of {data.visible.classes} classes to the images: the visible layer must be mixed, "
            f"its last part a Potts layer of one site of {data.visible.classes} units, as in model=rbm_labels"
        )
    check_states(machine.layers[0], data)


def remarks(plan: Plan) -> list[str]:
    """What is to be said of the data before they are trained on: how they were read, what they are, what is doubtful."""
    data = plan.data
    said = [*data.read.remarks, f"{data.path}: {data.values}; data/transform={data.transform.name}"]
    found = repeats(data.read)
    if found is not None and found.leak:
        said.append(f"warning: {found}: metrics of test images are too good, take them out of one part")
    parameters = sum(tensor.numel() for tensor in plan.initial.named_tensors().values())
    images = len(data.training_rows)
    if parameters > FEW_IMAGES * images:
        said.append(
            f"warning: {images} training images for {parameters} parameters: the model can learn them by heart; give more "
            "images or fewer hidden_units"
        )
    return [*said, *plan.said]


def check_tracking(tracking_config: DictConfig) -> None:
    """Raise for what `tracking` gets wrong, before any work is done."""
    check_keys(tracking_config, TRACKING_KEYS, "tracking.")
    if tracking_config.register_as is not None:
        tracker.check_registration(str(tracking_config.register_as))
        if not tracking_config.log_model:
            raise UserError("tracking.register_as needs the MLflow model: set tracking.log_model=true")


def check_metric(config: DictConfig) -> None:
    """Raise for a `metric` that no run can have, before any work is done."""
    if config.metric is None:
        return
    metric = current(config.metric) if isinstance(config.metric, str) else config.metric
    if not isinstance(metric, str) or metric.startswith(("test/", "train/")):
        raise UserError(
            f"metric must be null or the name of a metric on validation images (the test images are for the end), such as "
            f"{VALIDATION}pseudo_likelihood or {VALIDATION}log_likelihood_low; got {metric!r}"
        )
    if names_of(LIKELIHOOD, metric) and config.likelihood is None:
        raise UserError(f"metric={metric} needs the likelihood card: set evaluation=full, or another metric")


def monitored_images(data: DataSet, flips: float, part: str = "validation") -> MonitoredImages:
    """The images of a held-out part, as many training images, and the held-out images with flipped pixels."""
    validation = data.images(part, MOST_MONITORED)
    noisy = noisy_images(data, validation, flips, data.seed)
    return MonitoredImages(validation, data.images("train", len(validation)), noisy, data.visible.classes, part)
