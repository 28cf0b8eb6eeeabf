"""All pictures. Knows arrays and shapes only; every function returns a matplotlib figure made without pyplot.

Many images are drawn as one mosaic in one axes: a hundred tiles cost about as much as one.
"""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from ebm_pipeline.errors import UserError

Array = NDArray[Any]
Curves = Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]]
Panels = Mapping[str, Mapping[str, Mapping[str, tuple[float, float]]]]

TILE_INCHES = 0.62
MOST_POINTS = 500  # of a trace, in a panel
MOST_TICKS = 6  # values of a setting that are all written along an axis
MOST_NUMBERED = 20  # classes of a confusion matrix whose numbers are written into it
FINE = 24  # tiles of fewer pixels to a side are enlarged to about this many, so that the gaps between them stay thin
DPI = 150
STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
}
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")  # Okabe & Ito 2008


def image_grid(
    images: ArrayLike, image_shape: tuple[int, int], title: str, subtitle: str = "", columns: int = 8
) -> Figure:
    """Images (count, units) as grey tiles, dark ink on white; values outside [0, 1] are scaled to their range."""
    tiles = _tiles(images, image_shape)
    values, note = _unit_range(tiles)
    mosaic = _mosaic(values, columns, gap_value=np.nan)
    figure, axes = _figure(mosaic, title, _join(subtitle, note), columns)
    axes.imshow(mosaic, cmap=_with_gap("gray_r"), vmin=0, vmax=1, interpolation="nearest")
    return figure


def weight_grid(
    weights: ArrayLike, image_shape: tuple[int, int], title: str, subtitle: str = "", columns: int = 5, count: int = 25
) -> Figure:
    """The first `count` columns of the weights (pixels, units) as tiles, one colour scale symmetric about 0."""
    tiles = _tiles(np.asarray(weights).T[:count], image_shape)
    limit = float(np.abs(tiles).max()) or 1.0
    mosaic = _mosaic(tiles, columns, gap_value=np.nan)
    figure, axes = _figure(mosaic, title, subtitle, columns, right_inches=0.75)
    drawn = axes.imshow(mosaic, cmap=_with_gap("RdBu_r"), vmin=-limit, vmax=limit, interpolation="nearest")
    box = axes.get_position()
    bar_axes = figure.add_axes(
        (box.x1 + 0.12 / figure.get_figwidth(), box.y0, 0.09 / figure.get_figwidth(), box.height)
    )
    bar = figure.colorbar(drawn, cax=bar_axes)
    bar.outline.set_linewidth(0.4)
    bar.ax.tick_params(labelsize=7, width=0.4, length=2)
    return figure


def comparison(rows: Mapping[str, ArrayLike], image_shape: tuple[int, int], title: str, subtitle: str = "") -> Figure:
    """One labelled row of images (count, units) per entry, one column per image."""
    if not rows:
        raise UserError("a comparison needs at least one row of images")
    arrays = {label: _tiles(images, image_shape) for label, images in rows.items()}
    columns = min(len(tiles) for tiles in arrays.values())
    values, note = _unit_range(np.concatenate([tiles[:columns] for tiles in arrays.values()]))
    mosaic = _mosaic(values, columns, gap_value=np.nan)
    left = 0.25 + 0.062 * max(len(label) for label in rows)
    figure, axes = _figure(mosaic, title, _join(subtitle, note), columns, left_inches=left)
    axes.imshow(mosaic, cmap=_with_gap("gray_r"), vmin=0, vmax=1, interpolation="nearest")
    height, width = values.shape[1:]
    for row, label in enumerate(rows):
        middle = row * (height + _gap((height, width))) + height / 2
        axes.text(-width * 0.15, middle, label, ha="right", va="center", fontsize=8)
    return figure


def data_examples(
    images: ArrayLike,
    labels: ArrayLike | None,
    image_shape: tuple[int, int],
    title: str,
    subtitle: str = "",
    columns: int = 8,
) -> Figure:
    """Images (count, units) with their labels above, where there are labels."""
    figure = image_grid(images, image_shape, title, subtitle, columns)
    if labels is not None:
        axes = figure.axes[0]
        height, width = _tiles(images, image_shape).shape[1:]
        gap = _gap((height, width))
        for index, label in enumerate(np.asarray(labels)):
            row, column = divmod(index, columns)
            axes.text(
                column * (width + gap) + width * 0.97,
                row * (height + gap) + height * 0.04,
                str(label), ha="right", va="top", fontsize=6, color=COLOURS[1],
            )  # fmt: skip
    return figure


