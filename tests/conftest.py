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
    from mlflow.tracking import MlflowClient  # not in the head: pytest-xdist's controller would wait for them too

    from ebm_pipeline import tracking

    empty = tmp_path_factory.mktemp("store") / "mlflow.db"

    def copy_first(uri: str, artifact_root: Path, experiment: str) -> str:
        path = Path(uri.removeprefix("sqlite:///"))
        if uri.startswith("sqlite:///") and not path.exists() and path.parent.is_dir():
            if not empty.exists():
                MlflowClient(f"sqlite:///{empty}").search_experiments()
            shutil.copy(empty, path)
        return prepare_store(uri, artifact_root, experiment)

    prepare_store = tracking.prepare_store
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracking, "prepare_store", copy_first)
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
