"""A real `mlflow server` on loopback, to be killed and started again."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import requests


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


class Server:
    """`mlflow server` on sqlite with artifacts in `folder`. As a context manager it ends with the block."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
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
                "--backend-store-uri", self.database, "--artifacts-destination", str(self.folder / "artifacts"),
            ],
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}, cwd=self.folder, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
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
