"""Servers that misbehave: no stall above the stated limits, at the start, in mid-run and at the end; nothing is lost."""

from __future__ import annotations

import functools
import resource
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import misbehaving
import pytest
from helpers import grey_picture
from kills import steps_of
from misbehaving import BEGIN_WELL, FAST, KINDS, Front, Kind, mlflow_application
from mlflow.tracking import MlflowClient

from ebm_pipeline.runs import sweep
from ebm_pipeline.support.errors import UserError
from ebm_pipeline.tracking import deadline, records, tracker
from ebm_pipeline.tracking.address import database_file
from ebm_pipeline.tracking.deadline import Patience
from ebm_pipeline.tracking.store import ask, prepare_store
from ebm_pipeline.tracking.tracker import Tracker
from ebm_pipeline.tracking.unsent import send_kept

CALL, EPOCH, END = 0.5, 1.0, 2.0  # seconds, in place of 10, 20 and 60
SLACK = 5.0  # of a machine that does other work
EPOCHS = 4


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, str]]:
    with mlflow_application(tmp_path_factory.mktemp("server")) as made:
        yield made


@pytest.fixture
def front(application: tuple[Any, str]) -> Iterator[Front]:
    server = Front(application[0])
    yield server
    server.close()


@pytest.fixture
def misbehave(front: Front, monkeypatch: pytest.MonkeyPatch) -> Callable[[Kind], None]:
    """From now on the server misbehaves in one way, and the limits are short."""

    def begin(kind: Kind) -> None:
        for name, seconds in {"CALL_SECONDS": CALL, "EPOCH_SECONDS": EPOCH, "END_SECONDS": END}.items():
            monkeypatch.setattr(deadline, name, seconds)
        monkeypatch.setattr(tracker, "RETRY_SECONDS", 0.0)  # every call tries again: the worst case
        front.misbehave(kind)

    return begin


def all_kinds(kinds: list[Kind] = KINDS, *, fast: list[Kind] = FAST) -> pytest.MarkDecorator:
    marked = [pytest.param(kind, marks=() if kind in fast else pytest.mark.slow, id=kind.__name__) for kind in kinds]
    return pytest.mark.parametrize("kind", marked)


def started(front: Front, folder: Path) -> Tracker:
    experiment = prepare_store(front.uri, folder, "misbehaving")
    folder.mkdir(parents=True, exist_ok=True)
    return Tracker.begin(folder, front.uri, experiment, "run", {}, "digest")


def log_epoch(run: Tracker, epoch: int) -> None:
    run.log_metrics({"error": 1 / (epoch + 1), "epoch": epoch}, epoch)
    run.log_image(grey_picture(run.journal.folder / "grey.png"), "deep/weights", epoch)  # type: ignore[union-attr]


def log_settings(run: Tracker, folder: Path) -> None:
    (folder / "model.h5").write_bytes(b"model" * 1000)
    run.log_parameters({"seed": 3})
    run.set_tags({"verdict": "trustworthy"})
    run.log_text("ä text", "deep/text.txt")
    run.log_file(folder / "model.h5")
    run.log_table({"model": ["RBM"], "error": ["0.1"]}, "table.json")
    run.log_dataset("digits", "abc", "digits.h5", {"units": 64})
    (folder / "mlflow_model" / "data").mkdir(parents=True, exist_ok=True)
    (folder / "mlflow_model" / "MLmodel").write_text("flavors: {}")
    (folder / "mlflow_model" / "data" / "model.h5").write_bytes(b"model" * 1000)
    run.log_model(folder / "mlflow_model", "result", 7, {"model": "RBM"})
    run.log_numbers_of("result", ("digits", "abc"), {"test/error": 0.25}, 7)


