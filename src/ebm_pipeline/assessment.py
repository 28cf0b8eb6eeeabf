"""`ebm-evaluate`: figures of a finished run, read from the run's own configuration and saved model."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from ebm_pipeline import tracking
from ebm_pipeline.configuration import build, build_data, check_keys, set_up_torch, tracking_uri
from ebm_pipeline.errors import UserError
from ebm_pipeline.evaluation.likelihood import independent_log_likelihood, log_likelihood
from ebm_pipeline.evaluation.metrics import MonitoredImages, flip_pixels, monitor
from ebm_pipeline.inference import MeanField
from ebm_pipeline.storage import load_model
from ebm_pipeline.tracking import Tracker

log = logging.getLogger(__name__)


def evaluate(config: DictConfig, reference: str, folder: Path) -> dict[str, float]:
    """`ebm-evaluate`: figures of a finished run on a part of its own data, to the terminal, the run and a file."""
    check_keys(config, {"run", "part", "seed", "threads", "likelihood", "output_root", "tracking"}, "")
    set_up_torch(config.threads)
    record = tracking.find_run(tracking_uri(config), reference)
    if record.output_dir is None or not (record.output_dir / "model.h5").is_file():
        raise UserError(
            f"the run {record.run_id} has no model.h5 in {record.output_dir}: it did not finish, or its folder was moved"
        )
    own = OmegaConf.load(record.output_dir / "config.yaml")
    assert isinstance(own, DictConfig)
    saved = load_model(record.output_dir / "model.h5")
    data = build_data(own)
    images = data.images(config.part)
    mean_field: MeanField = build(own.mean_field, "mean_field")
    flips = float(own.evaluation.flips)
    chosen = MonitoredImages(images, data.images("train", len(images)), flip_pixels(images, flips, config.seed))
    figures = monitor(saved.machine, chosen, mean_field, config.seed)
    lines = [
        f"{record.name}, {config.part} part of {data.name} ({len(images)} images, transform {data.transform.name})"
    ]
    lines += [f"  {name.replace('_', ' ')} {value:.5g}" for name, value in figures.items()]
    if config.likelihood is not None:
        steps = config.likelihood.temperatures
        if steps < 2 or config.likelihood.chains < 2:
            raise UserError(
                f"likelihood needs temperatures >= 2 and chains >= 2; got {steps} and {config.likelihood.chains}"
            )
        with tqdm(total=steps, desc="AIS", unit="temperature", mininterval=1, leave=False, disable=None) as bar:
            result = log_likelihood(
                saved.machine, saved.data_mean, images, mean_field, steps, config.likelihood.chains, config.seed,
                lambda done: advance(bar),
            )  # fmt: skip
        figures["variational_bound" if result.is_bound else "log_likelihood"] = result.nats
        lines.append(f"  {result}")
        independent = independent_log_likelihood(saved.machine, saved.data_mean, images)
        figures["independent_log_likelihood"] = independent
        lines.append(f"  independent pixels at the data mean: {independent:.2f} nats")
    log.info("\n".join(lines))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evaluation.json").write_text(
        json.dumps({"run": record.run_id, "part": config.part, **figures}, indent=1)
    )
    uri = json.loads((record.output_dir / tracking.RUN_FILE).read_text())["tracking_uri"]
    tracker = Tracker(uri, record.run_id, "")
    tracker.log_metrics({f"{config.part}/{name}": value for name, value in figures.items()}, 0)
    tracker.log_text("\n".join(lines), f"evaluation_{config.part}.txt")
    return figures


def advance(bar: tqdm[Any]) -> None:
    """One step of a progress bar."""
    bar.update()
