"""Ctrl-C and SIGTERM end the work in order: whatever is open is closed and marked on the way out."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
LOOK_SECONDS = 1.0  # between two looks at whether the parent is alive


class Interrupted(BaseException):
    """One of SIGNALS came. No Exception, so that nothing on its way takes it for a failure of its own."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number  # as shells count


@contextmanager
def interruptible() -> Iterator[None]:
    """The first signal raises Interrupted, a second one ends the process at once. Ignored signals stay ignored (nohup)."""

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise Interrupted(number)

    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def ending_with_parent() -> Iterator[None]:
    """In a worker process that Python started: SIGTERM to itself when its parent is gone, as after `kill -9` of a sweep."""
    if multiprocessing.parent_process() is None:
        yield
        return
    parent, done = os.getppid(), threading.Event()

    def watch() -> None:
        while not done.wait(LOOK_SECONDS):
            if os.getppid() != parent:
                os.kill(os.getpid(), signal.SIGTERM)
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        if os.getppid() != parent:  # its pool is gone too, and would keep it idle for minutes
            sys.stderr.flush()
            os._exit(1)
