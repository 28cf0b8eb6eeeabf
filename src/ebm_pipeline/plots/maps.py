"""Arrays as fields of colour, each with its scale as a bar: metrics over settings, matrices, confusion of labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from ebm_pipeline.plots.charts import unit_of
from ebm_pipeline.plots.frame import MOST_COLUMNS, Array, panels, shortened, title_panel
from ebm_pipeline.plots.scales import (
    SEQUENTIAL,
    colour_bar,
    colours_of,
    scale_of,
    signed_scale,
)
from ebm_pipeline.support.glossary import HIGHER, LOWER
from ebm_pipeline.support.names import better, better_is_lower, quantity

CELL, LEAST_WIDTH, LEAST_HEIGHT = 0.52, 3.2, 1.1  # inches: a cell with its number, a picture, a bar with its label
MATRIX_PANEL = (3.0, 2.6)
MOST_NUMBERED = 20  # classes of a confusion matrix whose numbers are written into it
BRIGHT = {LOWER: "\n(bright: lower, better)", HIGHER: "\n(bright: higher, better)"}
DARK = 0.5  # brightness below which a number on a colour is white
BRIGHTNESS = np.array([0.299, 0.587, 0.114])  # of red, green and blue (ITU-R BT.601)


def heat_maps(
    metrics: Mapping[str, Array],
    rows: tuple[str, Sequence[str]],
    columns: tuple[str, Sequence[str]],
    title: str,
    subtitle: str = "",
) -> Figure:
    """Metrics over a grid of two settings: metrics[name] (values of the row's setting, values of the column's).

    rows, columns: name of the setting and its values. The bright end of the scale is the better one, also where less is better.
    """
    size = CELL * len(columns[1]) + 1.9, max(0.6 * CELL * len(rows[1]), LEAST_HEIGHT) + 0.8
    across = min(MOST_COLUMNS, len(metrics), max(1, int(9 / size[0])))
    with panels(len(metrics), across, size, title, subtitle, least_width=LEAST_WIDTH) as (figure, axes):
        for panel, (name, array) in zip(axes, metrics.items(), strict=True):
            drawn = panel.imshow(array, cmap=colours_of(SEQUENTIAL, reverse=better_is_lower(name)), aspect="auto")
            for (row, column), value in np.ndenumerate(array):
                panel.text(
                    column, row, "-" if np.isnan(value) else f"{value:.4g}", ha="center", va="center", fontsize=6.5,
                    color=readable_on(drawn.to_rgba(value)),
                )  # fmt: skip
            title_panel(panel, quantity(name), max(size[0] - 0.4, LEAST_WIDTH / across))
            panel.set_xticks(range(len(columns[1])), [shortened(value) for value in columns[1]])
            panel.set_yticks(range(len(rows[1])), [shortened(value) for value in rows[1]])
            panel.set_xlabel(columns[0])
            panel.set_ylabel(rows[0])
            panel.tick_params(labelsize=7, length=0)
            for spine in panel.spines.values():
                spine.set_visible(False)
            way = BRIGHT.get(better(name), "")
            colour_bar(figure, drawn, f"{unit_of(name)}{way}", beside=panel)
    return figure


def readable_on(colour: Any) -> str:
    """Black or white, for letters on a colour (red, green, blue, ...) from 0 to 1."""
    return "white" if float(BRIGHTNESS @ np.asarray(colour)[:3]) < DARK else "black"


def matrices(
    arrays: Mapping[str, ArrayLike],
    x_label: str,
    y_label: str,
    bar_label: str,
    title: str,
    subtitle: str = "",
    *,
    signed: bool = False,
) -> Figure:
    """arrays[label] (rows, columns) as fields of colour, a panel each with a scale of its own; numbered from 1.

    The scale is about 0 where numbers are negative, or of a kind that could be (`signed`), else from 0.
    """
    across = min(MOST_COLUMNS, len(arrays))
    with panels(len(arrays), across, MATRIX_PANEL, title, subtitle, least_width=LEAST_WIDTH) as (figure, axes):
        for panel, (label, array) in zip(axes, arrays.items(), strict=True):
            values = np.asarray(array, dtype=np.float64)
            scale = signed_scale(float(np.abs(values).max())) if signed else scale_of(values)
            height, width = values.shape
            extent = (0.5, width + 0.5, height + 0.5, 0.5)
            drawn = panel.imshow(values, aspect="auto", interpolation="nearest", extent=extent, **scale)
            if len(arrays) > 1 or label:
                title_panel(panel, label, MATRIX_PANEL[0])
            for axis in (panel.xaxis, panel.yaxis):
                axis.get_major_locator().set_params(integer=True, min_n_ticks=1)  # type: ignore[call-arg]
            panel.set_xlabel(x_label)
            panel.set_ylabel(y_label)
            panel.tick_params(labelsize=7)
            colour_bar(figure, drawn, bar_label, beside=panel)
    return figure


def confusion_matrix(counts: ArrayLike, title: str, subtitle: str = "") -> Figure:
    """How many images of each class (row) were given each label (column): (classes, classes), shaded by the share of a row."""
    numbers = np.asarray(counts)
    shares = numbers / np.maximum(numbers.sum(1, keepdims=True), 1)
    inches = max(2.6, 0.36 * len(numbers))
    with panels(1, 1, (inches + 1.0, inches + 0.4), title, subtitle) as (figure, (axes,)):
        shown = 100 * shares  # by its root, which shows the few that are wrong
        drawn = axes.imshow(shown, cmap=colours_of(SEQUENTIAL), norm=PowerNorm(0.5, 0, 100))
        if len(numbers) <= MOST_NUMBERED:
            for (row, column), number in np.ndenumerate(numbers):
                colour = readable_on(drawn.to_rgba(shown[row, column]))
                axes.text(column, row, str(number), ha="center", va="center", fontsize=7, color=colour)
            axes.set_xticks(range(len(numbers)))
            axes.set_yticks(range(len(numbers)))
        axes.set_xlabel("most probable label")
        axes.set_ylabel("label of the data")
        colour_bar(figure, drawn, "share of the row (%)", beside=axes)
    return figure


def value_map(
    values: ArrayLike, image_shape: tuple[int, int], bar_label: str, title: str, subtitle: str = ""
) -> Figure:
    """A number of each pixel (pixels,) where the pixel lies in the image."""
    image = np.asarray(values, dtype=np.float64).reshape(image_shape)
    inches = 2.0
    stretch: Literal["auto", "equal"] = "auto" if max(image_shape) > 4 * min(image_shape) else "equal"
    with panels(1, 1, (inches + 1.1, inches + 0.3), title, subtitle, least_width=LEAST_WIDTH) as (figure, (axes,)):
        drawn = axes.imshow(image, interpolation="nearest", aspect=stretch, **scale_of(image))
        axes.set_xticks([])
        axes.set_yticks([])
        colour_bar(figure, drawn, bar_label, beside=axes)
    return figure