def confusion_matrix(counts: ArrayLike, title: str, subtitle: str = "") -> Figure:
    """How many images of each class (row) were given each label (column): (classes, classes), shaded by the share of a row."""
    numbers = np.asarray(counts)
    shares = numbers / np.maximum(numbers.sum(1, keepdims=True), 1)
    inches = max(2.6, 0.36 * len(numbers))
    lines = _wrapped(subtitle, inches + 0.7)
    headings = _headings_inches(lines)
    width, height = inches + 0.7, inches + headings + 0.5
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), dpi=DPI)
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0.55 / width, 0.45 / height, inches / width, inches / height))
        axes.imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=1)  # the root shows the few that are wrong
        if len(numbers) <= MOST_NUMBERED:
            for (row, column), number in np.ndenumerate(numbers):
                colour = "white" if shares[row, column] > 0.4 else "black" if number else "#bbbbbb"
                axes.text(column, row, str(number), ha="center", va="center", fontsize=7, color=colour)
            axes.set_xticks(range(len(numbers)))
            axes.set_yticks(range(len(numbers)))
        axes.set_xlabel("most probable label")
        axes.set_ylabel("label of the data")
        _headings(figure, title, "\n".join(lines))
    return figure


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
    labels = list(dict.fromkeys(group_of[run] for run in runs))
    colours = dict(zip(labels, _colours(len(labels)), strict=True))
    columns = min(3, math.ceil(math.sqrt(len(names))))
    rows = math.ceil(len(names) / columns)
    legend_columns = max(1, int((2.35 * columns + 0.1) / (0.4 + 0.062 * max(len(label) for label in labels))))
    legend_rows = math.ceil(len(labels) / legend_columns) if len(labels) > 1 else 0
    headings = 0.3 + (0.16 if subtitle else 0)
    height = 1.55 * rows + headings + 0.2 * legend_rows + 0.1
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.35 * columns + 0.3, height), dpi=DPI)
        FigureCanvasAgg(figure)
        panels = figure.subplots(rows, columns, squeeze=False).flatten()
        for panel, metric in zip(panels, names, strict=False):
            for run, (steps, values) in curves[metric].items():
                marker = "." if len(steps) < 30 and not groups else None
                panel.plot(
                    steps, values, color=colours[group_of[run]], linewidth=1.1 if not groups else 0.8, marker=marker,
                    markersize=3,
                )  # fmt: skip
            panel.set_title(metric.replace("_", " "), loc="left")
            panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            panel.yaxis.set_major_locator(MaxNLocator(4))
            panel.tick_params(labelsize=7)
        for panel in panels[len(names) :]:
            panel.set_visible(False)
        for panel in panels[max(0, len(names) - columns) : len(names)]:
            panel.set_xlabel(x_label)
        _headings(figure, title, subtitle)
        top = 1 - headings / height
        if legend_rows:
            _legend(figure, colours, legend_columns, top)
            top -= (0.2 * legend_rows + 0.05) / height
        figure.tight_layout(rect=(0, 0, 1, top))
    return figure


