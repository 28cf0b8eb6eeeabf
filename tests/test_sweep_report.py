"""report.html of several runs: every run, what there is without a model, and a reason wherever there is no number."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import h5py
import numpy as np
import pytest
from commands import PLAIN, composed, own_run
from mlflow.tracking import MlflowClient
from test_report import Page

from ebm_pipeline import plots
from ebm_pipeline.runs import swept, train
from ebm_pipeline.runs.compare import compare
from ebm_pipeline.runs.sweep_report.cells import Cell, Column, Row, Table, marked, over_seeds
from ebm_pipeline.runs.sweep_report.facts import Line, link_to, undetermined
from ebm_pipeline.runs.sweep_report.page import Section, SweepReport, png_of, read_png
from ebm_pipeline.runs.sweep_report.results import results
from ebm_pipeline.runs.sweep_report.sections import MOST_PICTURED, pictured, sections
from ebm_pipeline.support.glossary import HIGHER, LOWER
from ebm_pipeline.tracking.records import RunRecord
from ebm_pipeline.tracking.tracker import Tracker

CARD = ("evaluation=full", "likelihood.exact_units=0", "likelihood.temperatures=100", "likelihood.chains=50",
        "likelihood.sweeps=200", "diagnostics.chains=50", "diagnostics.sweeps=50")  # fmt: skip
KINDS = ["Data", "Reconstructions", "Denoising", "Fantasies", "Weights", "Learning curves"]


class Tables(HTMLParser):
    """The cells of a page's tables: tables[number][row] = texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")
            self.inside = True

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag not in ("th", "td")

    def handle_data(self, data: str) -> None:
        if self.inside:
            words = f"{self.tables[-1][-1][-1]} {data}".split()
            self.tables[-1][-1][-1] = " ".join(words)


def cells_of(folder: Path, number: int = 0) -> dict[str, dict[str, str]]:
    """A table of the page in a folder: by the first cell of a row, its cells by the beginning of their headings."""
    head, *rows = Tables((folder / "report.html").read_text(encoding="utf-8")).tables[number]
    assert all(len(row) == len(head) and all(row) for row in rows), "no cell is empty"
    headings = [words.split(" ↑")[0].split(" ↓")[0] for words in head]
    return {row[0]: dict(zip(headings, row, strict=True)) for row in rows}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sweep_report")


@pytest.fixture(scope="module")
def runs(outputs: Path) -> list[RunRecord]:
    """An RBM with its card and a DBM without one, in one store."""
    found = []
    for name, words in {"rbm": ("model=rbm", *CARD), "dbm": ("model=dbm", "model.pretraining.epochs=1")}.items():
        folder = outputs / "runs" / name
        words = (
            "training.epochs=1",
            "evaluation.digits=12",
            "data.validation_fraction=0.02",
            f"model.name={name.upper()}",
            *words,
        )
        train.train(composed(*PLAIN, *words, output_root=outputs), folder)
        found.append(own_run(folder))
    return found


@pytest.fixture(scope="module")
def compared(runs: list[RunRecord], outputs: Path) -> Path:
    """The folder of their comparison, with a third run that failed, and its parent run."""
    folder = outputs / "sweeps" / "two"
    failed = RunRecord("f" * 32, "2_rbm", "FAILED", None, None, tags={"ebm.error": "the disk is <full>"})
    experiment = MlflowClient(runs[0].uri).get_experiment_by_name("ebm")
    assert experiment is not None
    tracker = Tracker.start(runs[0].uri, experiment.experiment_id, "sweep", {})
    compare(runs, folder, tracker, "ebm-train -m model=rbm,dbm", [Line.unfinished("2_rbm", failed, "FAILED")], outputs)
    assert "report.html" in {entry.path for entry in tracker.client.list_artifacts(tracker.run_id)}
    return folder


def page_of(folder: Path) -> Page:
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    return page


def test_the_page_stands_alone_and_has_every_run_and_kind_of_picture(compared: Path, runs: list[RunRecord]) -> None:
    page = page_of(compared)
    assert page.headings == ["Sweep two", "Runs", "Results", "Diagnostics", *KINDS, "Log Z"]
    pictures = [reference for reference in page.references if reference.startswith("data:image/png;base64,")]
    links = [reference for reference in page.references if reference not in pictures]
    assert links == ["../../runs/rbm/report.html", "../../runs/dbm/report.html"]
    assert all((compared / link).is_file() for link in links)
    assert len(pictures) == len(KINDS) + 1
    assert not page.tags & {"script", "link", "iframe"}
    for words in (
        *(run.run_id for run in runs), *(run.tags["ebm.verdict.reason"] for run in runs), "not evaluated",
        "model: RBM, DBM", "ebm-train -m model=rbm,dbm", "bars_and_stripes: ", "transform threshold", "failed", "f" * 32,
        "the disk is <full>", "up through all layers and down again", "5 Gibbs sweeps", "15% of the pixels flipped",
    ):  # fmt: skip
        assert words in page.words, words
    assert "host" not in page.words


