"""`ebm-evaluate`: numbers of a finished run, by its own configuration and saved model; card, diagnosis, verdict, report."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ebm_pipeline.data import DataSet
from ebm_pipeline.evaluation.metrics import MonitoredImages, monitor
from ebm_pipeline.models.inference import MeanField
from ebm_pipeline.models.storage import LADDER_FILE, load_model, with_ladder
from ebm_pipeline.plots import Files
from ebm_pipeline.runs import description, referee
from ebm_pipeline.runs.assess import Assessment, Material, Settings, assess, check_states, noisy_images
from ebm_pipeline.runs.configuration import (
    READER_KEYS,
    STORE_KEYS,
    build,
    build_data,
    check_keys,
    check_seed,
    read_run_config,
    set_up_torch,
    tracking_uri,
)
from ebm_pipeline.runs.places import with_data_now
from ebm_pipeline.runs.present import record_assessment, write_report
from ebm_pipeline.runs.serving.folder import checked_model, is_mlflow_model
from ebm_pipeline.runs.trust import check_path, trusted_modules
from ebm_pipeline.support.errors import UserError
from ebm_pipeline.support.files import write_text
from ebm_pipeline.support.names import LAST as OF_LAST
from ebm_pipeline.support.names import tracked
from ebm_pipeline.tracking import records
from ebm_pipeline.tracking.afterwards import reopened
from ebm_pipeline.tracking.logged_models import LAST, RESULT
from ebm_pipeline.tracking.records import RunRecord
from ebm_pipeline.tracking.tracker import Tracker
from ebm_pipeline.training.trajectory import LOG_LIKELIHOOD

log = logging.getLogger(__name__)

WEIGHTS = {RESULT: records.MODEL_FILE, LAST: records.LAST_FILE}


def evaluate(config: DictConfig, reference: str, folder: Path) -> dict[str, float]:
    """`ebm-evaluate`: numbers of a finished run on a part of its own data, to the terminal, the run and a file.

    A `reference` that is a file of weights is judged by the data of the configuration (`referee`).
    """
    optional = {"likelihood": Mapping | None, "diagnostics": Mapping | None}
    given = {"data": Mapping} if "data" in config else {}
    check_keys(config, READER_KEYS | optional | given | {"verdict": Mapping, "plots": Mapping, "weights": str}, "")
    check_keys(config.tracking, STORE_KEYS, "tracking.")
    check_seed(config.seed)
    set_up_torch(config.threads)
    trusted = trusted_modules(config.trust)
    settings = Settings.of(config)
    files: Files = build(config.plots, "plots", Files)
    weights = checked_model(Path(reference)) if is_mlflow_model(Path(reference)) else Path(reference)
    if weights.is_file():
        return referee.judge(config, settings, weights, folder, files)
    if "data" in config:
        raise UserError("a run brings its own data: leave out data=..., which is for a file of weights (model=FILE)")
    record = records.find_model(tracking_uri(config), reference)
    assert record.output_dir is not None
    own = with_data_now(read_run_config(record.output_dir, trusted), record.output_dir, Path(config.output_root))
    check_path(own, record.output_dir / "config.yaml", Path(config.output_root))
    saved = load_model(weights_file(record.output_dir, config.weights))
    if settings.wants_ladder:
        saved = with_ladder(saved, record.output_dir)
        if saved.ladder is None and LOG_LIKELIHOOD in record.metrics:
            log.warning(
                f"{record.output_dir / LADDER_FILE}, which the run had kept, is gone: no third estimate of log Z; put it back "
                "beside model.h5 for one"
            )
    settings.check_size(saved.machine, 0 if saved.ladder is None else len(saved.ladder.weights[0]))
    data = build_data(own)
    if record.data not in ("", data.digest):
        log.warning(
            f"the run was trained on other data: they had the digest {record.data}, {data.path} now has {data.digest}"
        )
    images = data.images(config.part)
    settings.check_images(data, config.part)
    check_states(saved.machine.layers[0], data)
    mean_field: MeanField = build(own.mean_field, "mean_field", MeanField)
    noisy = noisy_images(data, images, flips_of(own, record.output_dir), config.seed)
    chosen = MonitoredImages(images, data.images("train", len(images)), noisy, data.visible.classes, config.part)
    monitored = monitor(saved.machine, chosen, mean_field)
    found = assess(settings, saved, Material.of(data, config.part), monitored, mean_field, config.seed)
    result = config.weights == RESULT
    about = f"{config.part} part of {data.name} ({len(images)} images, transform {data.quantity})"
    if not result:
        about = f"{config.weights} weights, {about}"
    lines = [f"{record.name}, {about}"]
    lines += [f"  {name} {value:.5g}" for name, value in monitored.items()]
    lines += [f"  {line}" for line in str(found).splitlines()]
    log.info("\n".join(lines))
    tracker = _recorded(config, record, data, monitored, found, folder, lines)
    metrics = monitored | found.metrics
    if result:  # verdict, pictures and report of a run are those of its model.h5
        record_assessment(found, record.name, data.image_shape, folder, tracker, record.last_step, files)
        tracker.set_tags({records.NOTE_TAG: description.of_run(record.output_dir, found.verdict, found.card)})
        write_report(found, metrics, record.name, f"{about}; run {record.run_id}", record.output_dir, folder, tracker)
    return metrics


def _recorded(
    config: DictConfig,
    record: RunRecord,
    data: DataSet,
    monitored: Mapping[str, float],
    found: Assessment,
    folder: Path,
    lines: Sequence[str],
) -> Tracker:
    """The numbers to a file and to the run, which is opened again; what its training has watched stays as it was seen there."""
    metrics = {**monitored, **found.metrics}
    folder.mkdir(parents=True, exist_ok=True)
    described = {"run": record.run_id, "part": config.part, "weights": config.weights}
    write_text(folder / "evaluation.json", json.dumps({**described, **metrics}, indent=1))
    tracker = reopened(record, tracking_uri(config))
    prefix, suffix = ("", "") if config.weights == RESULT else (OF_LAST, f"_{config.weights}")
    new = tracked(
        {
            prefix + name: metrics[name]
            for name in metrics
            if name in found.metrics or prefix + name not in record.metrics
        }
    )
    if config.weights == RESULT:
        tracker.log_numbers_of(RESULT, (data.name, data.digest), new, record.last_step, final=False)
    else:
        tracker.log_metrics(new, record.last_step)
    tracker.log_text("\n".join(lines), f"evaluation_{config.part}{suffix}.txt")
    return tracker


def flips_of(own: DictConfig, folder: Path) -> float:
    """The share of pixels that the run in `folder` flips in images to be denoised."""
    flips: Any = OmegaConf.select(own, "evaluation.flips")
    if not isinstance(flips, (int, float)):
        raise UserError(f"{folder / 'config.yaml'} is damaged: evaluation.flips is missing or no number; got {flips!r}")
    return flips


def weights_file(folder: Path, weights: str) -> Path:
    """The file of the model that a run made, or of the weights of its last update."""
    if weights not in WEIGHTS:
        raise UserError(f"weights must be one of {', '.join(WEIGHTS)}; got {weights!r}")
    path = folder / WEIGHTS[weights]
    if weights != RESULT and not path.is_file():
        raise UserError(
            f"the run in {folder} was trained without training.averaging: its model.h5 has the last weights"
        )
    return path
