"""`python -m benchmarks.peers.ours PLAN`: the same plan as the peers' for `ebm-train data=mnist model=rbm` and its options.

The epochs are those of the run's own training, Lightning's loop included; what is kept is the model that it makes.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytorch_lightning as pl

from benchmarks.common import composed
from ebm_pipeline.runs.phases import Phases
from ebm_pipeline.runs.plan import prepare


class Clock(pl.Callback):
    """Processor seconds of the training batches of each epoch."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.began = time.process_time()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seconds.append(time.process_time() - self.began)


@dataclass
class Timed(Phases):
    """The trainings alone: no store, no pictures, no checkpoints."""

    clock: Clock = field(default_factory=Clock)

    def watching(self, module: pl.LightningModule, phase: str, fresh: bool) -> list[pl.Callback]:
        return [self.clock]

    def saving(self, folder: Path) -> list[pl.Callback]:
        return []


def main() -> None:
    """Train, and leave what the peers' scripts leave."""
    plan = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    folder = Path(plan["folder"])
    words = ["data=mnist", "model=rbm", "threads=1", f"training.epochs={plan['epochs']}", *plan["options"]["words"]]
    config = composed(folder, *words, "tracking.system_metrics=false")
    work = Timed(config, prepare(config, folder), folder)
    machine, _ = work.run()
    visible, hidden = machine.layers
    arrays = {"weights": machine.weights[0], "visible_bias": visible.bias, "hidden_bias": hidden.bias}
    named = {name: tensor.detach().numpy() for name, tensor in arrays.items()}
    np.savez(folder / f"{plan['epochs']}.npz", **named)  # type: ignore[arg-type]
    (folder / "seconds.json").write_text(json.dumps(work.clock.seconds), encoding="utf-8")


if __name__ == "__main__":
    main()
