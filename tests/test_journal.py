"""The journal of calls that were not sent: order, crashes, files."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

import pytest

from ebm_pipeline.tracking.journal import Journal


def kept(tmp_path: Path, count: int) -> Journal:
    journal = Journal(tmp_path)
    for number in range(count):
        journal.append({"call": "metrics", "values": [number, float("nan")]})
    return journal


def taking(numbers: list[int], until: int = 10**9) -> Callable[[dict[str, Any]], None]:
    """A store that takes the calls into `numbers` and goes down at call `until`."""

    def take(call: dict[str, Any]) -> None:
        if call["values"][0] == until:
            raise ConnectionError("down")
        numbers.append(call["values"][0])

    return take


def test_calls_are_sent_once_in_order_and_the_folder_goes(tmp_path: Path) -> None:
    journal = kept(tmp_path, 5)
    taken: list[int] = []
    assert journal.send(taking(taken), inf) == 5
    assert taken == [0, 1, 2, 3, 4]
    assert not journal.pending
    assert {path.name for path in tmp_path.iterdir()} == {"unsent.lock", "unsent.sending.lock"}
    assert journal.send(taking(taken), inf) == 0


def test_a_store_that_goes_down_again_gets_no_call_twice(tmp_path: Path) -> None:
    journal = kept(tmp_path, 4)
    taken: list[int] = []
    with pytest.raises(ConnectionError):
        journal.send(taking(taken, until=2), inf)
    journal.append({"call": "metrics", "values": [4]})
    assert Journal(tmp_path).send(taking(taken), inf) == 3  # as another process would
    assert taken == [0, 1, 2, 3, 4]


def test_sending_stops_when_its_time_is_over(tmp_path: Path) -> None:
    journal = kept(tmp_path, 3)
    assert journal.send(taking([]), -1) == 0
    assert journal.pending


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_line_cut_off_by_a_crash_is_skipped(tmp_path: Path, cut: int) -> None:
    journal = kept(tmp_path, 3)
    journal.path.write_bytes(journal.path.read_bytes()[:-cut])
    journal.append({"call": "metrics", "values": [3]})
    taken: list[int] = []
    journal.send(taking(taken), inf)
    assert taken == ([0, 1, 2, 3] if cut == 1 else [0, 1, 3])  # the first cut takes the line's end alone


def test_files_of_others_are_copied_and_the_runs_own_are_not(tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "other.txt"
    run.mkdir()
    (run / "own.txt").write_text("own")
    other.write_text("other")
    journal = Journal(run)
    for path in (run / "own.txt", other):
        journal.append({"call": "file", "file": str(path)})
    other.write_text("changed")
    stored = [json.loads(line)["file"] for line in journal.path.read_text().splitlines()]
    assert stored == ["own.txt", "unsent/files/000000/other.txt"]
    moved = run.rename(tmp_path / "moved")
    read = []
    Journal(moved).send(lambda call: read.append(Path(call["file"]).read_text()), inf)
    assert read == ["own", "other"]


def test_two_that_send_at_once_send_each_call_once(tmp_path: Path) -> None:
    kept(tmp_path, 50)
    taken: list[int] = []
    threads = [threading.Thread(target=lambda: Journal(tmp_path).send(taking(taken), inf)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert taken == list(range(50))


def test_it_locks_only_what_it_may_write_as_nfs_asks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux locks a file of NFS through the server, which gives a lock for writing on what is open for writing alone."""
    locked = fcntl.flock

    def flock(descriptor: int, operation: int) -> None:
        if operation & fcntl.LOCK_EX and fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        locked(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    numbers: list[int] = []
    assert kept(tmp_path, 3).send(taking(numbers), inf) == 3
    assert numbers == [0, 1, 2]
    assert not (tmp_path / "unsent").exists()
