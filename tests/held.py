"""A sampler of one's own for jobs of Slurm: one that a test holds takes its time until what is to happen to it has happened."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch

from ebm_pipeline.models.machine import BoltzmannMachine
from ebm_pipeline.sampling import Gibbs
from ebm_pipeline.sampling.base import Info
from ebm_pipeline.sampling.gibbs import Chains

FOLDER = "EBM_TEST_HELD"  # the variable that names the folder of the files below
SAMPLER = f"sampler._target_={__name__}.HeldGibbs"
SECONDS = 5.0  # for a step, which is an epoch here


def hold(folder: Path, *jobs: int) -> None:
    """Slow steps for these jobs of an array, now or once they begin."""
    folder.mkdir(parents=True, exist_ok=True)
    for job in jobs:
        (folder / str(job)).touch()


def release(folder: Path, *jobs: int) -> None:
    for job in jobs:
        (folder / str(job)).unlink()


@dataclass(frozen=True)
class HeldGibbs(Gibbs):
    """Gibbs sampling, the same numbers at the pace that the test wants."""

    def step(
        self,
        machine: BoltzmannMachine,
        state: Chains,
        generator: torch.Generator | None,
        clamped: Collection[int] = (),
        *,
        finish: bool = True,
    ) -> tuple[Chains, Info]:
        job = os.environ.get("SLURM_ARRAY_TASK_ID")
        if job is not None and (Path(os.environ[FOLDER]) / job).exists():
            time.sleep(SECONDS)
        return super().step(machine, state, generator, clamped, finish=finish)
