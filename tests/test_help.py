"""What a person reads first: help, versions, and the nearest right name for a wrong one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from commands import run_command

import ebm_pipeline
from ebm_pipeline import cli
from ebm_pipeline.runs import options
from ebm_pipeline.runs.help import COMMANDS
from ebm_pipeline.support.conf import config_folder

ENTRIES = {name: getattr(cli, name) for name in COMMANDS}
NOT_OF_SAMPLE = ("optimizer", "objective", "sampler", "experiment", "data ")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_of_this_command_and_names_every_option_it_reads(name: str, tmp_path: Path) -> None:
    shown = run_command(ENTRIES[name], "--help", output_root=tmp_path)
    assert shown.code == 0
    assert shown.out.startswith(f"ebm-{name} {COMMANDS[name].sentence}")
    assert "powered by Hydra" not in shown.out
    assert shown.out.count(f"  ebm-{name}") == 2  # the examples
    assert "output_root" in shown.out
    if name == "sample":
        assert not [word for word in NOT_OF_SAMPLE if f"\n  {word}" in shown.out]
        assert "[fantasies]" in shown.out


def test_choices_in_a_folder_stand_as_they_are_typed(tmp_path: Path) -> None:
    shown = run_command(ENTRIES["train"], "--help", output_root=tmp_path).out
    assert "experiment      notebook, smoke, study, table/dbm500_1000, " in shown
    assert "data/transform  decorrelate, " in shown
    assert "experiment/table" not in shown
    page = options.page(config_folder())
    assert page.count("### experiment=table/rbm16") == 1
    assert "### experiment/table=" not in page
    assert "as in `experiment=table/mnist`" in page
    wrong = run_command(ENTRIES["train"], "experiment=rbm16", output_root=tmp_path)
    assert "experiment has no choice rbm16: did you mean table/rbm16?" in wrong.err


@pytest.mark.parametrize("name", COMMANDS)
def test_the_version_is_ours(name: str, tmp_path: Path) -> None:
    shown = run_command(ENTRIES[name], "--version", output_root=tmp_path)
    assert shown.out.strip() == f"ebm-{name}, ebm_pipeline {ebm_pipeline.__version__}"


def test_the_package_lists_its_commands() -> None:
    shown = subprocess.run([sys.executable, "-m", "ebm_pipeline"], capture_output=True, text=True, check=True).stdout
    assert all(f"ebm-{name}" in shown for name in COMMANDS)


def test_help_needs_no_torch() -> None:
    code = "import sys; from ebm_pipeline.cli import train; sys.argv = ['x', '--help']; train(); print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[-1] == "False"


@pytest.mark.parametrize(
    ("name", "word", "message"),
    [
        ("train", "training.epoch=3", "did you mean training.epochs?"),
        ("train", "+training.epoch=3", "did you mean epochs?"),
        ("train", "modle=rbm", "did you mean model?"),
        ("train", "model=rbmm", "did you mean rbm? It has dbm"),
        ("train", "data/transfrom=none", "did you mean data/transform?"),
        ("train", "model.layers.hiden.units=3", "did you mean model.layers.hidden.units?"),
        ("train", "hidden_unit=3", "did you mean hidden_units?"),
        ("train", "seed", "write OPTION=VALUE"),
        ("sample", "task=inpaintin", "did you mean inpainting?"),
        ("evaluate", "likelihood.temperature=3", "did you mean likelihood.temperatures?"),
        ("data", "data.pathh=x", "did you mean data.path?"),
        ("compare", "run=[a,b]", "did you mean runs?"),
    ],
)
def test_a_misspelt_name_gets_the_nearest_right_one(name: str, word: str, message: str, tmp_path: Path) -> None:
    shown = run_command(ENTRIES[name], word, output_root=tmp_path)
    assert shown.code == 1
    assert message in shown.err
    assert shown.err.count("\n") == 1
