"""A real sqlite store, made once for the module."""

from __future__ import annotations

import csv
import errno
import functools
import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import PLAIN, composed
from helpers import grey_picture
from mlflow.entities import Experiment
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS
from mlflow.tracking import MlflowClient
from PIL import Image
from servers import Server, free_port

from ebm_pipeline.runs import train
from ebm_pipeline.support.errors import UserError
from ebm_pipeline.tracking import records, tracker
from ebm_pipeline.tracking import store as mlflow_store
from ebm_pipeline.tracking.address import database_file
from ebm_pipeline.tracking.journal import Journal
from ebm_pipeline.tracking.tracker import Tracker
from ebm_pipeline.tracking.unsent import send_kept
from ebm_pipeline.training.module import BoltzmannTraining

BATCHES = 6  # of an epoch of PLAIN


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    return uri, mlflow_store.prepare_store(uri, folder / "artifacts", "test")


def started(store: tuple[str, str], name: str = "run", parent: str | None = None) -> Tracker:
    return Tracker.start(*store, name, {}, parent)


def test_preparing_again_finds_the_same_experiment(store: tuple[str, str], tmp_path: Path) -> None:
    assert mlflow_store.prepare_store(store[0], tmp_path, "test") == store[1]


def test_preparing_lets_sqlite_know_how_full_its_tables_are(store: tuple[str, str], tmp_path: Path) -> None:
    started(store).log_metrics({f"m{index}": 1.0 for index in range(50)}, 0)
    mlflow_store.prepare_store(store[0], tmp_path, "test")
    with closing(sqlite3.connect(database_file(store[0]))) as connection:
        noted = connection.execute(
            "SELECT stat FROM sqlite_stat1 WHERE idx = 'index_metrics_run_uuid_key_step'"
        ).fetchone()
    assert int(noted[0].split()[0]) >= 50


def test_long_parameters_are_not_cut(store: tuple[str, str]) -> None:
    tracker = started(store)
    tracker.log_parameters({"long": "x" * 3000} | {f"p{i}": i for i in range(150)})
    found = records.find_run(store[0], tracker.run_id).params
    assert found["long"] == "x" * 3000
    assert [found[f"p{i}"] for i in range(150)] == [str(i) for i in range(150)]


def test_metrics_keep_their_steps_and_images_their_series(store: tuple[str, str], tmp_path: Path) -> None:
    with started(store) as tracker:
        for step in (0, 570, 1140):
            tracker.log_metrics({"error": 1.0 / (step + 1), "epoch": step // 570}, step)
            tracker.log_image(grey_picture(tmp_path / "grey.png"), "weights", step)
    assert records.metric_history(store[0], tracker.run_id, "error") == ([0, 570, 1140], [1.0, 1 / 571, 1 / 1141])
    images = [entry.path for entry in tracker.client.list_artifacts(tracker.run_id, "images")]
    assert sum(path.endswith(".png") for path in images) == 3
    assert records.find_run(store[0], tracker.run_id).status == "FINISHED"


@pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_run_ends_as_the_work_ended(store: tuple[str, str], error: type[BaseException], status: str) -> None:
    tracker = started(store)
    with pytest.raises(error), tracker:
        raise error
    assert records.find_run(store[0], tracker.run_id).status == status


def test_runs_are_found_by_id_beginning_and_folder(store: tuple[str, str], tmp_path: Path) -> None:
    parent = started(store, "parent")
    names = ["first", "second"]
    own = [started(store, name, parent.run_id) for name in names]
    assert [run.name for run in records.children(store[0], parent.run_id)] == names
    records.write_run_file(tmp_path, own[0].run_id, store[0], "0123456789abcdef")
    for reference in (own[0].run_id, own[0].run_id[:10], str(tmp_path)):
        found = records.find_run(store[0], reference)
        assert (found.run_id, found.parent_run_id) == (own[0].run_id, parent.run_id)


@pytest.mark.parametrize("reference", ["nothing", "0" * 32, "ab", ""])
def test_an_unknown_run_is_one_message(store: tuple[str, str], reference: str) -> None:
    with pytest.raises(UserError, match="is no run: give a run's folder"):
        records.find_run(store[0], reference)


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
        mlflow_store.prepare_store("http://127.0.0.1:9", tmp_path, "test")
    assert time.monotonic() - started_at < 60


@pytest.mark.slow
def test_processes_that_open_a_fresh_store_together_do_not_crash(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'fresh.db'}"
    code = (
        "from pathlib import Path; from ebm_pipeline.tracking import store; "
        f"print(store.prepare_store({uri!r}, Path({str(tmp_path)!r}), 'test'))"
    )
    workers = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = {worker.communicate(timeout=120)[0].strip() for worker in workers}
    assert [worker.returncode for worker in workers] == [0, 0]
    assert len(answers) == 1


# ---------------------------------------------------------------------------------------------- a store that goes down


def test_a_store_that_is_down_keeps_the_calls_of_a_run_and_none_without_a_folder(tmp_path: Path) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(UserError, match="does not answer"):
        Tracker(uri, "0" * 32, "1").log_metrics({"a": 1.0}, 0)
    tracker = Tracker(uri, "0" * 32, "1", tmp_path)
    tracker.log_metrics({"a": 1.0, "b": float("inf")}, 5)
    tracker.log_image(grey_picture(tmp_path.with_suffix(".png")), "weights", 5)
    lines = [json.loads(line) for line in tracker.journal.path.read_text().splitlines()]  # type: ignore[union-attr]
    assert [line["call"] for line in lines] == ["metrics", "image"]
    assert [(name, value, step) for name, value, _, step in lines[0]["values"]] == [("a", 1.0, 5), ("b", np.inf, 5)]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / lines[1]["file"])), 200)


