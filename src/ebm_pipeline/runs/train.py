"""`ebm-train`: one run, from the data to the saved model and its assessment."""

from __future__ import annotations

import csv
import json
import logging
import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from ebm_pipeline import plots
from ebm_pipeline.data import DataSet
from ebm_pipeline.evaluation.baselines import baselines
from ebm_pipeline.evaluation.verdict import DIVERGED, Verdict
from ebm_pipeline.models.machine import BoltzmannMachine
from ebm_pipeline.models.storage import LADDER_FILE, save_ladder, save_model, with_ladder
from ebm_pipeline.runs import description, resume
from ebm_pipeline.runs.assess import Material, assess
from ebm_pipeline.runs.beforehand import before
from ebm_pipeline.runs.compare import COMPARED, shown
from ebm_pipeline.runs.configuration import check_keys, open_experiment, tracking_uri
from ebm_pipeline.runs.folders import check_free
from ebm_pipeline.runs.models import dataset_of, log_models
from ebm_pipeline.runs.parameters import parameters_of
from ebm_pipeline.runs.phases import Phases, Training
from ebm_pipeline.runs.plan import TRAIN_KEYS, Plan, assessed_part, prepare, remarks
from ebm_pipeline.runs.present import record_assessment, write_report
from ebm_pipeline.runs.start import keep_start
from ebm_pipeline.runs.trust import trusted_modules
from ebm_pipeline.sampling import Ladder
from ebm_pipeline.support import elapsed
from ebm_pipeline.support.errors import DivergedError, UserError
from ebm_pipeline.support.files import remove_partial, whole_file, write_text
from ebm_pipeline.support.names import EPOCH, SYSTEM, current, label, tracked
from ebm_pipeline.tracking import deadline, records, store
from ebm_pipeline.tracking.address import SQLITE
from ebm_pipeline.tracking.afterwards import reopened
from ebm_pipeline.tracking.deadline import Patience
from ebm_pipeline.tracking.logged_models import RESULT
from ebm_pipeline.tracking.provenance import code_version, hardware, packages, versions
from ebm_pipeline.tracking.records import PARENT_VARIABLE
from ebm_pipeline.tracking.system_metrics import SystemMetrics
from ebm_pipeline.tracking.tracker import Tracker
from ebm_pipeline.tracking.whose import check_artifacts
from ebm_pipeline.training import processes
from ebm_pipeline.training.callbacks import Record
from ebm_pipeline.training.checkpoints import BEST, LAST
from ebm_pipeline.training.module import BoltzmannTraining
from ebm_pipeline.training.trajectory import updates_of

if TYPE_CHECKING:
    from ebm_pipeline.runs.trials import Trial

log = logging.getLogger(__name__)

# what the other processes of a training work with; in a worker of joblib they are told that its way to start some is "loky"
processes.CONTEXT.set_forkserver_preload([__name__, "joblib.externals.loky"])

EXAMPLES = 32  # images shown of a data set
EPOCH_PICTURE = re.compile(r"(.+)_(\d{4,})\.png")  # as `Training` names those that are drawn before and on the way
TOTAL = "time/total_seconds"


def train(config: DictConfig, folder: Path, trial: Trial | None = None) -> dict[str, float]:
    """One run, from the data to the saved model; returns its last numbers. With resume=auto, the rest of such a run.

    trial: of a search, which is told how the run goes and ends; there are no numbers of one that was pruned.
    """
    with resume.locked(folder, wait=config.get("resume") is not None and PARENT_VARIABLE in os.environ) as refusal:
        if trial is None:
            return trained(config, folder, refusal)
        return dict(trial.conduct(partial(trained, config, folder, refusal, trial), partial(metric_of, config)))


