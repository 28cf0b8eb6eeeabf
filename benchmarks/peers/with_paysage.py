"""Paysage: PCD-1 by its own `SGD.train`, with ADAM as in its notebook or plain steps. Its batches keep their order."""

from __future__ import annotations

from typing import Any

from paysage import backends, batch, fit, layers, optimizers, schedules
from paysage.models import BoltzmannMachine
from run import HIDDEN, Run, main

VALIDATION = 100  # images that its batches want besides those for training


class Keeper:
    """Stands where Paysage's monitor does: called before training, and after each epoch."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def epoch_update(self, data: Any, machine: Any, store: bool, **_: Any) -> None:
        data.reset_generator("all")
        if store:
            self.run.stop()
            self.run.keep(machine.connections[0].W(), machine.layers[0].params.loc, machine.layers[1].params.loc)
        self.run.start()


def train(run: Run) -> None:
    backends.set_seed(run.seed)
    tables = {"train": run.images, "validate": run.images[:VALIDATION]}
    data = batch.Batch({name: batch.InMemoryTable(images, run.batch_size) for name, images in tables.items()})
    machine = BoltzmannMachine([layers.BernoulliLayer(data.ncols), layers.BernoulliLayer(HIDDEN)])
    machine.initialize(data, method="glorot_normal")
    rate = float(run.options["rate"])
    falling = schedules.Linear(initial=rate, delta=rate / run.epochs)
    schedule = falling if run.options["falling"] else schedules.Constant(initial=rate)
    kind = optimizers.ADAM if run.options.get("adam") else optimizers.Gradient
    training = fit.SGD(machine, data)
    training.monitor = Keeper(run)
    spread = float(run.options.get("beta_std", 0.6))
    training.train(kind(stepsize=schedule), run.epochs, method=fit.pcd, mcsteps=1, beta_std=spread, verbose=False)


main(train, "paysage", "numpy")
