"""One run that is written. What the store does not take is kept in the run's folder, and sent when it is back."""

from __future__ import annotations

import functools
import json
import logging
import math
import re
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from ebm_pipeline.support.errors import PrunedError, UserError
from ebm_pipeline.support.names import RENAMED_TAGS, SYSTEM
from ebm_pipeline.tracking import calls, deadline
from ebm_pipeline.tracking.address import is_local, without_password
from ebm_pipeline.tracking.deadline import Line, NoAnswerError
from ebm_pipeline.tracking.journal import Journal
from ebm_pipeline.tracking.logged_models import SOURCE
from ebm_pipeline.tracking.moved import set_places_right
from ebm_pipeline.tracking.records import (
    CLAIM_TAG,
    ERROR_TAG,
    OUTPUT_TAG,
    PARENT_TAG,
    PRUNED_TAG,
    is_folder_of,
    write_claim,
    write_run_file,
)
from ebm_pipeline.tracking.store import RefusedError, answering, ask, checked, failures, reason

log = logging.getLogger(__name__)

PARAMETER_LIMIT = 6000  # characters of a parameter's value that MLflow keeps
MOST_OF_ERROR = 500  # characters kept of why a run failed
BATCH = 100  # parameters or tags per call
IMAGE_FILE = re.compile(r"images/(.+)[+%]step[+%](\d+)[+%]timestamp[+%].*\.png$")  # as MLflow names pictures
SERIES = "pictures"  # the section of MLflow's pages that has all series of pictures
RETRY_SECONDS = 30  # between two attempts to reach a store that is down
RESEND_SECONDS = 2  # of sending what was kept, at a time, while the work goes on


