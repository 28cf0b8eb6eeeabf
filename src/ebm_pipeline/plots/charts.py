"""Plots of runs: against the epoch, against settings, by class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from ebm_pipeline.plots.frame import COLOURS, Array, colours, panels, title_panel
from ebm_pipeline.support.errors import UserError

Curves = Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]]
Panels = Mapping[str, Mapping[str, Mapping[str, tuple[float, float]]]]

PANEL, SETTINGS_PANEL, LEAST_WIDTH = (
    (2.35, 1.55),
    (2.6, 2.0),
    3.2,
)  # inches: panels of curves and of settings, heat maps
MOST_COLUMNS = 3  # panels side by side
MOST_TICKS = 6  # values of a setting that are all written along an axis
MOST_NUMBERED = 20  # classes of a confusion matrix whose numbers are written into it


def learning_curves(
    curves: Curves, title: str, subtitle: str = "", x_label: str = "epoch", groups: Mapping[str, str] | None = None
) -> Figure:
    """Small multiples: curves[metric][run] = (steps, values), one panel per metric; NaN is a gap.

    One colour per run, or per group of runs where `groups` (run -> group) is given.
    """
    names = [metric for metric, runs in curves.items() if any(len(steps) for steps, _ in runs.values())]
    if not names:
        raise UserError("there are no curves to draw: the runs have recorded no metrics")
    runs = list(dict.fromkeys(run for metric in names for run in curves[metric]))
    group_of = groups or dict(zip(runs, runs, strict=True))
    colour_of = colours(list(dict.fromkeys(group_of[run] for run in runs)))
    columns = min(MOST_COLUMNS, math.ceil(math.sqrt(len(names))))
    with panels(len(names), columns, PANEL, title, subtitle, colour_of) as (figure, axes):
        for panel, metric in zip(axes, names, strict=True):
            for run, (steps, values) in curves[metric].items():
                marker = "." if len(steps) < 30 and not groups else None
                panel.plot(
                    steps, values, color=colour_of[group_of[run]], linewidth=1.1 if not groups else 0.8, marker=marker,
                    markersize=3,
                )  # fmt: skip
            title_panel(panel, metric.replace("_", " "), PANEL[0])
            panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            panel.yaxis.set_major_locator(MaxNLocator(4))
            panel.tick_params(labelsize=7)
        for panel in axes[-columns:]:
            panel.set_xlabel(x_label)
    return figure


def against_settings(
    metrics: Panels, values: Sequence[str], x_label: str, title: str, subtitle: str = "", *, numeric: bool, lines: bool
) -> Figure:
    """Metrics against a setting: metrics[name][curve] = {value of the setting: (mean, standard error)}, one panel each.

    values: those of the setting in their order, along a logarithmic axis where they are numbers that span more than a
    decade. A standard error that is NaN has no bar. lines: join the points of a curve.
    """
    colour_of = colours(list(dict.fromkeys(label for curves in metrics.values() for label in curves)))
    places = {value: float(value) if numeric else float(index) for index, value in enumerate(values)}
    decades = min(places.values()) > 0 and max(places.values()) >= 10 * min(places.values())
    columns = min(MOST_COLUMNS, len(metrics))
    with panels(len(metrics), columns, SETTINGS_PANEL, title, subtitle, colour_of) as (figure, axes):
        for panel, (name, curves) in zip(axes, metrics.items(), strict=True):
            for label, points in curves.items():
                means, errors = np.array([points[value] for value in values if value in points]).T
                panel.errorbar(
                    [places[value] for value in values if value in points], means, np.nan_to_num(errors),
                    color=colour_of[label], linewidth=1.1 if lines else 0, elinewidth=0.9, marker="o", markersize=3, capsize=2,
                )  # fmt: skip
            title_panel(panel, name, SETTINGS_PANEL[0])
            if numeric and decades:
                panel.set_xscale("log")
            if not numeric or (len(values) <= MOST_TICKS):
                panel.set_xticks(list(places.values()), [_shortened(value) for value in values], minor=False)
                panel.set_xticks([], minor=True)
            panel.yaxis.set_major_locator(MaxNLocator(4))
            panel.tick_params(labelsize=7)
            panel.set_xlabel(x_label)
    return figure


def heat_maps(
    metrics: Mapping[str, Array],
    rows: tuple[str, Sequence[str]],
    columns: tuple[str, Sequence[str]],
    title: str,
    subtitle: str = "",
) -> Figure:
    """Metrics over a grid of two settings: metrics[name] (values of the row's setting, values of the column's).

    rows, columns: name of the setting and its values.
    """
    cell = 0.5
    size = cell * len(columns[1]) + 1.3, 0.6 * cell * len(rows[1]) + 0.75
    across = min(MOST_COLUMNS, len(metrics))
    with panels(len(metrics), across, size, title, subtitle, least_width=LEAST_WIDTH) as (figure, axes):
        for panel, (name, array) in zip(axes, metrics.items(), strict=True):
            drawn = panel.imshow(array, cmap="viridis", aspect="auto")
            for (row, column), value in np.ndenumerate(array):
                shade = float(np.asarray(drawn.norm(value)))
                panel.text(
                    column, row, "-" if np.isnan(value) else f"{value:.4g}", ha="center", va="center", fontsize=6.5,
                    color="black" if shade > 0.6 or np.isnan(value) else "white",
                )  # fmt: skip
            title_panel(panel, name, max(size[0], LEAST_WIDTH / across))
            panel.set_xticks(range(len(columns[1])), [_shortened(value) for value in columns[1]])
            panel.set_yticks(range(len(rows[1])), [_shortened(value) for value in rows[1]])
            panel.set_xlabel(columns[0])
            panel.set_ylabel(rows[0])
            panel.tick_params(labelsize=7, length=0)
            for spine in panel.spines.values():
                spine.set_visible(False)
    return figure


def confusion_matrix(counts: ArrayLike, title: str, subtitle: str = "") -> Figure:
    """How many images of each class (row) were given each label (column): (classes, classes), shaded by the share of a row."""
    numbers = np.asarray(counts)
    shares = numbers / np.maximum(numbers.sum(1, keepdims=True), 1)
    inches = max(2.6, 0.36 * len(numbers))
    with panels(1, 1, (inches + 0.4, inches + 0.4), title, subtitle) as (figure, (axes,)):
        axes.imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=1)  # the root shows the few that are wrong
        if len(numbers) <= MOST_NUMBERED:
            for (row, column), number in np.ndenumerate(numbers):
                colour = "white" if shares[row, column] > 0.4 else "black" if number else "#bbbbbb"
                axes.text(column, row, str(number), ha="center", va="center", fontsize=7, color=colour)
            axes.set_xticks(range(len(numbers)))
            axes.set_yticks(range(len(numbers)))
        axes.set_xlabel("most probable label")
        axes.set_ylabel("label of the data")
    return figure


def class_shares(
    samples: Mapping[str, tuple[Array, Array]], data: ArrayLike, classes: Sequence[int], title: str, subtitle: str = ""
) -> Figure:
    """Share of each class, percent: samples[name] = (shares, standard errors), each (classes,), beside those of the data."""
    expected = 100 * np.asarray(data)
    places = np.arange(len(expected))
    inches = max(4.2, 0.5 * len(expected) + 0.8)
    legend = {"training images": "#c8c8c8"} | dict(zip(samples, COLOURS, strict=False))
    with panels(1, 1, (inches, 2.2), title, subtitle, legend) as (figure, (axes,)):
        axes.bar(places, expected, width=0.8, color="#c8c8c8")
        for index, (name, (shares, errors)) in enumerate(samples.items()):
            moved = 0.22 * (index - (len(samples) - 1) / 2)
            axes.errorbar(
                places + moved, 100 * shares, 200 * errors, color=legend[name], linewidth=0, elinewidth=1, marker="o",
                markersize=3.5, capsize=2,
            )  # fmt: skip
        axes.set_xticks(places, map(str, classes))
        axes.set_ylim(bottom=0)
        axes.set_xlabel("class")
        axes.set_ylabel("share, percent")
    return figure


def _shortened(value: str) -> str:
    """A setting's value for an axis: a number to three digits."""
    try:
        return f"{float(value):.3g}"
    except ValueError:
        return value