def timed(call: Callable[[], object]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


def check_everything_arrived_once(database: str, run_id: str, folder: Path) -> None:
    client = MlflowClient(database)
    run = client.get_run(run_id)
    for name in ("error", "epoch"):
        history = sorted(client.get_metric_history(run_id, name), key=lambda metric: metric.step)
        assert [metric.step for metric in history] == list(range(EPOCHS))
    assert (run.data.params["seed"], run.data.tags["verdict"], run.info.status) == ("3", "trustworthy", "FINISHED")
    assert run.inputs is not None
    assert [entry.dataset.digest for entry in run.inputs.dataset_inputs] == ["abc"]
    artifacts = database_file(database).parent / "artifacts"
    (root,) = artifacts.rglob(f"{run_id}/artifacts")
    assert len(list(root.glob("images/*.png"))) == len(list(root.glob("images/*.webp"))) == EPOCHS
    assert (root / "model.h5").read_bytes() == (folder / "model.h5").read_bytes()
    assert (root / "deep" / "text.txt").read_text(encoding="utf-8") == "ä text"
    assert '"data": [["RBM", "0.1"]]' in (root / "table.json").read_text()
    (model,) = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run_id}'")
    assert (model.name, model.status, model.params) == ("result", "READY", {"model": "RBM"})
    assert [(one.key, one.value, one.dataset_digest) for one in model.metrics or []] == [("test/error", 0.25, "abc")]
    assert steps_of(run) == {model.model_id: 7}
    assert len(client.get_metric_history(run_id, "test/error")) == 1
    (root,) = artifacts.rglob(f"{model.model_id}/artifacts")
    assert (root / "data" / "model.h5").read_bytes() == (folder / "model.h5").read_bytes()
    assert not (folder / "unsent").exists()


@all_kinds([kind for kind in KINDS if kind not in BEGIN_WELL])
def test_a_start_ends_in_one_message(
    front: Front, misbehave: Callable[[Kind], None], tmp_path: Path, kind: Kind
) -> None:
    misbehave(kind)

    def start() -> None:
        with pytest.raises(UserError, match="does not answer as an MLflow server does") as error:
            started(front, tmp_path / "run")
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 800

    assert timed(start) < CALL + SLACK


