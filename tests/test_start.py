"""What a command loads before it works, and what a run says that it spent."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from commands import PLAIN, composed, run_command
from omegaconf import DictConfig

from ebm_pipeline import cli
from ebm_pipeline.data import DataSet
from ebm_pipeline.runs import configuration
from ebm_pipeline.runs.configuration import build_data, read_data_ahead
from ebm_pipeline.runs.train import spent
from ebm_pipeline.support.errors import UserError
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
        ("sweep", LIGHTNING | STATISTICS | {"uvicorn"}),
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


def read_by(config: DictConfig) -> DataSet | None:
    """The data set that is read ahead of this configuration, where one is."""
    read_data_ahead(config)
    return None if configuration._ahead is None else configuration._ahead[1].result()


def test_data_that_are_read_ahead_are_those_of_the_run_and_taken_once(tmp_path: Path) -> None:
    config = composed(*PLAIN, output_root=tmp_path)
    assert read_by(config) is None  # the file is still to be made
    made = build_data(config)
    ahead = read_by(composed(*PLAIN, output_root=tmp_path))
    assert ahead is not None
    assert build_data(config) is ahead
    assert ahead.digest == made.digest
    assert build_data(config) is not ahead


@pytest.mark.parametrize("other", ["data.seed=5", "data.validation_fraction=0.4"])
def test_data_of_other_settings_are_not_taken(tmp_path: Path, other: str) -> None:
    build_data(composed(*PLAIN, output_root=tmp_path))
    ahead = read_by(composed(*PLAIN, output_root=tmp_path))
    assert ahead is not None
    assert build_data(composed(*PLAIN, other, output_root=tmp_path)) is not ahead


def test_what_goes_wrong_in_reading_ahead_is_the_message_of_the_run(tmp_path: Path) -> None:
    config = composed(*PLAIN, output_root=tmp_path)
    Path(build_data(config).path).write_bytes(b"damaged")
    read_data_ahead(config)
    with pytest.raises(UserError) as ahead:
        build_data(config)
    with pytest.raises(UserError) as now:
        build_data(config)
    assert str(ahead.value) == str(now.value)


def test_code_of_others_is_not_called_ahead(tmp_path: Path) -> None:
    build_data(composed(*PLAIN, output_root=tmp_path))
    assert read_by(composed(*PLAIN, "data.source._target_=mine.Source", output_root=tmp_path)) is None
