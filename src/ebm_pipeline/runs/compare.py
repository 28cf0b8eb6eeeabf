"""`ebm-compare`: table and figures of several runs, and the comparison that ends a sweep."""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from matplotlib.figure import Figure
from omegaconf import DictConfig

from ebm_pipeline import plots
from ebm_pipeline.data.contained import check_self_contained
from ebm_pipeline.data.hdf5 import DAMAGE, check_digest, get_text
from ebm_pipeline.runs import description, swept
from ebm_pipeline.runs.beforehand import before_runs
from ebm_pipeline.runs.configuration import STORE_KEYS, build, check_keys, tracking_uri
from ebm_pipeline.runs.sweep_report.facts import Line
from ebm_pipeline.runs.sweep_report.page import report_of
from ebm_pipeline.runs.sweep_report.sections import pictured, sections
from ebm_pipeline.runs.sweep_report.weights import weights_side_by_side
from ebm_pipeline.runs.swept import MODEL, Group
from ebm_pipeline.support.errors import UserError
from ebm_pipeline.support.files import whole_file, write_text
from ebm_pipeline.support.names import EPOCH, label
from ebm_pipeline.tracking import records
from ebm_pipeline.tracking.records import RunRecord
from ebm_pipeline.tracking.tracker import Tracker

log = logging.getLogger(__name__)

COMPARED = (
    "validation/reconstruction_error", "validation/reconstruction_wrong_pixels", "validation/denoising_error",
    "validation/denoising_wrong_pixels", "validation/restored_wrong_pixels", "validation/pseudo_likelihood",
    "validation/classification_error", "time/total_seconds",
)  # fmt: skip
PICTURED = ("data", "reconstructions", "noisy", "denoised", "fantasies")  # what a run's pictures.h5 holds
PARAMETERS = "parameters"  # how many there are: no metric, but a column
LIKELIHOODS = tuple(
    f"{part}/{quantity}_{end}"
    for part in ("validation", "test")
    for quantity in ("log_likelihood", "variational_bound")
    for end in ("low", "high")
)
SWEPT = (  # what is drawn against what was swept
    *(name for name in LIKELIHOODS if name.endswith("_low")),
    "validation/pseudo_likelihood", "validation/reconstruction_error", "time/total_seconds",
)  # fmt: skip
CURVES = (
    "validation/reconstruction_error", "validation/denoising_error", "validation/pseudo_likelihood",
    "validation/classification_error", "weights/norm", "weights/sparsity",
)  # fmt: skip
RARE = ("validation/classification_error",)  # a column only where a run has it


def compare_runs(config: DictConfig, references: Sequence[str], folder: Path) -> None:
    """`ebm-compare`: any runs, by folder, id or beginning of an id; a sweep stands for its runs."""
    check_keys(config, {"runs": Any, "output_root": str, "tracking": Mapping, "plots": Mapping}, "")
    check_keys(config.tracking, STORE_KEYS, "tracking.")
    if not references:
        raise UserError("nothing to compare: give runs=[...], folders or MLflow run ids")
    files: plots.Files = build(config.plots, "plots", plots.Files)
    uri = tracking_uri(config)
    runs: list[RunRecord] = []
    unfinished: list[Line] = []
    for reference in references:
        record = records.find_run(uri, reference)
        below = records.children(record.uri, record.run_id, record.output_dir)
        under = [run for run in below if run.status == "FINISHED"]
        unfinished += [Line.unfinished(run.name, run, run.outcome) for run in below if run.status != "FINISHED"]
        runs += sorted(under, key=by_size) or [record]
    compare(runs, folder, None, unfinished=unfinished, root=Path(config.output_root), files=files)
    log.info(f"pictures, tables and report.html: {folder}")


def files_of(run: RunRecord) -> plots.Files:
    """How a run has written its pictures."""
    found = swept.setting(run, "plots.format"), swept.setting(run, "plots.dpi")
    if not all(found):  # of an earlier version
        return plots.PNG
    dpi = int(found[1]) if found[1].isdecimal() else found[1]
    files: plots.Files = build(
        {"_target_": "ebm_pipeline.plots.Files", "format": found[0], "dpi": dpi}, "plots", plots.Files
    )
    return files


def by_size(run: RunRecord) -> tuple[int, str]:
    """Key that brings the jobs of a sweep, which may have run side by side, in an order: small models first."""
    return run.parameters or 0, run.name


