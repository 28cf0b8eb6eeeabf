"""`ebm-train`: one run, from the data to the saved model and its assessment."""

from __future__ import annotations

import csv
import logging
import math
import os
import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from ebm_pipeline import plots, resuming, tracking
from ebm_pipeline.assessment import assess, record_assessment, write_report
from ebm_pipeline.comparison import COMPARED, shown
from ebm_pipeline.configuration import check_keys, open_experiment
from ebm_pipeline.data import DataSet
from ebm_pipeline.errors import DivergedError, UserError
from ebm_pipeline.evaluation.verdict import DIVERGED, Verdict
from ebm_pipeline.files import remove_partial, whole_file, write_text
from ebm_pipeline.machine import BoltzmannMachine
from ebm_pipeline.phases import Phases, Training
from ebm_pipeline.planning import TRAIN_KEYS, VALIDATION, Plan, prepare
from ebm_pipeline.provenance import code_version, hardware, packages
from ebm_pipeline.serving import save_served
from ebm_pipeline.storage import save_model
from ebm_pipeline.system_metrics import SystemMetrics
from ebm_pipeline.tracking import PARENT_VARIABLE, Tracker
from ebm_pipeline.training import processes
from ebm_pipeline.training.callbacks import Record
from ebm_pipeline.training.module import BoltzmannTraining

log = logging.getLogger(__name__)

processes.CONTEXT.set_forkserver_preload([__name__])  # what the other processes of a training work with

EXAMPLES = 32  # images shown of a data set
SERVED_EXAMPLES = 2  # images that come with the MLflow model, as the example of its input


def train(config: DictConfig, folder: Path) -> dict[str, float]:
    """One run, from the data to the saved model; returns its last figures. With resume=auto, the rest of such a run."""
    with resuming.locked(folder, wait=config.get("resume") is not None and PARENT_VARIABLE in os.environ):
        check_keys(config, TRAIN_KEYS, "")
        resume, digest = resuming.wanted(config), resuming.digest(config)
        config.resume = None  # not a setting: what is saved and tracked of a run is the same either way
        earlier = resuming.earlier(folder, digest, config) if resume else None
        if earlier is not None and earlier.status == "FINISHED":
            log.info(f"{earlier.name}: nothing left to do, the run in {folder} is finished")
            return earlier.metrics
        plan = prepare(config, folder)
        text = OmegaConf.to_yaml(OmegaConf.create(plan.resolved))
        remove_partial(folder)
        if earlier is None:
            run = begin_run(config, plan, folder, text, digest)
        else:
            run = Tracker.resume(tracking.run_of(folder)["tracking_uri"], earlier.run_id, folder)
            log.info(f"{earlier.name}: going on with the run {earlier.run_id} in {folder}")
        with run as tracker, SystemMetrics(tracker) if config.tracking.system_metrics else nullcontext():
            work = Training(config, plan, folder, text, tracker)
            log_settings(work)
            machine, module = run_phases(work)
            keep_model(work, machine, module)
            return finish(work, machine, module)


def follow(resolved: dict[str, Any], folder: Path) -> None:
    """What the other processes of a run do: its trainings, from the resolved configuration."""
    config = OmegaConf.create(resolved)
    Phases(config, prepare(config, folder), folder).run()


def begin_run(config: DictConfig, plan: Plan, folder: Path, text: str, digest: str) -> Tracker:
    """A new run in the store, whose configuration is `text`; what an earlier one left in the folder goes."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    write_text(folder / "config.yaml", text)
    uri, experiment_id = open_experiment(config)
    tags = {
        "model": plan.model.name,
        "data": plan.data.name,
        **code_version(Path(__file__).parent),
        **hardware(),
        **plan.resolved["tracking"]["tags"],
    }
    parent = os.environ.get(PARENT_VARIABLE)
    return Tracker.begin(folder, uri, experiment_id, config.tracking.run_name, tags, digest, parent)


def log_settings(work: Training) -> None:
    """What is known of the run before it is trained: parameters, versions, the data and some of its images."""
    data = work.plan.data
    work.tracker.log_parameters(work.plan.resolved)
    work.tracker.log_text(work.text, "config.yaml")
    work.tracker.log_text(packages(), "packages.txt")
    work.tracker.log_dataset(
        data.name, data.digest, str(data.path),
        {"train": len(data.training_rows), "validation": len(data.validation_rows), "units": data.units,
         "test": data.test.count if data.test else 0, "transform": data.transform.name},
    )  # fmt: skip
    work.show(data_examples(data), "data", 0, "examples")


def run_phases(work: Training) -> tuple[BoltzmannMachine, BoltzmannTraining]:
    """The trainings, in as many processes as were asked for."""
    try:
        with processes.started(work.plan.processes, follow, (work.plan.resolved, work.folder)):
            return work.run()
    except DivergedError as error:
        work.tracker.set_tags(Verdict(DIVERGED, str(error)).tags())
        raise


def keep_model(work: Training, machine: BoltzmannMachine, module: BoltzmannTraining) -> None:
    """The trained machine: model.h5, checkpoints, the MLflow model and its registration, the final pictures.

    Where model.h5 has averaged parameters the last ones are beside it.
    """
    config, tracker, folder = work.config, work.tracker, work.folder
    path = folder / tracking.MODEL_FILE
    save_model(path, work.saved(machine))
    tracker.log_file(path)
    if module.averaged is not None:
        last = folder / tracking.LAST_FILE
        save_model(last, work.saved(module.machine.map(Tensor.cpu)))
        tracker.log_file(last)
    for checkpoint in sorted((folder / "checkpoints").glob("*.ckpt")):
        tracker.log_file(checkpoint, "checkpoints")
    if config.tracking.log_model:
        served = folder / "mlflow_model"
        example = work.plan.monitored.validation[:SERVED_EXAMPLES]
        save_served(served, path, example, tracker.run_id, work.plan.data.visible)
        tracker.log_file(served, served.name)
        if config.tracking.register_as is not None:
            tracker.register(served.name, str(config.tracking.register_as))
    work.draw(machine, work.steps, "final")


def finish(work: Training, machine: BoltzmannMachine, module: BoltzmannTraining) -> dict[str, float]:
    """The last figures of a run, its assessment and what the person at the terminal reads."""
    config, plan, tracker, folder, record = work.config, work.plan, work.tracker, work.folder, work.records[-1]
    name = plan.model.name
    curves = {key: {name: history} for key, history in record.history.items() if "seconds" not in key}
    work.show(plots.learning_curves(curves, f"{name}: learning curves"), "learning_curves", work.steps, "final")
    last = {key: values[-1] for key, (_, values) in record.history.items()}
    totals = {
        "parameters": float(count_parameters(module)),
        "training_seconds": sum(phase.seconds for phase in work.records),
    }
    tracker.log_metrics(totals, work.steps)
    last |= totals
    write_history(folder / "metrics.csv", record)
    chosen_by = str(config.metric).startswith(VALIDATION)
    part = "test" if plan.data.test and config.likelihood is not None and not chosen_by else "validation"
    found = assess(plan.settings, work.saved(machine), plan.data, part, last, plan.recipe.mean_field, config.seed)
    last |= found.figures
    tracker.log_metrics(found.figures, work.steps)
    record_assessment(found, name, plan.data.image_shape, folder, tracker)
    about = f"{plan.data.name}, transform {plan.data.quantity}; {config.training.epochs} epochs; run {tracker.run_id}"
    write_report(found, last, name, about, folder, folder, tracker)
    log.info("\n".join(f"{name}: {line}" for line in str(found).splitlines()))
    report(name, last, record, folder)
    return last


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
