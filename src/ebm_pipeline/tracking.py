"""All MLflow calls of the project. Runs are addressed by their ids; MLflow's global active run is never used."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # a server that does not answer: seconds, not minutes
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
for _name in ("alembic", "mlflow.store.db.utils", "mlflow.tracking", "mlflow.store"):
    logging.getLogger(_name).setLevel(logging.WARNING)

import numpy as np  # noqa: E402
from mlflow.entities import Dataset, DatasetInput, Metric, Param, Run, RunTag  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.tracking import MlflowClient  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from ebm_pipeline.errors import UserError  # noqa: E402
from ebm_pipeline.files import write_text  # noqa: E402

PARENT_VARIABLE = "EBM_PARENT_RUN"  # how the jobs of a sweep learn of their parent run
RUN_FILE = "run.json"
MODEL_FILE = "model.h5"
OUTPUT_TAG = "ebm.output_dir"
PARENT_TAG = "mlflow.parentRunId"
NOTE_TAG = "mlflow.note.content"  # Markdown that the page of a run shows
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development"
}  # the UI's pages for training, not for language models
PARAMETER_LIMIT = 6000  # characters of a parameter's value that MLflow keeps
BATCH = 100  # parameters or tags per call
IMAGE_FILE = re.compile(
    r"images/(.+)[+%]step[+%](\d+)[+%]timestamp[+%].*\.png$"
)  # as MLflow names the pictures of a series


@contextmanager
def answering(uri: str) -> Iterator[None]:
    """Turns the failures of a store into one message."""
    try:
        yield
    except MlflowException as error:
        raise UserError(
            f"the MLflow store {uri} does not answer as it should ({str(error).splitlines()[0]}): start the server, or set "
            "MLFLOW_TRACKING_URI or tracking.uri to a store that is there"
        ) from error


def prepare_store(uri: str, artifact_root: Path, experiment: str) -> str:
    """Create the store and the experiment if they are missing; returns the experiment's id.

    A file lock lets only one process at a time create a fresh sqlite store: two would crash each other.
    """
    with answering(uri), _lock(uri):
        client = MlflowClient(uri)
        found = client.get_experiment_by_name(experiment)
        if found is not None:
            if found.lifecycle_stage == "deleted":
                raise UserError(
                    f"the MLflow experiment {experiment!r} is deleted: restore it (mlflow experiments restore "
                    f"--experiment-id {found.experiment_id}) or set tracking.experiment to another name"
                )
            return str(found.experiment_id)
        local = uri.startswith("sqlite:")
        location = (artifact_root / experiment).absolute().as_uri() if local else None
        return str(client.create_experiment(experiment, artifact_location=location, tags=EXPERIMENT_TAGS))


@contextmanager
def _lock(uri: str) -> Iterator[None]:
    prefix = "sqlite:///"
    if not uri.startswith(prefix):
        yield
        return
    database = Path(uri.removeprefix(prefix))
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        with open(database.with_suffix(".lock"), "w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise UserError(f"cannot open the MLflow store {database} ({error}): choose another output_root") from error


class Tracker:
    """One MLflow run that is being written. As a context manager it ends the run as the work ended."""

    def __init__(self, uri: str, run_id: str, experiment_id: str) -> None:
        self.client = MlflowClient(uri)
        self.uri = uri
        self.run_id = run_id
        self.experiment_id = experiment_id
        self.logged: set[tuple[str, int]] = set()  # (name, step) of figures and pictures from before an interruption

    @classmethod
    def start(
        cls, uri: str, experiment_id: str, name: str, tags: Mapping[str, str], parent_run_id: str | None = None
    ) -> Tracker:
        """Begin a run, as a child of `parent_run_id` if that is given."""
        nested = {PARENT_TAG: parent_run_id} if parent_run_id else {}
        with answering(uri):
            own = {"mlflow.source.name": "ebm-train", "mlflow.source.type": "LOCAL"}
            run = MlflowClient(uri).create_run(experiment_id, run_name=name, tags={**own, **tags, **nested})
        return cls(uri, run.info.run_id, experiment_id)

    @classmethod
    def resume(cls, uri: str, run_id: str) -> Tracker:
        """Go on with a run; what it holds of a figure or a picture at a step is not logged there again."""
        with answering(uri):
            client = MlflowClient(uri)
            client.update_run(run_id, status="RUNNING")
            run = client.get_run(run_id)
            tracker = cls(uri, run_id, run.info.experiment_id)
            for name in run.data.metrics:
                tracker.logged |= {(name, metric.step) for metric in client.get_metric_history(run_id, name)}
            images = [IMAGE_FILE.match(entry.path) for entry in client.list_artifacts(run_id, "images")]
            tracker.logged |= {(f"images/{match[1]}", int(match[2])) for match in images if match}
        return tracker

    def log_parameters(self, config: Mapping[str, Any]) -> None:
        """The leaves of a plain, nested config as parameters; names are dotted."""
        leaves = [Param(name, str(value)[:PARAMETER_LIMIT]) for name, value in flattened(config)]
        for start in range(0, len(leaves), BATCH):
            self.client.log_batch(self.run_id, params=leaves[start : start + BATCH])

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Figures after `step` updates, in one call."""
        now = int(time.time() * 1000)
        new = {name: value for name, value in metrics.items() if (name, step) not in self.logged}
        self.client.log_batch(
            self.run_id, metrics=[Metric(name, float(value), now, step) for name, value in new.items()]
        )

    def set_tags(self, tags: Mapping[str, str]) -> None:
        self.client.log_batch(self.run_id, tags=[RunTag(name, str(value)) for name, value in tags.items()])

    def log_text(self, text: str, name: str) -> None:
        self.client.log_text(self.run_id, text, name)

    def log_file(self, path: Path, folder: str | None = None) -> None:
        self.client.log_artifact(self.run_id, str(path), folder)

    def log_image(self, image: NDArray[np.uint8], key: str, step: int) -> None:
        """One picture (height, width, 3) of a series with a step slider."""
        if (f"images/{key}", step) not in self.logged:
            self.client.log_image(self.run_id, image, key=key, step=step)

    def log_table(self, columns: Mapping[str, Sequence[Any]], name: str) -> None:
        self.client.log_table(self.run_id, {key: list(values) for key, values in columns.items()}, name)

    def log_dataset(self, name: str, digest: str, path: str, profile: Mapping[str, Any]) -> None:
        """The data set as an input of the run, with its digest and shapes."""
        dataset = Dataset(
            name=name,
            digest=digest,
            source_type="local",
            source=json.dumps({"uri": path}),
            profile=json.dumps(dict(profile)),
        )
        self.client.log_inputs(self.run_id, datasets=[DatasetInput(dataset)])

    def finish(self, status: str) -> None:
        """FINISHED, FAILED or KILLED."""
        self.client.set_terminated(self.run_id, status)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish("FINISHED")
        else:
            self.finish("FAILED" if issubclass(kind, Exception) else "KILLED")


