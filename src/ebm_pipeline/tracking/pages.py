"""MLflow's pages of a store, as an ASGI application that a server of ours answers with.

What MLflow's page remembers it keeps in the browser, and begins as one for language models: an experiment opens at its traces,
with an assistant beside it. An image card prints all parameters of a run above the picture, which is pushed out of the card by
more than a line of them (docs/tracking.md). So the page that the server sends has other first settings, which the user's own
replace, and a few rules of style for image cards; nothing else of it is changed, and no other page.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

from mlflow.entities import Experiment
from mlflow.tracking import MlflowClient
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ebm_pipeline.tracking.address import database_file, is_local
from ebm_pipeline.tracking.store import ask

IMAGES = ':is(:has(h4[title^="pictures/"]), :has(.rc-image))'  # the second: of runs of earlier versions
CARD = f'[data-testid="experiment-view-compare-runs-card"]{IMAGES}'
HEAD = f"""<script>
for (const [name, value] of [
  ["mlflow.workflowType_v1", '"machine_learning"'],
  ["mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true"],
]) if (localStorage.getItem(name) === null) localStorage.setItem(name, value);
</script>
<style>
/* two cards of pictures in a row, a little higher than other cards */
[data-testid="draggable-chart-cards-grid"]{IMAGES} {{
  grid-template-columns: repeat(auto-fit, minmax(min(480px, 100%), 1fr)) !important;
}}
{CARD} {{ height: 440px !important; }}
/* the caption of parameters; they are shown when the pointer is on the run's name */
{CARD} [tooltip-data-state] > div + div {{ display: none; }}
/* the pictures of several runs side by side, each directly under its name and as large as there is room */
{CARD} div:has(> [tooltip-data-state]:first-child + div) {{ flex: 1 1 200px; }}
{CARD} div:has(> .rc-image) {{ aspect-ratio: auto !important; }}
{CARD} .rc-image-img {{ max-height: 270px !important; }}
</style>
""".encode()


def newest_experiment(uri: str) -> Experiment | None:
    """The experiment of the run that was begun last, None where there is no run; UserError where there is no sound store."""

    def found(client: MlflowClient) -> Experiment | None:
        known = {one.experiment_id: one for one in client.search_experiments()}
        newest = (
            client.search_runs(list(known), order_by=["attributes.start_time DESC"], max_results=1) if known else []
        )
        return known[newest[0].info.experiment_id] if newest else None

    return ask(uri, found)


def pages(uri: str) -> ASGIApp:
    """The pages of a store that is there; of one in a process, as MLflow takes its settings from the environment."""
    import uvicorn  # noqa: F401  by this MLflow knows that it runs in a server, and answers to this computer's names alone
    from mlflow.server import constants, handlers

    home = database_file(uri).absolute().parent if is_local(uri) else Path.cwd()
    root = "mlflow-artifacts:/"  # of experiments made in the pages
    os.environ |= {
        constants.BACKEND_STORE_URI_ENV_VAR: uri,
        constants.REGISTRY_STORE_URI_ENV_VAR: uri,
        constants.ARTIFACT_ROOT_ENV_VAR: root,
        constants.SERVE_ARTIFACTS_ENV_VAR: "true",
        constants.ARTIFACTS_DESTINATION_ENV_VAR: str(home / "mlartifacts"),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    handlers.initialize_backend_stores(uri, uri, root)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what MLflow is built on
        from mlflow.server.fastapi_app import app

    async def with_head(scope: Scope, receive: Receive, send: Send) -> None:
        await _answer(app, scope, receive, send)

    return with_head


async def _answer(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """What `app` answers; to the address of the page itself with HEAD in it."""
    if scope["type"] != "http" or scope["path"] != "/":
        await app(scope, receive, send)
        return
    known = (b"if-none-match", b"if-modified-since")  # of MLflow's own page, from another day on this port
    scope = {**scope, "headers": [entry for entry in scope["headers"] if entry[0] not in known]}
    started: list[Message] = []
    parts: list[bytes] = []

    async def gather(message: Message) -> None:
        if message["type"] == "http.response.start":
            started.append(message)
            return
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            await _send_page(started[0], b"".join(parts).replace(b"<head>", b"<head>" + HEAD, 1), send)

    await app(scope, receive, gather)


async def _send_page(start: Message, body: bytes, send: Send) -> None:
    own: dict[bytes, Any] = {b"cache-control": b"no-store"}
    if body:  # none answers a HEAD
        own[b"content-length"] = str(len(body)).encode()
    headers = [entry for entry in start["headers"] if entry[0] not in (*own, b"etag", b"last-modified")]
    await send({**start, "headers": [*headers, *own.items()]})
    await send({"type": "http.response.body", "body": body})