@all_kinds(fast=FAST[:1] + FAST[-3:])
def test_a_server_that_goes_wrong_in_mid_run(
    front: Front,
    misbehave: Callable[[Kind], None],
    application: tuple[Any, str],
    tmp_path: Path,
    kind: Kind,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is wrong for two epochs and at the end; `ebm-sync` sends all of that when it is right again."""
    run = started(front, tmp_path)
    log_epoch(run, 0)
    log_epoch(run, 1)
    misbehave(kind)
    for epoch in range(2, EPOCHS):
        assert timed(functools.partial(log_epoch, run, epoch)) < EPOCH + SLACK
    assert timed(lambda: log_settings(run, tmp_path)) < EPOCH + SLACK  # of the same epoch
    assert timed(lambda: run.finish("FINISHED")) < END + SLACK
    assert run.journal is not None
    if run.journal.pending:
        assert any("ebm-sync" in record.message for record in caplog.records)
    else:
        assert kind in (misbehaving.artifacts_are_lost,)
    front.be_right()
    send_kept(tmp_path, front.uri)
    check_everything_arrived_once(application[1], run.run_id, tmp_path)


@all_kinds(fast=[])
def test_a_server_that_comes_back_in_mid_run(
    front: Front, misbehave: Callable[[Kind], None], application: tuple[Any, str], tmp_path: Path, kind: Kind
) -> None:
    run = started(front, tmp_path)
    log_settings(run, tmp_path)
    log_epoch(run, 0)
    misbehave(kind)
    log_epoch(run, 1)
    front.be_right()
    for epoch in range(2, EPOCHS):
        log_epoch(run, epoch)
    run.finish("FINISHED")
    send_kept(tmp_path, front.uri)
    check_everything_arrived_once(application[1], run.run_id, tmp_path)


def test_all_questions_of_a_start_together_have_a_limit(front: Front) -> None:
    """Of a server that answers each of them a little too late."""
    front.kind = lambda exchange: exchange.answer_rightly() if not exchange.wait(0.3) else None
    patience = Patience(1.0)

    def ask_often() -> None:
        for _ in range(100):
            with patience:
                ask(front.uri, lambda client: client.search_experiments())

    def start() -> None:
        with pytest.raises(UserError, match="does not answer"):
            ask_often()

    assert timed(start) < 1.0 + SLACK


def test_a_sweep_whose_server_is_gone_at_its_end(
    front: Front,
    misbehave: Callable[[Kind], None],
    application: tuple[Any, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    parent = started(front, tmp_path)
    for name, value in (("", parent.run_id), ("_FOLDER", str(tmp_path)), ("_STORE", front.uri)):
        monkeypatch.setenv(records.PARENT_VARIABLE + name, value)
    misbehave(misbehaving.never_answers)
    assert not sweep.finish_sweep("FINISHED")
    assert "could not be compared" in caplog.text
    front.be_right()
    send_kept(tmp_path, front.uri)
    assert MlflowClient(application[1]).get_run(parent.run_id).info.status == "FAILED"


# ---------------------------------------------------------------------------------------------- on the way to it


def test_a_name_that_is_looked_up_for_ever(
    front: Front, misbehave: Callable[[Kind], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hangs(*arguments: Any, **options: Any) -> Any:
        front.over.wait()
        raise socket.gaierror("no answer")

    run = started(front, tmp_path)
    monkeypatch.setattr(socket, "getaddrinfo", hangs)
    misbehave(misbehaving.never_answers)
    with pytest.raises(UserError, match=r"no answer within 0\.5 s"):
        prepare_store(front.uri, tmp_path, "misbehaving")
    assert timed(lambda: log_epoch(run, 0)) < EPOCH + SLACK
    assert timed(lambda: run.finish("FINISHED")) < END + SLACK


@pytest.mark.slow
@pytest.mark.parametrize("kind", [misbehaving.never_answers, misbehaving.header_a_second, misbehaving.bad_gateway])
def test_a_proxy_that_misbehaves(
    front: Front,
    misbehave: Callable[[Kind], None],
    tmp_path: Path,
    kind: Kind,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    misbehave(kind)
    for scheme in ("http", "https"):
        monkeypatch.setenv(f"{scheme}_proxy", front.uri)
        monkeypatch.setenv("no_proxy", "")

        def start(scheme: str = scheme) -> None:
            with pytest.raises(UserError, match="does not answer"):
                prepare_store(f"{scheme}://tracking.invalid", tmp_path, "test")

        assert timed(start) < CALL + SLACK


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [misbehaving.never_answers, misbehaving.answers_a_byte_a_second, misbehaving.other_json]
)
def test_tls_is_asked_of_a_port_without(
    front: Front, misbehave: Callable[[Kind], None], tmp_path: Path, kind: Kind
) -> None:
    misbehave(kind)

    def start() -> None:
        with pytest.raises(UserError, match="does not answer"):
            prepare_store(front.uri.replace("http:", "https:"), tmp_path, "test")

    assert timed(start) < CALL + SLACK


# ---------------------------------------------------------------------------------------------- what is left behind


@pytest.mark.parametrize(
    "kind", [misbehaving.endless_body, pytest.param(misbehaving.gzip_bomb, marks=pytest.mark.slow)]
)
def test_an_answer_without_end_fills_no_memory(front: Front, tmp_path: Path, kind: Kind) -> None:
    """Within the limits as they are."""
    front.misbehave(kind)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError):
        prepare_store(front.uri, tmp_path, "test")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 3 * 10**6  # kB


@pytest.mark.slow
@pytest.mark.parametrize("kind", [misbehaving.never_answers, misbehaving.body_of_a_byte_a_second])
def test_the_interpreter_does_not_wait_for_calls_that_hang(front: Front, tmp_path: Path, kind: Kind) -> None:
    run = started(front, tmp_path)
    front.misbehave(kind)
    code = f"""
        import time
        from pathlib import Path
        from ebm_pipeline.tracking import deadline
        from ebm_pipeline.tracking.environment import set_up_mlflow
        set_up_mlflow()
        from ebm_pipeline.tracking.tracker import Tracker
        deadline.CALL_SECONDS = 1.0
        run = Tracker({front.uri!r}, {run.run_id!r}, "", Path({str(tmp_path)!r}))
        run.log_metrics({{"a": 1.0}}, 0)
        print(time.time(), flush=True)
    """
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120, check=True
    )
    assert time.time() - float(process.stdout.split()[-1]) < SLACK
