"""Scales of colour: one for signed numbers, one for others, one for images; the colour between tiles is on none of them.

Red is positive and blue is negative, about 0; where a number has a better end, the bright one is it.
"""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ebm_pipeline.support.glossary import HIGHER, LOWER, NONE

DIVERGING, SEQUENTIAL, IMAGES = "RdBu_r", "viridis", "gray_r"
GUTTERS = {DIVERGING: "#8c8c8c", SEQUENTIAL: "#ffffff", IMAGES: "#cfe0f0"}  # of no colour of the scale
MARK_COLOUR = "#555555"
MARK_SIZE = 6.5


def colours_of(scale: str, *, reverse: bool = False) -> Colormap:
    """A scale, from its other end if asked for; where there is no number (NaN) it has the colour of its gutters."""
    return matplotlib.colormaps[f"{scale}_r" if reverse else scale].with_extremes(bad=GUTTERS[scale])


def scale_of(values: NDArray[Any]) -> dict[str, Any]:
    """What `imshow` is given for an array: about 0 where a number is negative, else from 0."""
    finite = values[np.isfinite(values)]
    limit = float(np.abs(finite).max()) if finite.size else 0.0
    signed = bool(finite.size and finite.min() < 0)
    return signed_scale(limit) if signed else {"cmap": colours_of(SEQUENTIAL), "vmin": 0.0, "vmax": limit or 1.0}


def signed_scale(limit: float) -> dict[str, Any]:
    """The same of numbers that have a sign, from -limit to limit."""
    return {"cmap": colours_of(DIVERGING), "vmin": -(limit or 1.0), "vmax": limit or 1.0}


def colour_bar(
    figure: Figure, drawn: ScalarMappable, label: str, *, beside: Axes | None = None, within: Axes | None = None
) -> Axes:
    """The bar of a picture with what its numbers are, beside an axes or within one of its own."""
    places = {"cax": within} if within is not None else {"ax": beside, "fraction": 0.046, "pad": 0.03}
    bar = figure.colorbar(drawn, **places)
    bar.outline.set_linewidth(0.4)
    bar.ax.tick_params(labelsize=7, width=0.4, length=2)
    bar.set_label(label, fontsize=7)
    axes: Axes = bar.ax
    return axes


def mark_better(panel: Axes, better: str, place: float = 1.05) -> None:
    """Which way is better, right of a panel: an arrow, or the number that is best; nothing where no way is.

    better: in the words of the glossary; place: of the mark, in widths of the panel.
    """
    if better == NONE:
        return
    style: dict[str, Any] = {"fontsize": MARK_SIZE, "color": MARK_COLOUR, "rotation": 90, "ha": "center"}
    if better not in (LOWER, HIGHER):
        panel.text(place, 0.5, f"best {better}", transform=panel.transAxes, va="center", **style)
        return
    up = better == HIGHER
    panel.annotate(
        "better",
        xy=(place, 1.0 if up else 0.0),
        xytext=(place, 0.0 if up else 1.0),
        xycoords="axes fraction",
        va="bottom" if up else "top",
        annotation_clip=False,
        arrowprops={
            "arrowstyle": "->", "linewidth": 0.7, "color": MARK_COLOUR, "shrinkA": 1, "shrinkB": 0,
            "relpos": (0.5, 1.0 if up else 0.0), "patchA": None,
        },
        **style,
    )  # fmt: skip