def against_settings(
    panels: Panels, values: Sequence[str], x_label: str, title: str, subtitle: str = "", *, numeric: bool, lines: bool
) -> Figure:
    """Figures against a setting: panels[figure][curve] = {value of the setting: (mean, standard error)}, one panel each.

    values: those of the setting in their order, along a logarithmic axis where they are numbers that span more than a
    decade. A standard error that is NaN has no bar. lines: join the points of a curve.
    """
    labels = list(dict.fromkeys(label for curves in panels.values() for label in curves))
    colours = dict(zip(labels, _colours(len(labels)), strict=True))
    places = {value: float(value) if numeric else float(index) for index, value in enumerate(values)}
    positive = min(places.values()) > 0 and max(places.values()) >= 10 * min(places.values())
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    width = 2.6 * columns + 0.3
    legend_columns = max(1, int((width - 0.2) / (0.4 + 0.062 * max(len(label) for label in labels))))
    legend_rows = math.ceil(len(labels) / legend_columns) if len(labels) > 1 else 0
    lines_above = _wrapped(subtitle, width)
    headings = _headings_inches(lines_above)
    height = 2.0 * rows + headings + 0.2 * legend_rows + 0.1
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), dpi=DPI)
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, columns, squeeze=False).flatten()
        for panel, (name, curves) in zip(axes, panels.items(), strict=False):
            for label, points in curves.items():
                means, errors = np.array([points[value] for value in values if value in points]).T
                panel.errorbar(
                    [places[value] for value in values if value in points], means, np.nan_to_num(errors),
                    color=colours[label], linewidth=1.1 if lines else 0, elinewidth=0.9, marker="o", markersize=3, capsize=2,
                )  # fmt: skip
            panel.set_title(name, loc="left")
            if numeric and positive:
                panel.set_xscale("log")
            if not numeric or (len(values) <= MOST_TICKS):
                panel.set_xticks(list(places.values()), [_shortened(value) for value in values], minor=False)
                panel.set_xticks([], minor=True)
            panel.yaxis.set_major_locator(MaxNLocator(4))
            panel.tick_params(labelsize=7)
            panel.set_xlabel(x_label)
        for panel in axes[len(panels) :]:
            panel.set_visible(False)
        _headings(figure, title, "\n".join(lines_above))
        top = 1 - headings / height
        if legend_rows:
            _legend(figure, colours, legend_columns, top)
            top -= (0.2 * legend_rows + 0.05) / height
        figure.tight_layout(rect=(0, 0, 1, top))
    return figure


def heat_maps(
    panels: Mapping[str, Array],
    rows: tuple[str, Sequence[str]],
    columns: tuple[str, Sequence[str]],
    title: str,
    subtitle: str = "",
) -> Figure:
    """Figures over a grid of two settings: panels[figure] (values of the row's setting, values of the column's).

    rows, columns: name of the setting and its values.
    """
    across = min(3, len(panels))
    down = math.ceil(len(panels) / across)
    cell = 0.5
    panel_width, panel_height = cell * len(columns[1]) + 1.3, 0.6 * cell * len(rows[1]) + 0.75
    width = max(panel_width * across + 0.2, 3.2)
    lines_above = _wrapped(subtitle, width)
    headings = _headings_inches(lines_above)
    height = panel_height * down + headings + 0.1
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), dpi=DPI)
        FigureCanvasAgg(figure)
        axes = figure.subplots(down, across, squeeze=False).flatten()
        for panel, (name, array) in zip(axes, panels.items(), strict=False):
            drawn = panel.imshow(array, cmap="viridis", aspect="auto")
            for (row, column), value in np.ndenumerate(array):
                shade = drawn.norm(value)
                panel.text(
                    column, row, "-" if np.isnan(value) else f"{value:.4g}", ha="center", va="center", fontsize=6.5,
                    color="black" if shade > 0.6 or np.isnan(value) else "white",
                )  # fmt: skip
            panel.set_title(name, loc="left")
            panel.set_xticks(range(len(columns[1])), [_shortened(value) for value in columns[1]])
            panel.set_yticks(range(len(rows[1])), [_shortened(value) for value in rows[1]])
            panel.set_xlabel(columns[0])
            panel.set_ylabel(rows[0])
            panel.tick_params(labelsize=7, length=0)
            for spine in panel.spines.values():
                spine.set_visible(False)
        for panel in axes[len(panels) :]:
            panel.set_visible(False)
        _headings(figure, title, "\n".join(lines_above))
        figure.tight_layout(rect=(0, 0, 1, 1 - headings / height))
    return figure


