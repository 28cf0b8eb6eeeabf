"""What an assessment leaves: verdict, card and pictures in a folder and on the run, and report.html."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from matplotlib.figure import Figure

from ebm_pipeline import plots
from ebm_pipeline.data.visible import VisibleUnits
from ebm_pipeline.evaluation.card import ERRORS, LikelihoodCard
from ebm_pipeline.evaluation.diagnostics import Diagnosis
from ebm_pipeline.runs.assess import Assessment
from ebm_pipeline.runs.report import Report
from ebm_pipeline.support.files import can_write, write_text
from ebm_pipeline.tracking.tracker import Tracker

log = logging.getLogger(__name__)

MOST_LAYERS = 20  # whose weights a report looks for
DIAGNOSIS_PICTURES = ("chains_by_sweeps", "approach", "samples_against_data", "moments", "energy_traces")


def record_assessment(
    found: Assessment,
    name: str,
    image_shape: tuple[int, int],
    folder: Path,
    tracker: Tracker,
    last_step: int,
    files: plots.Files = plots.PNG,
) -> None:
    """Card, verdict and pictures to `folder` and to the run, and their tags; the run's last update is `last_step`."""
    write_text(folder / "verdict.json", json.dumps(found.verdict.as_dict(), indent=1))
    tracker.set_tags(found.verdict.tags())
    if found.diagnosis is not None:
        for key, figure in diagnosis_figures(found.diagnosis, name, image_shape).items():
            plots.save(figure, path := folder / f"{key}.png", files)
            tracker.log_image(path, key, 0, last_step)
    if found.card is not None:
        record_card(found.card, name, folder, tracker, last_step, files)


def write_report(
    found: Assessment,
    metrics: Mapping[str, float],
    name: str,
    subtitle: str,
    run: Path,
    folder: Path,
    tracker: Tracker,
) -> None:
    """report.html of the run whose folder is `run`, with the pictures of the assessment in `folder`.

    It is written into the run's folder; where that can only be read, into `folder`.
    """
    home = run if can_write(run) else folder
    if home is folder and folder != run:
        log.warning(f"{run} cannot be written: the report is in {folder}")
    pictures = run / "pictures"
    keys = ["fantasies", "reconstructions", "denoising", *(f"weights_{index}" for index in range(1, MOST_LAYERS))]
    path = Report(
        title=name,
        subtitle=subtitle,
        verdict=found.verdict,
        card=found.card,
        metrics=metrics,
        drawn=found.diagnosis.drawn if found.diagnosis else "",
        diagnostics=_existing(folder / f"{key}.png" for key in ("log_partition", *DIAGNOSIS_PICTURES)),
        samples=_existing(pictures / f"{key}_final.png" for key in keys),
        training=_existing((pictures / "learning_curves_final.png", pictures / "data_examples.png")),
        lacking=found.lacking,
        config=(run / "config.yaml").read_text(encoding="utf-8"),
    ).write(home)
    tracker.log_file(path)


def _existing(paths: Iterable[Path]) -> list[Path]:
    return [path for path in paths if path.is_file()]


def diagnosis_figures(diagnosis: Diagnosis, name: str, image_shape: tuple[int, int]) -> dict[str, Figure]:
    """The pictures of a diagnosis, by key; of labels nothing is shown."""
    pixels = VisibleUnits(math.prod(image_shape))
    drawn, mixing = diagnosis.drawn, f"second half of {diagnosis.sweeps:,} Gibbs sweeps; {diagnosis.mixing}"
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


def record_card(
    card: LikelihoodCard, name: str, folder: Path, tracker: Tracker, last_step: int, files: plots.Files = plots.PNG
) -> None:
    """The card as JSON and figure, in `folder` and on the run, and its tags."""
    path = folder / "likelihood.json"
    write_text(path, json.dumps(card.as_dict(), indent=1))
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
    plots.save(figure, path := folder / "log_partition.png", files)
    tracker.log_image(path, "log_partition", 0, last_step)
