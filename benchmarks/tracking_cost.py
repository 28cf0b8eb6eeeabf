"""What tracking costs a training: time in MLflow calls inside `fit`, and what comes before and after it."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any
from unittest import mock

import pytorch_lightning as pl

from benchmarks.common import composed, table
from ebm_pipeline.runs import train
from ebm_pipeline.tracking.tracker import Tracker

STAGES = ("before fit", "in fit", "after fit")
BESIDE = "in fit, system metrics, a thread of their own"


class Watch:
    """Seconds of the stages of one training, and of MLflow's calls within them."""

    def __init__(self) -> None:
        self.stage = STAGES[0]
        self.ends = [time.perf_counter()]
        self.calls: dict[str, list[float]] = defaultdict(list)

    def timed_call(self, tracker: Tracker, what: str, **values: Any) -> None:
        """In place of `Tracker._write`, through which all goes that a run writes."""
        started = time.perf_counter()
        WRITE(tracker, what, **values)
        own = threading.current_thread() is threading.main_thread()
        self.calls[self.stage if own else BESIDE].append(time.perf_counter() - started)

    def timed_fit(self, trainer: pl.Trainer, *arguments: Any, **options: Any) -> None:
        """In place of `Trainer.fit`."""
        self.ends.append(time.perf_counter())
        self.stage = STAGES[1]
        FIT(trainer, *arguments, **options)
        self.stage = STAGES[2]
        self.ends.append(time.perf_counter())

    def seconds(self, stage: str) -> float:
        index = STAGES.index(stage)
        return self.ends[index + 1] - self.ends[index]


WRITE, FIT = Tracker._write, pl.Trainer.fit


def tracking(output: Path) -> None:
    """RBM 784-200 on MNIST, 20 epochs, pictures every 5, one thread, on a local store that is there already."""
    small = ("data=bars_and_stripes", "training.epochs=1", "evaluation.fantasy_sweeps=5", "threads=1")
    train.train(composed(output, *small), output / "before")  # makes the store
    config = composed(output, "data=mnist", "model=rbm", "training.epochs=20", "evaluation.every_epochs=5", "threads=1")
    watch = Watch()
    with (
        mock.patch.object(Tracker, "_write", lambda tracker, what, **values: watch.timed_call(tracker, what, **values)),
        mock.patch.object(
            pl.Trainer, "fit", lambda trainer, *given, **options: watch.timed_fit(trainer, *given, **options)
        ),
    ):
        train.train(config, output / "watched")
    watch.ends.append(time.perf_counter())
    rows = []
    for stage in (*STAGES, BESIDE):
        calls, whole = watch.calls[stage], watch.seconds(STAGES[1] if stage == BESIDE else stage)
        rows.append([stage, f"{whole:.1f}", str(len(calls)), f"{sum(calls):.2f}", f"{sum(calls) / whole:.1%}"])
    table(["stage", "s", "MLflow calls", "s in them", "share"], rows)
