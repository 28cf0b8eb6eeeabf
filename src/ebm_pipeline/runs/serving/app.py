"""The server of a model: MLflow's protocol (/invocations, /ping, /health, /version), and one message for each mistake.

It is not MLflow's own server, which answers some mistakes with a stack trace or status 500 before a model sees the request
(CSV, no content type, deep nesting), takes texts and true for numbers, and leaves out parameters that it does not know.
"""

from __future__ import annotations

import asyncio
import logging
from importlib.metadata import version
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from torch import Tensor

from ebm_pipeline.runs.serving.machine import Question, ServedMachine
from ebm_pipeline.runs.serving.requests import parse_request
from ebm_pipeline.support.errors import UserError, within_memory

log = logging.getLogger(__name__)

MOST_BODY = 16 * 2**20  # bytes of a request
MOST_READ = 16 * MOST_BODY  # of one that is refused: a client that sends on does not read the answer
MOST_SECONDS = 60.0  # in which a request must have come
MOST_MESSAGE = 600  # characters
JSON = "application/json"
CODES = {
    400: "INVALID_PARAMETER_VALUE",
    404: "ENDPOINT_NOT_FOUND",
    500: "INTERNAL_ERROR",
}  # MLflow's; others are BAD_REQUEST


class RequestError(Exception):
    """A request that is answered with this status and message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def make_app(machine: ServedMachine) -> Starlette:
    """The ASGI application that answers for `machine`, one request at a time, by all of torch's threads; checks do not wait."""
    one_at_a_time = asyncio.Lock()

    async def invocations(request: Request) -> Response:
        _check_type(request)
        body = await _body(request)
        visible, question = await run_in_threadpool(lambda: machine.checked(*parse_request(body)))
        async with one_at_a_time:
            answer = await run_in_threadpool(_answer, machine, visible, question)
        return await run_in_threadpool(JSONResponse, {"predictions": answer})

    handlers: dict[Any, Any] = {
        UserError: lambda request, error: _message(400, str(error)),
        RequestError: lambda request, error: _message(error.status, str(error)),
        HTTPException: _http_error,
        ClientDisconnect: lambda request, error: _message(400, "the request ended before its body had come"),
        Exception: _fault,
    }
    routes = [
        Route("/invocations", invocations, methods=["POST"]),
        Route("/ping", _alive),
        Route("/health", _alive),
        Route("/version", lambda request: PlainTextResponse(version("mlflow"))),
    ]
    return Starlette(routes=routes, exception_handlers=handlers)


def _answer(machine: ServedMachine, visible: Tensor, question: Question) -> Any:
    with within_memory():
        return machine.compute(visible, question).tolist()


async def _alive(request: Request) -> Response:
    return PlainTextResponse("\n")


def _check_type(request: Request) -> None:
    """Raise RequestError unless the body is said to be JSON: other pages of a browser may not say so unasked."""
    kind, _, rest = request.headers.get("content-type", "").partition(";")
    charset = rest.strip().lower().removeprefix("charset=").strip('"')
    if kind.strip().lower() != JSON or charset not in ("", "utf-8"):
        given = request.headers.get("content-type")
        got = "none" if given is None else repr(given[:80])
        raise RequestError(415, f"expected the header Content-Type: {JSON} (UTF-8), and a body of JSON; got {got}")


async def _body(request: Request) -> bytes:
    """The body of a request; raises RequestError where it is too large, or does not come."""
    parts, size = [], 0
    try:
        async with asyncio.timeout(MOST_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size <= MOST_BODY:
                    parts.append(part)
                if size > MOST_READ:
                    break
    except TimeoutError as error:
        raise RequestError(408, f"the request has not come within {MOST_SECONDS:.0f} s: send it at once") from error
    if size > MOST_BODY:
        raise RequestError(
            413, f"the body has more than {MOST_BODY:,} bytes, the most of one request: send fewer images at a time"
        )
    return b"".join(parts)


def _http_error(request: Request, error: HTTPException) -> Response:
    known = "POST /invocations, GET /ping, GET /health, GET /version"
    message = f"there is no {request.method[:20]} {request.url.path[:80]} here; there is {known}"
    return _message(error.status_code, message, error.headers)


def _fault(request: Request, error: Exception) -> Response:
    """A fault of the program or of an own class: its traceback stands where the server runs."""
    return _message(500, f"the model failed ({type(error).__name__}): see what the server has printed")


def _message(status: int, message: str, headers: Any = None) -> Response:
    """One message, under the names that MLflow's clients know."""
    line = " ".join(message.split())[:MOST_MESSAGE]
    return JSONResponse({"error_code": CODES.get(status, "BAD_REQUEST"), "message": line}, status, headers)
