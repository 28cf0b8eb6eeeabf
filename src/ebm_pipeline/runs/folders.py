"""Where a command's files go: a folder of its own, whatever else starts in the same second; none that holds a run already."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ebm_pipeline.support.errors import UserError
from ebm_pipeline.tracking.records import MODEL_FILE, RUN_FILE

OF_A_RUN = (RUN_FILE, MODEL_FILE, "checkpoints")  # in whose folder one of these is
RUN_DIR, SWEEP_DIR = "hydra.run.dir", "hydra.sweep.dir"


class OwnFolder(Callback):
    """Hydra's callback: a folder that is named by the time is made here, under a name that no other command has."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        with ending_in_one_message(), set_up(config):
            if not is_given(config, RUN_DIR):
                config.hydra.run.dir = str(own_folder(Path(config.hydra.run.dir)))


@contextmanager
def ending_in_one_message() -> Iterator[None]:
    """Hydra would turn an ordinary exception of a callback into a warning."""
    try:
        yield
    except (UserError, OmegaConfBaseException) as error:
        raise SystemExit(f"error: {error}") from error


@contextmanager
def set_up(config: DictConfig) -> Iterator[None]:
    """The configuration as Hydra sets it up next: names of folders may refer to it, and they can be changed."""
    HydraConfig.instance().set_config(config)
    OmegaConf.set_readonly(config.hydra, False)
    yield


def is_given(config: DictConfig, key: str) -> bool:
    """Whether the user named this folder in the command."""
    return any(word.lstrip("+").startswith(f"{key}=") for word in config.hydra.overrides.hydra)


def own_folder(folder: Path) -> Path:
    """Make a folder that was not there: this one, or the first of NAME_2, NAME_3, ...; of several processes each gets its own."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            path = folder if number == 1 else folder.with_name(f"{folder.name}_{number}")
            try:
                path.mkdir()
            except FileExistsError:
                continue
            return path
    except OSError as error:
        raise UserError(
            f"cannot write to {folder} ({error}): set EBM_OUTPUT_DIR to a folder that can be written"
        ) from error
    raise AssertionError("the numbers do not end")


def check_free(folder: Path) -> None:
    """Raise UserError where a folder holds a run or a sweep: a new one would be written over it."""
    found = next((name for name in OF_A_RUN if (folder / name).exists()), None)
    if found is not None:
        raise UserError(
            f"{folder} holds a run already ({found}), which is not written over: give another folder or none, or resume=auto "
            "to go on with it where it has not finished"
        )
