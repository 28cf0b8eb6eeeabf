"""report.html stands alone: no reference leaves the file, every text is escaped, the pictures are in it."""

from __future__ import annotations

import base64
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from ebm_pipeline import plots
from ebm_pipeline.evaluation.card import Interval, LikelihoodCard
from ebm_pipeline.evaluation.verdict import Verdict
from ebm_pipeline.runs.report import Report
from ebm_pipeline.support.errors import UserError

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """References, text and the nesting of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.headings: list[str] = []
        self.words = ""
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data)


def page_of(folder: Path) -> Page:
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    assert all(reference.startswith("data:image/png;base64,") for reference in page.references)
    return page


def report(picture: Path, determined: bool = True) -> Report:
    card = LikelihoodCard(
        "log_likelihood", "exact", "threshold", {"test": 5}, {"test": -80.0}, {"test": -200.0}, Interval(1.0, 2.0),
        () if determined else ("the interval is <wide>",), 1.0,
    )  # fmt: skip
    return Report(
        title="<b>RBM</b> & co", subtitle="digits", verdict=Verdict("trustworthy", "R-hat < 1.05 & all", "beside"),
        card=card, metrics={"weights/norm": 3.25}, drawn="500 chains; 1000 sweeps", diagnostics=[picture], samples=[picture],
        training=[], config="name: <script>alert(1)</script>\n",
    )  # fmt: skip


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    return plots.save(plots.image_grid(np.eye(16), (4, 4), "title"), tmp_path / "moments.png")


def test_the_page_stands_alone_and_escapes_what_it_shows(picture: Path, tmp_path: Path) -> None:
    report(picture).write(tmp_path)
    page = page_of(tmp_path)
    assert page.headings == [
        "<b>RBM</b> & co", "Likelihood", "Diagnostics", "Metrics", "Samples and weights", "Training", "Configuration"
    ]  # fmt: skip
    assert not page.tags & {"script", "b", "link", "iframe"}
    assert "url(" not in (tmp_path / "report.html").read_text()
    for text in (
        "trustworthy", "R-hat < 1.05 & all", "[-82.00, -81.00]", "118.00", "log Z exact", "norm of the weights", "3.25",
        "500 chains; 1000 sweeps", "<script>alert(1)</script>",
    ):  # fmt: skip
        assert text in page.words, text
    assert len(page.references) == 2
    assert base64.b64decode(page.references[0].split(",")[1]) == picture.read_bytes()


def test_a_likelihood_that_is_not_determined_is_no_number(picture: Path, tmp_path: Path) -> None:
    report(picture, determined=False).write(tmp_path)
    words = page_of(tmp_path).words
    assert "not determined" in words
    assert "the interval is <wide>" in words
    assert "-82.00" not in words


def test_a_place_that_cannot_be_written_is_one_message(picture: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match=r"cannot write .*report\.html"):
        report(picture).write(tmp_path / "file")
