"""The pictures of README and docs: small, each made by `python -m benchmarks.pictures`, each shown."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "pictures"
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
PICTURES = sorted(FOLDER.iterdir())
MOST_BYTES = 500_000


def made() -> set[str]:
    """What the command says that it makes."""
    tree = ast.parse((ROOT / "benchmarks" / "pictures.py").read_text(encoding="utf-8"))
    (names,) = (
        node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "NAMES"
    )
    return {f"{name}.png" for name in ast.literal_eval(names)}


def test_they_are_small_and_the_command_makes_all_of_them() -> None:
    assert {path.name for path in PICTURES} == made()
    assert sum(path.stat().st_size for path in PICTURES) < MOST_BYTES


def test_every_one_is_shown_and_every_one_that_is_shown_is_there() -> None:
    shown = {
        (page.parent / link).resolve()
        for page in PAGES
        for link in re.findall(r"!\[[^\]]*\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    }
    assert shown == set(PICTURES)


def test_no_other_image_is_in_the_repository() -> None:
    left = [
        path
        for folder in ("docs", "src", "tests", "benchmarks", "conf")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".png", ".jpg", ".jpeg", ".svg", ".gif", ".pdf")
    ]
    assert set(left) == set(PICTURES)


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.name)
def test_none_is_blank(path: Path) -> None:
    shades = np.asarray(Image.open(path).convert("L"))
    assert shades.shape[1] >= 600
    assert 0.01 < (shades < 128).mean() < 0.6
