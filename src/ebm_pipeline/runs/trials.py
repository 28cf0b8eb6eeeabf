"""The trials of `sweep=optuna`: Optuna's study in a file or a database, and what a job tells it of its run.

A job tells its trial's numbers and end itself, so that nothing is lost with the process that began the search. Trial n is the
job n of the sweep. The end is told while the run's folder is locked, after the run has ended in MLflow: of a trial that is open
the run is not whole, of one that has ended it is.
"""

from __future__ import annotations

import fcntl
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import optuna
from hydra.core.hydra_config import HydraConfig
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from ebm_pipeline.runs.configuration import build
from ebm_pipeline.support.errors import PrunedError, UserError
from ebm_pipeline.support.names import current, quantity

log = logging.getLogger(__name__)

JOURNAL, NAME_FILE = "study.journal", "study.txt"  # in the folder of the sweep: the study, and what it is called
TELLING_SECONDS = 60  # for a database that is being restarted
FAULTS = (optuna.exceptions.StorageInternalError, SQLAlchemyError, OSError)


class Trial:
    """The trial of this job."""

    def __init__(self, study: optuna.Study, number: int, prune_by: str | None) -> None:
        self.study = study
        self.number = number
        self.prune_by = None if prune_by is None else current(prune_by)
        own = study.get_trials(deepcopy=False)[number]
        self.reported = set(own.intermediate_values)
        self.asked = optuna.trial.Trial(study, own._trial_id)

    @classmethod
    def of_this_job(cls) -> Trial:
        """By Hydra's configuration of the job."""
        hydra = HydraConfig.get()
        options = hydra.sweeper
        with answering(options.storage):
            return cls(opened(options, Path(hydra.sweep.dir)), int(hydra.job.num), options.prune_by)

    @property
    def ended(self) -> bool:
        """Whether another process has told the end of it."""
        return self.study.get_trials(deepcopy=False)[self.number].state.is_finished()

    def conduct(
        self, train: Callable[[], Mapping[str, float]], metric: Callable[[Mapping[str, float]], float | None]
    ) -> Mapping[str, float]:
        """Train, and tell the study the metric of what comes out, or that the trial was pruned or has failed.

        A trial that has ended is not run again. Whatever interrupts the process leaves it open.
        """
        if self.ended:
            log.info(f"trial {self.number}: nothing left to do, it has ended")
            return {}
        numbers: Mapping[str, float] = {}
        try:
            numbers = train()
            value = metric(numbers)
        except PrunedError as pruned:
            log.info(f"trial {self.number}: pruned {pruned}")
            self._tell(TrialState.PRUNED)
        except Exception:
            self._tell(TrialState.FAIL)
            raise
        else:
            self._tell(TrialState.COMPLETE, value)
        return numbers

    def began(self, run_id: str, folder: Path) -> None:
        """Note the run of the trial, for who reads the study (optuna-dashboard)."""
        try:
            for name, value in {"run_id": run_id, "folder": str(folder)}.items():
                if self.asked.user_attrs.get(name) != value:
                    self.asked.set_user_attr(name, value)
        except FAULTS as error:
            self._is_down(error)

    def after_epoch(self, metrics: Mapping[str, float], epoch: int) -> None:
        """Report an epoch's number to the study; raises PrunedError where others were better by then."""
        if self.prune_by is None:
            return
        if self.prune_by not in metrics:
            raise UserError(
                f"hydra.sweeper.prune_by={self.prune_by} is no number of an epoch of this training, which has "
                f"{', '.join(sorted(name for name in metrics if name.startswith('validation/')))}"
            )
        value = float(metrics[self.prune_by])
        if epoch in self.reported or not math.isfinite(value):  # of an epoch that is made again after an interruption
            return
        try:
            self.reported.add(epoch)
            self.asked.report(value, epoch)
            prune = self.asked.should_prune()
        except FAULTS as error:
            self._is_down(error)
            return
        if prune:
            raise PrunedError(f"after epoch {epoch}, with {quantity(self.prune_by)} {value:.4g}")

    def _tell(self, state: TrialState, value: float | None = None) -> None:
        until = time.monotonic() + TELLING_SECONDS
        while True:
            try:
                self.study.tell(self.number, value, state=state, skip_if_finished=True)
                return
            except FAULTS as error:
                if time.monotonic() > until:
                    self._is_down(error)
                    return
                time.sleep(1)

    def _is_down(self, error: Exception) -> None:
        log.warning(
            f"trial {self.number}: the study does not take what it is told ({_reason(error)}). The run goes on; what was not "
            "taken of its end is told by the same command with resume=auto"
        )


