"""The address of an MLflow store, checked before MLflow tries it: what it cannot open it tries again for minutes."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from ebm_pipeline.support.errors import UserError

SQLITE = "sqlite:///"
WEB = ("http", "https")
DATABASES = ("postgresql", "mysql", "mssql")  # with a driver, as in postgresql+psycopg2://...
LONGEST_PATH = 470  # bytes: sqlite opens none of more than 512, and a store is made under a longer name


def check_address(uri: str) -> None:
    """Raise UserError unless `uri` is the address of a store: sqlite:///FILE, http(s)://HOST or a database that MLflow knows.

    >>> check_address("sqlite:////home/me/outputs/mlflow.db")
    >>> check_address("http://127.0.0.1:5000")
    """
    scheme = uri.split(":", 1)[0].lower()
    if not uri.isprintable() or any("\ud800" <= sign <= "\udfff" for sign in uri):
        raise _refused(ascii(uri)[1:-1], "it has characters that are no text, or bytes that are no UTF-8")
    _check_host(uri)
    if scheme != "sqlite" and urlsplit(uri).password is not None:
        how = (
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            if scheme in WEB
            else "PGPASSWORD or ~/.pgpass (PostgreSQL)"
        )
        raise UserError(
            f"the address {without_password(uri)[:200]} of the MLflow store holds a password, which would stand in the files of "
            f"every run: leave it out, and give it by {how}"
        )
    if scheme == "sqlite":
        _check_file(uri)
    elif scheme in WEB:
        if not urlsplit(uri).hostname:
            raise _refused(uri, "it names no host")
    elif scheme.split("+")[0] in DATABASES:
        _parsed(uri)
    else:
        raise _refused(uri, "no such kind of store is known")


def is_local(uri: str) -> bool:
    """Whether a store is a file of this machine: no server that may keep one waiting."""
    return uri.startswith("sqlite:")


def database_file(uri: str) -> Path:
    """The file of a sqlite store, of an address that `check_address` takes."""
    return Path(uri.removeprefix(SQLITE))


def _check_file(uri: str) -> None:
    given = uri.removeprefix(SQLITE) if uri.startswith(SQLITE) else ""
    if not given or given == ":memory:":
        raise _refused(uri, "a store in memory ends with the process, and holds no run afterwards")
    if _parsed(uri) != given:  # as with a ?, a # or a % in the name of a folder
        raise _refused(
            uri, f"MLflow would read {_parsed(uri)!r} for the file {given!r}, which has characters of an address"
        )
    if len(os.fsencode(os.path.abspath(given))) > LONGEST_PATH:
        raise _refused(uri, f"sqlite opens no file whose path is longer than {LONGEST_PATH} bytes")


def _check_host(uri: str) -> None:
    """MLflow splits every address, and Python raises ValueError for brackets and ports that are none."""
    try:
        urlsplit(uri).port  # noqa: B018  it is read here
    except ValueError as error:
        raise _refused(uri, str(error)) from error


def _parsed(uri: str) -> str | None:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(uri).database
    except (ArgumentError, ValueError) as error:
        raise _refused(uri, str(error).splitlines()[0]) from error


def _refused(uri: str, reason: str) -> UserError:
    return UserError(
        f"{without_password(uri)[:200]} is no address of an MLflow store ({reason}): give tracking.uri or MLFLOW_TRACKING_URI "
        "as sqlite:///FILE or http://HOST:PORT, or another folder as output_root or EBM_OUTPUT_DIR"
    )


def printable(text: str) -> str:
    """What another wrote, as a message can show it: nothing in it moves the cursor."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def without_password(uri: str) -> str:
    """The address as messages show it."""
    before, at, after = uri.rpartition("@")
    return f"{before.split('://', 1)[0]}://...@{after}" if at else uri
