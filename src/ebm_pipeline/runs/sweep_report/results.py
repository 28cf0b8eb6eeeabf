"""The table of results: a row for each run, and rows for what there is without a model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ebm_pipeline.evaluation.card import NOT_DETERMINED, Interval
from ebm_pipeline.evaluation.verdict import NOT_EVALUATED
from ebm_pipeline.runs import swept
from ebm_pipeline.runs.report import colour_of
from ebm_pipeline.runs.sweep_report.cells import Cell, Column, Row, Table, column_of, marked, number, term_of
from ebm_pipeline.support.glossary import HIGHER
from ebm_pipeline.tracking import records
from ebm_pipeline.tracking.records import RunRecord

Metrics = Mapping[str, float]
QUANTITIES = {"log_likelihood": "log-likelihood", "variational_bound": "variational bound"}
INDEPENDENT = "independent_log_likelihood"
LIKELIHOOD_TAG, VERDICT_TAG = "ebm.likelihood", "ebm.verdict"
NOT_MEASURED = "not measured: add evaluation=full"
NOT_RECORDED = "not recorded"  # by an earlier version
NO_MODEL = "no model"
NOISY, ALONE = "noisy images as they are", "independent pixels"
MOST_NAMED = 3  # runs that a row without a model names


@dataclass(frozen=True)
class Measure:
    """A metric with those that stand for it in the two rows without a model, "" where there is none."""

    key: str
    noisy: str = ""
    alone: str = ""


RESTORED = Measure(
    "validation/restored_wrong_pixels", "validation/noisy_wrong_pixels", "validation/independent_restored_wrong_pixels"
)
WRONG_OR_ERROR = (  # shares of wrong pixels where all runs have them, else errors
    (
        Measure("validation/denoising_wrong_pixels", "validation/noisy_wrong_pixels", "validation/independent_wrong_pixels"),
        Measure("validation/denoising_error", "validation/noisy_error", "validation/independent_error"),
    ),
    (
        Measure("validation/reconstruction_wrong_pixels", "", "validation/independent_wrong_pixels"),
        Measure("validation/reconstruction_error", "", "validation/independent_error"),
    ),
)  # fmt: skip
PSEUDO_LIKELIHOOD = Measure("validation/pseudo_likelihood", "", f"validation/{INDEPENDENT}")
CLASSIFICATION = Measure("validation/classification_error")
TIME = Measure("time/total_seconds")


def known(run: RunRecord) -> dict[str, float]:
    """All numbers of a run: those in its folder, and in their place those of the store, which may be newer."""
    own = {} if run.output_dir is None else records.read_metrics(run.output_dir)
    return own | run.metrics


def results(names: Sequence[str], runs: Sequence[RunRecord]) -> Table:
    """Likelihood, verdict, errors, size and time of each run, after what there is without a model."""
    numbers = [known(run) for run in runs]
    part, (measures, notes) = likelihood_part(numbers), _measures(runs, numbers)
    columns = (
        Column("log-likelihood or bound", f"nats per image, {part}", HIGHER),
        Column(f"gain over {ALONE}", f"nats per image, {part}", HIGHER),
        Column("verdict"),
        *(column_of(measure.key) for measure in measures),
        Column("parameters"),
        column_of(TIME.key),
    )
    rows = []
    for name, run, own in zip(names, runs, numbers, strict=True):
        cells = (_measured(measure, run, own) for measure in measures)
        rows.append(Row(name, (*_likelihood(run, own, part), *cells, *_costs(run, own)), run.run_id))
    without = [
        *_without(NOISY, names, [_noisy(measures, own) for own in numbers]),
        *_without(ALONE, names, [_alone(measures, own, part) for own in numbers]),
    ]
    return marked(Table(columns, (*without, *rows), tuple(notes)))


def likelihood_part(numbers: Sequence[Metrics]) -> str:
    """The part of the data that likelihoods are shown of: the test images, if any run was measured on them."""
    ends = (INDEPENDENT, *(f"{quantity}_low" for quantity in QUANTITIES))
    return "test" if any(f"test/{end}" in own for own in numbers for end in ends) else "validation"


def interval_of(metrics: Metrics, part: str) -> tuple[str, Interval] | None:
    """The quantity and its interval, nats per image; None where there is none."""
    for quantity in QUANTITIES:
        low, high = (swept.finite(metrics.get(f"{part}/{quantity}_{end}", math.nan)) for end in ("low", "high"))
        if not math.isnan(low + high):
            return quantity, Interval(low, high)
    return None


def why_not(key: str, run: RunRecord, metrics: Metrics) -> str:
    """Why a run has no such number, in a few words."""
    if key == PSEUDO_LIKELIHOOD.key and CLASSIFICATION.key in metrics:
        return "labels are modelled too"
    if key == PSEUDO_LIKELIHOOD.key and "-" in run.params.get("hidden", ""):
        return "for two layers only"
    if key == CLASSIFICATION.key:
        return "models no labels"
    if key == TIME.key:
        return NOT_RECORDED
    if key == RESTORED.key and swept.setting(run, "evaluation.denoising_sweeps") in ("", "0"):
        return "switched off"
    return "for binary pixels only"


def _measures(runs: Sequence[RunRecord], numbers: Sequence[Metrics]) -> tuple[list[Measure], list[str]]:
    """Those that a run has, and what is said of the others."""
    pairs = [wrong if all(wrong.key in own for own in numbers) else error for wrong, error in WRONG_OR_ERROR]
    wanted = [RESTORED, *pairs, PSEUDO_LIKELIHOOD, CLASSIFICATION]
    kept = [measure for measure in wanted if any(measure.key in own for own in numbers)]
    notes = []
    for measure in wanted:
        if measure not in (*kept, CLASSIFICATION):
            reasons = {why_not(measure.key, *one) for one in zip(runs, numbers, strict=True)}
            notes.append(f"No run has {term_of(measure.key).label}: {', '.join(sorted(reasons))}.")
    return kept, notes


def _likelihood(run: RunRecord, metrics: Metrics, part: str) -> tuple[Cell, Cell, Cell]:
    """Interval, gain and verdict."""
    interval, alone = interval_of(metrics, part), swept.finite(metrics.get(f"{part}/{INDEPENDENT}", math.nan))
    verdict = run.tags.get(VERDICT_TAG, NOT_EVALUATED)
    judged = Cell(verdict, colour=colour_of(verdict))
    if interval is None:
        said = NOT_DETERMINED if run.tags.get(LIKELIHOOD_TAG, "").startswith(NOT_DETERMINED) else NOT_MEASURED
        return Cell(said), Cell(said.split(":")[0]), judged
    quantity, ends = interval
    gain = ends.low - alone
    gained = Cell(NOT_RECORDED) if math.isnan(gain) else Cell(f"{gain:.2f}", gain, ends.high - alone)
    return Cell(str(ends), ends.low, ends.high, QUANTITIES[quantity]), gained, judged


def _measured(measure: Measure, run: RunRecord, metrics: Metrics) -> Cell:
    key = measure.key
    return number(key, metrics[key]) if key in metrics else Cell(why_not(key, run, metrics))


def _costs(run: RunRecord, metrics: Metrics) -> tuple[Cell, Cell]:
    count = run.parameters
    return Cell(NOT_RECORDED) if count is None else Cell(f"{count:,}", count, count), _measured(TIME, run, metrics)


def _noisy(measures: Sequence[Measure], metrics: Metrics) -> tuple[Cell, ...]:
    cells = (_in_place(measure.noisy, measure, metrics) for measure in measures)
    return (*[Cell(NO_MODEL)] * 3, *cells, Cell("none"), Cell("none"))


def _alone(measures: Sequence[Measure], metrics: Metrics, part: str) -> tuple[Cell, ...]:
    cells = (_in_place(measure.alone, measure, metrics) for measure in measures)
    key = f"{part}/{INDEPENDENT}"
    likelihood = number(key, metrics[key]) if key in metrics else Cell(NOT_MEASURED)
    return (likelihood, number(key, 0.0), Cell("to be beaten"), *cells, Cell("a mean for each pixel"), Cell("none"))


def _in_place(key: str, measure: Measure, metrics: Metrics) -> Cell:
    """What stands for a measure in a row without a model."""
    if not key:
        return Cell(NO_MODEL)
    return number(measure.key, metrics[key]) if key in metrics else Cell(NOT_RECORDED)


def _without(name: str, names: Sequence[str], cells: Sequence[tuple[Cell, ...]]) -> list[Row]:
    """One row where the numbers are the same for all runs that have them, else one for each kind of run."""
    kinds: list[tuple[list[str], list[Cell]]] = []
    for run, own in zip(names, cells, strict=True):
        for runs, common in kinds:
            if all(
                a.text == b.text
                for a, b in zip(own, common, strict=True)
                if a.value is not None and b.value is not None
            ):
                runs.append(run)
                common[:] = [a if b.value is None else b for a, b in zip(own, common, strict=True)]
                break
        else:
            kinds.append(([run], list(own)))
    if len(kinds) == 1:
        return [Row(name, tuple(kinds[0][1]))]
    return [Row(f"{name}, for {_listed(runs)}", tuple(common)) for runs, common in kinds]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
