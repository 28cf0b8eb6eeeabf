"""What a store of many runs costs: an epoch that is logged, the table of runs, the ranking of models."""

from __future__ import annotations

import sqlite3
import statistics
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from mlflow.entities import ViewType
from mlflow.tracking import MlflowClient
from PIL import Image

from benchmarks.common import table
from ebm_pipeline.tracking.address import database_file
from ebm_pipeline.tracking.records import OUTPUT_TAG, PARENT_TAG, children
from ebm_pipeline.tracking.store import prepare_store
from ebm_pipeline.tracking.tracker import Tracker

COUNTS = (10, 1_000, 5_000)
PARAMETERS, METRICS, EPOCHS, TAGS, MODELS, MODEL_METRICS = 20, 40, 20, 15, 3, 6  # of a run
UPDATES = 570  # of an epoch
LOGGED_EPOCHS = 40  # that are timed in each store
READINGS = 5
ROWS = 100  # of the table, as its page asks
PICTURE = "picture.png"


def store(output: Path) -> None:
    """Sqlite stores of 0 to 5,000 runs, each with 20 parameters, 40 metrics of 20 epochs, 15 tags, 3 models; medians."""
    with ProcessPoolExecutor(1, get_context("spawn")) as others:  # this process opens full stores, as every run does
        stores = {count: others.submit(_filled, output / f"store_{count}", count).result() for count in (0, *COUNTS)}
    epochs: dict[int, list[float]] = {count: [] for count in stores}
    runs = {count: _started(output / f"store_{count}", *where) for count, where in stores.items()}
    for epoch in range(LOGGED_EPOCHS):  # in turn, so that what else the machine does meets all alike
        for count, run in runs.items():
            epochs[count].append(_timed(partial(_log_epoch, run, epoch)))
    rows = []
    for count, (uri, experiment) in stores.items():
        runs[count].finish("FINISHED")
        logged = statistics.median(epochs[count])
        resumed = _median(partial(Tracker.resume, uri, runs[count].run_id, output / f"store_{count}"))
        rows.append(
            [
                f"{count:,}", f"{database_file(uri).stat().st_size / 1e6:,.0f}", f"{1000 * logged:.0f}",
                f"{logged / statistics.median(epochs[0]):.2f}",
                *(f"{1000 * _median(reading):.0f}" for reading in _readings(uri, experiment, runs[count].run_id)),
                f"{1000 * resumed:.0f}",
            ]
        )  # fmt: skip
    header = ["runs", "MB", "ms for an epoch", "against empty"]
    table(
        [
            *header,
            "table of runs, ms",
            "sorted by a metric, ms",
            "models ranked, ms",
            "jobs of a sweep, ms",
            "resume, ms",
        ],
        rows,
    )


def _readings(uri: str, experiment: str, parent: str) -> Iterator[Callable[[], object]]:
    """As MLflow's pages ask for the runs and the models, and our commands for the jobs of a sweep."""
    client = MlflowClient(uri)
    for order in (["attributes.start_time DESC"], ["metrics.`validation/m3` ASC"]):
        yield partial(client.search_runs, [experiment], "", ViewType.ACTIVE_ONLY, ROWS, order)
    by_metric = [{"field_name": "metrics.validation/m3", "ascending": True}]
    yield lambda: client.search_logged_models([experiment], max_results=ROWS, order_by=by_metric)
    yield lambda: children(uri, parent)


def _started(folder: Path, uri: str, experiment: str) -> Tracker:
    prepare_store(uri, folder / "mlartifacts", "store")  # as at the start of every run
    run = Tracker.start(uri, experiment, "timed", {OUTPUT_TAG: str(folder)})
    run.log_parameters({f"p{index}": index for index in range(PARAMETERS)})
    Image.new("RGB", (280, 280)).save(folder / PICTURE)
    _log_epoch(run, -1)
    return run


