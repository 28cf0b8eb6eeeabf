"""The file of a sqlite store: made under another name and put in its place whole; what was half made there is set aside.

MLflow makes a store statement by statement, and one that was stopped on the way never opens again. The last statements give it
the version of its schema and the experiment "Default". So a file with some of MLflow's tables, with another version and without
a single row is half made and holds nothing; one with rows is a store of another MLflow, which its user has to bring up to date.
"""

from __future__ import annotations

import fcntl
import functools
import itertools
import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from urllib.parse import quote

import mlflow
import psutil
from mlflow.store.db.base_sql_model import Base
from mlflow.store.db.utils import _get_latest_schema_revision
from mlflow.store.tracking.dbmodels.models import SqlExperiment
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from ebm_pipeline.support.errors import UserError
from ebm_pipeline.support.files import partial_name, remove_leftovers
from ebm_pipeline.tracking.address import SQLITE

log = logging.getLogger(__name__)

COMPANIONS = ("-journal", "-wal", "-shm")  # what sqlite writes beside a file, and reads from there when it opens it
VERSION = "alembic_version"  # the table with the version of the schema
UNFINISHED = "_alembic_tmp_"  # how the names of tables begin that a migration is about to put in place of others
KNOWN = {*Base.metadata.tables, VERSION}
FILLED_WHEN_MADE = {VERSION, "workspaces"}  # the tables that have rows before a store is complete
SAMPLED_ROWS = 400  # of an index, as sqlite recommends
LOCK_SECONDS = 20  # as long as MLflow waits for another process that writes
MAKER_SECONDS = 60  # for another program that makes a store in its place
INSTEAD = "set MLFLOW_TRACKING_URI or tracking.uri to another store, or EBM_OUTPUT_DIR to another folder"


class State(Enum):
    """What is in the place of a store."""

    MISSING = auto()
    HALF_MADE = auto()
    SOUND = auto()


@dataclass(frozen=True)
class Content:
    """What a database holds, as far as it tells whose it is."""

    tables: frozenset[str]
    filled: frozenset[str]  # tables with rows
    version: str | None  # of MLflow's schema
    experiment_columns: frozenset[str]

    @property
    def of_mlflow(self) -> bool:
        own = {"experiment_id", "name", "artifact_location", "lifecycle_stage"}  # in every version
        return own <= self.experiment_columns

    @property
    def half_made(self) -> bool:
        """Whether it is MLflow's, or nobody's yet, and without a row that would be lost."""
        names = {name.removeprefix(UNFINISHED) for name in self.tables}
        return (self.of_mlflow or names <= {VERSION}) and names <= KNOWN and self.filled <= FILLED_WHEN_MADE


def state_of(path: Path) -> State:
    """Raises UserError for a file that is another's: of another program, of another version of MLflow, or damaged."""
    if not path.exists():
        return State.MISSING
    if not path.is_file():
        raise UserError(f"the MLflow store {path} is no file: {INSTEAD}")
    if path.stat().st_size == 0:
        return State.HALF_MADE
    content, expected = _read(path), _expected_version()
    if content.of_mlflow and content.version == expected:
        return State.SOUND
    if content.half_made:
        return State.HALF_MADE
    if content.of_mlflow:
        raise UserError(
            f"the MLflow store {path} has the schema of another MLflow (found {content.version}, MLflow {mlflow.__version__} "
            f"expects {expected}): take a copy, then bring it up to date with `mlflow db upgrade {SQLITE}{path}`, or, if it is "
            f"of a newer one, install that; or {INSTEAD}"
        )
    raise UserError(
        f"{path} is a database of another program (with the tables {', '.join(sorted(content.tables)[:5])}), and no MLflow "
        f"store: {INSTEAD}"
    )


@functools.cache
def _expected_version() -> str:
    return str(_get_latest_schema_revision())


def check(path: Path) -> None:
    """Raise UserError unless there is a sound store, for who only reads: MLflow itself would begin to make one."""
    match state_of(path.resolve()):
        case State.MISSING:
            raise UserError(
                f"there is no MLflow store {path}: it was deleted or moved, or no run has made it yet; {INSTEAD}"
            )
        case State.HALF_MADE:
            raise UserError(
                f"the MLflow store {path} was only half made and holds no run: the next ebm-train sets it aside and makes "
                f"another; or {INSTEAD}"
            )


