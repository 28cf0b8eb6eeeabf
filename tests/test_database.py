"""The sqlite store: stopped while it is made, half made by others, of another program or version, made twice at once."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from kills import CONTEXT, kill_self
from mlflow.store.db.utils import _get_alembic_config, _upgrade_db
from mlflow.store.tracking.dbmodels.initial_models import Base as InitialBase
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy import create_engine, event, text
from sqlalchemy.engine import Engine

from ebm_pipeline.support.errors import UserError
from ebm_pipeline.support.interruption import Interrupted
from ebm_pipeline.tracking import database, records, store
from ebm_pipeline.tracking.environment import set_up_mlflow

# How many of MLflow's 438 statements were done. 0: sqlite has made the file, and nothing is in it.
MOMENTS = (0, 1, 2, 3, 5, 9, 40, 90, 150, 220, 290, 350, 400, 430, 437)
STATEMENTS = 438


def in_turn(action: Callable[[int], object]) -> Callable[..., None]:
    """A listener of sqlalchemy's, which gives `action` the number of the statement that was done, from 1."""
    count = 0

    def listen(connection: Any, cursor: Any, statement: str, *others: Any) -> None:
        nonlocal count
        if not statement.lstrip().upper().startswith(("PRAGMA", "SELECT")):
            count += 1
            action(count)

    return listen


@contextmanager
def at_each_statement(action: Callable[[int], object]) -> Iterator[None]:
    listener = in_turn(action)
    event.listen(Engine, "after_cursor_execute", listener)
    try:
        yield
    finally:
        event.remove(Engine, "after_cursor_execute", listener)


def make_in_place(path: Path) -> None:
    """As MLflow and earlier versions of this package do."""
    SqlAlchemyStore(f"sqlite:///{path}", str(path.parent / "mlartifacts")).engine.dispose()