def trained(
    config: DictConfig, folder: Path, refusal: UserError | None, trial: Trial | None = None
) -> dict[str, float]:
    """The run in a folder that is locked; refusal: why nothing can be written there."""
    began = elapsed.of_job()
    check_keys(config, TRAIN_KEYS, "")
    trusted_modules(config.trust)
    if config.tracking.get("uri") == "":
        config.tracking.uri = None  # an empty variable names no store
    wanted, digest = resume.wanted(config), resume.digest(config)
    config.resume = config.trust = None  # not settings: what is saved and tracked of a run is the same either way
    if not wanted:
        check_free(folder)
    patience = Patience(deadline.START_SECONDS)
    with patience:
        earlier = resume.earlier(folder, digest, config) if wanted else None
    if earlier is not None and earlier.record is not None and earlier.record.status == "FINISHED":
        return nothing_left(config, earlier, earlier.record)
    if refusal is not None:
        raise refusal
    store.load_ahead(str(config.tracking.get("uri") or SQLITE))
    plan = prepare(config, folder)
    if earlier is not None:
        earlier.check_data(plan.data.digest, str(plan.data.path))
    log.info("\n".join(remarks(plan)))
    text = OmegaConf.to_yaml(OmegaConf.create(plan.resolved))
    remove_partial(folder)
    begin = begin_run if earlier is None else partial(go_on, earlier)
    with patience:
        run = begin(config, plan, folder, text, digest)
    with run as tracker, SystemMetrics(tracker) if config.tracking.system_metrics else nullcontext():
        if trial is not None:
            trial.began(tracker.run_id, folder)
        work = Training(config, plan, folder, text, tracker, began, trial)
        log_settings(work)
        machine, module = run_phases(work)
        keep_model(work, machine, module)
        return finish(work, machine, module)


def nothing_left(config: DictConfig, earlier: resume.Earlier, run: records.RunRecord) -> dict[str, float]:
    """What is said of a run that has finished; returns its numbers."""
    earlier.check_data_of_finished(config)
    parent = os.environ.get(PARENT_VARIABLE)
    if parent and run.parent_run_id != parent:  # that of its sweep was lost, and made anew
        reopened(run, tracking_uri(config)).set_tags({records.PARENT_TAG: parent})
    log.info(f"{run.name}: nothing left to do, the run in {earlier.folder} is finished")
    return run.metrics | records.read_metrics(earlier.folder)


def follow(resolved: dict[str, Any], folder: Path) -> None:
    """What the other processes of a run do: its trainings, from the resolved configuration."""
    config = OmegaConf.create(resolved)
    Phases(config, prepare(config, folder), folder).run()


def begin_run(
    config: DictConfig, plan: Plan, folder: Path, text: str, digest: str, facts: Mapping[str, str] | None = None
) -> Tracker:
    """A new run in the store, whose configuration is `text`; `facts`: of one that is in the store no more."""
    write_text(folder / "config.yaml", text)
    begins_as = keep_start(plan.start, folder)
    uri, experiment_id = open_experiment(config)
    tags = {
        **{f"ebm.{name}": value for name, value in begins_as.items()},
        **code_version(Path(__file__).parent),
        **hardware(),
        **plan.resolved["tracking"]["tags"],
    }
    parent = os.environ.get(PARENT_VARIABLE)
    known = resume.facts(plan.data.digest, versions(Path(__file__).parent)) | begins_as | dict(facts or {})
    return Tracker.begin(folder, uri, experiment_id, config.tracking.run_name, tags, digest, parent, known)


def go_on(earlier: resume.Earlier, config: DictConfig, plan: Plan, folder: Path, text: str, digest: str) -> Tracker:
    """The run that a folder holds; a new one in the store where that has it no more. Says what is not as it was."""
    changed = earlier.changed_versions(versions(Path(__file__).parent))
    if earlier.record is None:
        new = begin_run(config, plan, folder, text, digest, records.facts_of(earlier.known))
        tracker = Tracker.resume(new.uri, new.run_id, folder)  # which sends what the store before did not take
        send_pictures(tracker, folder, len(plan.data.train_batches()))
        run_id = new.run_id
    else:
        check_artifacts(earlier.record.uri, earlier.record.run_id, tracking_uri(config))
        earlier.note(digest, plan.data.digest, text)
        run_id = earlier.record.run_id
        tracker = Tracker.resume(earlier.record.uri, run_id, folder)
        if parent := os.environ.get(PARENT_VARIABLE):
            tracker.set_tags({records.PARENT_TAG: parent})
    name = plan.model.name
    if earlier.lost is not None:
        log.warning(
            f"{name}: the run {earlier.lost} is not in the MLflow store {earlier.known['tracking_uri']} any more. Going on with "
            f"what {folder} holds as the new run {run_id} in {tracker.uri}; metrics and pictures of the epochs that are done are "
            "sent to it from there"
        )
    else:
        log.info(f"{name}: going on with the run {run_id} in {folder}")
    if changed:
        log.warning(
            f"{name}: the run was begun with other versions ({changed}): its end may not be the same to the bit"
        )
        tracker.set_tags({"ebm.resumed.versions": changed})
    return tracker


