"""A real sqlite store, made once for the module."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ebm_pipeline import tracking
from ebm_pipeline.errors import UserError
from ebm_pipeline.tracking import Tracker


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    return uri, tracking.prepare_store(uri, folder / "artifacts", "test")


def started(store: tuple[str, str], name: str = "run", parent: str | None = None) -> Tracker:
    return Tracker.start(*store, name, {}, parent)


def test_preparing_again_finds_the_same_experiment(store: tuple[str, str], tmp_path: Path) -> None:
    assert tracking.prepare_store(store[0], tmp_path, "test") == store[1]


def test_long_parameters_are_not_cut(store: tuple[str, str]) -> None:
    tracker = started(store)
    config = {"a": {"b": [1, 2], "long": "x" * 3000}, "list": [{"c": 1.5}], "none": None} | {
        f"p{i}": i for i in range(150)
    }
    tracker.log_parameters(config)
    found = tracking.find_run(store[0], tracker.run_id).params
    assert found["a.long"] == "x" * 3000
    assert (found["a.b"], found["list.0.c"], found["none"], found["p149"]) == ("[1, 2]", "1.5", "None", "149")


def test_metrics_keep_their_steps_and_images_their_series(store: tuple[str, str]) -> None:
    with started(store) as tracker:
        for step in (0, 570, 1140):
            tracker.log_metrics({"error": 1.0 / (step + 1), "epoch": step // 570}, step)
            tracker.log_image(np.full((8, 8, 3), 200, dtype=np.uint8), "weights", step)
    assert tracking.metric_history(store[0], tracker.run_id, "error") == ([0, 570, 1140], [1.0, 1 / 571, 1 / 1141])
    images = [entry.path for entry in tracker.client.list_artifacts(tracker.run_id, "images")]
    assert sum(path.endswith(".png") for path in images) == 3
    assert tracking.find_run(store[0], tracker.run_id).status == "FINISHED"


@pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_run_ends_as_the_work_ended(store: tuple[str, str], error: type[BaseException], status: str) -> None:
    tracker = started(store)
    with pytest.raises(error), tracker:
        raise error
    assert tracking.find_run(store[0], tracker.run_id).status == status


def test_runs_are_found_by_id_beginning_and_folder(store: tuple[str, str], tmp_path: Path) -> None:
    parent = started(store, "parent")
    names = ["first", "second"]
    own = [started(store, name, parent.run_id) for name in names]
    assert [run.name for run in tracking.children(store[0], parent.run_id)] == names
    tracking.write_run_file(tmp_path, own[0].run_id, store[0], "0123456789abcdef")
    for reference in (own[0].run_id, own[0].run_id[:10], str(tmp_path)):
        found = tracking.find_run(store[0], reference)
        assert (found.run_id, found.parent_run_id) == (own[0].run_id, parent.run_id)


@pytest.mark.parametrize("reference", ["nothing", "0" * 32, "ab", ""])
def test_an_unknown_run_is_one_message(store: tuple[str, str], reference: str) -> None:
    with pytest.raises(UserError, match="is no run: give a run's folder"):
        tracking.find_run(store[0], reference)


def test_tables_data_sets_and_files_are_kept(store: tuple[str, str], tmp_path: Path) -> None:
    tracker = started(store)
    (tmp_path / "file.txt").write_text("content")
    tracker.log_file(tmp_path / "file.txt", "deep")
    tracker.log_table({"model": ["RBM"], "error": ["0.1"]}, "table.json")
    tracker.log_dataset("digits", "abc", "digits.h5", {"units": 64})
    paths = {entry.path for entry in tracker.client.list_artifacts(tracker.run_id)}
    assert {"deep", "table.json"} <= paths
    inputs = tracker.client.get_run(tracker.run_id).inputs
    assert inputs is not None
    (dataset,) = inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("digits", "abc")


def test_a_server_that_does_not_answer_fails_in_seconds(tmp_path: Path) -> None:
    started_at = time.monotonic()
    with pytest.raises(UserError, match="does not answer"):
        tracking.prepare_store("http://127.0.0.1:9", tmp_path, "test")
    assert time.monotonic() - started_at < 60


def test_processes_that_open_a_fresh_store_together_do_not_crash(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'fresh.db'}"
    code = (
        "from pathlib import Path; from ebm_pipeline import tracking; "
        f"print(tracking.prepare_store({uri!r}, Path({str(tmp_path)!r}), 'test'))"
    )
    workers = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    answers = {worker.communicate(timeout=120)[0].strip() for worker in workers}
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    assert len(answers) == 1
