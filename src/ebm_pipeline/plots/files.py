"""Pictures as files: a PNG always, and beside it one of a format that a journal takes."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import matplotlib
from matplotlib.figure import Figure
from PIL import Image

from ebm_pipeline.plots.frame import DPI, to_rgb
from ebm_pipeline.support.errors import UserError, check_whole
from ebm_pipeline.support.files import whole_file

Format = Literal["png", "pdf", "svg"]
LEAST_DPI, MOST_DPI = 50, 600
MOST_DOTS = 40_000  # of the longer side of a PNG, which has fewer dots to the inch where it would be longer
VECTORS: Any = {"svg.fonttype": "none", "svg.hashsalt": "ebm_pipeline", "pdf.fonttype": 42}  # text stays text
NO_DATE = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}  # so that the same picture is the same file

logging.getLogger("fontTools").setLevel(logging.WARNING)  # every table that it leaves out of a font of a PDF


@dataclass(frozen=True)
class Files:
    """How pictures are written. `dpi`: of a PNG, and of tiles and points that lie as pixels in a PDF or SVG.

    >>> Files("svg").format, Files(dpi=300).format
    ('svg', 'png')
    """

    format: Format = "png"
    dpi: int = DPI

    def __post_init__(self) -> None:
        if self.format not in get_args(Format):
            raise UserError(f"plots.format must be one of {', '.join(get_args(Format))}; got {self.format!r}")
        check_whole("plots.dpi, dots per inch,", self.dpi, LEAST_DPI, MOST_DPI)

    def dots(self, figure: Figure) -> float:
        """Dots to the inch of a PNG of this figure."""
        return min(float(self.dpi), MOST_DOTS / float(max(figure.get_size_inches())))


PNG = Files()


def save(figure: Figure, path: Path, files: Files = PNG) -> Path:
    """Write the PNG `path`, which report.html and MLflow show, and beside it the file of another format; returns the latter.

    Each is written whole or not at all.
    """
    figure.dpi = files.dots(figure)
    with whole_file(path) as partial:
        Image.fromarray(to_rgb(figure)).save(partial, format="png", dpi=(figure.dpi, figure.dpi))
    if files.format == "png":
        return path
    vectors = path.with_suffix(f".{files.format}")
    with whole_file(vectors) as partial, matplotlib.rc_context(VECTORS):
        figure.savefig(partial, format=files.format, dpi=figure.dpi, metadata=NO_DATE[files.format])
    return vectors
