"""The study on small images, run once for all tests that look at what it leaves."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from commands import start

from ebm_pipeline.tracking import records
from ebm_pipeline.tracking.records import RunRecord

NAMES = ["Hopfield", "RBM", "RBM (L1)", "DBM"]


@dataclass(frozen=True)
class Study:
    """What the smoke study left."""

    done: subprocess.CompletedProcess[str]
    folder: Path
    outputs: Path

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.outputs / 'mlflow.db'}"

    @property
    def sweep(self) -> Path:
        (sweep,) = (self.outputs / "sweeps").iterdir()
        return sweep

    @property
    def parent(self) -> RunRecord:
        return records.find_run(self.uri, str(self.sweep))

    @property
    def runs(self) -> list[RunRecord]:
        return sorted(records.children(self.uri, self.parent.run_id), key=lambda run: NAMES.index(run.name))


def run_study(folder: Path) -> Study:
    """From an empty folder, by the command line."""
    done = start("ebm-train", "-m", "experiment=smoke", "threads=1", folder=folder, outputs=folder / "outputs")
    assert done.returncode == 0, done.stderr
    return Study(done, folder, folder / "outputs")
