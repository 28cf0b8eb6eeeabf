"""Plots of runs: against the epoch, against settings, by class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from ebm_pipeline.plots.frame import COLOURS, MOST_COLUMNS, Array, colours, panels, shortened, title_panel
from ebm_pipeline.plots.scales import mark_better
from ebm_pipeline.support.errors import UserError
from ebm_pipeline.support.names import better, quantity, unit

Curves = Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]]
Panels = Mapping[str, Mapping[str, Mapping[str, tuple[float, float]]]]

PANEL, SETTINGS_PANEL = (2.45, 1.75), (2.6, 2.0)  # inches: panels of curves and of settings
MOST_TICKS = 6  # values of a setting that are all written along an axis


def learning_curves(
    curves: Curves, title: str, subtitle: str = "", x_label: str = "epoch", groups: Mapping[str, str] | None = None
) -> Figure:
    """Small multiples: curves[metric][run] = (steps, values), one panel per metric, with its unit and which way is better.

    metric: the name of one. NaN is a gap. One colour per run, or per group of runs where `groups` (run -> group) is given.
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
            say_metric(panel, metric, PANEL[0])
            panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            panel.yaxis.set_major_locator(MaxNLocator(4))
            panel.tick_params(labelsize=7)
            panel.set_xlabel(x_label)
    return figure


def say_metric(panel: Axes, metric: str, inches: float) -> None:
    """What a panel of this width shows, by the name of a metric: the quantity above it, its unit, which way is better."""
    title_panel(panel, quantity(metric), inches)
    panel.set_ylabel(unit_of(metric))
    mark_better(panel, better(metric))


def unit_of(metric: str) -> str:
    """The unit of a metric as an axis has it; "value" where it is not known."""
    return {"": "value", "1": "pure number"}.get(unit(metric), unit(metric))


def against_settings(
    metrics: Panels, values: Sequence[str], x_label: str, title: str, subtitle: str = "", *, numeric: bool, lines: bool
) -> Figure:
    """Metrics against a setting: metrics[name][curve] = {value of the setting: (mean, standard error)}, one panel each, with its
    unit and which way is better.

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
            say_metric(panel, name, SETTINGS_PANEL[0])
            if numeric and decades:
                panel.set_xscale("log")
            if not numeric or (len(values) <= MOST_TICKS):
                panel.set_xticks(list(places.values()), [shortened(value) for value in values], minor=False)
                panel.set_xticks([], minor=True)
            panel.yaxis.set_major_locator(MaxNLocator(4))
            panel.tick_params(labelsize=7)
            panel.set_xlabel(x_label)
    return figure


def unit_values(values: ArrayLike, floor: float, x_label: str, y_label: str, title: str, subtitle: str = "") -> Figure:
    """A number of each unit (units,) as points against the unit's number, from 1, with the floor they are held at."""
    numbers = np.asarray(values)
    with panels(1, 1, (4.2, 2.2), title, subtitle) as (figure, (axes,)):
        axes.plot(np.arange(1, len(numbers) + 1), numbers, color=COLOURS[0], linewidth=0, marker="o", markersize=2.5)
        axes.axhline(floor, color="#999999", linewidth=0.8, linestyle=(0, (4, 2)), zorder=0)
        axes.set_ylim(bottom=0)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
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
        axes.set_ylabel("share (%)")
    return figure
