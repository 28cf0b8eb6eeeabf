"""All MLflow calls of the project. Runs are addressed by their ids; MLflow's global active run is never used."""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import re
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

for _name, _value in (("MAX_RETRIES", 1), ("TIMEOUT", 4), ("BACKOFF_FACTOR", 0), ("BACKOFF_JITTER", 0)):
    # a server that does not answer costs seconds, not minutes: what it missed is sent again later
    os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{_name}", str(_value))
for _name in (
    "alembic",
    "mlflow.tracking",
    "mlflow.store",
    "mlflow.system_metrics",
    "mlflow.pyfunc",
):
    logging.getLogger(_name).setLevel(logging.WARNING)
logging.getLogger("mlflow.store.db.utils").setLevel(
    logging.CRITICAL
)  # a locked or full store, with a traceback: see _is_down

import numpy as np  # noqa: E402
from mlflow.entities import Dataset, DatasetInput, Metric, Param, Run, RunTag  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.tracking import MlflowClient  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from PIL import Image  # noqa: E402
from requests import RequestException  # noqa: E402
from sqlalchemy.exc import SQLAlchemyError  # noqa: E402

from ebm_pipeline.errors import UserError  # noqa: E402
from ebm_pipeline.files import write_text  # noqa: E402
from ebm_pipeline.journal import FOLDER as JOURNAL_FOLDER  # noqa: E402
from ebm_pipeline.journal import NAME as JOURNAL_NAME  # noqa: E402
from ebm_pipeline.journal import Journal  # noqa: E402

log = logging.getLogger(__name__)

PARENT_VARIABLE = "EBM_PARENT_RUN"  # how the jobs of a sweep learn of their parent run
RUN_FILE = "run.json"
MODEL_FILE = "model.h5"
LAST_FILE = "model_last.h5"  # the weights of the last update, where MODEL_FILE has their mean over the last ones
OUTPUT_TAG = "ebm.output_dir"
PARENT_TAG = "mlflow.parentRunId"
CLAIM_TAG = "ebm.claim"  # by which a run is found whose process was killed before run.json had its id
NOTE_TAG = "mlflow.note.content"  # Markdown that the page of a run shows
ERROR_TAG = "error"  # why a run failed
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development"
}  # the UI's pages for training, not for language models
PARAMETER_LIMIT = 6000  # characters of a parameter's value that MLflow keeps
MOST_OF_ERROR = 500  # characters kept of why a run failed
BATCH = 100  # parameters or tags per call
IMAGE_FILE = re.compile(
    r"images/(.+)[+%]step[+%](\d+)[+%]timestamp[+%].*\.png$"
)  # as MLflow names the pictures of a series
STORE_ERRORS = (MlflowException, SQLAlchemyError)  # MLflow lets through what sqlite says while it opens a store
RETRY_SECONDS = 30  # between two attempts to reach a store that is down
RESEND_SECONDS = 2  # of sending what was kept, at a time, while the work goes on


