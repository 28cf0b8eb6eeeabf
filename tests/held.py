"""A sampler of one's own for jobs of Slurm: one that a test holds takes its time until what is to happen to it has happened."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebm_pipeline.sampling import Gibbs
from ebm_pipeline.sampling.base import Info
from ebm_pipeline.sampling.gibbs import Chains

FOLDER = "EBM_TEST_HELD"  # the variable that names a folder, in which a file of its number holds a job of an array
SAMPLER = f"sampler._target_={__name__}.HeldGibbs"
SECONDS = 5.0  # for a step, which is an epoch here


@dataclass(frozen=True)
class HeldGibbs(Gibbs):
    """Gibbs sampling, the same numbers at the pace that the test wants."""

    def step(self, *arguments: Any, **options: Any) -> tuple[Chains, Info]:
        job = os.environ.get("SLURM_ARRAY_TASK_ID")
        if job is not None and (Path(os.environ[FOLDER]) / job).exists():
            time.sleep(SECONDS)
        return super().step(*arguments, **options)