def test_intervals_and_gains_are_those_of_the_card(compared: Path, runs: list[RunRecord]) -> None:
    assert runs[0].output_dir is not None
    card = json.loads((runs[0].output_dir / "likelihood.json").read_text())
    ends = card["log_likelihood_nats_per_image"]["test"]
    alone = card["independent_pixels_nats_per_image"]["test"]
    table = cells_of(compared)
    assert table["RBM"]["log-likelihood or bound"] == f"[{ends['low']:.2f}, {ends['high']:.2f}] log-likelihood"
    assert table["RBM"]["gain over independent pixels"] == f"{ends['low'] - alone:.2f}"
    assert table["RBM"]["verdict"] == runs[0].tags["ebm.verdict"]
    assert table["independent pixels"]["log-likelihood or bound"] == f"{alone:.2f}"
    assert table["DBM"]["log-likelihood or bound"] == "not measured: add evaluation=full"
    assert table["DBM"]["pseudo-likelihood"] == "for two layers only"


def test_the_rows_without_a_model_have_the_numbers_of_the_data(
    compared: Path, outputs: Path, runs: list[RunRecord]
) -> None:
    """From the pictures of a run, and from the file of the data."""
    assert runs[1].output_dir is not None
    with h5py.File(runs[1].output_dir / "pictures.h5") as file:
        data, noisy = file["data"][:], file["noisy"][:]
    with h5py.File(next((outputs / "data").glob("*.h5"))) as file:
        stored = file["train/images"][:].reshape(-1, 16) > 0
    assert len(data) == round(0.02 * len(stored)) == 12  # all of the validation images
    training = stored.sum(0) - data.sum(0)  # the images that are not for validation
    mean = training / (len(stored) - len(data))
    alone = np.where(data > 0, np.log(mean), np.log(1 - mean)).sum(1).mean()
    odds = np.log(mean / (1 - mean)) + np.where(noisy > 0, 1, -1) * np.log(0.85 / 0.15)
    table = cells_of(compared)
    still, independent = table["noisy images as they are"], table["independent pixels"]
    for name, shares in {
        "wrong pixels, restored by sampling": (noisy != data, (odds > 0) != data),
        "wrong pixels, denoised": (noisy != data, (mean > 0.5) != data),
    }.items():
        assert [still[name], independent[name]] == [f"{100 * share.mean():.1f} %" for share in shares], name
    assert still["wrong pixels, reconstructed"] == still["pseudo-likelihood"] == "no model"
    assert independent["wrong pixels, reconstructed"] == independent["wrong pixels, denoised"]
    assert float(independent["pseudo-likelihood"]) == pytest.approx(alone, abs=0.006)


def test_a_sweep_of_one_run_without_card_has_its_page(runs: list[RunRecord], tmp_path: Path) -> None:
    compare([runs[1]], tmp_path, None)
    page = page_of(tmp_path)
    assert page.headings == ["Comparison of 1 runs", "Runs", "Results", "Diagnostics", *KINDS]
    assert "Not measured: train with evaluation=full" in page.words
    assert "No run has pseudo-likelihood: for two layers only." in page.words
    assert "Swept" not in page.words
    assert not [one for one in page.references if not one.startswith("data:")], "its report does not lie below"


# ---------------------------------------------------------------------------------------------- what is said


def run(name: str, number: int = 0, **metrics: float) -> RunRecord:
    own = {key.replace("__", "/"): value for key, value in metrics.items()}
    return RunRecord(f"{number:032x}", name, "FINISHED", None, None, {"hidden": "8", "parameters": "9"}, own)


def report(table: Table, lines: Sequence[Line] = (), parts: Sequence[Section] = ()) -> Page:
    return Page(SweepReport("Sweep", {"Command": "<i>"}, lines, table, [], None, parts).html())


def test_hostile_names_and_folders_are_text(tmp_path: Path) -> None:
    name, folder = "<script>alert(1)</script>", tmp_path / 'javascript:"><b>'
    folder.mkdir()
    (folder / "report.html").write_text("")
    mean = run(name, validation__restored_wrong_pixels=0.1)
    line = Line.of(name, replace(mean, output_dir=folder, tags={"ebm.verdict": '"><u>'}), tmp_path, tmp_path)
    page = report(results([name], [mean]), [line])
    assert page.words.count(name) == 2
    assert not page.tags & {"script", "b", "u", "i"}
    assert page.references == ["javascript%3A%22%3E%3Cb%3E/report.html"]
    assert '"><u>' in page.words


def test_a_link_leads_nowhere_but_below_the_root(tmp_path: Path) -> None:
    for name in ("inside/run", "outside"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "report.html").write_text("")
    inside = tmp_path / "inside"
    assert link_to(inside / "run", inside / "comparison", inside) == "../run/report.html"
    assert link_to(tmp_path / "outside", inside / "comparison", inside) == ""
    assert link_to(inside, inside, inside) == link_to(None, inside, inside) == ""