def compare(
    runs: Sequence[RunRecord],
    folder: Path,
    tracker: Tracker | None,
    words: str = "",
    unfinished: Sequence[Line] = (),
    root: Path | None = None,
    files: plots.Files = plots.PNG,
) -> None:
    """Tables (CSV, Markdown), figures and report.html of several runs, to a folder and to a parent run if there is one.

    Runs that differ in their seed alone are put together: mean and standard error over the seeds. words: the sweep's command;
    unfinished: what the report says of other runs; root: below which it may lead to those of the runs, `folder` if not given;
    files: how pictures are written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = unique_names(runs)
    groups = swept.groups_of(runs)
    columns = table_of(names, runs)
    tables = [_write_csv(folder / "comparison.csv", columns)]
    table = _markdown(columns)
    seeds = max(len(group.runs) for group in groups)
    if seeds > 1:
        over_seeds = table_over_seeds(groups)
        tables.append(_write_csv(folder / "comparison_over_seeds.csv", over_seeds))
        table += f"\n\nMean and standard error over seeds:\n\n{_markdown(over_seeds)}"
    write_text(folder / "comparison.md", table + "\n")
    log.info(table)

    by_name = dict(zip(names, runs, strict=True))
    shown, which = pictured(by_name, groups)
    images = read_pictures(shown)
    weights, unseen = weights_side_by_side(shown)
    figures = comparison_figures(images) | ({} if weights is None else {"weights": weights})
    labels = {run.run_id: group.label for group in groups for run in group.runs}
    grouped = {name: labels[run.run_id] for name, run in by_name.items()} if seeds > 1 else None
    figures["learning_curves"] = learning_curves(by_name, grouped)
    figures |= swept_figures(groups)
    for key, figure in figures.items():
        path = folder / f"{key}.png"
        written = {path, plots.save(figure, path, files)}
        if tracker is not None:
            tracker.log_image(path, key, 0)
            for one in sorted(written):
                tracker.log_file(one, "comparison")
    title = f"Comparison of {len(runs)} runs" if tracker is None else f"Sweep {folder.name}"
    said = [*(Line.of(name, run, folder, root or folder) for name, run in by_name.items()), *unfinished]
    pictures = sections(figures, images.how(), shown, which, unseen)
    report = report_of(by_name, groups, title, words, said, pictures).write(folder)
    if tracker is not None:
        describe_parent(tracker, runs, description.of_sweep(runs, table, folder, words))
        tracker.log_table(columns, "comparison.json")
        tracker.log_file(report)
        for path in (*tables, folder / "comparison.md"):
            tracker.log_file(path, "comparison")


def describe_parent(tracker: Tracker, runs: Sequence[RunRecord], note: str) -> None:
    """What the parent run says of its children: their table, the best of them, what they share, their data set."""
    tracker.set_tags({records.NOTE_TAG: note})
    tracker.log_parameters(description.shared_parameters(runs))
    if len({run.data for run in runs}) == 1 and (data := records.dataset_of(runs[0])) is not None:
        tracker.log_dataset(*data)
    best = description.best_run(runs)
    if best is not None:
        run, name = best
        tracker.set_tags({"ebm.best_run": run.run_id})
        tracker.log_metrics({name: run.metrics[name]}, 0)


def table_of(names: Sequence[str], runs: Sequence[RunRecord]) -> dict[str, list[str]]:
    """A row per run: its name, the settings in which the runs differ, its metrics."""
    columns: dict[str, list[str]] = {"model": list(names)}
    for settings in (differing := swept.differing(runs))[:1]:
        for name in settings:
            if name != swept.MODEL:
                columns[name] = [swept.short(own[name]) for own in differing]
    for key in _compared(runs):
        columns[label(key)] = [shown(key, run.metrics) for run in runs]
    if any(run.parameters for run in runs):
        columns[PARAMETERS] = [str(run.parameters or "-") for run in runs]
    return columns


def table_over_seeds(groups: Sequence[Group]) -> dict[str, list[str]]:
    """A row per group of runs that differ in their seed alone: how many, and `mean +- standard error` of each metric."""
    columns = {
        "runs": [group.label or group.runs[0].name for group in groups],
        "seeds": [str(len(group.runs)) for group in groups],
    }
    for key in _compared([run for group in groups for run in group.runs]):
        columns[label(key)] = [swept.with_error(*group.metric(key)) for group in groups]
    return columns


def _compared(runs: Sequence[RunRecord]) -> list[str]:
    """The metrics of a table; likelihoods and the rare ones only where a run has them."""
    return [
        key
        for key in (*COMPARED, *LIKELIHOODS)
        if (key in COMPARED and key not in RARE) or any(key in run.metrics for run in runs)
    ]


def _write_csv(path: Path, columns: Mapping[str, Sequence[str]]) -> Path:
    with whole_file(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([list(columns), *zip(*columns.values(), strict=True)])
    return path


def _markdown(columns: Mapping[str, Sequence[str]]) -> str:
    rows = zip(*columns.values(), strict=True)
    return "\n".join(
        f"| {' | '.join(cells)} |" for cells in [list(columns), ["---"] + ["---:"] * (len(columns) - 1), *rows]
    )


def unique_names(runs: Sequence[RunRecord]) -> list[str]:
    """The runs' names; where two runs share one, with the settings in which they differ, or else the beginning of the id."""
    names = [run.name for run in runs]
    for apart in (
        [swept.label_of({MODEL: run.name, **own}) for run, own in zip(runs, swept.differing(runs), strict=True)],
        [f"{run.name} {run.run_id[:4]}" for run in runs],
    ):
        if len(set(names)) < len(names):
            names = apart
    return names


def shown(key: str, metrics: Mapping[str, float]) -> str:
    """A metric for a table; a dash where the run has none."""
    return f"{metrics[key]:.4g}" if key in metrics else "-"


