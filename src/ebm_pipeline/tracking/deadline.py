"""Limits of time for calls to a server that may do anything: answer a byte a second, never, without end, or send in a circle.

MLflow's own timeouts hold for one read each, not for a call. So a call to a server is made in a thread of its own, which is left
alone when its time is over, and of an answer no more is read than that time and MOST_BYTES allow. Threads that still hang at the
end do not keep the process: they are daemons.
"""

from __future__ import annotations

import http.client
import io
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Self, TypeVar

from urllib3.connection import HTTPConnection

T = TypeVar("T")

CALL_SECONDS = 10.0  # a call, with what confirms it; files have more, by their size
START_SECONDS = 30.0  # all questions before a run or a sweep has begun
EPOCH_SECONDS = 20.0  # all calls of an epoch
END_SECONDS = 60.0  # at the end of a run: what was kept, and the end itself
SYNC_SECONDS = 60.0  # a call of `ebm-sync`, for which no training waits
SYNC_SLOWER = 9  # times what a file may take otherwise, in addition
DOWNLOAD_SECONDS = 600.0  # of a registered model
BYTES_PER_SECOND = 1e6  # of files: what a call may take longer
MOST_BYTES = 1 << 26  # of one answer
MOST_PACKED_BYTES = 1 << 20  # of one that is compressed: unpacked it can be a thousand times as large

_here = threading.local()  # .until: when the call that this thread makes must have ended


class NoAnswerError(Exception):
    """A server has not answered in time."""


class Line:
    """Calls to one server, one after the other. One that still hangs is waited for before the next."""

    def __init__(self) -> None:
        self._last: threading.Thread | None = None

    def call(self, seconds: float, function: Callable[[], T]) -> T:
        """What `function` returns or raises; NoAnswerError after `seconds`."""
        until = time.monotonic() + seconds
        if self._last is not None:
            self._last.join(max(seconds, 0.0))
            if self._last.is_alive():
                raise NoAnswerError("an earlier call has no answer yet")
        answers: list[tuple[T | None, BaseException | None]] = []

        def work() -> None:
            _here.until = until
            try:
                answers.append((function(), None))
            except BaseException as error:
                answers.append((None, error))

        self._last = threading.Thread(target=work, daemon=True, name="ebm-tracking")
        self._last.start()
        self._last.join(max(until - time.monotonic(), 0.0))
        if not answers:
            raise NoAnswerError(f"no answer within {max(seconds, 0.0):g} s")
        answer, error = answers[0]
        if error is not None:
            raise error
        return answer  # type: ignore[return-value]


class Patience:
    """Seconds that all calls of `within` take together, in the blocks of which it is the context manager."""

    def __init__(self, seconds: float) -> None:
        self.left = seconds

    def __enter__(self) -> Self:
        self._token = _patience.set(self)
        return self

    def __exit__(self, *error: object) -> None:
        _patience.reset(self._token)


_patience: ContextVar[Patience | None] = ContextVar("patience", default=None)


def within(seconds: float, function: Callable[[], T]) -> T:
    """What `function` returns or raises; NoAnswerError after `seconds`, or earlier where a Patience is at its end."""
    patience, began = _patience.get(), time.monotonic()
    try:
        return Line().call(seconds if patience is None else min(seconds, patience.left), function)
    finally:
        if patience is not None:
            patience.left -= time.monotonic() - began


class _Watched(io.RawIOBase):
    """What a server sends, until its time is over or it is too much."""

    def __init__(self, raw: Any, until: float) -> None:
        self.raw, self.until, self.left = raw, until, MOST_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if time.monotonic() > self.until:
            raise TimeoutError("the answer has not ended in time")
        count: int | None = self.raw.readinto(buffer)
        self.left -= count or 0
        if self.left < 0:
            raise OSError("the answer is longer than any of an MLflow server")
        return count

    def close(self) -> None:
        self.raw.close()
        super().close()


class WatchedResponse(http.client.HTTPResponse):
    """An answer to a call of `Line`: headers and body within the limits. An ordinary one in any other thread."""

    def __init__(self, sock: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self._watched: _Watched | None = None
        until = getattr(_here, "until", None)
        if until is not None:
            self._watched = _Watched(self.fp.detach(), until)
            self.fp = io.BufferedReader(self._watched)

    def begin(self) -> None:
        super().begin()
        if self._watched is not None and self.headers.get("Content-Encoding"):
            self._watched.left = min(self._watched.left, MOST_PACKED_BYTES)


HTTPConnection.response_class = WatchedResponse  # what urllib3, under MLflow, makes of an answer
