"""`python -m benchmarks.watched FILE ARGUMENT...`: `ebm-train ARGUMENT...`, with its seconds outside training batches in FILE."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

from ebm_pipeline import cli
from ebm_pipeline.support import elapsed

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from torch import Tensor


def main() -> None:
    """Wall and processor seconds of the whole process but for `training_step`."""
    file = Path(sys.argv.pop(1))
    inside = [0.0, 0.0]
    begin = cli._begin_job

    def begin_and_watch(name: str, config: DictConfig) -> None:
        begin(name, config)
        from ebm_pipeline.training.module import BoltzmannTraining

        step = BoltzmannTraining.training_step

        def timed(module: BoltzmannTraining, block: Sequence[Tensor], index: int) -> None:
            wall, processor = time.perf_counter(), time.process_time()
            step(module, block, index)
            inside[0] += time.perf_counter() - wall
            inside[1] += time.process_time() - processor

        BoltzmannTraining.training_step = timed  # type: ignore[method-assign, assignment]

    with mock.patch.object(cli, "_begin_job", begin_and_watch):
        cli.train()
    whole = elapsed._process_seconds(), time.process_time()
    file.write_text(json.dumps([all_ - own for all_, own in zip(whole, inside, strict=True)]), encoding="utf-8")


if __name__ == "__main__":
    main()
