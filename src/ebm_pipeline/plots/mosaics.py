"""Images and weights as tiles.

Many images are drawn as one mosaic in one axes: a hundred tiles cost about as much as one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike

from ebm_pipeline.plots.frame import (
    COLOURS,
    DPI,
    STYLE,
    Array,
    Headings,
    panels,
    title_panel,
)
from ebm_pipeline.plots.scales import IMAGES, colour_bar, colours_of, signed_scale
from ebm_pipeline.support.errors import UserError

TILE_INCHES = 0.62
WEIGHT = "weight (nats)"
FINE = 24  # tiles of fewer pixels to a side are enlarged to about this many, so that the gaps between them stay thin
MOST_SIDE = 200  # pixels to a side of a tile, which is 93 dots wide; of longer sides neighbours are averaged
WEIGHT_PANEL, WEIGHT_PANELS = (2.45, 2.15), 4  # inches of a panel of several models' weights, and panels to a row
THINNEST = 5  # a tile is at most so many times longer than thin, which a vector of numbers would not be: it is stretched to that


def image_grid(
    images: ArrayLike, image_shape: tuple[int, int], title: str, subtitle: str = "", columns: int = 8
) -> Figure:
    """Images (count, units) as grey tiles, dark ink on white; values outside [0, 1] are scaled to their range."""
    tiles = _tiles(images, image_shape)
    values, note = _unit_range(tiles)
    mosaic = _mosaic(values, columns, gap_value=np.nan)
    figure, axes = _figure(mosaic, title, _join(subtitle, note), columns)
    axes.imshow(mosaic, cmap=colours_of(IMAGES), vmin=0, vmax=1, interpolation="nearest")
    _blank_rest(axes, tiles, columns)
    return figure


def weight_grid(
    weights: ArrayLike,
    image_shape: tuple[int, int],
    title: str,
    subtitle: str = "",
    columns: int = 5,
    count: int = 25,
    bar_label: str = WEIGHT,
) -> Figure:
    """The first `count` columns of the weights (pixels, units) as tiles on one scale about 0: red positive, blue negative."""
    tiles = _tiles(np.asarray(weights).T[:count], image_shape)
    mosaic = _mosaic(tiles, columns, gap_value=np.nan)
    figure, axes = _figure(mosaic, title, subtitle, columns, right_inches=0.9)
    drawn = axes.imshow(mosaic, interpolation="nearest", **signed_scale(float(np.abs(tiles).max())))
    _blank_rest(axes, tiles, columns)
    box = axes.get_position()
    place = (box.x1 + 0.12 / figure.get_figwidth(), box.y0, 0.09 / figure.get_figwidth(), box.height)
    colour_bar(figure, drawn, bar_label, within=figure.add_axes(place))
    return figure


def weights_side_by_side(
    panels_of: Mapping[str, tuple[ArrayLike, tuple[int, int]]],
    title: str,
    subtitle: str = "",
    count: int = 16,
    bar_labels: Mapping[str, str] | None = None,
) -> Figure:
    """A panel for each entry, panels_of[label] = (weights (pixels, units), image shape): as many tiles of each, at most
    `count` of the first units; each panel has a scale of its own, with its colour bar (bar_labels[label]).
    """
    tiles = {label: _tiles(np.asarray(weights).T[:count], shape) for label, (weights, shape) in panels_of.items()}
    count = min(len(own) for own in tiles.values())
    columns = math.ceil(len(tiles) / math.ceil(len(tiles) / WEIGHT_PANELS))
    with panels(len(tiles), columns, WEIGHT_PANEL, title, subtitle) as (figure, axes):
        for panel, (label, own) in zip(axes, tiles.items(), strict=True):
            across = math.isqrt(count - 1) + 1
            mosaic = _mosaic(own[:count], across, gap_value=np.nan)
            limit = float(np.abs(own[:count]).max())
            drawn = panel.imshow(mosaic, interpolation="nearest", **signed_scale(limit))
            title_panel(panel, label, WEIGHT_PANEL[0])
            _blank_rest(panel, own[:count], across)
            panel.set_axis_off()
            colour_bar(figure, drawn, (bar_labels or {}).get(label, WEIGHT), beside=panel)
    return figure


def comparison(rows: Mapping[str, ArrayLike], image_shape: tuple[int, int], title: str, subtitle: str = "") -> Figure:
    """One labelled row of images (count, units) per entry, one column per image; white where a row ends in images of NaN."""
    if not rows:
        raise UserError("a comparison needs at least one row of images")
    arrays = {label: _tiles(images, image_shape) for label, images in rows.items()}
    columns = min(len(tiles) for tiles in arrays.values())
    values, note = _unit_range(np.concatenate([tiles[:columns] for tiles in arrays.values()]))
    mosaic = _mosaic(values, columns, gap_value=np.nan)
    left = 0.25 + 0.062 * max(len(label) for label in rows)
    figure, axes = _figure(mosaic, title, _join(subtitle, note), columns, left_inches=left)
    axes.imshow(mosaic, cmap=colours_of(IMAGES), vmin=0, vmax=1, interpolation="nearest")
    height, width = values.shape[1:]
    _blank_ends(axes, [tiles[:columns] for tiles in arrays.values()])
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


def chains_by_sweeps(
    images: Mapping[str, Mapping[int, ArrayLike]], image_shape: tuple[int, int], title: str, subtitle: str = ""
) -> Figure:
    """Samples images[start][sweeps] (count, units): a row per start and number of sweeps."""
    rows = {f"{start}, {sweeps:,}": states for start, by in images.items() for sweeps, states in by.items()}
    return comparison(rows, image_shape, title, subtitle)


def _tiles(images: ArrayLike, image_shape: tuple[int, int]) -> Array:
    array = np.asarray(images, dtype=np.float64)
    height, width = image_shape
    if array.ndim != 2 or array.shape[1] != height * width:
        raise UserError(
            f"images have the shape {array.shape}, image_shape ({height}, {width}) needs (count, {height * width})"
        )
    if not len(array):
        raise UserError("there are no images to draw")
    tiles = _averaged(_averaged(array.reshape(-1, height, width), 1), 2)
    height, width = tiles.shape[1:]
    enlarged = max(1, FINE // max(height, width))
    tall, wide = (-(-max(height, width) // (THINNEST * side)) for side in (height, width))
    return tiles.repeat(enlarged * tall, axis=1).repeat(enlarged * wide, axis=2)


def _averaged(tiles: Array, axis: int) -> Array:
    """Means of neighbours along an axis of more than MOST_SIDE pixels, as few together as bring it to that."""
    starts = np.arange(0, tiles.shape[axis], -(-tiles.shape[axis] // MOST_SIDE))
    counts = np.diff(starts, append=tiles.shape[axis])
    return np.add.reduceat(tiles, starts, axis) / counts.reshape([-1 if number == axis else 1 for number in range(3)])


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


def _blank_rest(axes: Axes, tiles: Array, columns: int) -> None:
    """White paper where the last row of a mosaic has no tiles."""
    count, height, width = tiles.shape
    columns, gap = min(columns, count), _gap((height, width))
    in_last = count % columns
    if in_last:
        left, top = in_last * (width + gap) - gap - 0.5, (count // columns) * (height + gap) - 0.5
        size = columns * (width + gap) - gap - 0.5 - left, float(height)
        axes.add_patch(Rectangle((left, top), *size, facecolor="white", linewidth=0))


def _blank_ends(axes: Axes, rows: list[Array]) -> None:
    """White paper where rows of a comparison end in tiles of NaN, also between two such rows."""
    height, width = rows[0].shape[1:]
    gap, columns = _gap((height, width)), len(rows[0])
    filled = [int((~np.isnan(tiles[:, 0, 0])).nonzero()[0].max(initial=-1)) + 1 for tiles in rows]
    for row, count in enumerate(filled):
        if count < columns:
            below = gap if row + 1 < len(rows) and filled[row + 1] <= count else 0
            left, top = max(0, count * (width + gap) - gap) - 0.5, row * (height + gap) - 0.5
            size = columns * (width + gap) - gap - 0.5 - left, float(height + below)
            axes.add_patch(Rectangle((left, top), *size, facecolor="white", linewidth=0))


def _figure(
    mosaic: Array, title: str, subtitle: str, columns: int, left_inches: float = 0.1, right_inches: float = 0.1
) -> tuple[Figure, Axes]:
    """A figure whose one axes fits the mosaic, with headings above it."""
    pixel = max(columns, 5) * TILE_INCHES / mosaic.shape[1] if columns >= 5 else TILE_INCHES * columns / mosaic.shape[1]
    width, height = mosaic.shape[1] * pixel, mosaic.shape[0] * pixel
    total_width = max(left_inches + width + right_inches, 2.6)
    heading = Headings.of(title, subtitle, total_width)
    total_height = height + heading.inches + 0.1
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
        heading.write(figure)
    return figure, axes


def _join(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