def send_pictures(tracker: Tracker, folder: Path, updates: int) -> None:
    """Send the pictures of the epochs that are done to a new run; an epoch has so many updates."""
    for path in sorted((folder / "pictures").glob("*.png")):
        found = EPOCH_PICTURE.fullmatch(path.name)
        if found is not None:
            tracker.log_image(path, found[1], int(found[2]) * updates)


def log_settings(work: Training) -> None:
    """What is known of the run before it is trained: parameters, versions, the data and some of its images."""
    data = work.plan.data
    work.tracker.log_parameters(parameters_of(work.plan, work.folder))
    work.tracker.set_tags({records.NOTE_TAG: description.of_run(work.folder)})
    work.tracker.log_text(work.text, "config.yaml")
    work.tracker.log_text(packages(), "packages.txt")
    work.tracker.log_dataset(
        data.name, data.digest, str(data.path),
        {"train": len(data.training_rows), "validation": len(data.validation_rows), "units": data.units,
         "test": data.test.count if data.test else 0, "transform": data.transform.name},
    )  # fmt: skip
    work.show_throughout(data_examples(data), "data", "examples")


def run_phases(work: Training) -> tuple[BoltzmannMachine, BoltzmannTraining]:
    """The trainings, in as many processes as were asked for."""
    try:
        with processes.started(work.plan.processes, follow, (work.plan.resolved, work.folder)):
            return work.run()
    except DivergedError as error:
        verdict = Verdict(DIVERGED, str(error))
        work.tracker.set_tags(verdict.tags() | {records.NOTE_TAG: description.of_run(work.folder, verdict)})
        raise


def keep_model(work: Training, machine: BoltzmannMachine, module: BoltzmannTraining) -> None:
    """The trained machine: model.h5, checkpoints, the logged models and their registration, the final pictures.

    Where model.h5 has averaged parameters the last ones are beside it.
    """
    tracker, folder, logged = work.tracker, work.folder, work.config.tracking.log_model
    path = folder / records.MODEL_FILE
    save_model(path, work.saved(machine))
    tracker.log_file(path)
    if module.averaged is not None:
        last = folder / records.LAST_FILE
        save_model(last, work.saved(module.machine.map(Tensor.cpu)))
        if not logged:  # else the store has them as a logged model
            tracker.log_file(last)
    if isinstance(module.chains, Ladder):
        ladder, path = module.chains, folder / LADDER_FILE
        steps = module.recipe.objective.sampler.steps  # type: ignore[attr-defined]
        save_ladder(path, ladder.machines(module.machine).map(Tensor.cpu), updates_of(ladder, steps))
        tracker.log_file(path)
    for name in (BEST, LAST):
        checkpoint = folder / "checkpoints" / name
        if checkpoint.exists():
            tracker.log_file(checkpoint, "checkpoints")
    if logged:
        log_models(work, machine, module)
    work.draw(machine, work.steps, "final")


