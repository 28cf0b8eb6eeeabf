"""Calls that the MLflow store did not take, kept in a run's folder until it does: unsent/journal.jsonl, a line per call.

The file only grows: a line {"sent": n} says that the first n calls have arrived, and a line that a crash cut off is skipped.
When all have arrived the folder `unsent` goes. A lock on the run's folder lets one process at a time write or send.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Call = Mapping[str, Any]
FOLDER = "unsent"
NAME = "journal.jsonl"


class Journal:
    """The calls that one run has not sent yet, in their order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.path = self.folder / FOLDER / NAME

    @property
    def pending(self) -> bool:
        return self.path.exists()

    def append(self, call: Call) -> None:
        """Keep a call, a mapping that JSON can hold; a file it names under "file" is copied if it is not the run's own."""
        with self._locked():
            self.path.parent.mkdir(exist_ok=True)
            if "file" in call:
                call = {**call, "file": self._own(Path(call["file"]))}
            self._write(call)

    def send(self, send: Callable[[dict[str, Any]], None], seconds: float) -> int:
        """Give the calls to `send` in order, for about `seconds`; returns how many. What `send` raises comes through."""
        until = time.monotonic() + seconds
        count = 0
        with self._locked():
            calls, sent = self._read()
            for call in calls[sent:]:
                if time.monotonic() > until:
                    return count
                if "file" in call:
                    call = {**call, "file": str(self.folder / call["file"])}
                send(call)
                count += 1
                self._write({"sent": sent + count})
            shutil.rmtree(self.path.parent, ignore_errors=True)
        return count

    def new_file(self, suffix: str) -> Path:
        """A name for a file that is kept along with a call."""
        kept = self.path.parent / "files"
        kept.mkdir(parents=True, exist_ok=True)
        return kept / f"{len(list(kept.iterdir())):06d}{suffix}"

    def _own(self, path: Path) -> str:
        """The path relative to the run's folder, of a copy if it lies elsewhere."""
        if not path.absolute().is_relative_to(self.folder):
            kept = self.new_file("")
            kept.mkdir()
            path = Path(shutil.copy2(path, kept / path.name))
        return str(path.absolute().relative_to(self.folder))

    def _write(self, line: Call) -> None:
        with open(self.path, "ab+") as file:
            if file.tell() and not self._ends_well(file.fileno()):
                file.write(b"\n")
            file.write(json.dumps(line).encode() + b"\n")

    @staticmethod
    def _ends_well(descriptor: int) -> bool:
        return os.pread(descriptor, 1, os.fstat(descriptor).st_size - 1) == b"\n"

    def _read(self) -> tuple[list[dict[str, Any]], int]:
        """(all calls, how many of them have been sent)."""
        calls: list[dict[str, Any]] = []
        sent = 0
        for line in self.path.read_bytes().splitlines() if self.pending else ():
            try:
                entry = json.loads(line)
            except ValueError:  # cut off by a crash
                continue
            if "sent" in entry:
                sent = entry["sent"]
            else:
                calls.append(entry)
        return calls, sent

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
