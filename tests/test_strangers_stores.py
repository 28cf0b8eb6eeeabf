"""A store that only a folder names: it gets no call, no token and no password; no file outside is read, made or written."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import misbehaving
import pytest
from commands import PLAIN, Outcome, composed, run_command
from misbehaving import Front

from ebm_pipeline import cli
from ebm_pipeline.runs import train
from ebm_pipeline.support.errors import UserError
from ebm_pipeline.tracking import records
from ebm_pipeline.tracking.journal import Journal
from ebm_pipeline.tracking.store import ask
from ebm_pipeline.tracking.unsent import send_kept
from ebm_pipeline.tracking.whose import check_artifacts, permitted

SECRETS = ("a-token", "a-name", "a-password")
WORDS = ("likelihood=null", "diagnostics=null")


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in zip(("TOKEN", "USERNAME", "PASSWORD"), SECRETS, strict=True):
        monkeypatch.setenv(f"MLFLOW_TRACKING_{variable}", value)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("EBM_DATA_DIR", raising=False)


@pytest.fixture
def server() -> Iterator[Front]:
    """It answers everybody, and keeps what it was asked."""
    front = Front(None)
    front.kind = misbehaving.empty_object
    yield front
    front.close()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder with one finished run, runs/one."""
    root = tmp_path_factory.mktemp("trained") / "outputs"
    data = root / "data.h5"
    train.train(composed(*PLAIN, f"data.path={data}", output_root=root), root / "runs" / "one")
    return root


@pytest.fixture
def strangers(trained: Path, tmp_path: Path) -> Path:
    """The run's folder alone, in another person's hands."""
    shutil.copytree(trained / "runs" / "one", tmp_path / "downloads" / "one")
    return tmp_path / "downloads" / "one"


def names(folder: Path, uri: str, **further: str) -> None:
    """Let run.json name another store, and a call be kept for it."""
    known = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(known | {"tracking_uri": uri} | further))
    Journal(folder).append({"call": "tags", "values": [["a", "b"]]})


