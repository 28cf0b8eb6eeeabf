"""What all pictures share: style, headings above the panels, a legend, pixels."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

Array = NDArray[Any]

DPI = 150
LEGEND_ROW, TITLE_LINE = 0.2, 0.17  # inches
MOST_COLUMNS = 3  # panels side by side
APART = 2.0  # letters between panels
LEAST_LETTERS = 4  # in the last line of a title
STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.titley": 1.0,  # else matplotlib looks where the axes' ticks end, which are below
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
}
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")  # Okabe & Ito 2008


@contextmanager
def panels(
    count: int,
    columns: int,
    panel_inches: tuple[float, float],
    title: str,
    subtitle: str,
    legend: Mapping[str, Any] | None = None,
    least_width: float = 0.0,
) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure of `count` panels of this width and height, `columns` to a row, under headings and a legend (label -> colour)."""
    rows = math.ceil(count / columns)
    width = max(panel_inches[0] * columns + 0.3, least_width)
    heading = Headings.of(title, subtitle, width)
    labels = legend if legend and len(legend) > 1 else {}
    legend_columns = max(1, int((width - 0.2) / (0.4 + 0.062 * max(map(len, labels), default=0))))
    legend_inches = LEGEND_ROW * math.ceil(len(labels) / legend_columns)
    height = panel_inches[1] * rows + heading.inches + legend_inches + 0.1
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), dpi=DPI)
        FigureCanvasAgg(figure)
        grid = figure.add_gridspec(rows, columns)
        axes = [figure.add_subplot(grid[divmod(number, columns)]) for number in range(count)]
        heading.write(figure)
        top = 1 - heading.inches / height
        if labels:
            figure.legend(
                handles=[Line2D([], [], color=colour, linewidth=1.5, label=label) for label, colour in labels.items()],
                loc="upper left", bbox_to_anchor=(0.1 / width, top), ncols=legend_columns, fontsize=8, borderpad=0,
                borderaxespad=0,
            )  # fmt: skip
            top -= (legend_inches + 0.05) / height
        yield figure, axes
        figure.tight_layout(rect=(0, 0, 1, top), w_pad=APART)


def colours(labels: Sequence[str]) -> dict[str, Any]:
    """A colour for each label that can be told from the others, in an order of brightness where they are many."""
    if len(labels) <= len(COLOURS):
        return dict(zip(labels, COLOURS, strict=False))
    return dict(zip(labels, matplotlib.colormaps["viridis"](np.linspace(0, 0.92, len(labels))), strict=True))


class Headings(NamedTuple):
    """The lines of a title and of the subtitle under it, as a figure has room for them."""

    title: list[str]
    subtitle: list[str]

    @classmethod
    def of(cls, title: str, subtitle: str, inches: float) -> Headings:
        """For a figure of that width, at about 12 letters of a title and 17 of a subtitle to the inch."""
        return cls(textwrap.wrap(title, max(20, int(inches * 12))), textwrap.wrap(subtitle, max(30, int(inches * 17))))

    @property
    def inches(self) -> float:
        """Their height."""
        return 0.13 + TITLE_LINE * len(self.title) + 0.14 * len(self.subtitle) + (0.06 if self.subtitle else 0)

    def write(self, figure: Figure) -> None:
        """Put them at the top of the figure."""
        width, height = figure.get_size_inches()
        left, below = 0.1 / width, 1 - (0.1 + TITLE_LINE * len(self.title)) / height
        figure.text(left, 1 - 0.09 / height, "\n".join(self.title), ha="left", va="top", fontsize=9, fontweight="bold")
        figure.text(left, below, "\n".join(self.subtitle), ha="left", va="top", fontsize=7, color="#555555")


def title_panel(panel: Axes, text: str, inches: float) -> None:
    """A title in as many lines as a panel of this width, its axis included, needs."""
    width = max(12, int(inches * 12))
    lines = textwrap.wrap(text, width)
    while len(lines) > 1 and len(lines[-1]) < LEAST_LETTERS and width > 12:  # a number alone in its line
        width -= 1
        lines = textwrap.wrap(text, width)
    panel.set_title("\n".join(lines), loc="left")


def to_rgb(figure: Figure) -> NDArray[np.uint8]:
    """The figure as (height, width, 3), rendered unless it is already."""
    canvas = figure.canvas if isinstance(figure.canvas, FigureCanvasAgg) else FigureCanvasAgg(figure)
    if figure.stale:
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()


def shortened(value: str) -> str:
    """A setting's value for an axis: a number to three digits."""
    try:
        return f"{float(value):.3g}"
    except ValueError:
        return value
