"""Surroundings that are not as usual: addresses, folders, locales, closed streams, warnings, little address space."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from commands import PLAIN, run_command
from omegaconf import OmegaConf

from ebm_pipeline import cli
from ebm_pipeline.runs.plan import TRAINER_KEYS, check_trainer
from ebm_pipeline.support.errors import UserError
from ebm_pipeline.tracking.address import check_address

GOOD = [
    "sqlite:////tmp/mlflow.db", "sqlite:///relative/mlflow.db", "sqlite:////tmp/a b/ä#/mlflow.db", "http://127.0.0.1:5000",
    "https://user@host/path", "postgresql://user@host/database", "mysql+pymysql://host/database",
]  # fmt: skip
BAD = {
    "sqlite:////tmp/\udcff/mlflow.db": "no UTF-8",
    "sqlite:////tmp/a\nb/mlflow.db": "no text",
    "http://[": "Invalid IPv6",
    "http://": "no host",
    "http://host:port": "[Pp]ort",
    "postgresql://u:secret@[/x": "Invalid IPv6",
    "sqlite://": "in memory",
    "sqlite:///:memory:": "in memory",
    "sqlite:////tmp/a?b/mlflow.db": "would read '/tmp/a'",
    "sqlite:////tmp/a%20b/mlflow.db": "would read '/tmp/a b/mlflow.db'",
    f"sqlite:////tmp/{'x/' * 300}mlflow.db": "longer than 470 bytes",
    "/tmp/mlruns": "no such kind",
    "file:///tmp/mlruns": "no such kind",
    "": "no such kind",
}


@pytest.mark.parametrize("uri", GOOD)
def test_addresses_of_stores_are_taken(uri: str) -> None:
    check_address(uri)


@pytest.mark.parametrize("uri", BAD)
def test_what_is_no_address_of_a_store_is_one_message(uri: str) -> None:
    with pytest.raises(UserError, match=BAD[uri]) as caught:
        check_address(uri)
    assert "sqlite:///FILE" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "instead"),
    [
        ("https://user:secret@host/path", "MLFLOW_TRACKING_PASSWORD"),
        ("postgresql+psycopg2://user:secret@host/database", "PGPASSWORD"),
    ],
)
def test_an_address_with_a_password_is_refused_and_is_not_shown(uri: str, instead: str) -> None:
    """It would stand in run.json, config.yaml and what the run logs of itself."""
    with pytest.raises(UserError, match=f"holds a password.*{instead}") as caught:
        check_address(uri)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "option",
    ["accumulate_grad_batches", "gradient_clip_val", "limit_train_batches", "max_steps", "fast_dev_run", "logger"],
)
def test_options_of_lightning_that_this_training_does_not_have_are_refused(option: str) -> None:
    trainer = {"_target_": "pytorch_lightning.Trainer", "_partial_": True, "accelerator": "cpu", "devices": 1}
    check_trainer(OmegaConf.create(trainer))
    with pytest.raises(UserError, match=rf"trainer\.{option} is no option .* Options of trainer: {TRAINER_KEYS[0]}"):
        check_trainer(OmegaConf.create({**trainer, option: 1}))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("trainer.accelerator=tpu", "torch_xla"),
        ("trainer.accelerator=gpuu", "gpuu"),
        ("trainer=ddp trainer.devices=100", "100 processes on a machine with"),
        ("tracking.uri='http://['", "Invalid IPv6"),
    ],
)
def test_a_trainer_or_store_that_cannot_be_is_one_message(word: str, message: str, tmp_path: Path) -> None:
    ended = run_command(cli.train, *PLAIN, *word.split(), output_root=tmp_path)
    assert ended.code == 1
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    assert message in ended.err
    assert not list((tmp_path / "runs").glob("*"))


def command(tmp_path: Path, *words: str, closed: tuple[int, ...] = (), **environment: str) -> tuple[int, bytes]:
    """An `ebm-data` of its own process, with streams closed: exit code, and what it printed on both streams that are open."""

    def close() -> None:
        for number in closed:
            os.close(number)

    code = "import sys; from ebm_pipeline.cli import data; sys.argv[0] = 'ebm-data'; data()"
    done = subprocess.run(
        [sys.executable, "-c", code, "data=bars_and_stripes", *words],
        env=os.environ | {"EBM_OUTPUT_DIR": str(tmp_path), **environment},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=close, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


def test_a_command_works_in_ascii_with_warnings_as_errors_and_closed_streams(tmp_path: Path) -> None:
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONWARNINGS": "error"}
    copy = f"shuffled_copy='{tmp_path / 'ü.h5'}'"
    code, output = command(tmp_path, copy, closed=(0, 2), **ascii_only)
    assert code == 0, output
    assert b"images" in output
    assert (tmp_path / "ü.h5").is_file()


def test_little_address_space_is_one_message(tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (700 * 10**6, 700 * 10**6))

    code = "import sys; from ebm_pipeline.cli import train; sys.argv[0] = 'ebm-train'; train()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"EBM_OUTPUT_DIR": str(tmp_path)}, capture_output=True, text=True,
        preexec_fn=limit, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: this process may use 0.7 GB of address space")
    assert done.stderr.count("\n") == 1
