"""docs/study.ipynb: text without outputs in the repository, each picture beside a sentence, and all of it runs."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure
from PIL import Image

NOTEBOOK = Path(__file__).parents[1] / "docs" / "study.ipynb"
CELLS: list[dict[str, Any]] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]
DRAWING = {"data", "learning-curves", "reconstructions", "fantasies", "denoising", "weights", "likelihood", "verdict"}
SHORTER = {
    "EPOCHS = 400": "EPOCHS = 30",
    "temperatures=2000": "temperatures=100",
    '"temperatures": 2000': '"temperatures": 100',
}


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def test_it_is_kept_without_outputs() -> None:
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in CODE)
    assert len({cell["id"] for cell in CELLS}) == len(CELLS)
    assert NOTEBOOK.stat().st_size < 30_000


def test_every_picture_is_beside_a_sentence_on_what_it_shows() -> None:
    drawing = [
        index for index, cell in enumerate(CELLS) if "\nshow(" in f"\n{source(cell)}" or "pyplot.show" in source(cell)
    ]
    assert {CELLS[index]["id"] for index in drawing} == DRAWING
    for index in drawing:
        assert CELLS[index - 1]["cell_type"] == "markdown"
        assert "picture" in source(CELLS[index - 1]) or len(source(CELLS[index - 1]).split()) > 25


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive", "ignore:the samples depend on where")
def test_it_runs_and_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With a twentieth of the training: in full it takes minutes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EBM_OUTPUT_DIR", str(tmp_path))
    mpl.use("Agg")
    names: dict[str, Any] = {}
    drawn = set()
    text = "".join(map(source, CODE))
    assert all(words in text for words in SHORTER)
    for cell in CODE:
        code = source(cell)
        for words, fewer in SHORTER.items():
            code = code.replace(words, fewer)
        exec(code, names)
        for number in pyplot.get_fignums():
            check(pyplot.figure(number), cell["id"])
            drawn.add(cell["id"])
        pyplot.close("all")
    assert drawn == DRAWING
    said = capsys.readouterr().out
    assert all(f"\n{name}: " in said for name in ("RBM", "RBM (L1)", "DBM", "RBM, 300 images"))
    assert said.count("% of the pixels of test images wrong; ") == 5
    assert "noisy input         15.3%" in said


def check(figure: Figure, name: str) -> None:
    """No axes is blank, and nothing that is written reaches over the edge of the figure."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    assert 0.01 < (np.asarray(Image.open(file).convert("L")) < 250).mean() < 0.8, name
    for axes in figure.axes:
        assert axes.lines or axes.images or axes.collections, name
        box = axes.get_tightbbox()
        assert box is not None
        assert figure.bbox.padded(1).fully_containsx(box.x0), name
        assert figure.bbox.padded(1).fully_containsx(box.x1), name
        assert figure.bbox.padded(1).fully_containsy(box.y1), name
