"""Shared fixtures. Tests of identities run in float64; draws come from fixed seeds; nothing is tried twice."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

os.environ.setdefault("MPLBACKEND", "Agg")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the figures that tests recorded with `record_property`, also those of pytest-xdist's workers."""
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            for name, value in report.user_properties:
                terminalreporter.write_line(f"{name}: {value}")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


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
