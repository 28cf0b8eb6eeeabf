"""A real `mlflow server` on loopback, to be killed and started again; ASGI applications without a server."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import requests


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


class Server:
    """`mlflow server` on sqlite in `folder`, files there or where `files` says. As a context manager it ends with the block."""

    def __init__(self, folder: Path, files: Sequence[str] = (), variables: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.files = files or ("--artifacts-destination", str(folder / "artifacts"))
        self.variables = dict(variables or {})
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.database = f"sqlite:///{folder / 'mlflow.db'}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start it; other work can be done until it answers."""
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1",
                "--backend-store-uri", self.database, *self.files,
            ],
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"} | self.variables, cwd=self.folder,
            start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def wait(self) -> None:
        """Until it answers."""
        until = time.monotonic() + 120
        while time.monotonic() < until:
            assert self.process is not None
            assert self.process.poll() is None, "mlflow server did not start"
            try:
                if requests.get(f"{self.uri}/health", timeout=1).ok:
                    return
            except requests.RequestException:
                time.sleep(0.3)
        raise AssertionError("mlflow server does not answer")

    def send(self, number: int) -> None:
        """A signal to the server and its workers."""
        if self.process is not None:
            os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """As `kill -9` of the server and its workers."""
        if self.process is not None and self.process.poll() is None:
            self.send(9)
            self.process.wait()

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()


class Pages:
    """`ebm-ui` of an output folder. As a context manager it ends with the block; `said` is what it printed before it answered."""

    def __init__(self, outputs: Path, log: Path) -> None:
        self.uri = f"http://127.0.0.1:{(port := free_port())}"
        self.log = log
        command = "import sys; sys.argv[0] = 'ebm-ui'; from ebm_pipeline.cli import ui; ui()"
        variables = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
        with open(self.log, "w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", command, f"port={port}"], env=variables | {"EBM_OUTPUT_DIR": str(outputs)},
                cwd=outputs, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def __enter__(self) -> Pages:
        until = time.monotonic() + 180
        while "Ctrl-C ends it" not in self.said:
            if self.process.poll() is not None or time.monotonic() > until:
                self.process.kill()
                raise AssertionError(f"ebm-ui did not start: {self.said}")
            time.sleep(0.1)
        return self

    @property
    def said(self) -> str:
        return self.log.read_text()

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait()


def wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until a server answers; fails with what it printed."""
    until = time.monotonic() + 180
    while time.monotonic() < until and process.poll() is None:
        try:
            if requests.get(address, timeout=5).ok:
                return
        except requests.RequestException:
            time.sleep(0.3)
    raise AssertionError(f"{address} does not answer: {log.read_text()}")


def ask_app(app: Any, method: str, path: str, body: bytes | None, kind: str | None) -> tuple[int, str]:
    """(status, text) of what an ASGI application answers, without a server; None: a body that does not come."""
    headers = [] if kind is None else [(b"content-type", kind.encode())]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http", "path": path,
        "raw_path": path.encode(), "query_string": b"", "root_path": "", "headers": headers, "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 1),
    }  # fmt: skip
    silent, body = body is None, body or b""
    parts = [body[start : start + 2**20] for start in range(0, len(body), 2**20)] or [b""]
    answers: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if silent:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def send(message: dict[str, Any]) -> None:
        answers.append(message)

    try:
        asyncio.run(app(scope, receive, send))
    except Exception:  # a fault, after it was answered: a server prints it
        if not answers:
            raise
    return answers[0]["status"], b"".join(answer.get("body", b"") for answer in answers).decode()