COMMANDS: dict[str, Callable[[Path, Path], Outcome]] = {
    "evaluate": lambda run, outputs: run_command(cli.evaluate, f"run={run}", *WORDS, output_root=outputs),
    "compare": lambda run, outputs: run_command(cli.compare, f"runs=[{run}]", output_root=outputs),
    "sync": lambda run, outputs: run_command(cli.sync, f"run={run}", output_root=outputs),
    "train": lambda run, outputs: run_command(
        cli.train, *PLAIN, "resume=auto", f"hydra.run.dir={run}", output_root=outputs
    ),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_server_that_only_a_folder_names_is_not_asked(
    command: str, server: Front, strangers: Path, tmp_path: Path
) -> None:
    names(strangers, server.uri)
    outcome = COMMANDS[command](strangers, tmp_path / "outputs")
    assert outcome.code == 1
    assert f"say so: tracking.uri={server.uri}" in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
    assert server.asked == []
    assert not list((tmp_path / "outputs").rglob("mlflow.db"))


def test_a_claim_is_not_looked_up_there(server: Front, strangers: Path, tmp_path: Path) -> None:
    (strangers / "run.json").write_text(json.dumps({"claim": "0" * 32, "tracking_uri": server.uri}))
    assert "say so: tracking.uri" in COMMANDS["train"](strangers, tmp_path / "outputs").err
    assert server.asked == []


def test_what_needs_arrays_alone_asks_nobody(server: Front, strangers: Path, tmp_path: Path) -> None:
    names(strangers, server.uri)
    model = strangers / "model.h5"
    for reference in (strangers, model):
        run_command(cli.sample, f"run={reference}", "count=4", output_root=tmp_path / "outputs")
    assert server.asked == []


def test_the_users_word_lets_it_be_asked(server: Front, strangers: Path, tmp_path: Path) -> None:
    """With what the user's environment holds for it."""
    names(strangers, server.uri)
    outcome = run_command(
        cli.evaluate, f"run={strangers}", f"tracking.uri={server.uri}/", *WORDS, output_root=tmp_path / "outputs"
    )
    assert "does not answer as an MLflow server does" in outcome.err
    assert server.asked
    assert all(exchange.headers["authorization"].startswith("Basic ") for exchange in server.asked)


def test_a_redirection_takes_no_password_along(server: Front, tmp_path: Path) -> None:
    other = Front(None)
    other.kind = misbehaving.empty_object
    server.kind = lambda exchange: exchange.answer(b"", "302 Found", Location=f"{other.uri}{exchange.path}")
    with pytest.raises(UserError):
        ask(server.uri, lambda client: client.get_run("0" * 32).info.run_id or 1 / 0)
    assert other.asked
    assert not any("authorization" in exchange.headers for exchange in other.asked)
    other.close()


# ---------------------------------------------------------------------------------------------- files


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", ["missing", "another program's", "MLflow's"])
def test_a_file_that_only_a_folder_names_is_neither_made_nor_written(
    command: str, kind: str, trained: Path, strangers: Path, tmp_path: Path
) -> None:
    victim = tmp_path / "home"
    victim.mkdir()
    file = victim / "store.db"
    if kind == "MLflow's":
        shutil.copy(trained / "mlflow.db", file)
    elif kind == "another program's":
        sqlite3.connect(file).execute("CREATE TABLE notes (text)").connection.close()
    before = digests(victim)
    names(strangers, f"sqlite:///{file}")
    outcome = COMMANDS[command](strangers, tmp_path / "outputs")
    assert digests(victim) == before
    if command != "train" or kind != "missing":  # a store that is gone: the run goes on in the user's
        assert outcome.code == 1
        assert len(outcome.err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "named",
    [
        "http://[", "ftp://stranger/", "sqlite://", "sqlite:///" + "a/" * 3000, "postgresql://stranger/db",
        "file:///etc", "databricks", "uc:http://127.0.0.1:9", "", "http://user@127.0.0.1:5000@stranger", "\x1b[31mhttp://x",
    ],
)  # fmt: skip
def test_an_address_of_any_other_kind_is_refused_too(named: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="say so") as error:
        permitted(tmp_path, named, "http://127.0.0.1:5000", lambda uri: False)
    assert str(error.value).isprintable()


def test_the_same_server_is_the_users_however_it_is_written(tmp_path: Path) -> None:
    """And the user's address is used: it may hold his password."""
    for users in ("http://me:secret@Tracking:5000/", "HTTP://tracking:5000"):
        assert permitted(tmp_path, "http://you:x@tracking:5000", users, lambda uri: None) == users


# ---------------------------------------------------------------------------------------------- one's own


@pytest.mark.parametrize("command", ["evaluate", "compare"])
def test_an_own_run_is_known_from_anywhere(
    command: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EBM_DATA_DIR", str(trained))
    outcome = COMMANDS[command](trained / "runs" / "one", tmp_path / "elsewhere")
    assert (outcome.code, outcome.err) == (0, "")


@pytest.mark.parametrize("kind", ["outside", "http", "a link", "models outside", "a link to models"])
def test_a_strangers_output_folder_does_not_say_where_files_go(
    kind: str, trained: Path, tmp_path: Path, server: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its store lies above the run, and is read; what it says of artifacts is not followed."""
    root = tmp_path / "outputs of a stranger"
    shutil.copytree(trained, root)
    monkeypatch.setenv("EBM_DATA_DIR", str(trained))  # which is another matter
    home = tmp_path / "home"
    home.mkdir()
    known = records.run_of(root / "runs" / "one")
    (before,) = ask(
        f"sqlite:///{root / 'mlflow.db'}", lambda client: [client.get_run(known["run_id"]).info.artifact_uri]
    )
    place = root / "mlartifacts" / "ebm" / known["run_id"] / "artifacts"
    address = {"outside": home.as_uri(), "http": f"{server.uri}/artifacts", "a link": place.as_uri()}.get(kind, before)
    with sqlite3.connect(root / "mlflow.db") as connection:
        connection.execute("UPDATE runs SET artifact_uri = ? WHERE artifact_uri = ?", (address, before))
        if kind == "models outside":
            connection.execute("UPDATE experiments SET artifact_location = ?", (home.as_uri(),))
            connection.execute("UPDATE runs SET artifact_uri = ?", (place.as_uri(),))
    if kind == "a link":
        (place / "deep").symlink_to(home)
    if kind == "a link to models":
        (root / "mlartifacts" / "ebm" / "models").symlink_to(home)
    names(root / "runs" / "one", f"sqlite:///{root / 'mlflow.db'}")
    for command in ("evaluate", "sync"):
        outcome = COMMANDS[command](root / "runs" / "one", tmp_path / "mine")
        assert outcome.code == 1
        assert "tracking.uri=sqlite" in outcome.err
    assert list(home.iterdir()) == []
    assert server.asked == []


def test_artifacts_beside_the_store_are_written(trained: Path) -> None:
    known = records.run_of(trained / "runs" / "one")
    check_artifacts(known["tracking_uri"], known["run_id"], "another")


@pytest.mark.parametrize("how", ["absolute", "above", "a link", "a link in a folder"])
def test_no_file_from_elsewhere_is_sent_because_a_journal_says_so(how: str, trained: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a-password")
    run = tmp_path / "outputs" / "runs" / "one"
    shutil.copytree(trained / "runs" / "one", run)
    (run / "folder").mkdir()
    (run / "link").symlink_to(secret)
    (run / "folder" / "link").symlink_to(secret)
    file = {"absolute": str(secret), "above": "../../../secret", "a link": "link", "a link in a folder": "folder"}[how]
    (run / "unsent").mkdir()
    line = {"call": "file", "file": file, "folder": None}
    (run / "unsent" / "journal.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(UserError, match="no file of the run"):
        send_kept(run, records.run_of(run)["tracking_uri"])
    assert not [
        path for path in (trained / "mlartifacts").rglob("*") if path.is_file() and b"a-password" in path.read_bytes()
    ]
