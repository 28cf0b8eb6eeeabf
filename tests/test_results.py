"""The table of likelihoods: its recipes are those that it names, the page is what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from mlflow.tracking import MlflowClient

from benchmarks.common import Finished, command
from benchmarks.results import MEASURED, ROWS, TABLE, Measured, _interval, measure, written
from ebm_pipeline.models.storage import load_model
from ebm_pipeline.tracking.records import read_run_file

ROOT = Path(__file__).parents[1]
SHARED = {"mnist", "stochastic"}  # what the rows are made of


def test_each_row_has_its_recipe() -> None:
    recipes = {path.stem for path in (ROOT / "conf" / "experiment" / "table").glob("*.yaml")}
    assert recipes - SHARED == set(ROWS)


def test_the_page_is_what_was_measured() -> None:
    """Nothing in it is written by hand: `python -m benchmarks.results --write`."""
    measured = json.loads(MEASURED.read_text(encoding="utf-8"))
    assert TABLE.read_text(encoding="utf-8") == written(measured)
    assert set(measured) <= set(ROWS)


def test_a_row_without_an_interval_says_why_and_one_that_was_not_measured_is_named() -> None:
    own = Measured(
        "not determined: R-hat 1.4",
        "-80.00 (effective sample size 2 of 100)",
        "not determined",
        "threshold",
        5,
        1.25,
        "a",
    )
    page = written({"rbm200": {"138": vars(own) | {"likelihood": "[-81.00, -80.50]"}, "99": vars(own)}})
    line, other = (line for line in page.splitlines() if line.startswith("| `rbm200`"))
    assert "| 99 | not determined: R-hat 1.4 |" in line
    assert "| 138 | [-81.00, -80.50] |" in other
    assert line.endswith("| 5 | 1.2 |")
    assert page.splitlines()[-1].startswith("There, but not measured yet: `rbm16`")
    assert "| 5 | - |" in written({"rbm200": {"137": vars(own) | {"minutes": None}}})


@pytest.mark.parametrize("quantity", ["log_likelihood", "variational_bound"])
def test_the_number_of_a_row_is_what_its_card_states(quantity: str) -> None:
    """The likelihood of an RBM, the bound of a DBM; of an exact one no interval."""
    card = {
        "quantity": quantity,
        "reasons": [],
        f"{quantity}_nats_per_image": {"test": {"low": -83.256, "high": -82.955}},
    }
    assert _interval(card) == "[-83.26, -82.95]"
    card[f"{quantity}_nats_per_image"] = {"test": {"low": -83.0, "high": -83.0}}
    assert _interval(card) == "-83.00, exact"


@pytest.mark.slow
def test_a_row_is_trained_judged_and_then_read(
    tmp_path: Path, mnist_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exact one, shortened: its number is that of its card, and a second time nothing is trained."""
    monkeypatch.setattr("benchmarks.results.command", shortened)
    first = measure("rbm16", 137, tmp_path, None)
    assert first.likelihood.endswith(", exact")
    assert -190 < float(first.likelihood.split(",")[0]) < -130
    assert (first.epochs, first.binarisation) == (1, "threshold")
    run = tmp_path / "table" / "rbm16"
    weights = load_model(run / "model.h5").machine.weights[0]
    again = measure("rbm16", 137, tmp_path, 7.0)
    assert (again.likelihood, again.minutes) == (first.likelihood, 7.0)
    (run / "verdict.json").unlink()  # as of a run that was interrupted
    known = read_run_file(run)
    MlflowClient(known["tracking_uri"]).set_terminated(known["run_id"], "KILLED")
    assert measure("rbm16", 137, tmp_path, 7.0).minutes is None
    assert torch.equal(load_model(run / "model.h5").machine.weights[0], weights)


def shortened(name: str, *words: str, output: Path) -> Finished:
    """The command with one epoch and small diagnostics."""
    return command(name, *words, "training.epochs=1", "diagnostics.chains=50", "diagnostics.sweeps=50", output=output)
