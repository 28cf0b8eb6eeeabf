"""What happens around the training: progress for a person, numbers for the record, pictures every few epochs."""

from __future__ import annotations

import math
import multiprocessing
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from tqdm import tqdm

from ebm_pipeline.support import names
from ebm_pipeline.support.names import EPOCH
from ebm_pipeline.training.module import BoltzmannTraining
from ebm_pipeline.training.trajectory import LOG_LIKELIHOOD


class MetricSink(Protocol):
    """Where numbers go: an MLflow run."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None: ...


class Progress(pl.Callback):
    """One bar for the whole training: epoch, batches per second, time left, numbers of the last validation.

    One line per epoch takes the place of the bar where the output is no terminal or several jobs write to it.
    """

    def __init__(self, title: str, updates: int) -> None:
        self.title = title
        self.updates = updates  # in an epoch
        self.bar: tqdm[Any] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        total = self.updates * (trainer.max_epochs or 1)
        done = self.updates * trainer.current_epoch
        alone = multiprocessing.current_process().name == "MainProcess"
        disable = not (alone and sys.stderr.isatty())
        self.bar = tqdm(total=total, initial=done, desc=self.title, unit="batch", disable=disable, leave=True)
        self.started, self.first = time.perf_counter(), done

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.bar is not None and not self.bar.disable:
            self.bar.update(trainer.global_step - self.bar.n)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert self.bar is not None
        done = self.updates * (trainer.current_epoch + 1)
        metrics = names.short_labels(trainer.callback_metrics)
        shown = "  ".join(f"{label} {float(value):.4g}" for label, value in metrics.items())
        self.bar.set_description(f"{self.title}: epoch {trainer.current_epoch + 1}/{trainer.max_epochs}")
        self.bar.set_postfix_str(shown, refresh=False)
        self.bar.update(done - self.bar.n)
        if self.bar.disable:
            elapsed = time.perf_counter() - self.started
            rate = (done - self.first) / elapsed
            left = ((trainer.max_epochs or 1) * self.updates - done) / rate
            print(
                f"{self.title}: epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {rate:.0f} batches/s  "
                f"{left:.0f} s left  {shown}",
                file=sys.stderr,
                flush=True,
            )

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self.bar is not None:
            self.bar.close()


class OwnSignals(pl.Callback):
    """Leaves SIGTERM as it was. Lightning's handler sends a broadcast, which processes in other work do not expect."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.handler = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        signal.signal(signal.SIGTERM, self.handler)


class Record(pl.Callback):
    """Sends the numbers of each epoch to the sink, as far as it gets them, and keeps all of them for the learning curves.

    The sink leaves out what it has of a step. phase: the name of a pretraining phase, of which it gets little.

    Seconds are counted apart: training batches, validation, pictures (what the other callbacks do at the end of an epoch).
    """

    def __init__(self, sink: MetricSink, phase: str = "") -> None:
        self.sink = sink
        self.phase = phase
        self.updates = 0  # in an epoch, where a checkpoint was loaded
        self.history: dict[str, tuple[list[int], list[float]]] = {}
        self.training_seconds: list[float] = []
        self.validation_seconds: list[float] = []
        self.earlier = 0.0  # seconds of epochs before an interruption

    @property
    def seconds(self) -> float:
        """Time of all epochs, validation and pictures included, those before an interruption too."""
        return sum(self.training_seconds) + sum(self.validation_seconds)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps, so that the record of a resumed training is whole."""
        return {name: getattr(self, name) for name in ("history", "training_seconds", "validation_seconds")}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Lightning calls it before `load_state_dict`."""
        self.updates = checkpoint["global_step"] // (checkpoint["epoch"] + 1)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the record of the epochs before, and send it to a sink that may not have it: a run in a new store."""
        for name in self.state_dict():
            setattr(self, name, state_dict[name])
        self.earlier = self.seconds
        self.history = names.with_current(self.history)
        by_epoch: dict[int, dict[str, float]] = {}
        for name, (epochs, values) in self.history.items():
            for epoch, value in zip(epochs, values, strict=True):
                by_epoch.setdefault(epoch, {EPOCH: epoch})[name] = value
        for epoch, metrics in sorted(by_epoch.items()):
            self._send(metrics, epoch * self.updates)

    def add(self, metrics: Mapping[str, float], epoch: int, step: int) -> None:
        """Record numbers for the state after `epoch` epochs and `step` updates."""
        self._send({**metrics, EPOCH: epoch}, step)
        for name, value in metrics.items():
            epochs, values = self.history.setdefault(name, ([], []))
            epochs.append(epoch)
            values.append(value)

    def _send(self, metrics: Mapping[str, float], step: int) -> None:
        self.sink.log_metrics(names.of_phase(metrics, self.phase) if self.phase else names.tracked(metrics), step)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._synchronize(pl_module)
        self.epoch_started = time.perf_counter()
        self.learning_rate = float(trainer.optimizers[0].param_groups[0]["lr"])

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._synchronize(pl_module)
        self.validation_started = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._synchronize(pl_module)
        self.training_seconds.append(self.validation_started - self.epoch_started)
        self.validation_seconds.append(time.perf_counter() - self.validation_started)
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        assert trainer.optimizers
        metrics |= {
            "train/learning_rate": self.learning_rate,
            "time/seconds_per_epoch": self.training_seconds[-1],
            "time/validation_seconds": self.validation_seconds[-1],
        }
        self.add(metrics, trainer.current_epoch + 1, trainer.global_step)

    @staticmethod
    def _synchronize(pl_module: pl.LightningModule) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)


class EveryEpochs(pl.Callback):
    """Calls `action(module, epochs, step)` after every `period` epochs but the last, which the caller sees to."""

    def __init__(self, period: int, action: Callable[[BoltzmannTraining, int, int], None]) -> None:
        self.period = period
        self.action = action

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        epochs = trainer.current_epoch + 1
        assert isinstance(pl_module, BoltzmannTraining)
        if self.period and epochs % self.period == 0 and epochs != trainer.max_epochs:
            self.action(pl_module, epochs, trainer.global_step)


class AfterEpoch(pl.Callback):
    """Calls `action(metrics, epochs)` after every epoch, with the numbers of its validation."""

    def __init__(self, action: Callable[[Mapping[str, float], int], None]) -> None:
        self.action = action

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.action(metrics, trainer.current_epoch + 1)


class Patience(pl.Callback):
    """Ends a training when the log-likelihood of the validation images along the trajectory has not risen for `epochs` epochs.

    done: the epochs that were made, where it has ended the training; a checkpoint keeps that too.
    """

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self.best, self.best_epoch, self.done = -math.inf, 0, 0

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_epoch": self.best_epoch, "done": self.done}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.best_epoch, self.done = (state_dict[name] for name in ("best", "best_epoch", "done"))

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = self.done > 0  # it had ended, and what came after the training was interrupted

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        epoch, value = trainer.current_epoch + 1, float(trainer.callback_metrics[LOG_LIKELIHOOD])
        if value > self.best:
            self.best, self.best_epoch = value, epoch
        if epoch - self.best_epoch >= self.epochs:
            self.done, trainer.should_stop = epoch, True