def flattened(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, leaf) of nested mappings and lists; an empty container is a leaf."""
    if isinstance(config, Mapping) and config:
        for key, value in config.items():
            yield from flattened(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(config, list) and config and any(isinstance(value, (Mapping, list)) for value in config):
        for index, value in enumerate(config):
            yield from flattened(value, f"{prefix}.{index}")
    else:
        yield prefix, config


# -------------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class RunRecord:
    """A run as the store has it."""

    run_id: str
    name: str
    status: str
    parent_run_id: str | None
    output_dir: Path | None
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


def write_run_file(folder: Path, run_id: str, uri: str, config: str) -> None:
    """Leave in a run's folder which MLflow run it belongs to, and the digest of its configuration."""
    write_text(folder / RUN_FILE, json.dumps({"run_id": run_id, "tracking_uri": uri, "config": config}))


def read_run_file(folder: Path) -> dict[str, str]:
    """What `write_run_file` left; empty where there is no such file, or a damaged one."""
    try:
        return dict(json.loads((folder / RUN_FILE).read_text()))
    except (OSError, ValueError):
        return {}


def find_run(uri: str, reference: str) -> RunRecord:
    """A run by its folder, its id, or a beginning of its id (at least four characters) that no other run shares."""
    folder = Path(reference)
    if (folder / RUN_FILE).is_file():
        known = json.loads((folder / RUN_FILE).read_text())
        uri, reference = known["tracking_uri"], known["run_id"]
    with answering(uri):
        client = MlflowClient(uri)
        if len(reference) == 32:
            try:
                return _record(client.get_run(reference))
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
        matches: list[Run] = []
        if len(reference) >= 4:
            experiments = [experiment.experiment_id for experiment in client.search_experiments()]
            token = None
            while True:
                page = client.search_runs(experiments, max_results=1000, page_token=token)
                matches += [run for run in page if run.info.run_id.startswith(reference)]
                token = page.token
                if not token:
                    break
    if len(matches) == 1:
        return _record(matches[0])
    what = "matches several runs" if matches else "is no run"
    raise UserError(
        f"{reference!r} {what}: give a run's folder (one that holds {RUN_FILE}), an MLflow run id of {uri}, "
        "or a beginning of one, at least four characters"
    )


def find_model(uri: str, reference: str) -> RunRecord:
    """A run as by `find_run`, whose folder holds a saved model; raises UserError otherwise."""
    record = find_run(uri, reference)
    if record.output_dir is None or not (record.output_dir / MODEL_FILE).is_file():
        raise UserError(
            f"the run {record.run_id} has no {MODEL_FILE} in {record.output_dir}: it did not finish, or its folder was moved"
        )
    return record


def children(uri: str, run_id: str) -> list[RunRecord]:
    """The runs started under a parent, oldest first."""
    with answering(uri):
        client = MlflowClient(uri)
        experiment = client.get_run(run_id).info.experiment_id
        found = client.search_runs(
            [experiment], f"tags.`{PARENT_TAG}` = '{run_id}'", max_results=1000, order_by=["attributes.start_time ASC"]
        )
        return [_record(run) for run in found]


def metric_history(uri: str, run_id: str, name: str) -> tuple[list[int], list[float]]:
    """(steps, values) of one metric, in the order of the steps."""
    with answering(uri):
        history = sorted(MlflowClient(uri).get_metric_history(run_id, name), key=lambda metric: metric.step)
    return [metric.step for metric in history], [metric.value for metric in history]


def _record(run: Run) -> RunRecord:
    folder = run.data.tags.get(OUTPUT_TAG)
    return RunRecord(
        run_id=run.info.run_id,
        name=run.info.run_name or run.info.run_id,
        status=run.info.status,
        parent_run_id=run.data.tags.get(PARENT_TAG),
        output_dir=Path(folder) if folder else None,
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
        tags=dict(run.data.tags),
    )