@contextmanager
def answering(uri: str) -> Iterator[None]:
    """Turns the failures of a store into one message."""
    try:
        yield
    except (*STORE_ERRORS, RequestException, ImportError) as error:
        local = uri.startswith("sqlite:")
        cure = "free some space, or wait for the process that locks it" if local else "start the server"
        raise UserError(
            f"the MLflow store {uri} does not answer as it should ({str(error).splitlines()[0]}): {cure}, or set "
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
        folder = re.sub(r"[^\w. -]", "_", experiment).strip(" .") or "_"  # a name such as ../x stays below
        location = (artifact_root / folder).absolute().as_uri() if local else None
        return str(client.create_experiment(experiment, artifact_location=location, tags=EXPERIMENT_TAGS))


@contextmanager
def _lock(uri: str) -> Iterator[None]:
    prefix = "sqlite:///"
    if not uri.startswith(prefix):
        yield
        return
    database = Path(uri.removeprefix(prefix))
    if database.is_dir() or (database.exists() and not os.access(database, os.R_OK | os.W_OK)):
        raise UserError(f"the MLflow store {database} is no file that can be written: choose another output_root")
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        with open(database.with_suffix(".lock"), "w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise UserError(f"cannot open the MLflow store {database} ({error}): choose another output_root") from error


class Tracker:
    """One MLflow run that is being written. As a context manager it ends the run as the work ended.

    A store that goes down does not stop the work: what it does not take is kept in the run's folder, tried again after
    RETRY_SECONDS and at the end, in order, and by `ebm-sync`. Without a folder a store that is down raises UserError.
    """

    def __init__(self, uri: str, run_id: str, experiment_id: str, folder: Path | None = None) -> None:
        self.client = MlflowClient(uri)
        self.uri = uri
        self.run_id = run_id
        self.experiment_id = experiment_id
        self.logged: set[tuple[str, int]] = set()  # (name, step) of figures and pictures from before an interruption
        self.journal = None if folder is None else Journal(folder)
        self._lock = threading.RLock()  # system metrics are written from a thread of their own
        self._next_attempt = 0.0
        self._told = False

    @classmethod
    def start(
        cls, uri: str, experiment_id: str, name: str, tags: Mapping[str, str], parent_run_id: str | None = None
    ) -> Tracker:
        """Begin a run, as a child of `parent_run_id` if that is given; its folder is the one that OUTPUT_TAG names."""
        nested = {PARENT_TAG: parent_run_id} if parent_run_id else {}
        with answering(uri):
            own = {"mlflow.source.name": "ebm-train", "mlflow.source.type": "LOCAL"}
            run = MlflowClient(uri).create_run(experiment_id, run_name=name, tags={**own, **tags, **nested})
        folder = Path(tags[OUTPUT_TAG]) if OUTPUT_TAG in tags else None
        return cls(uri, run.info.run_id, experiment_id, folder)

    @classmethod
    def begin(
        cls,
        folder: Path,
        uri: str,
        experiment_id: str,
        name: str,
        tags: Mapping[str, str],
        config: str,
        parent_run_id: str | None = None,
    ) -> Tracker:
        """Begin the run of a folder and leave both in its run.json; `config` is the digest of the configuration.

        First the file names a claim, then the run has it as a tag, then the file names the run: so whenever the process is
        killed, `claimed_run` finds the run again.
        """
        claim = uuid.uuid4().hex
        _write_run_file(folder, claim=claim, tracking_uri=uri, config=config)
        own = {OUTPUT_TAG: str(folder.absolute()), **tags, CLAIM_TAG: claim}
        tracker = cls.start(uri, experiment_id, name, own, parent_run_id)
        write_run_file(folder, tracker.run_id, uri, config)
        return tracker

    @classmethod
    def resume(cls, uri: str, run_id: str, folder: Path) -> Tracker:
        """Go on with a run; what it holds of a figure or a picture at a step is not logged there again."""
        with answering(uri):
            client = MlflowClient(uri)
            client.update_run(run_id, status="RUNNING")
            run = client.get_run(run_id)
            if ERROR_TAG in run.data.tags:
                client.delete_tag(run_id, ERROR_TAG)
            tracker = cls(uri, run_id, run.info.experiment_id, folder)
            if tracker.send_kept():
                run = client.get_run(run_id)
            for name in run.data.metrics:
                tracker.logged |= {(name, metric.step) for metric in client.get_metric_history(run_id, name)}
            images = [IMAGE_FILE.match(entry.path) for entry in client.list_artifacts(run_id, "images")]
            tracker.logged |= {(f"images/{match[1]}", int(match[2])) for match in images if match}
        return tracker

    def log_parameters(self, config: Mapping[str, Any]) -> None:
        """The leaves of a plain, nested config as parameters; names are dotted."""
        leaves = [(name, str(value)[:PARAMETER_LIMIT]) for name, value in flattened(config)]
        for start in range(0, len(leaves), BATCH):
            self._write("parameters", values=leaves[start : start + BATCH])

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Figures after `step` updates, in one call."""
        now = int(time.time() * 1000)
        new = [(name, float(value), now, step) for name, value in metrics.items() if (name, step) not in self.logged]
        self._write("metrics", values=new)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        self._write("tags", values=[(name, str(value)) for name, value in tags.items()])

    def log_text(self, text: str, name: str) -> None:
        self._write("text", text=text, name=name)

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """A file, or a folder with all that is in it."""
        self._write("file", file=str(path), folder=folder)

    def log_image(self, image: NDArray[np.uint8], key: str, step: int) -> None:
        """One picture (height, width, 3) of a series with a step slider."""
        if (f"images/{key}", step) not in self.logged:
            self._write("image", image=image, key=key, step=step, time=int(time.time() * 1000))

    def log_table(self, columns: Mapping[str, Sequence[Any]], name: str) -> None:
        self._write("table", columns={key: list(values) for key, values in columns.items()}, name=name)

    def log_dataset(self, name: str, digest: str, path: str, profile: Mapping[str, Any]) -> None:
        """The data set as an input of the run, with its digest and shapes."""
        source, shapes = json.dumps({"uri": path}), json.dumps(dict(profile))
        self._write("dataset", name=name, digest=digest, source_type="local", source=source, profile=shapes)

    def register(self, artifact: str, name: str) -> None:
        """Register an MLflow model of this run under `name`, or `name@alias`."""
        self._write("register", artifact=artifact, name=name)

    def finish(self, status: str) -> None:
        """FINISHED, FAILED or KILLED."""
        self._next_attempt = 0.0
        self._write("end", status=status, time=int(time.time() * 1000))
        if self.journal is not None and self.journal.pending:
            log.warning(
                f"the MLflow store {self.uri} is still down. Nothing is lost: `ebm-sync run={self.journal.folder}` sends what "
                "was kept, once it is back"
            )

    def send_kept(self, seconds: float = math.inf) -> int:
        """Send what the store has not taken yet, in order; returns how many calls that were. Raises what the store raises."""
        return 0 if self.journal is None else self.journal.send(self._send_again, seconds)

    def _write(self, what: str, **values: Any) -> None:
        """Make a call now, or keep it if the store is down or has not taken the calls before."""
        call = {"call": what, **values}
        if self.journal is None:
            with answering(self.uri):
                self._send(call)
            return
        with self._lock:
            if not self.journal.pending or self._reached(RESEND_SECONDS if what != "end" else math.inf):
                try:
                    self._send(call)
                    return
                except (*STORE_ERRORS, OSError) as error:
                    self._is_down(error)
            try:
                if "image" in call:
                    file = self.journal.new_file(".png")
                    Image.fromarray(call.pop("image")).save(file)
                    call["file"] = str(file)
                self.journal.append(call)
            except OSError as error:
                raise UserError(
                    f"neither the MLflow store nor {self.journal.path} takes what the run logs ({error}): free some space, then "
                    "go on with resume=auto"
                ) from error

    def _reached(self, seconds: float) -> bool:
        """Whether a store that was down is back and has taken all that was kept."""
        assert self.journal is not None
        if time.monotonic() < self._next_attempt:
            return False
        try:
            self.send_kept(seconds)
        except (*STORE_ERRORS, OSError) as error:
            self._is_down(error)
        if self.journal.pending:
            return False
        if self._told:
            log.info(f"the MLflow store {self.uri} is back and has all that was kept")
            self._told = False
        return True

    def _is_down(self, error: Exception) -> None:
        assert self.journal is not None
        if isinstance(error, MlflowException) and error.get_http_status_code() == 400:  # it will never take this
            raise UserError(f"the MLflow store {self.uri} refuses ({str(error).splitlines()[0]})") from error
        if isinstance(error, FileNotFoundError):
            raise error
        self._next_attempt = time.monotonic() + RETRY_SECONDS
        if not self._told:
            reason = (str(error) or repr(error)).splitlines()[0]
            log.warning(
                f"the MLflow store {self.uri} does not answer ({reason}). The work goes on; what it writes is kept in "
                f"{self.journal.path.parent} and sent when the store is back"
            )
            self._told = True

    def _send_again(self, call: dict[str, Any]) -> None:
        """As `_send`, for a call that may have arrived before. MLflow itself ignores a metric or a data set sent twice."""
        if call["call"] == "image":
            stem = f"images/{call['key'].replace('/', '~')}+step+{call['step']}+timestamp+{call['time']}+"
            files = [entry.path for entry in self.client.list_artifacts(self.run_id, "images")]
            if any(
                path.startswith(stem) and path.endswith(".webp") for path in files
            ):  # the last that log_image writes
                return
        self._send(call)

    def _send(self, call: dict[str, Any]) -> None:
        client, run_id = self.client, self.run_id
        match call["call"]:
            case "parameters":
                client.log_batch(run_id, params=[Param(*value) for value in call["values"]])
            case "metrics":
                client.log_batch(run_id, metrics=[Metric(*value) for value in call["values"]])
            case "tags":
                client.log_batch(run_id, tags=[RunTag(*value) for value in call["values"]])
            case "text":
                client.log_text(run_id, call["text"], call["name"])
            case "file" if Path(call["file"]).is_dir():
                client.log_artifacts(run_id, call["file"], call["folder"])
            case "file":
                client.log_artifact(run_id, call["file"], call["folder"])
            case "image":
                image = call["image"] if "image" in call else np.asarray(Image.open(call["file"]))
                client.log_image(run_id, image, key=call["key"], step=call["step"], timestamp=call["time"])
            case "table":
                client.log_table(run_id, call["columns"], call["name"])
            case "dataset":
                fields = {key: value for key, value in call.items() if key != "call"}
                client.log_inputs(run_id, datasets=[DatasetInput(Dataset(**fields))])
            case "register":
                self._register(call["artifact"], *call["name"].split("@"))
            case "end":
                client.set_terminated(run_id, call["status"], call["time"])

    def _register(self, artifact: str, name: str, alias: str | None = None) -> None:
        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        versions = self.client.search_model_versions(f"name = '{name}' and run_id = '{self.run_id}'")
        made = (
            versions[0]
            if versions
            else self.client.create_model_version(name, f"runs:/{self.run_id}/{artifact}", self.run_id)
        )
        if alias:
            self.client.set_registered_model_alias(name, alias, made.version)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish("FINISHED")
            return
        status = "FAILED" if issubclass(kind, Exception) else "KILLED"
        try:
            if status == "FAILED":
                name = "" if issubclass(kind, UserError) else f"{kind.__name__}: "
                self.set_tags({ERROR_TAG: f"{name}{error}"[:MOST_OF_ERROR]})
            self.finish(status)
        except UserError as further:  # the disk is full, say: what ended the work is the message
            log.warning(f"the run could not be marked {status}: {further}")


def check_registration(name: str) -> None:
    """Raise unless MLflow would take `name`, or `name@alias`, for a registered model."""
    model, *alias = name.split("@", 1)
    if not all(re.fullmatch(r"[\w-][\w. -]*", part) for part in (model, *alias)) or alias == ["latest"]:
        raise UserError(
            f"tracking.register_as is a model's name or name@alias, of letters, digits and _ - . only; got {name!r}"
        )


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
    _write_run_file(folder, run_id=run_id, tracking_uri=uri, config=config)


def _write_run_file(folder: Path, **known: str) -> None:
    write_text(folder / RUN_FILE, json.dumps(known))


def read_run_file(folder: Path) -> dict[str, str]:
    """What `write_run_file` left; empty where there is no such file, or a damaged one."""
    try:
        known = json.loads((folder / RUN_FILE).read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    good = isinstance(known, dict) and all(isinstance(value, str) for value in known.values())
    return known if good and "tracking_uri" in known else {}


def claimed_run(folder: Path) -> dict[str, str]:
    """As `read_run_file`; the id of a run that was made, but not yet noted, is looked up and noted; empty without a run."""
    known = read_run_file(folder)
    if "run_id" in known or "claim" not in known:
        return known if "run_id" in known else {}
    with answering(known["tracking_uri"]):
        client = MlflowClient(known["tracking_uri"])
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        found = client.search_runs(experiments, f"tags.`{CLAIM_TAG}` = '{known['claim']}'")
    if not found:
        return {}
    write_run_file(folder, found[0].info.run_id, known["tracking_uri"], known.get("config", ""))
    return read_run_file(folder)


def send_kept(folder: Path) -> int:
    """`ebm-sync`: send what runs in `folder`, at any depth, could not send; returns how many calls that were."""
    count = 0
    for journal in sorted(folder.rglob(f"{JOURNAL_FOLDER}/{JOURNAL_NAME}")):
        run = journal.parents[1]
        known = run_of(run)
        with answering(known["tracking_uri"]):
            count += Tracker(known["tracking_uri"], known["run_id"], "", run).send_kept()
        log.info(f"{run}: sent to {known['tracking_uri']}")
    return count


def run_of(folder: Path) -> dict[str, str]:
    """{"run_id": ..., "tracking_uri": ...} of a run's folder; raises UserError where that cannot be read."""
    known = read_run_file(folder)
    if not known.keys() >= {"run_id", "tracking_uri"}:
        raise UserError(f"{folder / RUN_FILE} is missing or damaged: give the folder of a run")
    return known


def find_run(uri: str, reference: str) -> RunRecord:
    """A run by its folder, its id, or a beginning of its id (at least four characters) that no other run shares."""
    folder = Path(reference)
    if (folder / RUN_FILE).is_file():
        known = run_of(folder)
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