def finish(work: Training, machine: BoltzmannMachine, module: BoltzmannTraining) -> dict[str, float]:
    """The last numbers of a run, its assessment and what the person at the terminal reads."""
    config, plan, tracker, folder, record = work.config, work.plan, work.tracker, work.folder, work.records[-1]
    name = plan.model.name
    curves = {key: {name: history} for key, history in record.history.items() if not key.startswith("time/")}
    earlier = before(plan.model.pretraining, len(plan.model.layers) - 1, plan.start.name if plan.start else "")
    axis = "epoch of the joint training" if plan.model.pretraining else "epoch"
    drawn = plots.learning_curves(curves, f"{name}: learning curves", earlier, axis)
    work.show_throughout(drawn, "learning_curves", "final")
    last = {key: values[-1] for key, (_, values) in record.history.items()}
    last[TOTAL] = sum(phase.seconds for phase in work.records)
    for phase in work.records:
        write_history(folder / (f"metrics_{phase.phase}.csv" if phase.phase else "metrics.csv"), phase)
    material = Material.of(plan.data, assessed_part(config, plan.data))
    saved = work.saved(machine.folded())
    if plan.settings.wants_ladder:
        saved = with_ladder(saved, folder)
    found = assess(plan.settings, saved, material, last, plan.recipe.mean_field, config.seed)
    seen = plan.monitored
    others = baselines(machine.layers[0], material.training, seen, plan.pictures.flips)
    others |= plan.pictures.restored_wrong(machine, seen.validation, seen.noisy, int(config.seed))
    last |= others | found.metrics
    write_text(folder / records.METRICS_FILE, json.dumps(last, indent=1))
    others = {key: value for key, value in others.items() if key not in found.metrics}
    tracker.log_metrics({TOTAL: last[TOTAL]} | tracked(others), work.steps)
    if config.tracking.log_model:
        tracker.log_numbers_of(RESULT, dataset_of(work), tracked(found.metrics), work.steps)
    else:
        tracker.log_metrics(tracked(found.metrics), work.steps)
    record_assessment(found, name, plan.data.image_shape, folder, tracker, work.steps, plan.files)
    tracker.set_tags({records.NOTE_TAG: description.of_run(folder, found.verdict, found.card)})
    about = f"{plan.data.name}, transform {plan.data.quantity}; {work.epochs} epochs; run {tracker.run_id}"
    write_report(found, last, name, about, folder, folder, tracker)
    log.info("\n".join(f"{name}: {line}" for line in str(found).splitlines()))
    report(work, last)
    return last


def metric_of(config: DictConfig, metrics: Mapping[str, float]) -> float | None:
    """The number that an optimizer goes by, None where none is asked for; raises UserError where the run has none."""
    if config.metric is None:
        return None
    value = metrics.get(current(config.metric), math.nan)
    if not math.isfinite(value):
        raise UserError(
            f"the run has no finite metric {config.metric}, which metric asks for (a likelihood can be not determined); it has "
            f"{', '.join(sorted(name for name in metrics if not name.startswith(SYSTEM)))}"
        )
    return value


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
    """The numbers of each epoch as CSV."""
    names = list(record.history)
    by_epoch = {name: dict(zip(*record.history[name], strict=True)) for name in names}
    epochs = sorted({epoch for name in names for epoch in by_epoch[name]})
    with whole_file(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([EPOCH, *names])
        writer.writerows([epoch, *(by_epoch[name].get(epoch, "") for name in names)] for epoch in epochs)


def report(work: Training, last: Mapping[str, float]) -> None:
    """What the person at the terminal reads at the end of a run."""
    name = work.plan.model.name
    metrics = "  ".join(f"{label(key)} {shown(key, last)}" for key in COMPARED if key in last)
    log.info(f"{name}: {metrics}")
    log.info(f"{name}: {spent(work.records, time.perf_counter() - work.began)}; {work.folder}")


def spent(phases: Sequence[Record], seconds: float) -> str:
    """What a job of so many seconds spent them on; `phases` also have epochs from before an interruption."""
    training = sum(sum(phase.training_seconds) for phase in phases)
    validation = sum(sum(phase.validation_seconds) for phase in phases)
    outside = seconds - sum(phase.seconds - phase.earlier for phase in phases)
    on_the_way = f"{training:.1f} s in training batches, {validation:.1f} s in validation and pictures"
    return f"{on_the_way}, {outside:.1f} s before and after"