def test_a_likelihood_that_is_not_determined_says_why() -> None:
    tags = {"ebm.likelihood": "not determined: too few samples", "ebm.verdict": "likelihood not determined"}
    one = replace(run("RBM", test__independent_log_likelihood=-20.0, test__log_likelihood_high=-9.0), tags=tags)
    table = results(["RBM"], [one])
    assert [cell.text for cell in table.rows[-1].cells[:3]] == [
        "not determined",
        "not determined",
        "likelihood not determined",
    ]
    assert table.columns[0].unit == "nats per image, test"
    assert undetermined(["RBM"], [one]) == ["RBM: not determined: too few samples."]


def test_bounds_numbers_that_are_not_finite_and_missing_ones_are_told_apart() -> None:
    deep = run("DBM", validation__variational_bound_low=-9.5, validation__variational_bound_high=-9.0)
    broken = run("RBM", validation__restored_wrong_pixels=float("nan"), validation__independent_log_likelihood=-20.0)
    rows = {row.name: [cell.text for cell in row.cells] for row in results(["DBM", "RBM"], [deep, broken]).rows}
    assert rows["DBM"][:2] == ["[-9.50, -9.00]", "not recorded"]
    assert rows["RBM"][0] == "not measured: add evaluation=full"
    assert rows["RBM"][3] == "not finite"
    assert rows["DBM"][3] == "switched off"


def test_runs_of_other_data_have_rows_of_their_own_without_a_model() -> None:
    kinds = {"one": 0.15, "two": 0.15, "three": 0.3}
    made = [
        run(name, index, validation__noisy_wrong_pixels=share, validation__restored_wrong_pixels=0.1)
        for index, (name, share) in enumerate(kinds.items())
    ]
    rows = {row.name: row.cells[3].text for row in results(list(kinds), made).rows if not row.run_id}
    assert rows["noisy images as they are, for one, two"] == "15.0 %"
    assert rows["noisy images as they are, for three"] == "30.0 %"


def test_the_best_is_marked_with_all_that_may_be_as_good() -> None:
    intervals = [Cell("a", -5.0, -4.0), Cell("b", -6.0, -4.9), Cell("c", -7.0, -6.0), Cell("not measured")]
    errors = [Cell("5.0 %", 5.0, 5.0), Cell("5.1 %", 5.1, 5.1), Cell("5.0 %", 5.04, 5.04), Cell("0", 0.0, 0.0)]
    rows = [Row(str(number), pair, str(number)) for number, pair in enumerate(zip(intervals, errors, strict=True))]
    rows[3] = replace(rows[3], run_id="")  # a row without a model is no rival
    table = marked(Table((Column("likelihood", better=HIGHER), Column("wrong", better=LOWER)), tuple(rows)))
    assert [[cell.best for cell in row.cells] for row in table.rows] == [
        [True, True], [True, False], [False, True], [False, False],
    ]  # fmt: skip


def test_seeds_have_mean_and_error_and_say_what_some_have_not() -> None:
    values = {1: 0.1, 2: 0.2, 3: 0.3}
    many = [run("RBM", seed, validation__restored_wrong_pixels=value) for seed, value in values.items()]
    many[0].metrics["validation/pseudo_likelihood"] = -9.0
    table = over_seeds(results(["1", "2", "3"], many), [swept.Group({}, tuple(many))])
    (row,) = table.rows
    found = {column.heading: cell.text for column, cell in zip(table.columns, row.cells, strict=True)}
    assert found["seeds"] == "3"
    assert found["wrong pixels, restored by sampling"] == "20.0 ± 5.8 %"  # 10 / sqrt(3)
    assert found["pseudo-likelihood"] == "1 of 3 have it"
    assert found["verdict"] == "not evaluated"


def test_of_many_runs_the_table_has_all_and_the_pictures_the_best() -> None:
    many = {
        f"run {number}": run(f"run {number}", number, validation__pseudo_likelihood=-30.0 + number)
        for number in range(30)
    }
    groups = [swept.Group({"k": name}, (one,)) for name, one in many.items()]
    shown, which = pictured(many, groups)
    assert list(shown) == [f"run {number}" for number in range(30 - MOST_PICTURED, 30)]
    assert which.startswith(f"Of {MOST_PICTURED} of 30 runs: the best by pseudo-likelihood")
    assert {row.name for row in results(list(many), list(many.values())).rows} >= set(many)
    one_group = [swept.Group({}, tuple(many.values()))]
    assert list(pictured(many, one_group)[0]) == ["run 0"]


def test_what_cannot_be_shown_is_said(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "data_examples.png").write_text("no picture")
    one = replace(run("RBM"), output_dir=tmp_path)
    figure = plots.learning_curves({"error": {"RBM": ([0, 1], [2.0, 1.0])}}, "curves")
    found = {
        part.heading: part for part in sections({"learning_curves": figure}, {}, {"RBM": one}, "", ["RBM: damaged"])
    }
    assert "no picture of their data" in found["Data"].words[0]
    assert "different images" in found["Denoising"].words[0]
    assert found["Weights"].words[-1] == "Not shown: RBM: damaged"
    assert read_png(tmp_path / "nothing.png") is None
    page = report(results(["RBM"], [one]), parts=list(found.values()))
    assert len(page.references) == 1
    assert png_of(figure).startswith(b"\x89PNG")