# ---------------------------------------------------------------------------------------------- the study


def opened(options: Mapping[str, Any], folder: Path, name: str | None = None) -> optuna.Study:
    """The study of the sweep in `folder`; name: of one that is made where there is none."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = _storage(options["storage"], folder)
    pruner: optuna.pruners.BasePruner = build(options["pruner"], "hydra.sweeper.pruner", optuna.pruners.BasePruner)
    sampler = optuna.samplers.RandomSampler()  # of a job, which asks nothing; the search has its own
    if name is None:
        name = (folder / NAME_FILE).read_text(encoding="utf-8").strip()
        return optuna.load_study(study_name=name, storage=storage, sampler=sampler, pruner=pruner)
    return optuna.create_study(
        storage=storage, sampler=sampler, pruner=pruner, study_name=name, direction=options["direction"], load_if_exists=True
    )  # fmt: skip


def check_address(address: object) -> None:
    """Raise UserError for a `storage` that is no database, or that holds a password."""
    if address is None:
        return
    try:
        password = make_url(str(address)).password
    except ArgumentError as error:
        raise UserError(
            "hydra.sweeper.storage must be null (a file in the sweep's folder) or the address of a database, such as "
            f"postgresql+psycopg2://USER@HOST/DATABASE; got {address!r}"
        ) from error
    if password is not None:
        raise UserError(
            "hydra.sweeper.storage holds a password, which would stand in the files of every job: leave it out, and give it as "
            "PGPASSWORD or in ~/.pgpass"
        )


@contextmanager
def answering(address: str | None) -> Iterator[None]:
    """Turns the failures of the study's storage into one message."""
    try:
        yield
    except FAULTS as error:
        raise UserError(
            f"the study in {address or 'the folder of the sweep'} does not answer as it should ({_reason(error)}): see to the "
            "database or the disk, then go on with resume=auto"
        ) from error


def _reason(error: Exception) -> str:
    cause = error.__cause__ or error
    return (str(cause) or repr(cause)).splitlines()[0]


def _storage(address: str | None, folder: Path) -> BaseStorage:
    if address is None:
        path = folder / JOURNAL
        return JournalStorage(JournalFileBackend(str(path), _Lock(path)))
    try:
        return RDBStorage(address, engine_kwargs={"pool_pre_ping": True})  # a server may have been restarted
    except ImportError as error:
        raise UserError(
            f"hydra.sweeper.storage={address} needs a driver ({error}): pip install psycopg2-binary"
        ) from error


class _Lock(JournalFileOpenLock):
    """flock, which ends with its process: Optuna's own locks outlive one that was killed by half a minute."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.handle: IO[str] | None = None

    def acquire(self) -> bool:
        self.handle = open(self.path.with_suffix(".lock"), "w")  # noqa: SIM115
        fcntl.flock(self.handle, fcntl.LOCK_EX)
        _end_well(self.path)
        return True

    def release(self) -> None:
        assert self.handle is not None
        self.handle.close()


def _end_well(path: Path) -> None:
    """Take away a last line that was cut off, by a full disk say: behind it Optuna would read nothing any more."""
    with open(path, "rb+") as file:
        end = file.seek(0, os.SEEK_END)
        if end and os.pread(file.fileno(), 1, end - 1) != b"\n":
            file.truncate(path.read_bytes().rfind(b"\n") + 1)
