"""The commands of the package as functions: composed configurations, and the command line without a new process."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from ebm_pipeline.cli import config_folder
from ebm_pipeline.tracking import records

TINY = (
    "data=bars_and_stripes", "data.passes_per_epoch=1", "training.epochs=2", "training.chains=10", "threads=1",
    "evaluation.every_epochs=0", "evaluation.fantasy_sweeps=5",
)  # fmt: skip
ALL_TRACKED = ("tracking.log_model=true", "tracking.system_metrics=true")
PLAIN = (*TINY, "tracking.log_model=false", "tracking.system_metrics=false")  # which take as long as all the rest


def composed(*overrides: str, output_root: Path | None = None, name: str = "train") -> DictConfig:
    """What the command line would compose, hydra's own part left out."""
    root = [] if output_root is None else [f"output_root={output_root}"]
    with initialize_config_dir(config_folder(), version_base="1.3"):
        return compose(name, [*overrides, *root])


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str


def run_command(
    command: Callable[[], None], *arguments: str, output_root: Path, variables: Mapping[str, str] | None = None
) -> Outcome:
    """An entry point of `ebm_pipeline.cli` with these arguments and environment variables, called from the output folder.

    An exception that would be a traceback comes through.
    """
    out, err, code = io.StringIO(), io.StringIO(), 0
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    environment = {"EBM_OUTPUT_DIR": str(output_root), **(variables or {})}
    output_root.mkdir(parents=True, exist_ok=True)
    GlobalHydra.instance().clear()
    try:
        with (
            mock.patch.object(sys, "argv", ["ebm", *arguments]), mock.patch.dict(os.environ, environment),
            contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings(),
            contextlib.chdir(output_root),
        ):  # fmt: skip
            command()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
        if isinstance(end.code, str):  # what Python prints of a SystemExit with a message
            err.write(end.code)
    finally:
        GlobalHydra.instance().clear()
        root.handlers[:], root.level = handlers, level
    return Outcome(code, out.getvalue(), err.getvalue())


def own_run(folder: Path) -> records.RunRecord:
    """The run in a folder of a test's own, whose word is taken for its store."""
    return records.find_run(records.run_of(folder)["tracking_uri"], str(folder))


def start(command: str, *arguments: str, folder: Path, outputs: Path) -> subprocess.CompletedProcess[str]:
    """A console script of this environment in a process of its own."""
    script = Path(sys.executable).parent / command
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    environment["EBM_OUTPUT_DIR"] = str(outputs)
    return subprocess.run(
        [str(script), *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
