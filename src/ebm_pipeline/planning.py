"""What a configuration means, checked: what it can get wrong is found here, before a run begins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ebm_pipeline import tracking
from ebm_pipeline.assessment import Settings, noisy_images
from ebm_pipeline.configuration import build, build_data, call, check_keys, check_seed, plain, set_up_torch
from ebm_pipeline.data import DataSet
from ebm_pipeline.errors import UserError, check_number, check_whole
from ebm_pipeline.evaluation.metrics import MonitoredImages
from ebm_pipeline.inference import MeanField
from ebm_pipeline.initialization import initialize
from ebm_pipeline.labels import fits
from ebm_pipeline.machine import BoltzmannMachine
from ebm_pipeline.objectives import Objective
from ebm_pipeline.signatures import check_kind
from ebm_pipeline.training import processes
from ebm_pipeline.training.checkpoints import WholeCheckpoints
from ebm_pipeline.training.model import Model
from ebm_pipeline.training.module import BoltzmannTraining, Recipe
from ebm_pipeline.training.pictures import Pictures
from ebm_pipeline.training.pretraining import check_depth

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
VALIDATION = "validation/"  # how figures of the validation images begin, in the store
MOST_INITIALIZING = 10_000  # training images that weights can be initialized by
MOST_MONITORED = 3000  # images per part that the monitored figures are computed on


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
    factor = model.pretraining.joint_learning_rate if model.pretraining else 1.0
    recipe = build_recipe(config, model, config.training.epochs, len(data.train_batches()), factor)
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


def monitored_images(data: DataSet, flips: float, seed: int) -> MonitoredImages:
    """The validation images, as many training images, and the validation images with flipped pixels."""
    validation = data.images("validation", MOST_MONITORED)
    noisy = noisy_images(data, validation, flips, seed)
    return MonitoredImages(validation, data.images("train", len(validation)), noisy, data.visible.classes)
