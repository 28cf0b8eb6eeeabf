"""learnergy's RBM: CD by its own `fit`, an epoch at a time; it has no persistent chains."""

from __future__ import annotations

import torch
from learnergy.models.bernoulli import RBM
from run import HIDDEN, Run, main
from torch.utils.data import TensorDataset


def train(run: Run) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(run.seed)
    images = torch.from_numpy(run.images)
    data = TensorDataset(images, torch.zeros(len(images)))
    machine = RBM(images.shape[1], HIDDEN, steps=1, learning_rate=run.rate(0))
    for epoch in range(run.epochs):
        machine.optimizer.param_groups[0]["lr"] = run.rate(epoch)
        with run.clock():
            machine.fit(data, batch_size=run.batch_size, epochs=1)
        run.keep(machine.W.detach(), machine.a.detach(), machine.b.detach())


main(train, "learnergy", "torch")
