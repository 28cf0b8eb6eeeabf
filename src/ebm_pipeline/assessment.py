"""`ebm-evaluate`: figures of a finished run, read from the run's own configuration and saved model; the likelihood card."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import Tensor
from tqdm import tqdm

from ebm_pipeline import plots, tracking
from ebm_pipeline.configuration import build, build_data, check_keys, read_run_config, set_up_torch, tracking_uri
from ebm_pipeline.data import DataSet
from ebm_pipeline.errors import UserError
from ebm_pipeline.evaluation.card import ERRORS, Likelihood, LikelihoodCard
from ebm_pipeline.evaluation.diagnostics import Diagnostics
from ebm_pipeline.evaluation.metrics import MonitoredImages, flip_pixels, monitor
from ebm_pipeline.inference import MeanField
from ebm_pipeline.storage import SavedModel, load_model
from ebm_pipeline.tracking import Tracker

log = logging.getLogger(__name__)

MOST_TRAINING_IMAGES = 10_000  # of the training part that a likelihood is computed on


def evaluate(config: DictConfig, reference: str, folder: Path) -> dict[str, float]:
    """`ebm-evaluate`: figures of a finished run on a part of its own data, to the terminal, the run and a file."""
    check_keys(config, {"run", "part", "seed", "threads", "likelihood", "diagnostics", "output_root", "tracking"}, "")
    set_up_torch(config.threads)
    likelihood: Likelihood | None = build(config.likelihood, "likelihood")
    diagnostics: Diagnostics | None = build(config.diagnostics, "diagnostics")
    record = tracking.find_run(tracking_uri(config), reference)
    if record.output_dir is None or not (record.output_dir / "model.h5").is_file():
        raise UserError(
            f"the run {record.run_id} has no model.h5 in {record.output_dir}: it did not finish, or its folder was moved"
        )
    own = read_run_config(record.output_dir)
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
    parts = {config.part: images, "train": data.images("train", MOST_TRAINING_IMAGES)}
    diagnosis = None
    if diagnostics is not None:
        with tqdm(total=diagnostics.sweeps, desc="samples", unit="sweep", leave=False, disable=None) as bar:
            diagnosis = diagnostics(saved.machine, parts, mean_field, config.seed, lambda done: advance(bar))
        figures |= {name.removeprefix(f"{config.part}/"): value for name, value in diagnosis.figures.items()}
        lines.append(f"  samples: {diagnosis.drawn}")
        lines += [f"  {name.replace('_', ' ')} {value:.5g}" for name, value in diagnosis.figures.items()]
    card = None
    if likelihood is not None:
        card = measure_likelihood(likelihood, saved, data, parts, mean_field, config.seed)
        figures |= {name.removeprefix(f"{config.part}/"): value for name, value in card.metrics().items()}
        lines += [f"  {line}" for line in str(card).splitlines()]
    log.info("\n".join(lines))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evaluation.json").write_text(
        json.dumps({"run": record.run_id, "part": config.part, **figures}, indent=1)
    )
    uri = tracking.read_run_file(record.output_dir)["tracking_uri"]
    tracker = Tracker(uri, record.run_id, "", record.output_dir)
    tracker.log_metrics({name if "/" in name else f"{config.part}/{name}": value for name, value in figures.items()}, 0)
    tracker.log_text("\n".join(lines), f"evaluation_{config.part}.txt")
    if diagnosis is not None:
        figure = plots.samples_against_data(
            diagnosis.points, diagnosis.energies, f"{record.name}: samples against data", diagnosis.drawn
        )
        plots.save(figure, folder / "samples_against_data.png")
        tracker.log_image(plots.to_rgb(figure), "samples_against_data", 0)
    if card is not None:
        record_card(card, record.name, folder, tracker)
    return figures


def measure_likelihood(
    likelihood: Likelihood,
    saved: SavedModel,
    data: DataSet,
    parts: dict[str, Tensor],
    mean_field: MeanField,
    seed: int,
) -> LikelihoodCard:
    """The card of a model on `parts` of its data, images (count, units) by name, with a progress bar for each stage."""
    bars: list[tqdm[Any]] = []

    def stage(name: str, steps: int) -> Callable[[int], None]:
        for bar in bars:
            bar.close()
        bars[:] = [tqdm(total=steps, desc=name, unit="step", mininterval=1, leave=False, disable=None)]
        return lambda done: advance(bars[0])

    try:
        return likelihood(
            saved.machine, saved.data_mean, parts, data.images("train", MOST_TRAINING_IMAGES), data.transform.name,
            mean_field, seed, stage,
        )  # fmt: skip
    finally:
        for bar in bars:
            bar.close()


def record_card(card: LikelihoodCard, name: str, folder: Path, tracker: Tracker) -> None:
    """The card as JSON and figure, in `folder` and on the run, and its tags."""
    path = folder / "likelihood.json"
    path.write_text(json.dumps(card.as_dict(), indent=1))
    tracker.log_file(path)
    tracker.set_tags(card.tags())
    if card.forward is None or card.reverse is None or card.half is None:
        return
    runs = {"forward": (card.half[0], card.forward), "reverse": (card.half[1], card.reverse)}
    figure = plots.log_partition_estimates(
        {key: (pair[1].betas, pair[1].path) for key, pair in runs.items()},
        {key: [(run.temperatures, run.value, ERRORS * run.std_error) for run in pair] for key, pair in runs.items()},
        (card.log_partition.low, card.log_partition.high),
        f"{name}: log Z by annealed importance sampling",
        f"{'; '.join(card.reasons) or 'determined'}; shaded: forward - 2 SE to reverse + 2 SE",
    )
    plots.save(figure, folder / "log_partition.png")
    tracker.log_image(plots.to_rgb(figure), "log_partition", 0)


def advance(bar: tqdm[Any]) -> None:
    """One step of a progress bar."""
    bar.update()
