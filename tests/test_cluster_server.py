"""A tracking server as a group has it: PostgreSQL, files through the server, users with passwords, two hosts."""

from __future__ import annotations

import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import PLAIN, run_command
from hosts import ADDRESSES, Hosts, end, skip_without_hosts
from postgres import Postgres
from tracked_runs import EPOCHS, RUNS

from ebm_pipeline import cli

pytestmark = pytest.mark.cluster

PORT = 5077
URI = f"http://{ADDRESSES[0]}:{PORT}"
PASSWORD = secrets.token_hex(16)
USER = {"MLFLOW_TRACKING_USERNAME": "chief", "MLFLOW_TRACKING_PASSWORD": PASSWORD}


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


class Group:
    """The server on the first host, with two workers."""

    def __init__(self, hosts: Hosts, postgres: Postgres, folder: Path) -> None:
        self.hosts = hosts
        self.folder = folder
        self.store, self.users = postgres.database("mlflow"), postgres.database("users")
        (folder / "auth.ini").write_text(
            f"[mlflow]\ndefault_permission = READ\ndatabase_uri = {self.users}\nadmin_username = chief\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\nauth_cache_ttl_seconds = 60\n"
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        words = [
            sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--host", ADDRESSES[0], "--port", str(PORT),
            "--workers", "2", "--backend-store-uri", self.store, "--serve-artifacts", "--artifacts-destination",
            str(self.folder / "artifacts"),
        ]  # fmt: skip
        variables = {
            "MLFLOW_AUTH_CONFIG_PATH": str(self.folder / "auth.ini"), "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }  # fmt: skip
        self.process = self.hosts.start(0, words, variables, "server.log")
        until = time.monotonic() + 240
        ask = [sys.executable, "-c", f"import requests; requests.get('{URI}/health', timeout=2).raise_for_status()"]
        while self.hosts.start(0, ask, {}, "health.log").wait() != 0:
            assert self.process.poll() is None, (self.hosts.logs / "server.log").read_text()
            assert time.monotonic() < until, "the server does not answer"
            time.sleep(0.5)

    def kill(self) -> None:
        """As `kill -9` of the server and its workers."""
        assert self.process is not None
        end(self.process)


def files_of(folder: Path) -> Iterator[tuple[Path, bytes]]:
    yield from ((path, path.read_bytes()) for path in folder.rglob("*") if path.is_file())


def said(folder: Path, *logs: str) -> str:
    return "\n".join((folder / name).read_text(errors="replace") for name in logs)


def test_sixteen_runs_from_two_hosts_through_a_restart(postgres: Postgres, tmp_path: Path) -> None:
    """Nothing lost, nothing doubled, and the password is nowhere."""
    skip_without_hosts()
    pytest.importorskip("flask_wtf", reason="needs mlflow's extra auth: pip install Flask-WTF")
    outputs, artifacts = tmp_path / "outputs", tmp_path / "server"
    outputs.mkdir()
    artifacts.mkdir()
    train = [str(Path(sys.executable).parent / "ebm-train"), *PLAIN, "model=rbm"]
    where = {"MLFLOW_TRACKING_URI": URI, "EBM_OUTPUT_DIR": str(outputs), "MLFLOW_HTTP_REQUEST_TIMEOUT": "60"}
    with Hosts(tmp_path) as hosts:
        group = Group(hosts, postgres, artifacts)
        group.start()
        nobody = hosts.start(1, train, where, "nobody.log")
        script = [sys.executable, str(Path(__file__).with_name("tracked_runs.py")), str(outputs), URI]
        both = [hosts.start(host, [*script, "ab"[host]], where | USER, f"{host}.log") for host in (0, 1)]
        until = time.monotonic() + 300
        while len(list(outputs.glob("*/half"))) < 2 * RUNS:
            assert {process.poll() for process in both} == {None}, said(tmp_path, "0.log", "1.log")
            assert time.monotonic() < until, said(tmp_path, "0.log", "1.log")
            time.sleep(0.1)
        assert nobody.wait(timeout=600) == 1  # who gives no user is told before the server goes
        group.kill()
        (outputs / "go").touch()
        for host, process in enumerate(both):
            assert process.wait(timeout=600) == 0, said(tmp_path, f"{host}.log")
        assert len(list(outputs.glob("*/unsent"))) == 2 * RUNS
        group.start()
        sync = [sys.executable, "-c", "from ebm_pipeline.cli import sync; sync()"]
        sent = hosts.start(1, sync, where | USER, "sync.log")
        whole = hosts.start(0, train, where | USER, "train.log")
        assert sent.wait(timeout=600) == 0, said(tmp_path, "sync.log")
        assert whole.wait(timeout=600) == 0, said(tmp_path, "train.log")
        refusal = said(tmp_path, "nobody.log")
        assert "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in refusal
        assert "Traceback" not in refusal
    check_everything_is_there_once(postgres, artifacts)
    assert not list(outputs.glob("*/unsent"))
    for path, content in files_of(tmp_path):
        assert PASSWORD.encode() not in content, path
    assert PASSWORD not in postgres.dump("mlflow") + postgres.dump("users")


def check_everything_is_there_once(postgres: Postgres, server: Path) -> None:
    runs = postgres.rows("mlflow", "SELECT name, status, run_uuid FROM runs")
    expected = [f"{host}{number}" for host in "ab" for number in range(RUNS)]
    assert sorted((name, status) for name, status, _ in runs) == sorted(
        (name, "FINISHED") for name in (*expected, "RBM")
    )
    steps = postgres.rows(
        "mlflow", "SELECT name, metrics.key, step FROM metrics JOIN runs USING (run_uuid) WHERE name != 'RBM'"
    )
    wanted = [(run, key, step) for run in expected for key in ("epoch", "error") for step in range(EPOCHS)]
    assert sorted(steps) == sorted(wanted)
    for name, _, run_id in runs:
        (files,) = server.rglob(f"{run_id}/artifacts")
        if name in expected:
            assert (files / "model.h5").read_bytes() == str(name).encode() * 1000
            assert len(list((files / "images").glob("*.png"))) == EPOCHS


def test_a_database_of_an_older_mlflow_is_one_message_with_what_to_type(postgres: Postgres, tmp_path: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = postgres.database("old")
    SqlAlchemyStore(store, str(tmp_path / "artifacts")).engine.dispose()
    SqlAlchemyStore._engine_map.clear()
    postgres.execute("old", "UPDATE alembic_version SET version_num = '0a8213491aaa'")
    done = run_command(cli.train, *PLAIN, output_root=tmp_path, variables={"MLFLOW_TRACKING_URI": store})
    assert done.code == 1
    assert done.err.count("error:") == 1
    assert "has the schema of another MLflow (found version 0a8213491aaa" in done.err
    assert f"`mlflow db upgrade {store}`" in done.err