def make_ready(path: Path, artifact_root: Path) -> None:
    """Have a sound store there: make one if there is none, or only half a one. The caller holds `locked`."""
    path = path.resolve()  # sqlite names its companions after the file that a link leads to
    remove_leftovers(path)
    while (state := state_of(path)) is not State.SOUND:
        if state is State.HALF_MADE:
            _wait_for_maker(path)
        if state_of(path) is State.HALF_MADE:
            _set_aside(path)
        if state_of(path) is State.MISSING:
            _set_aside(path)  # of a file that is gone: sqlite would write it into the next
            _make(path, artifact_root)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process of this package at a time looks for a store, makes it, or makes an experiment in it."""
    if path.exists() and not (path.is_file() and os.access(path, os.R_OK | os.W_OK)):
        raise UserError(f"the MLflow store {path} is no file that can be written: choose another output_root")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path.with_suffix(".lock"), "w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise UserError(f"cannot open the MLflow store {path} ({error}): choose another output_root") from error


def note_sizes(path: Path) -> None:
    """Let sqlite note how full its tables are. Without that it looks for the history of one metric among those of all runs."""
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(path, timeout=1)) as connection:
        connection.execute(f"PRAGMA analysis_limit = {SAMPLED_ROWS}")
        connection.execute("ANALYZE")


def new_schema(path: Path, artifact_root: Path) -> None:
    """A store in a file of its own, whose schema MLflow has checked; nothing has it open afterwards."""
    SqlAlchemyStore(f"{SQLITE}{path}", artifact_root.absolute().as_uri()).engine.dispose()


def _make(path: Path, artifact_root: Path) -> None:
    partial = partial_name(path)
    try:
        new_schema(partial, artifact_root)
        _write_through(partial)
        _put(partial, path)
        _write_through(path.parent)
    finally:
        for name in ("", *COMPANIONS):
            _beside(partial, name).unlink(missing_ok=True)


def _put(partial: Path, path: Path) -> None:
    """Give a store its name, unless another program has begun one there meanwhile."""
    try:
        os.link(partial, path)  # unlike os.replace it takes nobody's place
    except FileExistsError:
        return
    except OSError:  # a file system without links
        os.rename(partial, path)
    _forget_connections(path)


def _forget_connections(path: Path) -> None:
    """Those that this process had to a store of this name that is gone: MLflow would go on writing into that."""
    engine = SqlAlchemyStore._engine_map.get(f"{SQLITE}{path}")
    if engine is not None:
        engine.dispose()


def _set_aside(path: Path) -> None:
    """Rename a store that was half made, with what sqlite left beside it; the file first, so that it is never without that."""
    there = [name for name in ("", *COMPANIONS) if _beside(path, name).exists()]
    if not there:
        return
    aside = _unused(path.with_name(f"{path.name}.half-made-{time.strftime('%Y%m%d-%H%M%S')}"))
    for name in there:
        os.rename(_beside(path, name), _beside(aside, name))
    log.warning(
        f"the MLflow store {path} was only half made, as its process was stopped, and holds no run: it is set aside as "
        f"{aside.name}, and a new one is made"
    )


def _unused(path: Path) -> Path:
    """This name, or with the first number behind it by which nothing is called."""
    names = (path if number == 0 else _beside(path, f"-{number}") for number in itertools.count())
    return next(name for name in names if not any(_beside(name, suffix).exists() for suffix in ("", *COMPANIONS)))


def _wait_for_maker(path: Path) -> None:
    """Let another program end its making, as `mlflow ui` on an empty folder, which knows no other name for it."""
    until = time.monotonic() + MAKER_SECONDS
    while (maker := _user_of(path)) is not None and state_of(path) is State.HALF_MADE:
        if time.monotonic() > until:
            raise UserError(
                f"the process {maker} has the MLflow store {path} open, which is only half made: end that process, or {INSTEAD}"
            )
        time.sleep(0.2)


def _user_of(path: Path) -> str | None:
    """Another process that has this file open."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and any(file.path == str(path) for file in process.open_files()):
                return f"{process.pid} ({process.name()})"
    return None


def _read(path: Path) -> Content:
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True, timeout=LOCK_SECONDS)) as connection:
            return _content(connection)
    except sqlite3.OperationalError as error:  # also with no room to undo what a killed process had begun
        raise UserError(
            f"the MLflow store {path} cannot be read ({error}): free some space, or wait for the process that locks it, or "
            f"{INSTEAD}"
        ) from error
    except sqlite3.DatabaseError as error:
        raise UserError(f"{path} is no MLflow store, or a damaged one ({error}): {INSTEAD}") from error


def _content(connection: sqlite3.Connection) -> Content:
    names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    tables = {name for name in names if not name.startswith("sqlite_")}
    own = SqlExperiment.__tablename__
    columns = {row[1] for name in (own, UNFINISHED + own) for row in connection.execute(f"PRAGMA table_info({name})")}
    version = connection.execute(f"SELECT * FROM {VERSION}").fetchone() if VERSION in tables else None
    filled = {
        name
        for name in tables
        if name.removeprefix(UNFINISHED) in KNOWN and connection.execute(f"SELECT 1 FROM {name} LIMIT 1").fetchone()
    }
    return Content(frozenset(tables), frozenset(filled), str(version[0]) if version else None, frozenset(columns))


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _write_through(path: Path) -> None:
    """To the disk, the file or the names in the folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
