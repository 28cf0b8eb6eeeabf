"""`ebm-ui`: MLflow's pages of the store, on this computer."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Mapping

import uvicorn
from omegaconf import DictConfig
from starlette.types import ASGIApp

from ebm_pipeline.runs.configuration import STORE_KEYS, check_keys, tracking_uri
from ebm_pipeline.support.errors import UserError, check_whole
from ebm_pipeline.support.interruption import Interrupted
from ebm_pipeline.support.listening import listening
from ebm_pipeline.tracking.address import without_password
from ebm_pipeline.tracking.pages import newest_experiment, pages

HOST = "127.0.0.1"
MOST_CONNECTIONS = 256  # a page of many charts opens a dozen
END_SECONDS = 3  # for answers that are under way at the end
LOOK_SECONDS = 0.05


def show(config: DictConfig) -> None:
    """`ebm-ui`: answer with the pages until the process is told to end; says so when they are there."""
    check_keys(config, {"port": int, "output_root": str, "tracking": Mapping}, "")
    check_keys(config.tracking, STORE_KEYS, "tracking.")
    check_whole("port", config.port, 1, 65535)
    uri = tracking_uri(config)
    if uri.startswith("http"):
        raise UserError(f"the store {without_password(uri)} is a server, which has pages of its own: open that address")
    newest = newest_experiment(uri)
    with listening(HOST, config.port, "make ui: PORT=", MOST_CONNECTIONS) as place:
        print(f"MLflow's pages of {without_password(uri)} are up in some seconds", flush=True)
        home = f"http://{HOST}:{config.port}"
        runs = (
            f"the runs of {newest.name}: {home}/#/experiments/{newest.experiment_id}/runs" if newest else "no runs yet"
        )
        app = pages(uri)
        if asyncio.run(_serve(app, place, f"{runs}\nall experiments: {home}/#/experiments\nCtrl-C ends it")):
            raise Interrupted(signal.SIGINT)  # nothing else ends it, and the server may keep the signal to itself


async def _serve(app: ASGIApp, place: socket.socket, ready: str) -> bool:
    """Answer, and print `ready` as soon as that is so; whether it ever was."""
    settings = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=END_SECONDS)
    server = uvicorn.Server(settings)
    serving = asyncio.create_task(server.serve(sockets=[place]))
    while not (server.started or serving.done()):
        await asyncio.sleep(LOOK_SECONDS)
    if server.started:
        print(ready, flush=True)
    await serving
    return server.started
