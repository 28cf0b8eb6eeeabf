"""The MLflow store: its address, how a fresh one is made, and what its failures mean.

Runs are addressed by their ids; MLflow's global active run is never used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from mlflow.entities import Experiment, Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from requests import RequestException
from sqlalchemy.exc import SQLAlchemyError

from ebm_pipeline.support import importing
from ebm_pipeline.support.errors import UserError
from ebm_pipeline.tracking import deadline
from ebm_pipeline.tracking.address import SQLITE, database_file, is_local, printable, without_password

T = TypeVar("T")

EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}  # pages for training, not for language models
STORE_ERRORS = (MlflowException, SQLAlchemyError)  # MLflow lets through what sqlite says while it opens a store
RUN_ID = re.compile(r"[0-9a-f]{32}")
OLD_SCHEMA = "out-of-date database schema"  # MLflow's words
NOT_ALLOWED = re.compile(r"error code 40[13]\b")
MOST_OF_REASON = 300  # characters shown of what a store says


class WrongAnswerError(Exception):
    """What came is no answer of an MLflow server."""


class RefusedError(Exception):
    """A store that is in order will never take a call."""


def failures(uri: str) -> tuple[type[Exception], ...]:
    """What a call can raise. A server may answer anything, and MLflow's client then fails in any way."""
    return (*STORE_ERRORS, RefusedError, RequestException, ImportError) if is_local(uri) else (Exception,)


def reason(error: BaseException, uri: str) -> str:
    """The first line of what a store says, as a message can show it."""
    text = printable((str(error) or repr(error)).splitlines()[0].replace(uri, without_password(uri)))
    return text if len(text) <= MOST_OF_REASON else f"{text[:MOST_OF_REASON]}..."


@contextmanager
def answering(uri: str) -> Iterator[None]:
    """Turns the failures of a store into one message, and a sqlite store that is not there: MLflow would begin to make it."""
    database = _database(uri)
    if database is not None:
        database.check(database_file(uri))
    with _failing_in_one_message(uri):
        yield


@contextmanager
def _failing_in_one_message(uri: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except failures(uri) as error:
        if OLD_SCHEMA in str(error):  # of a database: a server with one does not start
            raise UserError(
                f"the MLflow store {uri} has the schema of another MLflow ({_versions(error)}): take a copy, then bring it up to "
                f"date with `mlflow db upgrade {uri}`, or, if it is of a newer one, install that"
            ) from error
        cure = _cure(error, uri)
        how = "as an MLflow server does" if uri.startswith("http") else "as it should"
        raise UserError(
            f"the MLflow store {without_password(uri)} does not answer {how} ({reason(error, uri)}): {cure}, or set "
            "MLFLOW_TRACKING_URI or tracking.uri to a store that is there"
        ) from error


def _cure(error: BaseException, uri: str) -> str:
    if is_local(uri):
        return "free some space, or wait for the process that locks it"
    if NOT_ALLOWED.search(str(error)):
        return "give a user who may write there, MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    return "start the server"


def _versions(error: BaseException) -> str:
    found = re.search(r"found version .*?expected \w+", str(error))
    return found[0] if found else "MLflow says so"


def ask(uri: str, question: Callable[[MlflowClient], T], seconds: float | None = None) -> T:
    """What `question` learns of the store; UserError where it fails, or a server takes longer than `seconds` (CALL_SECONDS)."""
    with answering(uri):
        return _answer(uri, question, seconds)


def _answer(uri: str, question: Callable[[MlflowClient], T], seconds: float | None = None) -> T:
    if is_local(uri):
        return question(MlflowClient(uri))
    return deadline.within(deadline.CALL_SECONDS if seconds is None else seconds, lambda: question(MlflowClient(uri)))


def checked(run: Run, run_id: str | None = None) -> Run:
    """The run, if it is one, and the one that was asked for."""
    if not RUN_ID.fullmatch(run.info.run_id or "") or run_id not in (None, run.info.run_id):
        raise WrongAnswerError(f"asked for the run {run_id or 'just made'}, it answers {run.info.run_id!r}")
    return run


def prepare_store(uri: str, artifact_root: Path, experiment: str) -> str:
    """Create the store and the experiment if they are missing; returns the experiment's id.

    A file lock lets only one process at a time do so: two would make the same experiment.
    """
    with _failing_in_one_message(uri), _made(uri, artifact_root):
        return _answer(uri, lambda client: _experiment(client, uri, artifact_root, experiment))


def _experiment(client: MlflowClient, uri: str, artifact_root: Path, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return _usable(found, name)
    folder = re.sub(r"[^\w. -]", "_", name).strip(" .") or "_"  # a name such as ../x stays below
    location = (artifact_root / folder).absolute().as_uri() if is_local(uri) else None
    try:
        made = str(client.create_experiment(name, artifact_location=location, tags=EXPERIMENT_TAGS))
    except MlflowException as error:
        found = client.get_experiment_by_name(name) if error.error_code == "RESOURCE_ALREADY_EXISTS" else None
        if found is None:
            raise
        return _usable(found, name)  # another machine was first: a lock on a file does not keep it away from a server
    if not made:
        raise WrongAnswerError("it made an experiment without an id")
    return made


def _usable(found: Experiment, name: str) -> str:
    if found.name != name or not found.experiment_id:
        raise WrongAnswerError(f"asked for the experiment {name!r}, it answers {found.name!r}")
    if found.lifecycle_stage == "deleted":
        raise UserError(
            f"the MLflow experiment {name!r} is deleted: restore it (mlflow experiments restore "
            f"--experiment-id {found.experiment_id}) or set tracking.experiment to another name"
        )
    return str(found.experiment_id)


@contextmanager
def _made(uri: str, artifact_root: Path) -> Iterator[None]:
    """With a sqlite store that is there, while no other process of this package makes anything in it."""
    database = _database(uri)
    if database is None:
        yield
        return
    with database.locked(database_file(uri)):
        database.make_ready(database_file(uri), artifact_root)
        database.note_sizes(database_file(uri))
        yield


def load_ahead(uri: str) -> None:
    """Import what a sqlite store asks for in a thread, beside other work."""
    if uri.startswith(SQLITE):
        importing.ahead("ebm_pipeline.tracking.database")


def _database(uri: str) -> ModuleType | None:
    """What knows of the files of sqlite stores, of the address of one; with it come seconds of imports of MLflow's."""
    if not uri.startswith(SQLITE):
        return None
    from ebm_pipeline.tracking import database

    return database