class Tracker:
    """One MLflow run that is being written. As a context manager it ends the run as the work ended.

    A store that goes down does not stop the work: what it does not take is kept in the run's folder, tried again after
    RETRY_SECONDS and at the end, in order, and by `ebm-sync`. Without a folder a store that is down raises UserError.
    """

    def __init__(self, uri: str, run_id: str, experiment_id: str, folder: Path | None = None) -> None:
        self.uri = uri
        self.run_id = run_id
        self.experiment_id = experiment_id
        self.logged: set[tuple[str, int]] = set()  # (name, step) of numbers and pictures from before an interruption
        self.last_steps: dict[str, int] = {}  # of numbers that belong to no epoch, from before an interruption
        self.parameters: set[str] = set()  # that the store has from before an interruption: they do not change
        self.journal = None if folder is None else Journal(folder)
        self._line = Line()
        self._lock = threading.RLock()  # system metrics are written from a thread of their own
        self._step: int | None = None  # of the epoch that is being tracked
        self._left = deadline.EPOCH_SECONDS  # of its time
        self._next_attempt = 0.0
        self._told = False

    @property
    def _shown(self) -> str:
        return without_password(self.uri)

    @functools.cached_property
    def client(self) -> MlflowClient:
        """Made at its first use: that of a database connects."""
        return MlflowClient(self.uri)

    @classmethod
    def start(
        cls, uri: str, experiment_id: str, name: str, tags: Mapping[str, str], parent_run_id: str | None = None
    ) -> Tracker:
        """Begin a run, as a child of `parent_run_id` if that is given; its folder is the one that OUTPUT_TAG names."""
        nested = {PARENT_TAG: parent_run_id} if parent_run_id else {}

        def begun(client: MlflowClient) -> Run:
            run = checked(client.create_run(experiment_id, run_name=name, tags={**SOURCE, **tags, **nested}))
            return run if is_local(uri) else checked(client.get_run(run.info.run_id), run.info.run_id)

        run = ask(uri, begun)
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
        facts: Mapping[str, str] | None = None,
    ) -> Tracker:
        """Begin the run of a folder and leave both in its run.json; `config` is the digest of the configuration, `facts` what
        else the file says.

        First the file names a claim, then the run has it as a tag, then the file names the run: so whenever the process is
        killed, `claimed_run` finds the run again.
        """
        claim = uuid.uuid4().hex
        write_claim(folder, claim, uri, config, facts)
        own = {OUTPUT_TAG: str(folder.absolute()), **tags, CLAIM_TAG: claim}
        tracker = cls.start(uri, experiment_id, name, own, parent_run_id)
        write_run_file(folder, tracker.run_id, uri, config, facts)
        return tracker

    @classmethod
    def resume(cls, uri: str, run_id: str, folder: Path) -> Tracker:
        """Go on with a run; what it holds of a number or a picture at a step is not logged there again."""
        set_places_right(uri)
        tracker = cls(uri, run_id, "", folder)
        ask(uri, lambda client: tracker._learn(client, folder), 2 * deadline.CALL_SECONDS)
        return tracker

    def _learn(self, client: MlflowClient, folder: Path) -> None:
        """Open the run again, and see what the store has of it; what is still to be sent counts as there."""
        client.update_run(self.run_id, status="RUNNING")
        run = checked(client.get_run(self.run_id), self.run_id)
        if was_moved(run.data.tags.get(OUTPUT_TAG), self.run_id, folder):
            client.set_tag(self.run_id, OUTPUT_TAG, str(folder.absolute()))
        for tag in run.data.tags:
            if RENAMED_TAGS.get(tag, tag) in (ERROR_TAG, PRUNED_TAG):
                client.delete_tag(self.run_id, tag)
        self.experiment_id = run.info.experiment_id
        self.parameters = set(run.data.params)
        self.last_steps = {name: step for name, step in calls.latest_steps(run).items() if name.startswith(SYSTEM)}
        for name in run.data.metrics.keys() - self.last_steps.keys():
            steps = {metric.step for metric in client.get_metric_history(self.run_id, name)}
            self.logged |= {(name, step) for step in steps}
        images = [IMAGE_FILE.match(entry.path) for entry in calls.files_in(client, self.run_id, "images")]
        self.logged |= {(f"images/{match[1]}", int(match[2])) for match in images if match}
        for call in self.journal.kept() if self.journal is not None else ():
            if call["call"] == "image":
                self.logged.add((_logged_as(call["key"]), call["step"]))
            elif call["call"] == "metrics":
                self.logged |= {(name, step) for name, _, _, step in call["values"]}

    def log_parameters(self, parameters: Mapping[str, Any]) -> None:
        """What runs are sorted and filtered by, but for those that the store has."""
        leaves = [
            (name, str(value)[:PARAMETER_LIMIT]) for name, value in parameters.items() if name not in self.parameters
        ]
        for start in range(0, len(leaves), BATCH):
            self._write("parameters", values=leaves[start : start + BATCH])

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Numbers after `step` updates, in one call."""
        self._at(step)
        self.log_apart(metrics, step)

    def log_apart(self, metrics: Mapping[str, float], step: int) -> None:
        """As `log_metrics`, of numbers that belong to no epoch."""
        now = int(time.time() * 1000)
        new = [(name, float(value), now, step) for name, value in metrics.items() if not self._has(name, step)]
        if new:
            self._write("metrics", values=new)

    def _has(self, name: str, step: int) -> bool:
        return (name, step) in self.logged or step <= self.last_steps.get(name, -1)

    def _at(self, step: int) -> None:
        """What follows belongs to the epoch that ends after `step` updates."""
        if step != self._step:
            self._step, self._left = step, deadline.EPOCH_SECONDS

    def set_tags(self, tags: Mapping[str, str]) -> None:
        self._write("tags", values=[(name, str(value)) for name, value in tags.items()])

    def log_text(self, text: str, name: str) -> None:
        self._write("text", text=text, name=name)

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """A file, or a folder with all that is in it."""
        self._write("file", file=str(path), folder=folder)

    def log_image(self, picture: Path, key: str, *steps: int) -> None:
        """One picture, a PNG file, at steps of a series with a slider, in the section SERIES of MLflow's pages."""
        series = f"{SERIES}/{key}"
        for step in steps:
            self._at(step)
            if (_logged_as(series), step) not in self.logged:
                self.logged.add((_logged_as(series), step))
                self._write("image", file=str(picture), key=series, step=step, time=int(time.time() * 1000))

    def log_table(self, columns: Mapping[str, Sequence[Any]], name: str) -> None:
        self._write("table", columns={key: list(values) for key, values in columns.items()}, name=name)

    def log_dataset(self, name: str, digest: str, path: str, profile: Mapping[str, Any]) -> None:
        """The data set as an input of the run, with its digest and shapes."""
        source, shapes = json.dumps({"uri": path}), json.dumps(dict(profile))
        self._write("dataset", name=name, digest=digest, source_type="local", source=source, profile=shapes)

    def log_model(self, folder: Path, name: str, step: int, params: Mapping[str, str]) -> None:
        """The folder of an MLflow model as the logged model `name` of this run, of the state after `step` updates."""
        self._write("model", file=str(folder), name=name, step=step, params=dict(params))

    def log_numbers_of(
        self, model: str, dataset: tuple[str, str], metrics: Mapping[str, float], step: int, *, final: bool = True
    ) -> None:
        """Numbers of a logged model on a data set (name, digest); they are metrics of the run too.

        final: of the end of the training, where the same numbers can be logged again and are there once.
        """
        time_of = None if final else int(time.time() * 1000)
        values = [(name, float(value), time_of, step) for name, value in metrics.items()]
        if values:
            self._write("metrics", values=values, model=model, dataset=dataset)

    def register(self, artifact: str, name: str) -> None:
        """Register a logged model of this run, or an MLflow model among its files, under `name`, or `name@alias`."""
        self._write("register", artifact=artifact, name=name)

    def finish(self, status: str) -> None:
        """FINISHED, FAILED or KILLED."""
        self._next_attempt, self._left = 0.0, deadline.END_SECONDS
        self._write("end", status=status, time=int(time.time() * 1000))
        if self.journal is not None and self.journal.pending:
            log.warning(
                f"the MLflow store {self._shown} has not taken all. Nothing is lost: `ebm-sync run={self.journal.folder}` sends "
                "what was kept, once it is back"
            )

    def send_kept(self) -> int:
        """Send what the store has not taken yet, in order; returns how many calls that were. Raises what the store raises."""
        if self.journal is None:
            return 0

        def send(call: dict[str, Any]) -> None:
            self._make(call, deadline.SYNC_SECONDS + deadline.SYNC_SLOWER * calls.allowance(call))

        return self.journal.send(send, math.inf)

    def _make(self, call: calls.Call, seconds: float) -> None:
        """A call, and the store's word that it has arrived; raises what goes wrong, NoAnswerError after `seconds`."""
        if is_local(self.uri):
            calls.make(self.client, self.run_id, call)
            return

        def made_and_confirmed() -> None:
            calls.make(self.client, self.run_id, call)
            calls.confirm(self.client, self.run_id, call)

        self._line.call(seconds + calls.allowance(call), made_and_confirmed)

    def _write(self, what: str, **values: Any) -> None:
        """Make a call now, or keep it if the store is down, or has not taken the calls before."""
        call = {"call": what, **values}
        if self.journal is None:
            with answering(self.uri):
                self._make(call, deadline.CALL_SECONDS)
            return
        failing: tuple[type[Exception], ...] = (*failures(self.uri), OSError)
        with self._turn(calls.allowance(call)) as until:
            try:
                if not self.journal.pending or self._reached(until, all_of_it=what == "end"):
                    self._make(call, self._patience(until))
                    return
            except failing as error:
                self._is_down(error)
            except BaseException as error:
                if not isinstance(error, Exception):  # a signal, while the call was under way
                    self._keep(call)
                raise
            self._keep(call)

    @contextmanager
    def _turn(self, allowance: float) -> Iterator[float]:
        """One call at a time; gives when it must have ended. What waiting and calling took is taken from the epoch's time."""
        began = time.monotonic()
        apart = threading.current_thread() is not threading.main_thread()
        with self._lock:
            left = math.inf if is_local(self.uri) else deadline.CALL_SECONDS if apart else self._left
            try:
                yield began + left
            finally:
                if not apart:
                    self._left -= max(0.0, time.monotonic() - began - allowance)

    @staticmethod
    def _patience(until: float) -> float:
        """Seconds for the next call; raises NoAnswerError if there are none."""
        left = until - time.monotonic()
        if left <= 0:
            raise NoAnswerError(f"it takes longer than the {deadline.EPOCH_SECONDS:g} s of an epoch")
        return min(left, deadline.CALL_SECONDS)

    def _keep(self, call: dict[str, Any]) -> None:
        assert self.journal is not None
        try:
            self.journal.append(call)
        except OSError as error:
            raise UserError(
                f"neither the MLflow store nor {self.journal.path} takes what the run logs ({error}): free some space, then "
                "go on with resume=auto"
            ) from error

    def _reached(self, until: float, *, all_of_it: bool) -> bool:
        """Whether a store that was down is back and has taken all that was kept."""
        assert self.journal is not None
        if time.monotonic() < self._next_attempt:
            return False

        def send(call: dict[str, Any]) -> None:
            if call["call"] != "end":  # of before an interruption: the run goes on
                self._make(call, self._patience(until))

        self.journal.send(send, until - time.monotonic() if all_of_it else RESEND_SECONDS, wait=False)
        if self.journal.pending:
            return False
        if self._told:
            log.info(f"the MLflow store {self._shown} is back and has all that was kept")
            self._told = False
        return True

    def _is_down(self, error: Exception) -> None:
        assert self.journal is not None
        if isinstance(error, RefusedError):
            raise UserError(f"the MLflow store {self._shown} refuses ({reason(error, self.uri)})") from error
        if isinstance(error, (UserError, FileNotFoundError)):
            raise error
        self._next_attempt = time.monotonic() + RETRY_SECONDS
        if not self._told:
            log.warning(
                f"the MLflow store {self._shown} does not answer ({reason(error, self.uri)}). The work goes on; what it "
                f"writes is kept in {self.journal.path.parent} and sent when the store is back"
            )
            self._told = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish("FINISHED")
            return
        status = "FAILED" if issubclass(kind, Exception) and kind is not PrunedError else "KILLED"
        try:
            if kind is PrunedError:
                self.set_tags({PRUNED_TAG: str(error)})
            elif status == "FAILED":
                name = "" if issubclass(kind, UserError) else f"{kind.__name__}: "
                self.set_tags({ERROR_TAG: f"{name}{error}"[:MOST_OF_ERROR]})
            self.finish(status)
        except UserError as further:  # the disk is full, say: what ended the work is the message
            log.warning(f"the run could not be marked {status}: {further}")


def _logged_as(key: str) -> str:
    """How `Tracker.logged` names a series of pictures, as MLflow their files."""
    return f"images/{key.replace('/', '~')}"


def was_moved(noted: str | None, run_id: str, folder: Path) -> bool:
    """Whether the folder that a run names as its own is none of it any more."""
    return noted is not None and noted != str(folder.absolute()) and not is_folder_of(Path(noted), run_id)


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
