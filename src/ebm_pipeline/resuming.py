"""`resume=auto`: going on with a run or a sweep that was interrupted.

A run is a function of its resolved configuration. So what was interrupted is found by a digest of it, and continued by doing
the same again: every stage of the training starts from its newest checkpoint, and what the store already holds is not logged
a second time. The order of the data is a function of seed and epoch, and all that draws has its own generator, so the epoch
that was interrupted is repeated exactly.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ebm_pipeline import tracking
from ebm_pipeline.configuration import plain, read_run_config
from ebm_pipeline.errors import UserError
from ebm_pipeline.tracking import PARENT_VARIABLE, RUN_FILE, RunRecord

log = logging.getLogger(__name__)

NOT_OF_THE_RUN = ("hydra", "resume")
MOST_DIFFERENCES = 5  # shown in a message


def wanted(config: DictConfig) -> bool:
    """Whether the configuration asks to go on with what was interrupted."""
    if config.resume not in (None, "auto"):
        raise UserError(
            f"resume must be auto (go on with an interrupted run) or null (a new run); got {config.resume!r}"
        )
    return config.resume is not None


def digest(config: DictConfig) -> str:
    """What a run is known by: a hash of its resolved configuration."""
    return _hash(plain(_own(config)))


def sweep_digest(config: DictConfig) -> str:
    """What a sweep is known by: its configuration before the swept values enter it, and those values."""
    overrides = [word for word in config.hydra.overrides.task if not word.lstrip("+").startswith("resume=")]
    sweeper = OmegaConf.to_container(config.hydra.sweeper)
    return _hash([OmegaConf.to_container(_own(config)), overrides, sweeper])


def _own(config: DictConfig) -> DictConfig:
    return OmegaConf.masked_copy(config, [str(key) for key in config if key not in NOT_OF_THE_RUN])


def _hash(settings: Any) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:16]


def folder_of(folder: Path, own_digest: str) -> Path:
    """Where to work: in `folder` if it holds a run, else in its newest neighbour that was started with this configuration."""
    if (folder / RUN_FILE).exists():
        return folder
    found = [
        path
        for path in folder.parent.glob(f"*/{RUN_FILE}")
        if tracking.read_run_file(path.parent).get("config") == own_digest
    ]
    return max(found, key=lambda path: path.stat().st_mtime).parent if found else folder


def earlier(folder: Path, own_digest: str, config: DictConfig) -> RunRecord | None:
    """The run that `folder` holds, or None; raises UserError if it was started with another configuration."""
    known = tracking.claimed_run(folder)
    if not known:
        return None
    if known.get("config") != own_digest:
        raise UserError(
            f"the run in {folder} was started with another configuration ({_differences(folder, config)}): give the "
            "settings it was started with, or start a new run in another folder without resume=auto"
        )
    return tracking.find_run(known["tracking_uri"], known["run_id"])


def _differences(folder: Path, config: DictConfig) -> str:
    path = folder / "config.yaml"
    there = dict(tracking.flattened(plain(read_run_config(folder)))) if path.exists() else {}
    here = dict(tracking.flattened(plain(_own(config))))
    changed = [
        f"{name}: {there.get(name, 'nothing')} there, {value} here"
        for name, value in here.items()
        if there.get(name) != value
    ]
    return "; ".join(changed[:MOST_DIFFERENCES]) + ("; ..." if len(changed) > MOST_DIFFERENCES else "")


@contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """One process at a time works in a run's folder; the lock ends with the process, however it ends.

    wait: for a process that is at work there (the job of a sweep whose head was killed), instead of a UserError.
    A folder in which no run began goes again, with what Hydra wrote into it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = open(folder / "lock", "w")  # noqa: SIM115
    except OSError as error:
        raise UserError(
            f"cannot write to {folder} ({error}): set EBM_OUTPUT_DIR to a folder that can be written"
        ) from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if not wait:
                raise UserError(
                    f"another process is at work on the run in {folder}: wait until it ends, or start a new run without "
                    "resume=auto"
                ) from error
            log.info(f"another process is at work on the run in {folder}: waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            yield
        except BaseException:
            if PARENT_VARIABLE not in os.environ:  # a sweep counts its jobs by their folders
                _remove_if_nothing_began(folder)
            raise


def at_work(folder: Path) -> bool:
    """Whether a process works on the run in this folder."""
    try:
        with open(folder / "lock", "rb+") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _remove_if_nothing_began(folder: Path) -> None:
    for path in folder.glob("*.log"):
        if path.stat().st_size == 0:
            path.unlink()
    if {path.name for path in folder.iterdir()} <= {"lock", ".hydra"}:
        shutil.rmtree(folder, ignore_errors=True)