@dataclass(frozen=True, eq=False)
class Images:
    """What the pictures.h5 of runs hold: arrays by the run's name, and by the array's name the ways in which it was made."""

    arrays: dict[str, dict[str, Any]]
    made: dict[str, set[str]]

    def how(self) -> dict[str, str]:
        """How each kind of image was made, in words."""
        return {
            key: next(iter(ways)) if len(ways) == 1 else "made in different ways: see each run"
            for key, ways in self.made.items()
        }


def read_pictures(runs: Mapping[str, RunRecord]) -> Images:
    """The images that runs have left; raises UserError where one has none, or damaged ones."""
    found = Images({}, {})
    for name, run in runs.items():
        path = (run.output_dir or Path()) / "pictures.h5"
        if not path.is_file():
            raise UserError(
                f"the run {name} ({run.run_id}) has no pictures at {path}: it is no finished training on this machine"
            )
        try:
            with h5py.File(path) as file:
                check_self_contained(file)
                check_digest(file)
                found.arrays[name] = {key: file[key][:] for key in PICTURED}
                found.arrays[name]["shape"] = tuple(map(int, file.attrs["image_shape"]))
                for key in file:
                    found.made.setdefault(key, set()).add(get_text(file[key], "made", ""))
        except (UserError, *DAMAGE) as error:
            raise UserError(f"{path} is damaged ({error}): take another copy, or leave out the run {name}") from error
    return found


def comparison_figures(images: Images) -> dict[str, Figure]:
    """The study's figures, with a row per run; only of runs that saw the same images."""
    arrays, made = images.arrays, images.how()
    first = next(iter(arrays.values()))
    if not all(np.array_equal(own[key], first[key]) for own in arrays.values() for key in ("shape", "data", "noisy")):
        log.warning("the runs saw different images: the comparison has no rows of images")
        return {}

    def figure(key: str, title: str, *given: str) -> Figure:
        rows = {label.capitalize(): first[label] for label in given}
        return plots.comparison(
            rows | {name: own[key] for name, own in arrays.items()}, first["shape"], title, made[key]
        )

    return {
        "reconstructions": figure("reconstructions", "Reconstructions of validation images", "data"),
        "denoising": figure("denoised", "Denoising of validation images", "data", "noisy"),
        "fantasies": figure("fantasies", "Fantasy particles"),
    }


def learning_curves(runs: Mapping[str, RunRecord], groups: Mapping[str, str] | None = None) -> Figure:
    """Validation metrics against the epoch, from the store; groups: run -> group, which has a colour, where seeds differ."""
    curves: dict[str, dict[str, tuple[Sequence[float], Sequence[float]]]] = {key: {} for key in CURVES}
    histories: dict[tuple[str, str], tuple[list[int], list[float]]] = {}
    for uri in {run.uri for run in runs.values()}:
        there = [run for run in runs.values() if run.uri == uri]
        histories |= records.metric_histories(
            uri, [(run.run_id, key) for run in there for key in (*CURVES, EPOCH) if key in run.metrics]
        )
    for name, run in runs.items():
        epoch_of = dict(zip(*histories.get((run.run_id, EPOCH), ([], [])), strict=True))
        for key in CURVES:
            if (run.run_id, key) in histories:
                steps, values = histories[run.run_id, key]
                curves[key][name] = ([epoch_of.get(step, step) for step in steps], values)
    how = "metrics on validation images" + ("; a curve per seed" if groups else "")
    return plots.learning_curves(curves, "Learning curves", "; ".join([how, *before_runs(runs)]), groups=groups)


def swept_figures(groups: Sequence[Group]) -> dict[str, Figure]:
    """Metrics against the swept setting of most values, a curve for each value of the others; of a grid of two a heat map too."""
    axes = swept.axes_of(groups)
    if axes is None:
        return {}
    keys = [key for key in SWEPT if any(key in run.metrics for g in groups for run in g.runs)]
    panels = {
        key: {name: {value: group.metric(key) for value, group in curve.items()} for name, curve in axes.curves.items()}
        for key in keys
    }
    seeds = [len(group.runs) for group in groups]
    note = f"mean and standard error over {min(seeds)} to {max(seeds)} seeds" if max(seeds) > 1 else "one seed"
    note = note.replace(f"{min(seeds)} to {min(seeds)}", str(min(seeds)))
    figures = {
        "swept": plots.against_settings(
            panels, axes.values, axes.x, "Metrics against what was swept", note, numeric=axes.numeric, lines=axes.whole
        )
    }
    names = list(groups[0].settings)
    if len(names) == 2 and axes.whole and len(axes.curves) > 1:
        (other,) = (name for name in names if name != axes.x)
        rows = [next(iter(curve.values())).settings[other] for curve in axes.curves.values()]
        maps = {
            key: np.array([[points[value][0] for value in axes.values] for points in curves.values()])
            for key, curves in panels.items()
        }
        figures["heat_map"] = plots.heat_maps(
            maps,
            (other, rows),
            (axes.x, axes.values),
            "Metrics over the grid",
            note.replace("mean and standard error", "means"),
        )
    return figures
