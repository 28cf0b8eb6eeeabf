"""Stores that were moved: a sqlite store is found beside its runs, and the places that it names are set to where they are."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

from ebm_pipeline.tracking.address import SQLITE, database_file

log = logging.getLogger(__name__)

ARTIFACTS = "mlartifacts"  # the folder beside a sqlite store that holds the files of its runs
MOST_LEVELS = 4  # of folders above that of a run in which its store is looked for
PLACES = {  # columns of a store that hold addresses of files
    "experiments": "artifact_location", "runs": "artifact_uri", "logged_models": "artifact_location",
    "model_versions": "storage_location",
}  # fmt: skip


def absolute(uri: str) -> str:
    """The address of a store, which means the same in every working directory."""
    return f"{SQLITE}{database_file(uri).absolute()}" if uri.startswith(SQLITE) else uri


def holds(uri: str, run_id: str) -> bool | None:
    """Whether a sqlite store has a run; None where only MLflow can tell: a server, or a file that is locked or damaged."""
    return _has(uri, "SELECT 1 FROM runs WHERE run_uuid = ?", run_id)


def has_tag(uri: str, name: str, value: str) -> bool | None:
    """As `holds`: whether a run has this tag."""
    return _has(uri, "SELECT 1 FROM tags WHERE key = ? AND value = ?", name, value)


def _has(uri: str, query: str, *values: str) -> bool | None:
    if not uri.startswith(SQLITE):
        return None
    file = database_file(uri)
    if not file.is_file():
        return False
    try:
        with closing(_opened(file, "ro")) as connection:
            return connection.execute(query, values).fetchone() is not None
    except sqlite3.Error as error:
        return False if "no such table" in str(error) else None


def above(folder: Path) -> Iterator[Path]:
    """The folders above, by the name that was given and by that without symbolic links."""
    for path in dict.fromkeys((folder.absolute(), folder.resolve())):
        yield from islice(path.parents, MOST_LEVELS)


def _opened(file: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(file.absolute()))}?mode={mode}", uri=True)


def set_places_right(uri: str) -> None:
    """Set the places of artifacts in a sqlite store to the folder beside it, where that was moved together with it.

    MLflow keeps them as absolute addresses: what is logged next would go to where the store was before.
    """
    file = database_file(uri)
    if not uri.startswith(SQLITE) or not file.is_file():
        return
    here = file.absolute().parent / ARTIFACTS
    with suppress(sqlite3.Error), closing(_opened(file, "rw")) as connection, connection:
        for number, address in connection.execute(
            "SELECT experiment_id, artifact_location FROM experiments"
        ).fetchall():
            place = _folder(address)
            if place is None or place.parent in (here, here.resolve()) or place.parent.name != ARTIFACTS:
                continue
            runs = connection.execute("SELECT run_uuid FROM runs WHERE experiment_id = ?", (number,)).fetchall()
            if _moved(place, here / place.name, [run for (run,) in runs]):
                _rename(connection, address, (here / place.name).as_uri())
                log.info(f"the files of the MLflow store {file} are where it is now: it named {place}")


def _folder(address: str | None) -> Path | None:
    parts = urlsplit(address or "")
    return Path(url2pathname(parts.path)) if parts.scheme == "file" else None


def _moved(before: Path, now: Path, runs: list[str]) -> bool:
    """Whether files of an experiment lie in `now` and no more in `before`; a copy of them is not moved."""
    return any((now / run).is_dir() and not (before / run).is_dir() for run in runs)


def _rename(connection: sqlite3.Connection, before: str, now: str) -> None:
    for table, column in PLACES.items():
        with suppress(sqlite3.OperationalError):  # a table that this version of MLflow does not have
            connection.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                (now, len(before) + 1, before, len(before) + 1, f"{before}/"),
            )
