"""`ebm-ui`: MLflow's pages of a store, and what it says where there are none."""

from __future__ import annotations

import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import requests
from commands import run_command
from servers import Pages, free_port

from ebm_pipeline import cli
from ebm_pipeline.support.listening import listening
from ebm_pipeline.tracking.store import prepare_store
from ebm_pipeline.tracking.tracker import Tracker


def with_a_run(outputs: Path) -> str:
    """A store with a run in its second experiment; returns the experiment's id."""
    uri = f"sqlite:///{outputs / 'mlflow.db'}"
    outputs.mkdir(parents=True, exist_ok=True)
    prepare_store(uri, outputs / "mlartifacts", "another")
    experiment = prepare_store(uri, outputs / "mlartifacts", "digits")
    Tracker.start(uri, experiment, "run", {}).finish("FINISHED")
    return experiment


def refused(*words: str, outputs: Path, **variables: str) -> str:
    """The one message with which it ends."""
    done = run_command(cli.ui, *words, output_root=outputs, variables=variables)
    assert done.code == 1
    assert done.err.startswith("error: ")
    assert done.err.strip().count("\n") == 0
    return done.err


def test_without_a_store_it_says_so_and_makes_none(tmp_path: Path) -> None:
    assert "there is no MLflow store" in refused(outputs=tmp_path / "outputs")
    assert not list((tmp_path / "outputs").iterdir())


def test_a_store_of_another_mlflow_is_left_alone(tmp_path: Path) -> None:
    with_a_run(tmp_path)
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ab12'")
        connection.commit()
    assert "mlflow db upgrade" in refused(outputs=tmp_path)


def test_a_port_in_use_and_one_that_is_none(tmp_path: Path) -> None:
    with_a_run(tmp_path)
    with listening("127.0.0.1", port := free_port(), "", 1):
        assert f"cannot listen on 127.0.0.1:{port}" in refused(f"port={port}", outputs=tmp_path)
    assert "port" in refused("port=70000", outputs=tmp_path)


def test_of_a_server_the_pages_are_its_own(tmp_path: Path) -> None:
    assert "open that address" in refused(outputs=tmp_path, MLFLOW_TRACKING_URI="http://127.0.0.1:1")


@pytest.mark.slow
def test_it_answers_when_it_says_so_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    experiment = with_a_run(tmp_path)
    with Pages(tmp_path, tmp_path / "ui.log") as pages:
        assert f"the runs of digits: {pages.uri}/#/experiments/{experiment}/runs" in pages.said
        page = requests.get(pages.uri, headers={"If-None-Match": "*"}, timeout=30)
        assert page.headers["Cache-Control"] == "no-store"
        assert "machine_learning" in page.text
        assert page.text.rstrip().endswith("</html>")
        assert requests.head(pages.uri, timeout=30).ok
        api = f"{pages.uri}/ajax-api/2.0/mlflow/experiments/search"
        found = requests.post(api, json={"max_results": 10}, timeout=30).json()["experiments"]
        assert {entry["name"] for entry in found} == {"Default", "another", "digits"}
        assert requests.get(pages.uri, headers={"Host": "elsewhere.example"}, timeout=30).status_code == 403
        pages.process.send_signal(signal.SIGINT)
        assert pages.process.wait(timeout=30) == 130
    assert pages.log.read_text().splitlines()[-1] == "stopped by SIGINT"
    assert "Traceback" not in pages.log.read_text()