def samples_against_data(
    points: Mapping[str, ArrayLike], energies: Mapping[str, ArrayLike], title: str, subtitle: str = ""
) -> Figure:
    """Two panels: points[set] (count, 2) in the plane of two principal components, and histograms of energies[set]."""
    with matplotlib.rc_context(STYLE):
        figure, (left, right), top = _two_panels(2.6, title, subtitle)
        every = np.concatenate([np.asarray(values, dtype=np.float64) for values in energies.values()])
        bins = np.histogram_bin_edges(every, 40)
        for colour, (name, values) in zip(COLOURS, energies.items(), strict=False):
            place = np.asarray(points[name])
            left.scatter(place[:, 0], place[:, 1], s=3, color=colour, alpha=0.5, linewidths=0, label=name)
            right.hist(np.asarray(values), bins=bins.tolist(), density=True, histtype="step", color=colour, label=name)
        left.set_xlabel("first principal component of the data")
        left.set_ylabel("second")
        right.set_xlabel("free energy, less its mean over the data (nats)")
        right.set_ylabel("density")
        right.legend(loc="best")
        figure.tight_layout(rect=(0, 0, 1, top))
    return figure


def chains_by_sweeps(
    images: Mapping[str, Mapping[int, ArrayLike]], image_shape: tuple[int, int], title: str, subtitle: str = ""
) -> Figure:
    """Samples images[start][sweeps] (count, units): a row per start and number of sweeps."""
    rows = {f"{start}, {sweeps:,}": states for start, by in images.items() for sweeps, states in by.items()}
    return comparison(rows, image_shape, title, subtitle)


def approach_of_chains(
    curves: Mapping[str, tuple[Sequence[int], Sequence[float], Sequence[float]]], title: str, subtitle: str = ""
) -> Figure:
    """Two panels against the sweeps made: curves[start] = (sweeps, mean free energies, energy distances to data)."""
    with matplotlib.rc_context(STYLE):
        figure, panels, top = _two_panels(2.3, title, subtitle)
        for index, (panel, label) in enumerate(
            zip(panels, ("mean free energy,\nless that of data (nats)", "energy distance to data"), strict=True),
            start=1,
        ):
            for colour, (name, curve) in zip(COLOURS, curves.items(), strict=False):
                panel.plot(curve[0], curve[index], color=colour, marker="o", markersize=3, label=f"start: {name}")
            panel.axhline(0, color="#999999", linewidth=0.6, zorder=0)
            panel.set_xscale("log")
            panel.set_yscale("symlog", linthresh=(1.0, 0.01)[index - 1])
            panel.set_xlabel("sweeps")
            panel.set_ylabel(label)
        panels[1].legend(loc="best")
        figure.tight_layout(rect=(0, 0, 1, top))
    return figure


