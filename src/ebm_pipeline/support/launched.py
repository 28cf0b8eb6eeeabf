"""Whether torchrun or srun has started this process, as one of several that are the same command.

Read from the environment alone: a command that has no others imports nothing for it.
"""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import dataclass

TORCHRUN = {"rank": "RANK", "count": "WORLD_SIZE", "local_rank": "LOCAL_RANK"}  # its names of these numbers
SRUN = {
    "rank": "SLURM_PROCID",
    "count": "SLURM_STEP_NUM_TASKS",
    "local_rank": "SLURM_LOCALID",
}  # a batch script is none


@dataclass(frozen=True)
class Launched:
    """One of `count` processes, `rank` from 0; `local_rank` among those of this machine."""

    by: str
    rank: int
    count: int
    local_rank: int


def launched() -> Launched | None:
    """None where this process is alone, or was started by one that is not: as the workers of a sweep are."""
    if multiprocessing.parent_process() is not None:
        return None
    by, names = ("torchrun", TORCHRUN) if "TORCHELASTIC_RUN_ID" in os.environ else ("srun", SRUN)
    values = {name: os.environ.get(variable, "") for name, variable in names.items()}
    if not all(value.isdecimal() for value in values.values()) or int(values["count"]) < 2:
        return None
    return Launched(by, **{name: int(value) for name, value in values.items()})
