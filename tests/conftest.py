"""Shared fixtures. Tests of identities run in float64; draws come from fixed seeds; nothing is tried twice."""

from __future__ import annotations

import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from study import Study

os.environ.setdefault("MPLBACKEND", "Agg")
# `make test-slow ARGS="-k ..."` hands its words on to every make below it, which some tests start
for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "ARGS"):
    os.environ.pop(name, None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints what tests recorded with `record_property`, also those of pytest-xdist's workers: texts, and sums of counts."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            if isinstance(value, dict):
                counts[name].update(value)
            else:
                terminalreporter.write_line(f"{name}: {value}")
    for name, sums in counts.items():
        terminalreporter.write_line(f"{name}: {', '.join(f'{sums[what]} {what}' for what in sums)}")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def copied_stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A fresh MLflow store is a copy of one that was made once: its 65 tables take seconds.

    Processes that a test starts make their own.
    """
    # not in the head: pytest-xdist's controller would wait for them too
    from ebm_pipeline.tracking import database
    from ebm_pipeline.tracking.environment import set_up_mlflow

    empty = tmp_path_factory.mktemp("store") / "mlflow.db"
    make = database.new_schema

    def copy_one(path: Path, artifact_root: Path) -> None:
        if not empty.exists():
            make(empty, artifact_root)
        shutil.copy(empty, path)

    set_up_mlflow()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "new_schema", copy_one)
        yield


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The study's four models on small images."""
    from study import run_study

    return run_study(tmp_path_factory.mktemp("empty"))


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(20)


@pytest.fixture(scope="session")
def mnist_folder() -> Path:
    """The folder that holds mnist/, or a skip that says how to give it."""
    given = os.environ.get("EBM_DATA_DIR")
    if not given or not (Path(given) / "mnist").is_dir():
        pytest.skip("needs MNIST: set EBM_DATA_DIR to the folder that holds mnist/ with the four IDX files")
    return Path(given)
