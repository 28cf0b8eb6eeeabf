"""What a command loads before it works, and what a run says that it spent."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from commands import PLAIN, run_command

from ebm_pipeline import cli
from ebm_pipeline.runs.train import spent
from ebm_pipeline.tracking.tracker import Tracker
from ebm_pipeline.training.callbacks import Record

STORE = {"mlflow", "sqlalchemy", "pandas", "fastapi"}
LIGHTNING = {"pytorch_lightning", "lightning_fabric", "torchmetrics", "torch._dynamo"}
STATISTICS = {"sklearn", "scipy.stats", "arviz_stats"}
HEAVY = {"torch", "h5py", "matplotlib", "uvicorn", *STORE, *LIGHTNING, *STATISTICS}
HELP = "import sys; sys.argv[:] = ['ebm-{name}', '--help']; from ebm_pipeline import cli; cli.{name}()"

WRONG = """
import sys; sys.argv[:] = ["ebm-train", "data=nothing"]
from ebm_pipeline import cli
try: cli.train()
except SystemExit: pass
"""


def loaded(code: str) -> set[str]:
    """Which of HEAVY a fresh process has after this."""
    shown = f"{code}\nimport sys; print('loaded', *(name for name in {sorted(HEAVY)} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize("name", ["train", "evaluate", "ui"])
def test_help_loads_nothing_heavy(name: str) -> None:
    assert not loaded(HELP.format(name=name))


def test_a_wrong_word_is_told_before_anything_heavy_is_loaded() -> None:
    assert not loaded(WRONG)


def test_the_package_loads_nothing_heavy() -> None:
    assert not loaded("import ebm_pipeline")


@pytest.mark.parametrize(
    ("command", "without"),
    [
        ("data", HEAVY - {"torch", "h5py"}),
        ("sync", HEAVY - STORE),
        ("compare", LIGHTNING | STATISTICS | {"uvicorn"}),
    ],
)
def test_a_command_loads_what_it_needs(command: str, without: set[str]) -> None:
    assert not loaded(f"import ebm_pipeline.runs.{command}") & without


def test_the_end_says_what_was_spent(tmp_path: Path) -> None:
    done = run_command(cli.train, *PLAIN, output_root=tmp_path)
    (line,) = (line for line in done.out.splitlines() if "in training batches" in line)
    pattern = (
        r"RBM: ([\d.]+) s in training batches, ([\d.]+) s in validation and pictures, ([\d.]+) s before and after; .+"
    )
    found = re.fullmatch(pattern, line)
    assert found is not None
    assert float(found[3]) > 0


def test_seconds_of_before_an_interruption_are_no_time_of_this_job(tmp_path: Path) -> None:
    records = [Record(Tracker("sqlite:///nowhere", "", "", tmp_path), phase) for phase in ("pretraining_1", "")]
    for record in records:
        record.training_seconds, record.validation_seconds = [30.0, 5.0], [2.0, 1.0]
    records[0].earlier = 38.0
    said = "70.0 s in training batches, 6.0 s in validation and pictures, 4.0 s before and after"
    assert spent(records, 42.0) == said
