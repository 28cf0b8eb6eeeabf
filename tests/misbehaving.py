"""An MLflow server in this process that misbehaves on demand, and the ways in which it can.

Behind it is MLflow's own application with a sqlite store: what arrives while it is in order is really stored.
"""

from __future__ import annotations

import functools
import gzip
import json
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

SECOND = 1.0


class Exchange:
    """One connection: what was asked, and means to answer it badly."""

    def __init__(self, front: Front, sock: socket.socket) -> None:
        self.front, self.sock = front, sock
        self.method = self.path = ""
        self.headers: dict[str, str] = {}
        self.body = b""

    def read(self) -> bool:
        """The request; False where none came."""
        file = self.sock.makefile("rb")
        words = file.readline().decode("latin-1").split()
        if len(words) < 2:
            return False
        self.method, self.path = words[:2]
        while (line := file.readline().strip()) != b"":
            name, _, value = line.decode("latin-1").partition(":")
            self.headers[name.strip().lower()] = value.strip()
        self.body = file.read(int(self.headers.get("content-length", "0")))
        return True

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def answer(self, body: bytes = b"", status: str = "200 OK", **headers: str) -> None:
        """A whole answer, as HTTP wants it."""
        own = {"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"}
        lines = [f"{name.replace('_', '-')}: {value}" for name, value in (own | headers).items()]
        self.send("\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode() + body)

    def served(self) -> tuple[str, bytes]:
        """What MLflow answers."""
        response = self.front.app.test_client().open(
            self.path, method=self.method, data=self.body,
            headers={name: value for name, value in self.headers.items() if name != "content-length"},
        )  # fmt: skip
        return response.status, response.get_data()

    def answer_rightly(self) -> None:
        status, body = self.served()
        self.answer(body, status)

    def wait(self, seconds: float = 3600) -> bool:
        """Whether the test is over."""
        return self.front.over.wait(seconds)

    def drip(self, data: bytes) -> None:
        """A byte a second."""
        for number in data:
            if self.wait(SECOND):
                return
            self.send(bytes([number]))

    def repeat(self, data: bytes, seconds: float = 0.0) -> None:
        """Without end."""
        while not self.wait(seconds) if seconds else not self.front.over.is_set():
            self.send(data)


Kind = Callable[[Exchange], None]


class Front:
    """The server: in order while `kind` is None. It records what it was asked."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.kind: Kind | None = None
        self.asked: list[Exchange] = []
        self.over = threading.Event()
        self._server: socketserver.ThreadingTCPServer | None = None
        self.port = 0
        self.listen()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def listen(self) -> None:
        front = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with suppress(OSError, ValueError):
                    front.exchange(Exchange(front, self.request))

        class Listener(socketserver.ThreadingTCPServer):
            allow_reuse_address, daemon_threads, block_on_close = True, True, False

        self._server = Listener(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def refuse(self) -> None:
        """No port is open any more."""
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()
        self._server = None

    def exchange(self, exchange: Exchange) -> None:
        kind = self.kind
        if kind is not None and kind in WITHOUT_READING:
            kind(exchange)
        elif exchange.read():
            self.asked.append(exchange)
            (kind or Exchange.answer_rightly)(exchange)

    def misbehave(self, kind: Kind) -> None:
        self.kind = kind
        if kind is refuses:
            self.refuse()

    def be_right(self) -> None:
        self.kind = None
        if self._server is None:
            self.listen()

    def close(self) -> None:
        self.over.set()
        if self._server is not None:
            self.refuse()


@contextmanager
def mlflow_application(folder: Path) -> Iterator[tuple[Any, str]]:
    """(MLflow's application, the address of the sqlite store behind it)."""
    from mlflow.tracking._tracking_service import utils as mlflow_utils

    from ebm_pipeline.tracking.store import prepare_store

    database = f"sqlite:///{folder / 'mlflow.db'}"
    prepare_store(database, folder / "artifacts", "Default")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", database)  # which the server sets, for good
        patch.delenv("MLFLOW_TRACKING_URI")
        patch.setattr(mlflow_utils, "_tracking_uri", None)
        patch.setenv("_MLFLOW_SERVER_FILE_STORE", database)
        patch.setenv("_MLFLOW_SERVER_ARTIFACT_ROOT", "mlflow-artifacts:/")
        patch.setenv("_MLFLOW_SERVER_ARTIFACT_DESTINATION", (folder / "artifacts").as_uri())
        patch.setenv("_MLFLOW_SERVER_SERVE_ARTIFACTS", "true")
        from mlflow.server import app, handlers

        patch.setattr(handlers, "_tracking_store", None)
        patch.setattr(handlers, "_artifact_repo", None)
        yield app, database


# ---------------------------------------------------------------------------------------------- it is slow, or silent


def refuses(exchange: Exchange) -> None:
    """No port is open: nothing comes so far."""


def never_answers(exchange: Exchange) -> None:
    exchange.wait()


def accepts_and_never_reads(exchange: Exchange) -> None:
    exchange.wait()


def answers_a_byte_a_second(exchange: Exchange) -> None:
    exchange.drip(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")


def body_of_a_byte_a_second(exchange: Exchange) -> None:
    exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 3600\r\n\r\n")
    exchange.drip(b"{" + b" " * 3598 + b"}")


def chunk_a_second(exchange: Exchange) -> None:
    exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
    exchange.repeat(b"1\r\n \r\n", SECOND)


def header_a_second(exchange: Exchange) -> None:
    exchange.send(b"HTTP/1.1 200 OK\r\n")
    exchange.repeat(b"X-Further: header\r\n", SECOND)


def continues_for_ever(exchange: Exchange) -> None:
    exchange.repeat(b"HTTP/1.1 100 Continue\r\n\r\n", SECOND / 10)


def right_after_three_seconds(exchange: Exchange) -> None:
    exchange.wait(3 * SECOND)
    exchange.answer_rightly()


# ---------------------------------------------------------------------------------------------- it has no end


def endless_headers(exchange: Exchange) -> None:
    exchange.send(b"HTTP/1.1 200 OK\r\n")
    exchange.repeat(b"X-Further: header\r\n" * 1000)


def endless_header_line(exchange: Exchange) -> None:
    exchange.send(b"HTTP/1.1 200 OK\r\nX-Long: ")
    exchange.repeat(b"x" * 65536)


def endless_continues(exchange: Exchange) -> None:
    exchange.repeat(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)


def endless_body(exchange: Exchange) -> None:
    exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n{")
    exchange.repeat(b" " * (1 << 20))


def endless_chunks(exchange: Exchange) -> None:
    exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
    exchange.repeat(b"100000\r\n" + b" " * (1 << 20) + b"\r\n")


@functools.cache
def bomb() -> bytes:
    """A GB of zeros, packed block by block."""
    return gzip.compress(bytes(1 << 20)) * 1024


def gzip_bomb(exchange: Exchange) -> None:
    exchange.answer(bomb(), Content_Encoding="gzip")


# ---------------------------------------------------------------------------------------------- it breaks off


def closes_at_once(exchange: Exchange) -> None:
    exchange.sock.close()


def closes_after_the_request(exchange: Exchange) -> None:
    exchange.sock.close()


def closes_in_the_headers(exchange: Exchange) -> None:
    exchange.send(b"HTTP/1.1 200 OK\r\nContent-Le")


def closes_in_the_body(exchange: Exchange) -> None:
    exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{")


def closes_in_a_chunk(exchange: Exchange) -> None:
    exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{")


def resets(exchange: Exchange) -> None:
    exchange.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    exchange.sock.close()


def takes_it_and_loses_the_answer(exchange: Exchange) -> None:
    exchange.served()


# ---------------------------------------------------------------------------------------------- it says no


def too_many_requests(exchange: Exchange) -> None:
    exchange.answer(b"{}", "429 Too Many Requests", Retry_After="3600")


def unavailable(exchange: Exchange) -> None:
    exchange.answer(b"", "503 Service Unavailable", Retry_After="3600")


def unavailable_until_2099(exchange: Exchange) -> None:
    exchange.answer(b"", "503 Service Unavailable", Retry_After="Thu, 01 Jan 2099 00:00:00 GMT")


def bad_gateway(exchange: Exchange) -> None:
    exchange.answer(b"<html>502</html>", "502 Bad Gateway", Content_Type="text/html")


def internal_error(exchange: Exchange) -> None:
    exchange.answer(b'{"error_code": "INTERNAL_ERROR", "message": "the disk is full"}', "500 Internal Server Error")


def not_found(exchange: Exchange) -> None:
    exchange.answer(b"<html>not here</html>", "404 Not Found", Content_Type="text/html")


def unauthorized(exchange: Exchange) -> None:
    exchange.answer(b"", "401 Unauthorized", WWW_Authenticate="Basic")


def forbidden(exchange: Exchange) -> None:
    exchange.answer(b'{"error_code": "PERMISSION_DENIED", "message": "no"}', "403 Forbidden")


def bad_request_of_a_proxy(exchange: Exchange) -> None:
    exchange.answer(b"<html>The plain HTTP request was sent to HTTPS port</html>", "400 Bad Request")


def calls_everything_invalid(exchange: Exchange) -> None:
    exchange.answer(b'{"error_code": "INVALID_PARAMETER_VALUE", "message": "no"}', "400 Bad Request")


def another_stores_run(exchange: Exchange) -> None:
    exchange.answer(b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Run not found"}', "404 Not Found")


def redirects_in_a_circle(exchange: Exchange) -> None:
    exchange.answer(b"", "302 Found", Location=exchange.path)


def redirects_in_a_circle_with_the_body(exchange: Exchange) -> None:
    exchange.answer(b"", "307 Temporary Redirect", Location=exchange.path)


def redirects_to_longer_and_longer_places(exchange: Exchange) -> None:
    exchange.answer(b"", "308 Permanent Redirect", Location=exchange.path + "/more")


def redirects_to_nowhere(exchange: Exchange) -> None:
    exchange.answer(b"", "302 Found", Location="http://192.0.2.1/")  # an address that is for documents alone


# ---------------------------------------------------------------------------------------------- its answers are wrong


def empty_200(exchange: Exchange) -> None:
    exchange.answer(b"")


def no_content(exchange: Exchange) -> None:
    exchange.send(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")


def login_page(exchange: Exchange) -> None:
    exchange.answer(b"<!doctype html><title>Log in</title>" + b"<p>" * 10**5, Content_Type="text/html")


def empty_object(exchange: Exchange) -> None:
    exchange.answer(b"{}")


def other_json(exchange: Exchange) -> None:
    exchange.answer(b'{"status": "ok", "data": [1, 2, 3]}')


def json_list(exchange: Exchange) -> None:
    exchange.answer(b"[]")


def json_null(exchange: Exchange) -> None:
    exchange.answer(b"null")


def null_fields(exchange: Exchange) -> None:
    names = ("run", "runs", "experiment", "experiment_id", "files", "metrics", "run_id")
    exchange.answer(json.dumps(dict.fromkeys(names)).encode())


def fields_of_other_types(exchange: Exchange) -> None:
    names = ("run", "runs", "experiment", "experiment_id", "files", "metrics")
    exchange.answer(json.dumps({name: [[3]] for name in names}).encode())


def another_runs_id(exchange: Exchange) -> None:
    status, body = exchange.served() if exchange.method == "GET" else ("200 OK", b"{}")
    try:
        run_id = json.loads(body)["run"]["info"]["run_id"]
        body = body.replace(run_id.encode(), b"0" * 32)
    except (ValueError, LookupError, TypeError):
        pass
    exchange.answer(body, status)


def deep_json(exchange: Exchange) -> None:
    exchange.answer(b'{"run":' * 10**5)


def invalid_text(exchange: Exchange) -> None:
    exchange.answer(b'{"run": "\xff\xfe"}')


def writes_are_lost(exchange: Exchange) -> None:
    """As a cache in front of a server."""
    if exchange.method == "GET":
        exchange.answer_rightly()
    else:
        exchange.answer(b"{}")


def artifacts_are_lost(exchange: Exchange) -> None:
    if exchange.method == "PUT":
        exchange.answer(b"{}")
    else:
        exchange.answer_rightly()


def artifacts_are_cut(exchange: Exchange) -> None:
    if exchange.method == "PUT":
        exchange.body = exchange.body[: len(exchange.body) // 2]
    exchange.answer_rightly()


# ---------------------------------------------------------------------------------------------- it speaks something else


def speaks_ssh(exchange: Exchange) -> None:
    exchange.send(b"SSH-2.0-OpenSSH_9.6\r\n")
    exchange.wait()


def speaks_tls(exchange: Exchange) -> None:
    exchange.send(b"\x15\x03\x01\x00\x02\x02\x46")


def speaks_nonsense(exchange: Exchange) -> None:
    exchange.send(bytes(range(256)) * 40)


def negative_length(exchange: Exchange) -> None:
    exchange.answer(b"{}", Content_Length="-1")


def wrong_chunks(exchange: Exchange) -> None:
    exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n")


def not_compressed_at_all(exchange: Exchange) -> None:
    exchange.answer(b"{}", Content_Encoding="gzip")


WITHOUT_READING = {accepts_and_never_reads, closes_at_once}
KINDS: list[Kind] = [
    refuses, never_answers, accepts_and_never_reads, answers_a_byte_a_second, body_of_a_byte_a_second, chunk_a_second,
    header_a_second, continues_for_ever, right_after_three_seconds, endless_headers, endless_header_line, endless_continues,
    endless_body, endless_chunks, gzip_bomb, closes_at_once, closes_after_the_request, closes_in_the_headers,
    closes_in_the_body, closes_in_a_chunk, resets, takes_it_and_loses_the_answer, too_many_requests, unavailable,
    unavailable_until_2099, bad_gateway, internal_error, not_found, unauthorized, forbidden, bad_request_of_a_proxy,
    calls_everything_invalid, another_stores_run, redirects_in_a_circle, redirects_in_a_circle_with_the_body,
    redirects_to_longer_and_longer_places, redirects_to_nowhere, empty_200, no_content, login_page, empty_object, other_json,
    json_list, json_null, null_fields, fields_of_other_types, another_runs_id, deep_json, invalid_text, writes_are_lost,
    artifacts_are_lost, artifacts_are_cut, speaks_ssh, speaks_tls, speaks_nonsense, negative_length, wrong_chunks,
    not_compressed_at_all,
]  # fmt: skip
BEGIN_WELL = {artifacts_are_lost, artifacts_are_cut}  # the start sends no artifact
FAST: list[Kind] = [
    never_answers, body_of_a_byte_a_second, too_many_requests, redirects_in_a_circle, login_page, resets, empty_200,
    writes_are_lost,
]  # fmt: skip
