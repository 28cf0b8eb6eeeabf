"""Calls that the MLflow store did not take, kept in a run's folder until it does: unsent/journal.jsonl, a line per call.

The file only grows: a line {"sent": n} says that the first n calls have arrived, and a line that a crash cut off is skipped.
When all have arrived the folder `unsent` goes. One lock lets one process at a time write, another one at a time send: a training
never waits for an `ebm-sync` that waits for the server. They are files that are opened to write, in the run's folder: NFS locks
no folder, and nothing that is only read.
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

from ebm_pipeline.support.errors import UserError

Call = Mapping[str, Any]
FOLDER = "unsent"
NAME = "journal.jsonl"
WRITING, SENDING = "unsent.lock", "unsent.sending.lock"


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

    def _append(self, line: Call) -> None:
        with self._locked():
            self._write(line)

    def _removed(self) -> bool:
        """The folder goes, unless further calls have come in the meantime."""
        with self._locked():
            if self.kept():
                return False
            shutil.rmtree(self.path.parent, ignore_errors=True)
            return True

    def _inside(self, file: str) -> Path:
        """A file that a call names; the folder may be another person's, and no file from elsewhere is sent because it says so."""
        path, root = self.folder / file, self.folder.resolve()
        if not all(one.resolve().is_relative_to(root) for one in (path, *path.rglob("*"))):
            raise UserError(
                f"{self.path} would send {file!r}, which is no file of the run in {self.folder}: remove that line"
            )
        return path

    def send(self, send: Callable[[dict[str, Any]], None], seconds: float, *, wait: bool = True) -> int:
        """Give the calls to `send` in order, for about `seconds`; returns how many. What `send` raises comes through.

        wait: for another process that is sending them; otherwise nothing is sent then.
        """
        until = time.monotonic() + seconds
        count = 0
        with self._sending(wait) as mine:
            while mine:
                calls, sent = self._read()
                for call in calls[sent:]:
                    if time.monotonic() > until:
                        return count
                    send({**call, "file": str(self._inside(call["file"]))} if "file" in call else call)
                    count, sent = count + 1, sent + 1
                    self._append({"sent": sent})
                if self._removed():
                    break
        return count

    def kept(self) -> list[dict[str, Any]]:
        """The calls that have not been sent yet."""
        calls, sent = self._read()
        return calls[sent:]

    def new_place(self) -> Path:
        """A folder, still to be made, for what is kept along with a call."""
        kept = self.path.parent / "files"
        kept.mkdir(parents=True, exist_ok=True)
        numbers = [int(path.stem) for path in kept.iterdir() if path.stem.isdigit()]
        return kept / f"{max(numbers, default=-1) + 1:06d}"

    def _own(self, path: Path) -> str:
        """The path relative to the run's folder, of a copy if it lies elsewhere."""
        if not path.absolute().is_relative_to(self.folder):
            kept = self.new_place()
            kept.mkdir()
            path = Path(
                shutil.copytree(path, kept / path.name) if path.is_dir() else shutil.copy2(path, kept / path.name)
            )
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
            if isinstance(entry, dict) and isinstance(entry.get("sent"), int):
                sent = entry["sent"]
            elif isinstance(entry, dict) and "call" in entry:
                calls.append(entry)
        return calls, sent

    @contextmanager
    def _sending(self, wait: bool) -> Iterator[bool]:
        """Whether this process may send now: there are calls, and no other process is at it."""
        if not self.pending:
            yield False
            return
        descriptor, mine = self._opened(SENDING), False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = self.pending  # the one before may have sent all
        except BlockingIOError:
            pass
        try:
            yield mine
        finally:
            os.close(descriptor)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor = self._opened(WRITING)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _opened(self, name: str) -> int:
        return os.open(self.folder / name, os.O_RDWR | os.O_CREAT, 0o666)
