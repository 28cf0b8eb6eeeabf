"""A PostgreSQL server of its own in a temporary folder, reached through a socket there: no port is opened."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


class Postgres:
    """As a context manager the server ends with the block, and its folder goes."""

    def __init__(self) -> None:
        programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
        found = shutil.which("initdb") or (str(programs[-1] / "initdb") if programs else None)
        if found is None:
            pytest.skip("needs PostgreSQL: apt-get install postgresql")
        pytest.importorskip("psycopg2", reason="needs psycopg2-binary")
        self.programs = Path(os.path.realpath(found)).parent
        self.user = _owner()
        self.folder = Path(tempfile.mkdtemp(prefix="ebm-pg-", dir="/tmp"))  # a socket's path is short

    def __enter__(self) -> Postgres:
        if self.user is not None:
            shutil.chown(self.folder, self.user)
        self._run(
            "initdb", "-D", str(self.folder / "data"), "-U", "postgres", "--auth", "trust", "--no-sync", "-E", "UTF8"
        )
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = f"-c listen_addresses='' -c unix_socket_directories={self.folder} -c fsync=off -c max_connections=200"
        self._run(
            "pg_ctl", "-D", str(self.folder / "data"), "-o", options, "-l", str(self.folder / "log"), "-w", "start"
        )

    def stop(self) -> None:
        """End it, whoever is connected."""
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-m", "immediate", "-w", "stop")

    def database(self, name: str) -> str:
        """The address of a new database."""
        self._run("createdb", "-h", str(self.folder), "-U", "postgres", name)
        return f"postgresql+psycopg2://postgres@/{name}?host={self.folder}"  # without a driver SQLAlchemy 2.1 takes psycopg

    def rows(self, name: str, query: str) -> list[tuple[Any, ...]]:
        """What a database answers."""
        with self._connection(name) as cursor:
            cursor.execute(query)
            return list(cursor.fetchall())

    def execute(self, name: str, statement: str) -> None:
        """Change something in a database."""
        with self._connection(name) as cursor:
            cursor.execute(statement)

    def dump(self, name: str) -> str:
        """All that a database holds, as text."""
        return self._run("pg_dump", "-h", str(self.folder), "-U", "postgres", name)

    @contextmanager
    def _connection(self, name: str) -> Iterator[Any]:
        import psycopg2

        connection = psycopg2.connect(dbname=name, user="postgres", host=str(self.folder))
        try:
            with connection, connection.cursor() as cursor:
                yield cursor
        finally:
            connection.close()

    def _run(self, program: str, *words: str) -> str:
        done = subprocess.run(
            [str(self.programs / program), *words], user=self.user, cwd=self.folder, capture_output=True, text=True,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"
        return done.stdout


def _owner() -> str | None:
    """The user that the server runs as: it refuses root."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in known), None)
