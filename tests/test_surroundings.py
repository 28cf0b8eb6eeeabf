"""Whatever the surroundings, a command works or ends in one message; nothing else is an end."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import surroundings
from commands import run_command
from surroundings import Surrounding

from ebm_pipeline import cli

FEW, MANY, PARTS = 12, 240, 4


def ended_well(case: Surrounding, folder: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether it ended in a message, which is one; fails where it is no message, or none."""
    with monkeypatch.context() as patch:
        for name in (name for name, value in case.variables.items() if value is None):
            patch.delenv(name, raising=False)
        given = {name: value for name, value in case.variables.items() if value is not None}
        done = run_command(case.command, *case.words, output_root=folder / "outputs", variables=given)
    messages = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in done.err, case.name
    assert len(messages) == (done.code != 0), (case.name, done.err)
    assert done.code in (0, 1), case.name
    return done.code != 0


def tried(count: int, part: int, parts: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """(cases, messages) of this share of `count` cases, chosen by a fixed seed."""
    surroundings.prepare(folder)
    known = list(surroundings.cases(folder))
    chosen = random.Random(3).sample(known, count)[part::parts]
    failures, messages = [], 0
    for case in chosen:
        try:
            messages += ended_well(case, folder, monkeypatch)
        except Exception as error:
            failures.append(f"{case.name}: {error!r}")
    assert not failures, "\n".join(failures)
    return len(chosen), messages


@pytest.mark.slow
def test_a_few_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count, messages = tried(FEW, 0, 1, tmp_path, monkeypatch)
    assert 0 < messages <= count


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_many_surroundings(part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count, messages = tried(MANY, part, PARTS, tmp_path, monkeypatch)
    assert messages > count / 2


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("output_root=", "output_root must be the name of a folder"),
        ("output_root=''", "output_root must be the name of a folder"),
        ("trainer=null", "a group takes the name of one of its choices"),
        ("model=null", "a group takes the name of one of its choices"),
    ],
)
def test_nothing_where_a_name_belongs(word: str, message: str, tmp_path: Path) -> None:
    done = run_command(cli.train, word, output_root=tmp_path)
    assert done.code == 1
    assert done.err.startswith(f"error: {message}")
    assert done.err.count("\n") <= 1
