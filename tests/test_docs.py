"""The pages for Python run as they stand, with fewer epochs; every example in a docstring is right."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

import ebm_pipeline

ROOT = Path(__file__).parents[1]
PACKAGE = Path(ebm_pipeline.__file__).parent
PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
FIRST, STUDY = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
WITH_EXAMPLES = sorted(path for path in PACKAGE.rglob("*.py") if ">>> " in path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_examples_of_docstrings_are_right(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EBM_OUTPUT_DIR", str(tmp_path))
    name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted > 0
    assert found.failed == 0


def test_the_first_lines_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EBM_OUTPUT_DIR", str(tmp_path))
    names: dict[str, object] = {}
    exec(
        FIRST.replace("epochs=50", "epochs=1").replace("temperatures=2000, chains=100", "temperatures=20, chains=20"),
        names,
    )
    assert repr(names["again"].machine_) == "BoltzmannMachine(64 bernoulli - 64 bernoulli)"  # type: ignore[attr-defined]


def test_the_study_is_forty_lines_of_two_packages_and_makes_its_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [line for line in STUDY.splitlines() if line.strip()]
    assert len(lines) <= 40
    imported = [node for node in ast.parse(STUDY).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert {ast.unparse(node) for node in imported} == {"import ebm_pipeline as ebm", "from matplotlib import pyplot"}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EBM_OUTPUT_DIR", str(tmp_path))
    mpl.use("Agg")
    names: dict[str, object] = {}
    exec(STUDY.replace('epochs = "digits", 300', 'epochs = "digits", 2').replace("sweeps=1000", "sweeps=40"), names)
    picture = np.asarray(Image.open(tmp_path / "study.png").convert("L"))
    assert len(names["rows"]) == 18  # type: ignore[arg-type]
    assert picture.shape[0] > 1500
    assert 0.02 < (picture < 128).mean() < 0.6  # neither blank nor black