def energy_traces(
    traces: Mapping[str, ArrayLike], first_sweep: int, title: str, subtitle: str = "", count: int = 6
) -> Figure:
    """Two panels, traces[start] (chains, sweeps): free energies of the first `count` chains, on one scale."""
    with matplotlib.rc_context(STYLE):
        figure, panels, top = _two_panels(2.3, title, subtitle)
        shown = {name: np.asarray(trace, dtype=np.float64)[:count] for name, trace in traces.items()}
        low, high = min(trace.min() for trace in shown.values()), max(trace.max() for trace in shown.values())
        for panel, (name, trace) in zip(panels, shown.items(), strict=True):
            every = max(1, trace.shape[1] // MOST_POINTS)
            sweeps = first_sweep + np.arange(trace.shape[1])
            for colour, values in zip(COLOURS, trace, strict=False):
                panel.plot(sweeps[::every], values[::every], color=colour, linewidth=0.5)
            panel.set_title(f"start: {name}", loc="left")
            panel.set_ylim(low - 0.05 * (high - low) - 1e-9, high + 0.05 * (high - low) + 1e-9)
            panel.set_xlabel("sweeps")
        panels[0].set_ylabel("free energy,\nless the mean of data (nats)")
        figure.tight_layout(rect=(0, 0, 1, top))
    return figure


def moments(pairs: Mapping[str, tuple[ArrayLike, ArrayLike]], title: str, subtitle: str = "") -> Figure:
    """Two panels, pairs[moment] = (of data, of samples), each (count,): points on the diagonal agree."""
    with matplotlib.rc_context(STYLE):
        figure, panels, top = _two_panels(2.6, title, subtitle)
        for panel, (name, (data, samples)) in zip(panels, pairs.items(), strict=True):
            x, y = np.asarray(data), np.asarray(samples)
            ends = [min(x.min(), y.min()), max(x.max(), y.max())]
            panel.plot(ends, ends, color="#999999", linewidth=0.6, zorder=0)
            panel.scatter(x, y, s=3, color=COLOURS[0], alpha=0.4, linewidths=0, rasterized=True)
            panel.set_xlabel(f"{name}, data")
            panel.set_ylabel(f"{name}, samples")
        figure.tight_layout(rect=(0, 0, 1, top))
    return figure


def log_partition_estimates(
    ways: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    ends: Mapping[str, Sequence[tuple[int, float, float]]],
    interval: tuple[float, float],
    title: str,
    subtitle: str = "",
) -> Figure:
    """Estimates of log Z by direction: along beta, ways[name] = (betas, log Z), and at beta 1 against the temperatures.

    ends[name] = [(temperatures, log Z, two standard errors), ...]; `interval` is shaded. All in nats.
    """
    with matplotlib.rc_context(STYLE):
        figure, (left, right), top = _two_panels(2.3, title, subtitle)
        styles = ("-", (0, (4, 2)))
        for number, (name, (betas, values)) in enumerate(ways.items()):
            left.plot(betas, values, color=COLOURS[number], linewidth=1.2, linestyle=styles[number % 2], label=name)
        left.set_xlabel("inverse temperature")
        left.set_ylabel("log Z (nats)")
        left.legend(loc="best")
        right.axhspan(*interval, color="#dfe5ec", linewidth=0)
        for number, points in enumerate(ends.values()):
            counts, values, errors = zip(*points, strict=True)
            moved = [count * (0.97 if number == 0 else 1.03) for count in counts]  # so that the bars do not overlap
            right.errorbar(
                moved,
                values,
                errors,
                color=COLOURS[number],
                marker="o",
                markersize=3,
                capsize=2,
                linewidth=0.9,
            )
        right.set_xscale("log")
        shown = sorted({count for points in ends.values() for count, _, _ in points})
        right.set_xticks(shown, [f"{float(f'{count:.2g}'):,.0f}" for count in shown])
        right.minorticks_off()
        right.set_xlim(shown[0] / 1.3, shown[-1] * 1.3)
        right.set_xlabel("temperatures")
        right.set_ylabel("log Z (nats), 2 standard errors")
        figure.tight_layout(rect=(0, 0, 1, top))
    return figure


def to_rgb(figure: Figure) -> NDArray[np.uint8]:
    """The figure as (height, width, 3), rendered unless it is already."""
    canvas = figure.canvas if isinstance(figure.canvas, FigureCanvasAgg) else FigureCanvasAgg(figure)
    if figure.stale:
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        Image.fromarray(to_rgb(figure)).save(partial, format="png", dpi=(DPI, DPI))
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"cannot write the picture {path} ({error})") from error
    finally:
        partial.unlink(missing_ok=True)
    return path


# -------------------------------------------------------------------------------------------------------- mosaics


def _tiles(images: ArrayLike, image_shape: tuple[int, int]) -> Array:
    array = np.asarray(images, dtype=np.float64)
    height, width = image_shape
    if array.ndim != 2 or array.shape[1] != height * width:
        raise UserError(
            f"images have the shape {array.shape}, image_shape ({height}, {width}) needs (count, {height * width})"
        )
    if not len(array):
        raise UserError("there are no images to draw")
    enlarged = max(1, FINE // max(height, width))
    return array.reshape(-1, height, width).repeat(enlarged, axis=1).repeat(enlarged, axis=2)


def _unit_range(tiles: Array) -> tuple[Array, str]:
    """Values brought to [0, 1], and what was done to them if anything was."""
    low, high = float(np.nanmin(tiles)), float(np.nanmax(tiles))
    if low >= 0 and high <= 1:
        return tiles, ""
    low, high = (float(level) for level in np.nanquantile(tiles, (0.01, 0.99)))
    return np.clip((tiles - low) / max(high - low, 1e-12), 0, 1), f"grey levels from {low:.2g} to {high:.2g}"


def _gap(image_shape: tuple[int, int]) -> int:
    return max(1, round(max(image_shape) / 14))


def _mosaic(tiles: Array, columns: int, gap_value: float) -> Array:
    """Tiles (count, height, width) side by side, `columns` to a row, gaps of `gap_value` between them."""
    count, height, width = tiles.shape
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    gap = _gap((height, width))
    mosaic = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap), gap_value)
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        top, left = row * (height + gap), column * (width + gap)
        mosaic[top : top + height, left : left + width] = tile
    return mosaic


