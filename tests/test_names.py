"""Names of metrics: the glossary and its page, and runs whose numbers have the names of an earlier version."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from commands import PLAIN, composed
from mlflow.tracking import MlflowClient

from ebm_pipeline.runs import compare, description, train
from ebm_pipeline.support import names
from ebm_pipeline.support.glossary import TERMS
from ebm_pipeline.tracking import records
from ebm_pipeline.tracking.records import RunRecord
from ebm_pipeline.tracking.tracker import Tracker
from ebm_pipeline.training.callbacks import Record
from ebm_pipeline.training.checkpoints import BEFORE, BEST, LAST, WholeCheckpoints, every_epoch

ROOT = Path(__file__).parents[1]
OF_BEFORE = {  # names that runs of version 9e91aeb have in the store, with those of today
    "reconstruction_error": "validation/reconstruction_error",
    "denoising_wrong_pixels": "validation/denoising_wrong_pixels",
    "pseudo_likelihood": "validation/pseudo_likelihood",
    "classification_error": "validation/classification_error",
    "bound_gap": "validation/bound_gap",
    "mean_field_residual": "validation/mean_field_residual",
    "mean_field_steps": "train/mean_field_steps",
    "weight_norm": "weights/norm",
    "weights_2_singular_participation": "weights/singular_participation_2",
    "deviations_at_floor": "weights/deviations_at_floor",
    "swap_rate_3": "sampler/swap_rate_3",
    "learning_rate": "train/learning_rate",
    "epoch": "time/epoch",
    "seconds_per_epoch": "time/seconds_per_epoch",
    "training_seconds": "time/total_seconds",
    "samples_r_hat": "sampler/r_hat",
    "log_partition/forward_std_error": "sampler/log_partition_forward_std_error",
    "samples_mean_deviation": "train/samples_mean_deviation",
    "data_energy_distance_error": "test/data_energy_distance_error",
    "independent_adversarial_accuracy": "test/independent_adversarial_accuracy",
    "hidden_units_dead": "test/hidden_dead",
    "layers/1/spread": "test/hidden_1_spread",
    "test/samples_energy_distance": "test/samples_energy_distance",
    "test/log_likelihood_low": "test/log_likelihood_low",
    "pretraining_1/reconstruction_error": "pretraining_1/validation_reconstruction_error",
}


def test_the_page_is_made_of_the_glossary() -> None:
    page = ROOT / "docs" / "glossary.md"
    assert page.read_text(encoding="utf-8") == names.page(), "run python -m ebm_pipeline.support.names"


def test_every_term_says_what_it_is_and_has_a_name_and_a_label_of_its_own() -> None:
    for term in TERMS:
        assert all((term.name, term.label, term.formula, term.unit, term.better, term.source)), term.name
        example = term.name.format(part="test", layer=1, pair=2)
        assert [own for own in TERMS if names.names_of([own], example)] == [term]
    assert len({term.label for term in TERMS}) == len({term.name for term in TERMS}) == len(TERMS)
    assert names.better_is_lower("test/denoising_error")
    assert not names.better_is_lower("validation/pseudo_likelihood")


def test_every_metric_of_a_table_is_in_the_glossary() -> None:
    for name in (*compare.COMPARED, *compare.LIKELIHOODS, *compare.SWEPT, *compare.CURVES, *description.BEST_BY):
        assert names.found(name) is not None, name


def test_names_of_before_have_one_name_of_today() -> None:
    found = names.with_current(dict.fromkeys(OF_BEFORE, 1.0))
    assert set(found) == set(OF_BEFORE.values())
    assert names.with_current(found) == found
    for old, new in OF_BEFORE.items():
        assert names.current(old, "test") == new
        assert names.found(new) is not None or new.startswith("pretraining_")
    assert names.with_current({"hidden_units_dead": 1.0}) == {"validation/hidden_dead": 1.0}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("names")


@pytest.fixture(scope="module")
def finished(store: Path) -> Path:
    folder = store / "run"
    train.train(composed(*PLAIN, "model=rbm", output_root=store), folder)
    return folder


def as_before(path: Path) -> None:
    """Give the record in a checkpoint, and its monitor, the names of before."""
    saved = torch.load(path, weights_only=True)
    old_of = {new: old for old, new in OF_BEFORE.items()}
    for key, state in list(saved["callbacks"].items()):
        if "history" in state:
            state["history"] = {old_of.get(name, name): values for name, values in state["history"].items()}
        saved["callbacks"][key.replace("'validation/reconstruction_error'", "'reconstruction_error'")] = state
        if "validation/reconstruction_error" in key:
            del saved["callbacks"][key]
    torch.save(saved, path)


def test_a_checkpoint_of_before_is_read_with_the_names_of_today(finished: Path, tmp_path: Path) -> None:
    path = tmp_path / LAST
    path.write_bytes((finished / "checkpoints" / LAST).read_bytes())
    as_before(path)
    saved = WholeCheckpoints().load_checkpoint(path)
    assert {callback.state_key for callback in every_epoch(tmp_path)} <= set(saved["callbacks"])
    (state,) = (state for state in saved["callbacks"].values() if "history" in state)
    assert "pseudo_likelihood" in state["history"]

    class Sink:
        seen: ClassVar[set[str]] = set()

        def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
            self.seen.update(metrics)

    record = Record(Sink())
    record.load_state_dict(state)
    assert all(names.found(name) is not None for name in (*record.history, *Sink.seen))
    assert "validation/pseudo_likelihood" in Sink.seen


@pytest.mark.slow
def test_a_run_of_before_goes_on_under_the_names_of_today(finished: Path, store: Path) -> None:
    folder = store / "before"
    words = (*PLAIN, "model=rbm", "training.epochs=3", "resume=auto")
    train.train(composed(*words, output_root=store), folder)
    whole = (folder / "metrics.csv").read_text()
    checkpoints = folder / "checkpoints"
    (checkpoints / LAST).unlink()
    (checkpoints / BEFORE).rename(checkpoints / LAST)
    for name in (LAST, BEST):
        as_before(checkpoints / name)
    known = records.run_of(folder)
    MlflowClient(known["tracking_uri"]).update_run(known["run_id"], status="RUNNING")
    train.train(composed(*words, output_root=store), folder)

    def numbers(text: str) -> list[dict[str, str]]:
        rows = csv.DictReader(text.splitlines())
        return [{name: value for name, value in row.items() if "seconds" not in name} for row in rows]

    assert numbers((folder / "metrics.csv").read_text()) == numbers(whole)


def test_a_run_of_before_is_found_and_compared_under_the_names_of_today(finished: Path, store: Path) -> None:
    uri = records.run_of(finished)["tracking_uri"]
    experiment = MlflowClient(uri).get_experiment_by_name("ebm")
    assert experiment is not None
    tags = {"verdict": "untrained", "verdict.reason": "none", "error": "the disk is full"}
    tracker = Tracker.start(uri, experiment.experiment_id, "Old", tags)
    for step, value in ((0, -9.0), (6, -8.0)):
        tracker.log_metrics({"pseudo_likelihood": value, "epoch": step // 6}, step)
    tracker.log_metrics({"parameters": 152.0, "training_seconds": 1.5}, 6)
    tracker.log_parameters({"optimizer.lr": 0.1, "sampler.steps": 3})
    tracker.finish("FINISHED")
    old = records.find_run(uri, tracker.run_id)
    assert (old.parameters, old.metrics["validation/pseudo_likelihood"], old.last_step) == (152, -8.0, 6)
    assert (old.tags["ebm.verdict"], old.tags[records.ERROR_TAG]) == ("untrained", "the disk is full")
    assert records.metric_history(uri, old.run_id, "validation/pseudo_likelihood") == ([0, 6], [-9.0, -8.0])
    new = records.find_run(uri, str(finished))
    table = compare.table_of(["old", "new"], [old, new])
    assert table["pseudo-likelihood, validation (nats per image)"][0] == "-8"
    assert table["parameters"] == ["152", str(new.parameters)]


def test_a_table_too_long_for_a_note_is_cut_between_its_rows() -> None:
    table = "\n".join(f"| row {index} |" for index in range(2000))
    note = description.shortened(table)
    assert len(note) < 7500
    shown = note.split("\n\n")[0].splitlines()
    assert shown == table.splitlines()[: len(shown)]
    assert f"{2000 - len(shown)} more lines" in note


def test_the_best_run_is_chosen_by_a_number_that_all_have() -> None:
    def run(name: str, **metrics: float) -> RunRecord:
        own = {key.replace("__", "/"): value for key, value in metrics.items()}
        return RunRecord(name, name, "FINISHED", None, None, metrics=own)

    one = run("one", validation__log_likelihood_low=-80.0, validation__reconstruction_error=0.2)
    two = run("two", validation__log_likelihood_low=-90.0, validation__reconstruction_error=0.1)
    deep = run("deep", validation__reconstruction_error=0.15)
    assert description.best_run([one, two]) == (one, "validation/log_likelihood_low")
    assert description.best_run([one, two, deep]) == (two, "validation/reconstruction_error")
    assert description.best_run([one]) is None
