"""Logged models of a run, without a training: calls that fail, stores that are down, servers that know no such models."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from commands import TINY, composed
from kills import steps_of
from misbehaving import Exchange, Front, mlflow_application
from mlflow.tracking import MlflowClient
from servers import Server
from test_tracking import Down

from ebm_pipeline.models.storage import load_model
from ebm_pipeline.runs import train
from ebm_pipeline.runs.reference import model_file
from ebm_pipeline.tracking import records
from ebm_pipeline.tracking import store as mlflow_store
from ebm_pipeline.tracking.tracker import Tracker
from ebm_pipeline.tracking.unsent import send_kept

DATA = ("digits", "abc")
ERRORS = {"best": 0.25, "last": 0.5, "result": 0.3}
STEPS = {"best": 4, "last": 6, "result": 6}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    return uri, mlflow_store.prepare_store(uri, folder / "artifacts", "test")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "mlflow_model"
    (folder / "data").mkdir(parents=True)
    (folder / "MLmodel").write_text("flavors: {}")
    (folder / "data" / "model.h5").write_bytes(b"model" * 1000)
    return folder


def log_all(tracker: Tracker, model: Path) -> None:
    for name, error in ERRORS.items():
        tracker.log_model(model, name, STEPS[name], {"model": "RBM"})
        tracker.log_numbers_of(name, DATA, {"validation/error": error}, STEPS[name])


def check_there_once(client: MlflowClient, run_id: str) -> None:
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    models = client.search_logged_models(
        [run.info.experiment_id], f"source_run_id = '{run_id}'", order_by=[{"field_name": "metrics.validation/error"}]
    )
    assert [model.name for model in models] == ["best", "result", "last"]
    assert steps_of(run) == {model.model_id: STEPS[model.name] for model in models}
    for model in models:
        (metric,) = model.metrics or []
        assert (metric.value, metric.dataset_name, metric.dataset_digest) == (ERRORS[model.name], *DATA)
        assert [entry.path for entry in client.list_logged_model_artifacts(model.model_id, "data")] == ["data/model.h5"]
        assert model.status == "READY"
    assert run.data.metrics["validation/error"] == ERRORS["result"]
    assert len(client.get_metric_history(run_id, "validation/error")) == 3


def test_logged_twice_they_are_there_once_as_of_a_run_that_was_killed_at_its_end(
    store: tuple[str, str], model: Path, tmp_path: Path
) -> None:
    with Tracker.start(*store, "run", {records.OUTPUT_TAG: str(tmp_path)}) as tracker:
        log_all(tracker, model)
    with Tracker.resume(store[0], tracker.run_id, tmp_path) as again:
        log_all(again, model)
    check_there_once(tracker.client, tracker.run_id)


@pytest.mark.slow
@pytest.mark.parametrize("made", [False, True])
def test_they_are_there_once_whichever_call_fails(
    store: tuple[str, str], model: Path, tmp_path: Path, made: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run per call of the first model that fails; the answer to a call that was made may be lost as well."""
    monkeypatch.setattr("ebm_pipeline.tracking.tracker.RETRY_SECONDS", 0)
    for failing in range(1, 10):
        tracker = Tracker.start(*store, "run", {records.OUTPUT_TAG: str(tmp_path / str(failing))})
        client = tracker.client
        tracker.client = Down(client, {failing}, made)  # type: ignore[assignment]
        with tracker:
            log_all(tracker, model)
        assert not (tmp_path / str(failing) / "unsent").exists()
        check_there_once(client, tracker.run_id)


def test_a_store_that_is_down_gets_them_afterwards_with_files_that_are_gone(
    store: tuple[str, str], model: Path, tmp_path: Path
) -> None:
    """The folders of the best and the last model are not kept in the run's own."""
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    tracker = Tracker.start(*store, "run", {records.OUTPUT_TAG: str(folder)})
    shutil.copytree(model, elsewhere)
    tracker.client = Down(tracker.client, set(range(100)), made=False)  # type: ignore[assignment]
    with tracker:
        log_all(tracker, elsewhere)
    shutil.rmtree(elsewhere)
    records.write_run_file(folder, tracker.run_id, store[0], "digest")
    assert send_kept(folder, store[0]) == 7
    check_there_once(MlflowClient(store[0]), tracker.run_id)


@pytest.mark.slow
def test_of_a_run_on_a_server_they_are_registered_and_read(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        words = (*TINY, "tracking.register_as=bars@best", f"tracking.uri={server.uri}", "tracking.system_metrics=false")
        train.train(composed(*words, output_root=tmp_path / "outputs"), tmp_path / "run")
        assert not (tmp_path / "run" / "unsent").exists()
        client = MlflowClient(server.uri)
        run = client.get_run(records.read_run_file(tmp_path / "run")["run_id"])
        models = {client.get_logged_model(model_id).name: model_id for model_id in steps_of(run)}
        assert set(models) == {"best", "last", "result"}
        names = {"models:/bars@best": "result"} | {f"models:/{model_id}": name for name, model_id in models.items()}
        for reference, name in names.items():
            read = load_model(model_file(server.uri, reference)).machine
            torch.testing.assert_close(read.weights[0], weights_of(tmp_path / "run", name), rtol=0, atol=0)


def weights_of(run: Path, name: str) -> torch.Tensor:
    """Those of a model that a run keeps: the best is in a checkpoint alone."""
    if name != "best":
        return load_model(run / ("model_last.h5" if name == "last" else "model.h5")).machine.weights[0]
    state = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    averaged = int(state["averaged.n_averaged"]) > 0
    weights: torch.Tensor = state["averaged.module.weights/0" if averaged else "tensors.weights/0"]
    return weights


# ---------------------------------------------------------------------------------------------- older servers


def before_mlflow_3(exchange: Exchange) -> None:
    """As MLflow 2 answers."""
    if "logged-models" in exchange.path:
        exchange.answer(b"<!doctype html><title>404 Not Found</title>", "404 Not Found", Content_Type="text/html")
    else:
        exchange.answer_rightly()


@pytest.fixture
def older(tmp_path: Path) -> Iterator[tuple[Front, str]]:
    with mlflow_application(tmp_path) as (application, database):
        front = Front(application)
        front.kind = before_mlflow_3
        yield front, database
        front.close()


def test_a_server_that_knows_no_models_has_the_result_as_files_and_one_warning(
    older: tuple[Front, str], model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    front, database = older
    experiment = mlflow_store.prepare_store(front.uri, tmp_path, "older")
    with Tracker.start(front.uri, experiment, "run", {records.OUTPUT_TAG: str(tmp_path / "run")}) as tracker:
        log_all(tracker, model)
        tracker.register("result", "bars@best")
    (warning,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert "knows no logged models (MLflow 3 does)" in warning
    assert not (tmp_path / "run" / "unsent").exists()
    client = MlflowClient(database)
    run = client.get_run(tracker.run_id)
    assert (run.info.status, run.data.metrics) == ("FINISHED", {"validation/error": ERRORS["result"]})
    (root,) = (tmp_path / "artifacts").rglob(f"{tracker.run_id}/artifacts")
    assert (root / "mlflow_model" / "data" / "model.h5").read_bytes() == (model / "data" / "model.h5").read_bytes()
    version = client.get_model_version_by_alias("bars", "best")
    assert (version.run_id, version.source) == (tracker.run_id, f"runs:/{tracker.run_id}/mlflow_model")