@pytest.fixture(scope="module")
def moments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the file, and what sqlite had beside it, after each of MOMENTS: what a kill then leaves."""
    folder = tmp_path_factory.mktemp("moments")
    path = folder / "mlflow.db"

    def keep(number: int) -> None:
        if number in MOMENTS:
            for left in folder.glob("mlflow.db*"):
                shutil.copy(left, folder / left.name.replace("mlflow", str(number)))

    (folder / "0.db").touch()
    count = 0

    def count_up(number: int) -> None:
        nonlocal count
        count = number
        keep(number)

    with at_each_statement(count_up):
        make_in_place(path)
    assert count == STATEMENTS, "another MLflow: MOMENTS are to be chosen anew"
    return folder


def put_half_made(moments: Path, number: int, path: Path, journal: bool = True) -> None:
    for left in moments.glob(f"{number}.db*"):
        if journal or left.suffix == ".db":
            shutil.copy(left, path.with_name(left.name.replace(str(number), path.stem)))


def prepared(path: Path) -> str:
    return store.prepare_store(f"sqlite:///{path}", path.parent / "mlartifacts", "test")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


# ---------------------------------------------------------------------------------------------- half made by others


@pytest.mark.parametrize("journal", [True, False], ids=["with journal", "without"])
@pytest.mark.parametrize("number", MOMENTS)
def test_a_store_half_made_is_set_aside_and_another_made(
    number: int, journal: bool, moments: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "mlflow.db"
    put_half_made(moments, number, path, journal)
    size = path.stat().st_size
    assert prepared(path)
    (message,) = caplog.messages
    (aside,) = (name for name in names(tmp_path) if name.startswith("mlflow.db.half-made-") and "-journal" not in name)
    assert aside in message
    assert "holds no run" in message
    assert (tmp_path / aside).stat().st_size == size
    assert database.state_of(path) is database.State.SOUND
    assert prepared(path)
    assert len(caplog.messages) == 1


def test_two_in_the_same_second_are_both_kept(moments: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "strftime", lambda *form: "20261126-120000")
    path = tmp_path / "mlflow.db"
    for _ in range(3):
        put_half_made(moments, 90, path)
        prepared(path)
        path.unlink()
    kept = [name for name in names(tmp_path) if not name.endswith("-journal")]
    assert kept == [f"mlflow.db.half-made-20261126-120000{end}" for end in ("", "-1", "-2")]


def test_a_journal_without_its_file_is_set_aside(tmp_path: Path) -> None:
    """sqlite would write it into the next store of this name."""
    (tmp_path / "mlflow.db-journal").write_bytes(b"pages")
    prepared(tmp_path / "mlflow.db")
    (aside,) = tmp_path.glob("mlflow.db.half-made-*-journal")
    assert aside.read_bytes() == b"pages"
    assert not (tmp_path / "mlflow.db-journal").exists()


def test_what_only_reads_makes_no_store(moments: Path, tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    with pytest.raises(UserError, match="there is no MLflow store"):
        records.find_run(f"sqlite:///{path}", "0" * 32)
    assert names(tmp_path) == []
    put_half_made(moments, 220, path)
    before = path.read_bytes()
    with pytest.raises(UserError, match="only half made and holds no run"):
        records.find_run(f"sqlite:///{path}", "0" * 32)
    assert path.read_bytes() == before


# ---------------------------------------------------------------------------------------------- of others


def changed(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


MINE = (
    "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage, creation_time, last_update_time) "
    "VALUES (7, 'test', 'mlartifacts/test', 'active', 1, 1)"
)
OLD = ("UPDATE alembic_version SET version_num = 'ae8bbe7743c9'",)
OTHERS = {
    "an older schema": (OLD, "has the schema of another MLflow .*mlflow db upgrade"),
    "a newer schema": (("UPDATE alembic_version SET version_num = 'ffffffffffff'",), "of another MLflow"),
    "a migration that was stopped": ((*OLD, "DROP TABLE guardrails"), "of another MLflow"),
    "no version": (("DELETE FROM alembic_version",), "found None"),
    "models alone": (
        (*OLD, "DELETE FROM experiments", "INSERT INTO registered_models (name) VALUES ('best')"),
        "of another MLflow",
    ),
}
PROGRAMS = {
    "notes": ("CREATE TABLE notes (text)",),
    "names like MLflow's": ("CREATE TABLE experiments (id, title)", "CREATE TABLE runs (id)"),
    "an empty table": ("CREATE TABLE metrics (key)",),
    "alembic": ("CREATE TABLE alembic_version (version_num)", "CREATE TABLE trials (id)"),
    "MLflow's and more": (
        "CREATE TABLE experiments (experiment_id, name, artifact_location, lifecycle_stage)",
        "CREATE TABLE mine (text)",
    ),
}


@pytest.mark.parametrize("kind", [*OTHERS, *PROGRAMS])
def test_a_store_of_others_is_one_message_and_stays(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    if kind in OTHERS:
        database.new_schema(path, tmp_path)
        statements, message = OTHERS[kind]
    else:
        statements, message = PROGRAMS[kind], "another program|another MLflow"
    changed(path, *statements)
    before = path.read_bytes()
    for use in (prepared, lambda path: records.find_run(f"sqlite:///{path}", "0" * 32)):
        with pytest.raises(UserError, match=message) as caught:
            use(path)
        assert "tracking.uri to another" in str(caught.value)
    assert path.read_bytes() == before
    assert names(tmp_path) == ["mlflow.db"]


def test_what_is_no_file_stays(tmp_path: Path) -> None:
    """As /dev/null, which has no bytes either."""
    path = tmp_path / "mlflow.db"
    os.mkfifo(path)
    for use in (prepared, lambda path: records.find_run(f"sqlite:///{path}", "0" * 32)):
        with pytest.raises(UserError, match="is no file"):
            use(path)
    assert names(tmp_path) == ["mlflow.db"]


@pytest.mark.slow
def test_an_older_store_is_brought_up_to_date_as_the_message_says(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    uri = f"sqlite:///{path}"
    InitialBase.metadata.create_all(create_engine(uri))
    command.upgrade(_get_alembic_config(uri), "bf29a5ff90ea")  # the store of an earlier MLflow
    changed(path, MINE)
    with pytest.raises(UserError, match=f"mlflow db upgrade {uri}"):
        prepared(path)
    _upgrade_db(create_engine(uri))  # what the command calls
    assert prepared(path) == "7"
    assert names(tmp_path) == ["mlflow.db"]


# ---------------------------------------------------------------------------------------------- stopped meanwhile


def really_made(path: Path, artifact_root: Path) -> None:
    make_in_place(path)


@pytest.mark.parametrize("number", [2, 300])
def test_an_interruption_leaves_nothing(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(done: int) -> None:
        if done == number:
            raise Interrupted(signal.SIGINT)

    make = database.new_schema
    monkeypatch.setattr(database, "new_schema", really_made)
    with at_each_statement(stop), pytest.raises(Interrupted):
        prepared(tmp_path / "mlflow.db")
    monkeypatch.setattr(database, "new_schema", make)
    assert names(tmp_path) == []
    assert prepared(tmp_path / "mlflow.db")


def make_until(path: Path, number: int) -> None:
    with at_each_statement(lambda done: kill_self() if done == number else None):
        prepared(path)


@pytest.mark.parametrize(
    "number",
    [pytest.param(number, marks=[pytest.mark.slow] * (number != 290)) for number in (*MOMENTS[1:], STATEMENTS)],
)
def test_a_kill_leaves_no_store_and_the_next_run_cleans_up(number: int, tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    child = CONTEXT.Process(target=make_until, args=(path, number))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert not path.exists()
    assert all(".partial" in name for name in names(tmp_path))
    assert names(tmp_path)
    assert prepared(path)
    assert names(tmp_path) == ["mlflow.db"]


# ---------------------------------------------------------------------------------------------- two at once


def test_two_that_make_it_at_once_have_one_store(tmp_path: Path) -> None:
    """The lock is of the open file, so threads stand for processes; those are in test_tracking."""
    found: list[str] = []
    makers = [threading.Thread(target=lambda: found.append(prepared(tmp_path / "mlflow.db"))) for _ in range(2)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert len(found) == 2
    assert len(set(found)) == 1
    assert names(tmp_path) == ["mlflow.db"]


def test_a_store_that_another_program_made_meanwhile_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mlflow.db"
    make = database.new_schema

    def slower(partial: Path, artifact_root: Path) -> None:
        make(partial, artifact_root)
        make(path, artifact_root)
        changed(path, MINE)

    monkeypatch.setattr(database, "new_schema", slower)
    assert prepared(path) == "7"
    assert names(tmp_path) == ["mlflow.db"]


MAKER = """
import sqlite3, sys
half, whole = (sqlite3.connect(path) for path in sys.argv[1:])
half.execute("SELECT * FROM sqlite_master").fetchall()
print("open", flush=True)
import time; time.sleep(0.5)
whole.backup(half)
half.close()
"""


def test_a_store_that_another_program_is_making_is_waited_for(
    moments: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, whole = tmp_path / "mlflow.db", tmp_path / "whole.db"
    put_half_made(moments, 90, path, journal=False)
    database.new_schema(whole, tmp_path)
    maker = subprocess.Popen([sys.executable, "-c", MAKER, path, whole], stdout=subprocess.PIPE)
    assert maker.stdout is not None
    assert maker.stdout.readline() == b"open\n"
    assert prepared(path)
    assert maker.wait() == 0
    assert names(tmp_path) == ["mlflow.db", "whole.db"]
    assert not caplog.messages


def test_a_program_that_never_ends_its_making_is_named(
    moments: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mlflow.db"
    put_half_made(moments, 90, path)
    monkeypatch.setattr(database, "MAKER_SECONDS", 0)
    monkeypatch.setattr(database, "_user_of", lambda path: "123 (mlflow)")
    with pytest.raises(UserError, match=r"the process 123 \(mlflow\) has the MLflow store .* only half made"):
        prepared(path)
    assert names(tmp_path) == [path.name for path in sorted(tmp_path.glob("mlflow.db*"))]


def test_a_store_made_anew_under_the_same_name_is_the_one_that_is_written(tmp_path: Path) -> None:
    """In one process, as a notebook's: MLflow keeps connections to the file that was deleted."""
    path = tmp_path / "mlflow.db"
    prepared(path)
    path.unlink()
    prepared(path)
    with closing(sqlite3.connect(path)) as connection:
        assert ("test",) in connection.execute("SELECT name FROM experiments").fetchall()


class InterruptedCursor(sqlite3.Cursor):
    """One whose fetch is interrupted by a signal, upon which SQLAlchemy closes the connection, and then the cursor."""

    def fetchall(self) -> list[object]:
        raise Interrupted(signal.SIGTERM)


class InterruptedConnection(sqlite3.Connection):
    def cursor(self, *arguments: object) -> InterruptedCursor:  # type: ignore[override]
        return InterruptedCursor(self)


def test_a_query_that_is_interrupted_leaves_no_traceback_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """The interruption is raised; that the cursor could not be closed on its way is nobody's news."""
    set_up_mlflow()
    engine = create_engine("sqlite://", creator=lambda: sqlite3.connect(":memory:", factory=InterruptedConnection))
    with pytest.raises(Interrupted), engine.connect() as connection, connection.execute(text("SELECT 1")) as result:
        result.fetchall()
    assert not caplog.records