def _with_gap(name: str) -> matplotlib.colors.Colormap:
    """The colour map with a light blue-grey for the gaps between tiles, so that white paper and white ink differ."""
    return matplotlib.colormaps[name].with_extremes(bad="#dfe5ec")


def _figure(
    mosaic: Array, title: str, subtitle: str, columns: int, left_inches: float = 0.1, right_inches: float = 0.1
) -> tuple[Figure, Axes]:
    """A figure whose one axes fits the mosaic, with headings above it."""
    pixel = max(columns, 5) * TILE_INCHES / mosaic.shape[1] if columns >= 5 else TILE_INCHES * columns / mosaic.shape[1]
    width, height = mosaic.shape[1] * pixel, mosaic.shape[0] * pixel
    lines = _wrapped(subtitle, left_inches + width + right_inches)
    top = _headings_inches(lines)
    total_width = max(left_inches + width + right_inches, 2.6)
    total_height = height + top + 0.1
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(total_width, total_height), dpi=DPI)
        FigureCanvasAgg(figure)
        axes = figure.add_axes(
            (left_inches / total_width, 0.1 / total_height, width / total_width, height / total_height)
        )
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_visible(False)
        _headings(figure, title, "\n".join(lines))
    return figure, axes


def _two_panels(inches: float, title: str, subtitle: str) -> tuple[Figure, tuple[Axes, Axes], float]:
    """A figure with headings over two panels of this height, and where the panels' room ends (fraction of the figure)."""
    width = 6.2
    lines = _wrapped(subtitle, width)
    headings = _headings_inches(lines)
    figure = Figure(figsize=(width, inches + headings), dpi=DPI)
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    _headings(figure, title, "\n".join(lines))
    return figure, (left, right), 1 - headings / (inches + headings)


def _wrapped(text: str, inches: float) -> list[str]:
    """Lines of the subtitle that fit a width, at about 17 characters to the inch."""
    return textwrap.wrap(text, max(30, int(inches * 17)))


def _headings_inches(lines: Sequence[str]) -> float:
    """Height of a title with these lines of a subtitle under it."""
    return 0.3 + 0.14 * len(lines) + (0.06 if lines else 0)


def _headings(figure: Figure, title: str, subtitle: str) -> None:
    height = figure.get_figheight()
    figure.text(
        0.1 / figure.get_figwidth(), 1 - 0.09 / height, title, ha="left", va="top", fontsize=9, fontweight="bold"
    )
    if subtitle:
        figure.text(
            0.1 / figure.get_figwidth(), 1 - 0.27 / height, subtitle, ha="left", va="top", fontsize=7, color="#555555"
        )


def _legend(figure: Figure, colours: Mapping[str, Any], columns: int, top: float) -> None:
    """A legend of labels and their colours under the headings, which end at `top` (fraction of the figure)."""
    figure.legend(
        handles=[Line2D([], [], color=colour, linewidth=1.5, label=label) for label, colour in colours.items()],
        loc="upper left", bbox_to_anchor=(0.1 / figure.get_figwidth(), top), ncols=columns, fontsize=8, borderpad=0,
        borderaxespad=0,
    )  # fmt: skip


def _colours(count: int) -> list[Any]:
    """That many colours that can be told apart, in an order of brightness where they are many."""
    if count <= len(COLOURS):
        return list(COLOURS[:count])
    return list(matplotlib.colormaps["viridis"](np.linspace(0, 0.92, count)))


def _shortened(value: str) -> str:
    """A setting's value for an axis: a number to three digits."""
    try:
        return f"{float(value):.3g}"
    except ValueError:
        return value


def _join(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
