"""`ebm-compare`: table and figures of several runs, and the comparison that ends a sweep."""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from matplotlib.figure import Figure
from omegaconf import DictConfig

from ebm_pipeline import plots, tracking
from ebm_pipeline.configuration import STORE_KEYS, check_keys, tracking_uri
from ebm_pipeline.data.hdf5 import DAMAGE
from ebm_pipeline.errors import UserError
from ebm_pipeline.tracking import RunRecord, Tracker

log = logging.getLogger(__name__)

COMPARED = {
    "reconstruction_error": "reconstruction error (RMS)",
    "reconstruction_wrong_pixels": "wrong pixels, reconstructed",
    "denoising_error": "denoising error (RMS)",
    "denoising_wrong_pixels": "wrong pixels, denoised",
    "pseudo_likelihood": "pseudo-likelihood (nats)",
    "parameters": "parameters",
    "training_seconds": "training time (s)",
}
PICTURED = ("data", "reconstructions", "noisy", "denoised", "fantasies")  # what a run's pictures.h5 holds
COUNTED = ("parameters",)


def compare_runs(config: DictConfig, references: Sequence[str], folder: Path) -> None:
    """`ebm-compare`: any runs, by folder, id or beginning of an id; a sweep stands for its runs."""
    check_keys(config, {"runs": Any, "output_root": str, "tracking": Mapping}, "")
    check_keys(config.tracking, STORE_KEYS, "tracking.")
    if not references:
        raise UserError("nothing to compare: give runs=[...], folders or MLflow run ids")
    uri = tracking_uri(config)
    runs: list[RunRecord] = []
    for reference in references:
        record = tracking.find_run(uri, reference)
        under = [run for run in tracking.children(uri, record.run_id) if run.status == "FINISHED"]
        runs += sorted(under, key=by_size) or [record]
    compare(uri, runs, folder, None)
    log.info(f"pictures and table: {folder}")


def by_size(run: RunRecord) -> tuple[float, str]:
    """Key that brings the jobs of a sweep, which may have run side by side, in an order: small models first."""
    return run.metrics.get("parameters", 0.0), run.name


def compare(uri: str, runs: Sequence[RunRecord], folder: Path, tracker: Tracker | None) -> None:
    """Table (CSV, Markdown) and figures of several runs, to a folder and to a parent run if there is one."""
    folder.mkdir(parents=True, exist_ok=True)
    names = unique_names(runs)
    columns: dict[str, list[str]] = {"model": list(names)}
    for key, label in COMPARED.items():
        columns[label] = [shown(key, run.metrics) for run in runs]
    rows = list(zip(*columns.values(), strict=True))
    with open(folder / "comparison.csv", "w", newline="") as file:
        csv.writer(file).writerows([list(columns), *rows])
    table = "\n".join(
        f"| {' | '.join(cells)} |" for cells in [list(columns), ["---"] + ["---:"] * (len(columns) - 1), *rows]
    )
    (folder / "comparison.md").write_text(table + "\n")
    log.info(table)

    figures = comparison_figures(dict(zip(names, runs, strict=True)))
    figures["learning_curves"] = learning_curves(uri, dict(zip(names, runs, strict=True)))
    for key, figure in figures.items():
        path = plots.save(figure, folder / f"{key}.png")
        if tracker is not None:
            tracker.log_image(plots.to_rgb(figure), key, 0)
            tracker.log_file(path, "comparison")
    if tracker is not None:
        tracker.set_tags({tracking.NOTE_TAG: table})
        tracker.log_table(columns, "comparison.json")
        for name in ("comparison.csv", "comparison.md"):
            tracker.log_file(folder / name, "comparison")


def unique_names(runs: Sequence[RunRecord]) -> list[str]:
    """The runs' names, with the beginning of the id where two runs share one."""
    names = [run.name for run in runs]
    return [
        f"{name} {run.run_id[:4]}" if names.count(name) > 1 else name for name, run in zip(names, runs, strict=True)
    ]


def shown(key: str, metrics: Mapping[str, float]) -> str:
    """A figure for a table; a dash where the run has none."""
    if key not in metrics:
        return "-"
    return f"{metrics[key]:.0f}" if key in COUNTED else f"{metrics[key]:.4g}"


def comparison_figures(runs: Mapping[str, RunRecord]) -> dict[str, Figure]:
    """The study's figures, with a row per run; only of runs that saw the same images."""
    arrays: dict[str, dict[str, Any]] = {}
    made: dict[str, set[str]] = {}
    for name, run in runs.items():
        path = (run.output_dir or Path()) / "pictures.h5"
        if not path.is_file():
            raise UserError(
                f"the run {name} ({run.run_id}) has no pictures at {path}: it is no finished training on this machine"
            )
        try:
            with h5py.File(path) as file:
                arrays[name] = {key: file[key][:] for key in PICTURED}
                arrays[name]["shape"] = tuple(map(int, file.attrs["image_shape"]))
                for key in file:
                    made.setdefault(key, set()).add(str(file[key].attrs.get("made", "")))
        except DAMAGE as error:
            raise UserError(f"{path} is damaged ({error}): take another copy, or leave out the run {name}") from error
    first = next(iter(arrays.values()))
    if not all(np.array_equal(own[key], first[key]) for own in arrays.values() for key in ("shape", "data", "noisy")):
        log.warning("the runs saw different images: the comparison has no rows of images")
        return {}

    def figure(key: str, title: str, *given: str) -> Figure:
        rows = {label.capitalize(): first[label] for label in given}
        how = made[key].pop() if len(made[key]) == 1 else "made in different ways: see each run"
        return plots.comparison(rows | {name: own[key] for name, own in arrays.items()}, first["shape"], title, how)

    return {
        "reconstructions": figure("reconstructions", "Reconstructions of validation images", "data"),
        "denoising": figure("denoised", "Denoising of validation images", "data", "noisy"),
        "fantasies": figure("fantasies", "Fantasy particles"),
    }


def learning_curves(uri: str, runs: Mapping[str, RunRecord]) -> Figure:
    """Validation figures against the epoch, from the store."""
    curves: dict[str, dict[str, tuple[Sequence[float], Sequence[float]]]] = {}
    for key in ("reconstruction_error", "denoising_error", "pseudo_likelihood", "weight_norm", "weight_sparsity"):
        curves[key] = {}
        for name, run in runs.items():
            if key in run.metrics:
                steps, values = tracking.metric_history(uri, run.run_id, key)
                epoch_of = dict(zip(*tracking.metric_history(uri, run.run_id, "epoch"), strict=True))
                curves[key][name] = ([epoch_of.get(step, step) for step in steps], values)
    return plots.learning_curves(curves, "Learning curves", "figures on validation images")