def _log_epoch(run: Tracker, epoch: int) -> None:
    """As a training does: the numbers of an epoch in one call, and a picture."""
    run.log_metrics({f"validation/m{index}": 1 / (epoch + 2) for index in range(METRICS)}, (epoch + 1) * UPDATES)
    assert run.journal is not None
    run.log_image(run.journal.folder / PICTURE, "weights", (epoch + 1) * UPDATES)


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _median(call: Callable[[], object]) -> float:
    call()
    return statistics.median(_timed(call) for _ in range(READINGS))


def _filled(folder: Path, count: int) -> tuple[str, str]:
    """(address, experiment) of a store with so many finished runs, written as rows: by MLflow's calls it would take hours."""
    folder.mkdir(parents=True)
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    experiment = prepare_store(uri, folder / "mlartifacts", "store")
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection, connection:
        for number in range(count):
            _write_run(connection, folder, int(experiment), number)
    return uri, experiment


def _write_run(connection: sqlite3.Connection, folder: Path, experiment: int, number: int) -> None:
    run, start = uuid.UUID(int=number + 1).hex, 1_790_000_000_000 + number * 600_000
    place = (folder / "mlartifacts" / "store" / run / "artifacts").as_uri()
    _insert(
        connection, "runs",
        "run_uuid name source_type source_name entry_point_name user_id status start_time end_time source_version "
        "lifecycle_stage artifact_uri experiment_id",
        [(run, f"run {number}", "LOCAL", "ebm-train", "", "", "FINISHED", start, start + 1, "", "active", place, experiment)],
    )  # fmt: skip
    _insert(connection, "params", "run_uuid key value", [(run, f"p{i}", str(i * number)) for i in range(PARAMETERS)])
    tags = {f"tag{i}": f"value {i} of {number}" for i in range(TAGS - 2)}
    tags |= {OUTPUT_TAG: str(folder / run), PARENT_TAG: uuid.UUID(int=number // 10 + 1).hex}
    _insert(connection, "tags", "run_uuid key value", [(run, *tag) for tag in tags.items()])
    points = [
        (run, f"validation/m{i}", number / (epoch + 1), start + epoch, epoch * UPDATES, False)
        for i in range(METRICS)
        for epoch in range(EPOCHS)
    ]
    columns = "run_uuid key value timestamp step is_nan"
    _insert(connection, "metrics", columns, points)
    _insert(connection, "latest_metrics", columns, points[EPOCHS - 1 :: EPOCHS])
    for model in range(MODELS):
        model_id = f"m-{uuid.UUID(int=number * MODELS + model + 1).hex}"
        _write_model(connection, model_id, experiment, run, start, place)


def _write_model(
    connection: sqlite3.Connection, model_id: str, experiment: int, run: str, start: int, place: str
) -> None:
    _insert(
        connection, "logged_models",
        "model_id experiment_id name artifact_location creation_timestamp_ms last_updated_timestamp_ms status lifecycle_stage "
        "source_run_id",
        [(model_id, experiment, "result", place, start, start, 2, "active", run)],
    )  # fmt: skip
    _insert(
        connection, "logged_model_metrics",
        "model_id metric_name metric_timestamp_ms metric_step metric_value experiment_id run_id dataset_name dataset_digest",
        [(model_id, f"validation/m{i}", start, 1, start % 997, experiment, run, "mnist", "abc") for i in range(MODEL_METRICS)],
    )  # fmt: skip
    _insert(
        connection, "inputs", "input_uuid source_type source_id destination_type destination_id step",
        [(uuid.uuid4().hex, "RUN_OUTPUT", run, "MODEL_OUTPUT", model_id, 1)],
    )  # fmt: skip


def _insert(connection: sqlite3.Connection, name: str, columns: str, rows: Sequence[tuple[object, ...]]) -> None:
    names, marks = columns.split(), ", ".join("?" * len(rows[0]))
    connection.executemany(f"INSERT INTO {name} ({', '.join(names)}) VALUES ({marks})", rows)
