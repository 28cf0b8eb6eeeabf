"""The time that imports take, a large part of that of a short run.

Five thousand modules make a million objects and hardly any garbage, and Python's collector looks through all of them again and
again: a quarter of the time. So it rests until a command has its modules, and leaves them alone afterwards, also at the end, when
the interpreter takes them apart.
"""

from __future__ import annotations

import atexit
import gc
import sys
from contextlib import suppress
from importlib import import_module
from threading import Thread

NEW_OBJECTS = 20_000  # after which it looks for garbage, where 700 are usual: a picture makes ten thousand


def begin(name: str) -> None:
    """Let the collector rest until this module has been imported, and `done` is called."""
    if name not in sys.modules:
        gc.disable()


def done() -> None:
    """Let it work again, without what is there now: modules stay. Nothing happens where it works already."""
    if not gc.isenabled():
        gc.freeze()
        gc.set_threshold(NEW_OBJECTS)
        gc.enable()
        atexit.register(gc.freeze)


def ahead(name: str) -> None:
    """Import a module in a thread, beside other work. Who imports it meanwhile waits, and gets the error where there is one."""

    def load() -> None:
        with suppress(Exception):  # it is raised again where the module is needed
            import_module(name)

    with suppress(RuntimeError):  # a process that may have no more threads
        Thread(target=load, name=f"import {name}").start()
