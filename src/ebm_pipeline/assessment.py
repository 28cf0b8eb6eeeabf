"""`ebm-evaluate`: figures of a finished run, read from the run's own configuration and saved model; card, diagnosis, verdict,
report. A training ends with the same (`assess`), as far as its configuration asks for it.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from tqdm import tqdm

from ebm_pipeline import plots, tracking
from ebm_pipeline.configuration import (
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
from ebm_pipeline.data import DataSet
from ebm_pipeline.errors import UserError, check_memory
from ebm_pipeline.evaluation.card import ERRORS, Likelihood, LikelihoodCard
from ebm_pipeline.evaluation.diagnostics import Diagnosis, Diagnostics
from ebm_pipeline.evaluation.equilibrium import check_size
from ebm_pipeline.evaluation.metrics import MonitoredImages, flip_pixels, monitor
from ebm_pipeline.evaluation.verdict import Criteria, Verdict, gap
from ebm_pipeline.inference import MeanField
from ebm_pipeline.machine import BoltzmannMachine
from ebm_pipeline.report import Report
from ebm_pipeline.storage import SavedModel, load_model
from ebm_pipeline.tracking import Tracker
from ebm_pipeline.visible import VisibleUnits

log = logging.getLogger(__name__)

MOST_TRAINING_IMAGES = 10_000  # of the training part that a likelihood is computed on
RESULT = "result"
WEIGHTS = {RESULT: tracking.MODEL_FILE, "last": tracking.LAST_FILE}
TEMPERATURE_BYTES = 64  # in the schedules and paths of the runs
MOST_LAYERS = 20  # whose weights a report looks for
DIAGNOSIS_PICTURES = ("chains_by_sweeps", "approach", "samples_against_data", "moments", "energy_traces")


@dataclass(frozen=True)
class Settings:
    """How a run is assessed; likelihood and diagnostics are None where they are left out."""

    likelihood: Likelihood | None
    diagnostics: Diagnostics | None
    criteria: Criteria

    @classmethod
    def of(cls, config: DictConfig) -> Settings:
        """From the groups of a composed configuration."""
        return cls(
            build(config.likelihood, "likelihood", Likelihood | None),
            build(config.diagnostics, "diagnostics", Diagnostics | None),
            build(config.verdict, "verdict", Criteria),
        )

    def check_size(self, machine: BoltzmannMachine) -> None:
        """Raise UserError if what is asked of this machine would need more memory than there is."""
        units = sum(layer.units for layer in machine.layers)
        if self.likelihood is not None:
            check_size("likelihood", self.likelihood.chains, self.likelihood.sweeps, units)
            count = self.likelihood.temperatures
            check_memory(f"likelihood.temperatures={count} temperatures", TEMPERATURE_BYTES * count)
        if self.diagnostics is not None:
            check_size("diagnostics", self.diagnostics.chains, self.diagnostics.sweeps, units)


@dataclass(frozen=True, eq=False)
class Assessment:
    """What was found of a run, on a held-out part and on training data."""

    card: LikelihoodCard | None
    diagnosis: Diagnosis | None
    verdict: Verdict

    @property
    def figures(self) -> dict[str, float]:
        """All figures, those of a part as part/name."""
        return (self.diagnosis.figures if self.diagnosis else {}) | (self.card.metrics() if self.card else {})

    def __str__(self) -> str:
        lines = []
        if self.diagnosis is not None:
            lines.append(f"samples: {self.diagnosis.drawn}")
            lines += [f"{name.replace('_', ' ')} {value:.5g}" for name, value in self.diagnosis.figures.items()]
        if self.card is not None:
            lines += str(self.card).splitlines()
        return "\n".join((*lines, str(self.verdict)))


def assess(
    settings: Settings,
    saved: SavedModel,
    data: DataSet,
    part: str,
    monitored: Mapping[str, float],
    mean_field: MeanField,
    seed: int,
) -> Assessment:
    """Card, diagnosis and verdict of a model on `part` of its data and on training data; `monitored`: its figures so far."""
    parts = {part: data.images(part, MOST_TRAINING_IMAGES if part == "train" else None)}
    parts |= {"train": data.images("train", MOST_TRAINING_IMAGES)}
    diagnosis = None
    if settings.diagnostics is not None:
        with tqdm(total=settings.diagnostics.sweeps, desc="samples", unit="sweep", leave=False, disable=None) as bar:
            diagnosis = settings.diagnostics(saved.machine, parts, mean_field, seed, lambda done: advance(bar))
        shown = {
            start: {n: data.transform.to_grey(x) for n, x in way.items()} for start, way in diagnosis.images.items()
        }
        diagnosis = replace(diagnosis, images=shown)
    card = None
    if settings.likelihood is not None:
        card = measure_likelihood(settings.likelihood, saved, data, parts, mean_field, seed)
    apart = None
    if card is None and part != "train":
        apart = gap(saved.machine, saved.data_mean, parts["train"], parts[part], mean_field)
    verdict = settings.criteria(monitored, saved.machine.layers[0].units, card, diagnosis, apart)
    return Assessment(card, diagnosis, verdict)


def noisy_images(data: DataSet, images: Tensor, flips: float, seed: int) -> Tensor:
    """Images (count, units) of `data` with a fraction of their pixels flipped: of the grey levels, where units are no pixels."""
    if not data.transform.mixes_pixels:
        return flip_pixels(images, flips, seed, data.visible)
    return data.transform.expected(flip_pixels(data.transform.to_grey(images), flips, seed))


def record_assessment(
    found: Assessment, name: str, image_shape: tuple[int, int], folder: Path, tracker: Tracker
) -> None:
    """Card, verdict and pictures to `folder` and to the run, and their tags."""
    (folder / "verdict.json").write_text(json.dumps(found.verdict.as_dict(), indent=1))
    tracker.set_tags(found.verdict.tags())
    if found.diagnosis is not None:
        for key, figure in diagnosis_figures(found.diagnosis, name, image_shape).items():
            plots.save(figure, folder / f"{key}.png")
            tracker.log_image(plots.to_rgb(figure), key, 0)
    if found.card is not None:
        record_card(found.card, name, folder, tracker)


def write_report(
    found: Assessment,
    figures: Mapping[str, float],
    name: str,
    subtitle: str,
    run: Path,
    folder: Path,
    tracker: Tracker,
) -> None:
    """report.html of the run whose folder is `run`, with the pictures of the assessment in `folder`."""
    pictures = run / "pictures"
    keys = ["fantasies", "reconstructions", "denoising", *(f"weights_{index}" for index in range(1, MOST_LAYERS))]
    path = Report(
        title=name,
        subtitle=subtitle,
        verdict=found.verdict,
        card=found.card,
        figures=figures,
        drawn=found.diagnosis.drawn if found.diagnosis else "",
        diagnostics=_existing(folder / f"{key}.png" for key in ("log_partition", *DIAGNOSIS_PICTURES)),
        samples=_existing(pictures / f"{key}_final.png" for key in keys),
        training=_existing((pictures / "learning_curves_final.png", pictures / "data_examples.png")),
        config=(run / "config.yaml").read_text(),
    ).write(run)
    tracker.log_file(path)


def _existing(paths: Iterable[Path]) -> list[Path]:
    return [path for path in paths if path.is_file()]


def evaluate(config: DictConfig, reference: str, folder: Path) -> dict[str, float]:
    """`ebm-evaluate`: figures of a finished run on a part of its own data, to the terminal, the run and a file."""
    optional = {"likelihood": Mapping | None, "diagnostics": Mapping | None}
    check_keys(config, READER_KEYS | optional | {"verdict": Mapping, "weights": str}, "")
    check_keys(config.tracking, STORE_KEYS, "tracking.")
    check_seed(config.seed)
    set_up_torch(config.threads)
    settings = Settings.of(config)
    record = tracking.find_model(tracking_uri(config), reference)
    assert record.output_dir is not None
    own = read_run_config(record.output_dir)
    saved = load_model(weights_file(record.output_dir, config.weights))
    settings.check_size(saved.machine)
    data = build_data(own)
    images = data.images(config.part)
    mean_field: MeanField = build(own.mean_field, "mean_field", MeanField)
    flips: Any = OmegaConf.select(own, "evaluation.flips")
    if not isinstance(flips, (int, float)):
        raise UserError(
            f"{record.output_dir / 'config.yaml'} is damaged: evaluation.flips is missing or no number; got {flips!r}"
        )
    noisy = noisy_images(data, images, flips, config.seed)
    chosen = MonitoredImages(images, data.images("train", len(images)), noisy, data.visible.classes)
    monitored = monitor(saved.machine, chosen, mean_field, config.seed)
    found = assess(settings, saved, data, config.part, monitored, mean_field, config.seed)
    result = config.weights == RESULT
    about = f"{config.part} part of {data.name} ({len(images)} images, transform {data.quantity})"
    if not result:
        about = f"{config.weights} weights, {about}"
    lines = [f"{record.name}, {about}"]
    lines += [f"  {name.replace('_', ' ')} {value:.5g}" for name, value in monitored.items()]
    lines += [f"  {line}" for line in str(found).splitlines()]
    log.info("\n".join(lines))
    figures = monitored | {name.removeprefix(f"{config.part}/"): value for name, value in found.figures.items()}
    folder.mkdir(parents=True, exist_ok=True)
    described = {"run": record.run_id, "part": config.part, "weights": config.weights}
    (folder / "evaluation.json").write_text(json.dumps({**described, **figures}, indent=1))
    uri = tracking.run_of(record.output_dir)["tracking_uri"]
    tracker = Tracker(uri, record.run_id, "", record.output_dir)
    prefix, suffix = ("", "") if result else (f"{config.weights}/", f"_{config.weights}")
    named = {name if "/" in name else f"{config.part}/{name}": value for name, value in figures.items()}
    tracker.log_metrics({prefix + name: value for name, value in named.items()}, 0)
    tracker.log_text("\n".join(lines), f"evaluation_{config.part}{suffix}.txt")
    if result:  # verdict, pictures and report of a run are those of its model.h5
        record_assessment(found, record.name, data.image_shape, folder, tracker)
        write_report(found, figures, record.name, f"{about}; run {record.run_id}", record.output_dir, folder, tracker)
    return figures


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
            saved.machine, saved.data_mean, parts, data.images("train", MOST_TRAINING_IMAGES), data.quantity,
            mean_field, seed, stage,
        )  # fmt: skip
    finally:
        for bar in bars:
            bar.close()


def diagnosis_figures(diagnosis: Diagnosis, name: str, image_shape: tuple[int, int]) -> dict[str, Figure]:
    """The pictures of a diagnosis, by key; of labels nothing is shown."""
    pixels = VisibleUnits(math.prod(image_shape))
    figures, drawn = diagnosis.figures, diagnosis.drawn
    mixing = (
        f"second half of {diagnosis.sweeps:,} Gibbs sweeps; single chains: R-hat {figures['chains_r_hat']:.2f}, autocorrelation "
        f"time of the free energy {figures['energy_autocorrelation_sweeps']:.1f} sweeps"
    )
    curves = {
        start: (
            [point.sweeps for point in way], [point.energy for point in way], [point.distance for point in way]
        )
        for start, way in diagnosis.approach.items()
    }  # fmt: skip
    return {
        "chains_by_sweeps": plots.chains_by_sweeps(
            {start: {sweeps: pixels.images(states) for sweeps, states in way.items()} for start, way in diagnosis.images.items()},
            image_shape, f"{name}: samples on their way",
            "rows: where the chains started, Gibbs sweeps made; the states themselves, not means",
        ),
        "samples_against_data": plots.samples_against_data(
            diagnosis.points, diagnosis.energies, f"{name}: samples against data", drawn
        ),
        "approach": plots.approach_of_chains(
            curves, f"{name}: chains from data and from noise", f"samples after each number of Gibbs sweeps; {drawn}"
        ),
        "energy_traces": plots.energy_traces(
            diagnosis.traces, diagnosis.sweeps // 2 + 1, f"{name}: free energy of single chains", mixing
        ),
        "moments": plots.moments(diagnosis.moments, f"{name}: moments of samples against data", drawn),
    }  # fmt: skip


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