def test_what_the_store_will_never_take_is_one_message(store: tuple[str, str], tmp_path: Path) -> None:
    tracker = Tracker.start(*store, "refused", {records.OUTPUT_TAG: str(tmp_path)})
    with pytest.raises(UserError, match="refuses"):
        tracker.log_metrics({"not|allowed": 1.0}, 0)


class Down:
    """A client that fails at the calls whose numbers are given, after the store has or has not made them."""

    def __init__(self, client: MlflowClient, failing: set[int], made: bool) -> None:
        self.client, self.failing, self.made, self.count = client, failing, made, 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)

        def call(*arguments: Any, **options: Any) -> Any:
            self.count += 1
            if self.count in self.failing and not self.made:
                raise MlflowException("down")
            answer = method(*arguments, **options)
            if self.count in self.failing:
                raise MlflowException("the answer was lost")
            return answer

        return call


@pytest.mark.parametrize("made", [False, True])
def test_everything_arrives_once_whichever_call_fails(
    store: tuple[str, str],
    tmp_path: Path,
    made: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One run per call that fails; the answer to a call that was made may be lost as well."""
    monkeypatch.setattr("ebm_pipeline.tracking.tracker.RETRY_SECONDS", 0)
    (tmp_path / "file.txt").write_text("content")
    for failing in range(1, 9):
        folder = tmp_path / str(failing)
        tracker = Tracker.start(*store, "run", {records.OUTPUT_TAG: str(folder)})
        down = Down(tracker.client, {failing}, made)
        tracker.client = down  # type: ignore[assignment]
        caplog.clear()
        with tracker:
            tracker.log_parameters({"a": 1})
            tracker.log_metrics({"error": 0.5}, 1)
            tracker.log_image(grey_picture(tmp_path / "grey.png"), "deep/weights", 1)
            tracker.set_tags({"likelihood": "exact"})
            tracker.log_file(tmp_path / "file.txt", "deep")
            tracker.log_dataset("digits", "abc", "digits.h5", {"units": 64})
            tracker.log_text("text", "text.txt")
        assert next(record.levelname for record in caplog.records if "MLflow store" in record.message) == "WARNING"
        if tracker.journal is not None and tracker.journal.pending:  # the call that ends the run failed
            records.write_run_file(folder, tracker.run_id, store[0], "digest")
            assert send_kept(tmp_path, store[0]) == 1
        client = down.client
        run = client.get_run(tracker.run_id)
        assert (run.data.params["a"], run.data.tags["likelihood"], run.info.status) == ("1", "exact", "FINISHED")
        assert records.metric_history(store[0], tracker.run_id, "error") == ([1], [0.5])
        assert len(client.list_artifacts(tracker.run_id, "images")) == 2
        assert {entry.path for entry in client.list_artifacts(tracker.run_id)} >= {"deep", "text.txt"}
        assert run.inputs is not None
        assert len(run.inputs.dataset_inputs) == 1
        assert not (folder / "unsent").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_training_whose_server_dies_has_everything_afterwards(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    """Killed, or stopped so that it takes connections but never answers; started again while the training goes on."""
    folder, epochs = tmp_path / "run", 12
    write, update = Tracker._write, BoltzmannTraining.update
    away, updates, stalls = False, 0, [0.0]

    def timed_write(tracker: Tracker, what: str, **values: Any) -> None:
        started_at = time.monotonic()
        write(tracker, what, **values)
        if away:
            stalls.append(time.monotonic() - started_at)

    with Server(tmp_path) as server:

        @functools.wraps(update)
        def counted_update(module: BoltzmannTraining, batch: torch.Tensor) -> None:
            nonlocal updates, away
            updates += 1
            if updates == 4 * BATCHES:
                server.send(number)
                away = True
            if updates == 8 * BATCHES:
                server.kill()
                server.start()
                away = False
            update(module, batch)

        monkeypatch.setattr(Tracker, "_write", timed_write)
        monkeypatch.setattr(BoltzmannTraining, "update", counted_update)
        words = (*PLAIN, "evaluation.every_epochs=3", f"training.epochs={epochs}", f"tracking.uri={server.uri}")
        train.train(composed(*words, output_root=tmp_path / "outputs"), folder)
        assert not (folder / "unsent").exists()
    assert sum(stalls) < 10
    run = records.find_run(server.database, records.read_run_file(folder)["run_id"])
    assert run.status == "FINISHED"
    with open(folder / "metrics.csv", newline="") as table:
        rows = list(csv.DictReader(table))
    for name in ("time/epoch", "validation/reconstruction_error"):
        steps, values = records.metric_history(server.database, run.run_id, name)
        assert steps == [BATCHES * epoch for epoch in range(epochs + 1)]
        assert values == [float(row[name]) for row in rows]
    images = (tmp_path / "artifacts").rglob(f"{run.run_id}/artifacts/images/*weights*.png")
    assert len(list(images)) == len(list((folder / "pictures").glob("weights_*")))
    record_property(
        f"server that got {signal.Signals(number).name} in mid-run",
        f"{len(stalls) - 1} calls while it was away took {sum(stalls):.1f} s; afterwards the store has all metrics and pictures",
    )


# ---------------------------------------------------------------------------------------------- a store that cannot be used


@pytest.mark.slow  # sqlite itself waits 20 s for a lock
def test_a_locked_store_keeps_the_calls_until_it_is_free(
    store: tuple[str, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tracker = Tracker.start(*store, "locked", {records.OUTPUT_TAG: str(tmp_path)})
    connection = sqlite3.connect(store[0].removeprefix("sqlite:///"), isolation_level=None)
    with tracker:
        connection.execute("BEGIN EXCLUSIVE")
        tracker.log_metrics({"error": 1.0}, 0)
        tracker.log_metrics({"error": 0.5}, 1)
        assert tracker.journal is not None
        assert tracker.journal.pending
        connection.execute("ROLLBACK")
    assert records.metric_history(store[0], tracker.run_id, "error") == ([0, 1], [1.0, 0.5])
    assert records.find_run(store[0], tracker.run_id).status == "FINISHED"
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.slow
def test_a_store_that_is_locked_at_the_start_is_one_message(store: tuple[str, str], tmp_path: Path) -> None:
    connection = sqlite3.connect(store[0].removeprefix("sqlite:///"), isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    with pytest.raises(UserError, match="database is locked"):
        mlflow_store.prepare_store(store[0], tmp_path, "test")
    connection.close()


@pytest.mark.parametrize(("content", "message"), [(b"no database" * 100, "file is not a database"), (None, "no file")])
def test_something_else_in_the_stores_place_is_one_message(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        mlflow_store.prepare_store(f"sqlite:///{path}", tmp_path, "test")


def test_a_store_whose_driver_is_missing_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not answer as it should"):
        mlflow_store.prepare_store("mssql+nothing://host/database", tmp_path, "test")


def test_a_full_disk_beside_a_store_that_is_down_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also on the way out, where it must not take the place of what ended the work."""

    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    tracker = Tracker(f"http://127.0.0.1:{free_port()}", "0" * 32, "1", tmp_path)
    monkeypatch.setattr(Journal, "append", full)
    with pytest.raises(UserError, match="No space left"):
        tracker.log_metrics({"error": 1.0}, 0)
    with pytest.raises(ValueError, match="the work"), tracker:
        raise ValueError("the work")


# ---------------------------------------------------------------------------------------------- which run is a folder's


@pytest.mark.parametrize(
    "text", ["", "[]", "[1]", "3", "null", '{"run_id": 3}', '{"run_id": "a"}', "[" * 10**5, "\x00"]
)
def test_a_damaged_run_file_names_no_run(text: str, tmp_path: Path) -> None:
    (tmp_path / records.RUN_FILE).write_text(text)
    assert records.read_run_file(tmp_path) == {}
    assert records.claimed_run(tmp_path, "sqlite:///none.db") == {}
    with pytest.raises(UserError, match="missing or damaged"):
        records.run_of(tmp_path)


@pytest.mark.parametrize("made", [False, True])
def test_a_run_made_just_before_a_kill_is_found_by_its_claim(
    store: tuple[str, str], tmp_path: Path, made: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(*((tracker, "write_run_file", killed) if made else (Tracker, "start", killed)))
    with pytest.raises(KeyboardInterrupt):
        Tracker.begin(tmp_path, *store, "claimed", {}, "digest")
    monkeypatch.undo()
    assert set(records.read_run_file(tmp_path)) == {"claim", "tracking_uri", "config"}
    found = records.claimed_run(tmp_path, store[0])
    assert bool(found) == made
    if made:
        assert records.read_run_file(tmp_path) == found
        assert records.find_run(store[0], str(tmp_path)).name == "claimed"


def test_an_experiment_that_another_machine_makes_at_the_same_time_is_used() -> None:
    """A server has no lock on a file: both see that it is not there, and one of them comes second."""

    class Second:
        made = False

        def get_experiment_by_name(self, name: str) -> Experiment | None:
            return Experiment("7", name, "mlflow-artifacts:/7", "active") if self.made else None

        def create_experiment(self, name: str, **options: object) -> str:
            self.made = True
            raise MlflowException("it is there", error_code=RESOURCE_ALREADY_EXISTS)

    client: Any = Second()
    assert mlflow_store._experiment(client, "http://127.0.0.1:5000", Path("artifacts"), "ebm") == "7"
