"""`resume=auto`: going on with a run or a sweep that was interrupted.

A run is a function of its resolved configuration and of its data. So what was interrupted is found by a digest of the one,
checked by a digest of the other, and continued by doing
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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from omegaconf import DictConfig, OmegaConf

from ebm_pipeline.runs.configuration import build_data, plain, read_run_config, tracking_uri
from ebm_pipeline.runs.folders import check_free
from ebm_pipeline.runs.moved import with_current_names
from ebm_pipeline.runs.places import from_the_root, is_there
from ebm_pipeline.runs.trust import plain_yaml
from ebm_pipeline.support.errors import UserError
from ebm_pipeline.support.files import write_text
from ebm_pipeline.tracking import records, tracker
from ebm_pipeline.tracking.provenance import differing
from ebm_pipeline.tracking.records import DATA, PARENT_VARIABLE, RUN_FILE, RunRecord

log = logging.getLogger(__name__)

NOT_OF_THE_RUN = ("hydra", "resume", "trust", "plots")  # `plots`: how its pictures are written
OF_THE_TRAINING = (
    "data", "model", "initialization", "sampler", "objective", "optimizer", "scheduler", "trainer", "training", "mean_field",
    "seed",
)  # fmt: skip
NEW_OPTIONS = {"hidden_units"}  # at the top of a configuration, which the flat package did not have
ANY_ROOT = "${oc.env:EBM_OUTPUT_DIR,outputs}"  # as conf/train.yaml has it
VERSION = "version."  # how the names of versions begin in run.json
MOST_DIFFERENCES = 5  # shown in a message


def wanted(config: DictConfig) -> bool:
    """Whether the configuration asks to go on with what was interrupted."""
    if config.resume not in (None, "auto"):
        raise UserError(
            f"resume must be auto (go on with an interrupted run) or null (a new run); got {config.resume!r}"
        )
    return config.resume is not None


def digest(config: DictConfig) -> str:
    """What a run is known by: a hash of its resolved configuration, whatever the place of its output folder."""
    return _hash(_settings(plain(_own(config))))


def sweep_digest(config: DictConfig) -> str:
    """What a sweep is known by: its configuration before the swept values enter it, and those values."""
    left_out = ("resume=", "output_root=")
    overrides = [word for word in config.hydra.overrides.task if not word.lstrip("+").startswith(left_out)]
    sweeper = OmegaConf.to_container(config.hydra.sweeper)
    assert isinstance(sweeper, dict)
    sweeper.pop("n_trials", None)  # a search can go on to more of them
    own = OmegaConf.to_container(_own(config))
    assert isinstance(own, dict)
    return _hash([own | {"output_root": ANY_ROOT}, overrides, sweeper])


def _own(config: DictConfig) -> DictConfig:
    return OmegaConf.masked_copy(config, [str(key) for key in config if key not in NOT_OF_THE_RUN])


def _settings(resolved: dict[str, Any]) -> dict[str, Any]:
    root = str(resolved.get("output_root", ""))
    return {name: from_the_root(value, root) for name, value in resolved.items() if name != "output_root"}


def _hash(settings: Any) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:16]


def folder_of(folder: Path, own_digest: str, config: DictConfig | None = None, *, named: bool = True) -> Path | None:
    """Where to go on: in `folder` if it holds a run, else in its newest neighbour that was started with this configuration.

    None where there is no such run. `folder` itself can be that neighbour: a run may be interrupted in its first second.

    config: of a run, by which those of earlier versions are known too. named: the user named the folder, not the time.
    """
    if named and (folder / RUN_FILE).exists():
        return folder
    digests = _digests(own_digest, config)
    found = [
        path
        for path in folder.parent.glob(f"*/{RUN_FILE}")
        if records.read_run_file(path.parent).get("config") in digests
        or (config is not None and _is_of_an_earlier_version(path.parent, config))
    ]
    return max(found, key=lambda path: path.stat().st_mtime).parent if found else None


def _digests(own_digest: str, config: DictConfig | None) -> set[str]:
    """What a run of this configuration can be known by: its digest, and that which places were part of."""
    return {own_digest} if config is None else {own_digest, _hash(plain(_own(config)))}


@dataclass(frozen=True)
class Earlier:
    """The run that a folder holds: what its run.json says, and the run as the store has it, None where that has none of it."""

    folder: Path
    known: dict[str, str]
    record: RunRecord | None

    @property
    def lost(self) -> str | None:
        """The id of a run that is in the store no more."""
        return None if self.record else self.known.get("run_id")

    def check_data(self, digest: str, path: str) -> None:
        """Raise UserError where the run was begun with data of another digest than those that lie at `path` now."""
        before = self.known.get(DATA) or (self.record.data if self.record else "")
        if before and before != digest:
            raise UserError(
                f"the run in {self.folder} was begun with other data: they had the digest {before}, {path} now has {digest}. "
                "Put those data back to go on with it, or start a new run without resume=auto"
            )

    def check_data_of_finished(self, config: DictConfig) -> None:
        """The same where nothing is left to do, if the data are still there."""
        path = OmegaConf.select(config, "data.path")
        if isinstance(path, str) and is_there(path):
            self.check_data(build_data(config.copy()).digest, path)

    def changed_versions(self, now: Mapping[str, str]) -> str:
        """Packages and code that are others than those that the run was begun with; empty where none are."""
        before = {name[len(VERSION) :]: value for name, value in self.known.items() if name.startswith(VERSION)}
        return differing(before, now)

    def note(self, digest: str, data: str, text: str) -> None:
        """Bring run.json and config.yaml up to date: where the store and the data are, by what the run is known today."""
        assert self.record is not None
        facts = records.facts_of(self.known) | {DATA: data}
        if (self.known.get("config"), self.known.get(DATA)) != (digest, data) or not self._names_its_store():
            records.write_run_file(self.folder, self.record.run_id, self.record.uri, digest, facts)
        path = self.folder / "config.yaml"
        if not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != text:
            write_text(path, text)

    def _names_its_store(self) -> bool:
        return records.read_run_file(self.folder).get("tracking_uri") == self.known["tracking_uri"]


def facts(data: str, versions: Mapping[str, str]) -> dict[str, str]:
    """What a run.json says of the data, by their digest, and of the versions of packages and code."""
    return {DATA: data, **{VERSION + name: value for name, value in versions.items()}}


def earlier(folder: Path, own_digest: str, config: DictConfig) -> Earlier | None:
    """The run that `folder` holds, or None; raises UserError if it was started with another configuration."""
    known = records.claimed_run(folder, tracking_uri(config)) or records.read_run_file(folder)
    if not known:
        check_free(folder)  # nothing says of which run a model or checkpoints are
        return None
    if known.get("config") not in _digests(own_digest, config) and not _is_of_an_earlier_version(folder, config):
        raise UserError(
            f"the run in {folder} was started with another configuration ({_differences(folder, config)}): give the "
            "settings it was started with, or start a new run in another folder without resume=auto"
        )
    return Earlier(folder, known, records.run_in(folder, known) if "run_id" in known else None)


def _is_of_an_earlier_version(folder: Path, config: DictConfig) -> bool:
    """Whether a run that an earlier version began has these settings, under the names and with the options of today.

    What is measured and drawn at the end may differ; options that are new have no value then.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        return False
    try:
        there = with_current_names(plain_yaml(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, UserError):
        return False
    if there.keys() & NEW_OPTIONS:
        return False
    before, now = (
        {name: value for name, value in tracker.flattened(settings) if name.split(".")[0] in OF_THE_TRAINING}
        for settings in (_settings(there), _settings(plain(_own(config))))
    )
    return all(before.get(name) == value for name, value in now.items()) and before.keys() <= now.keys()


def _differences(folder: Path, config: DictConfig) -> str:
    path = folder / "config.yaml"
    there = dict(tracker.flattened(_settings(plain(read_run_config(folder))))) if path.exists() else {}
    here = dict(tracker.flattened(_settings(plain(_own(config)))))
    changed = [
        f"{name}: {there.get(name, 'nothing')} there, {value} here"
        for name, value in here.items()
        if there.get(name) != value
    ]
    return "; ".join(changed[:MOST_DIFFERENCES]) + ("; ..." if len(changed) > MOST_DIFFERENCES else "")


@contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[UserError | None]:
    """One process at a time works in a run's folder; the lock ends with the process, however it ends.

    wait: for a process that is at work there (the job of a sweep whose head was killed), instead of a UserError.
    A folder in which no run began goes again, with what Hydra wrote into it. Yields what is to be raised before anything is
    written where the folder of a run can be read alone.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = open(folder / "lock", "w")  # noqa: SIM115
    except OSError as error:
        refusal = UserError(f"cannot write to {folder} ({error}): set EBM_OUTPUT_DIR to a folder that can be written")
        if not (folder / RUN_FILE).is_file():
            raise refusal from error
        yield refusal
        return
    with handle:
        _take(handle, folder, wait)
        try:
            yield None
        except BaseException:
            if PARENT_VARIABLE not in os.environ:  # a sweep counts its jobs by their folders
                _remove_if_nothing_began(folder)
            raise


def _take(handle: IO[str], folder: Path, wait: bool) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        if not wait:
            raise UserError(
                f"another process is at work on the run in {folder}: wait until it ends, or start a new run in another folder"
            ) from error
        log.info(f"another process is at work on the run in {folder}: waiting for it")
        fcntl.flock(handle, fcntl.LOCK_EX)


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
