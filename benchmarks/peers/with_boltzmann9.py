"""boltzmann9's RBM: PCD by its `cd_step`, one for each batch, as its `fit` makes them; without what `fit` measures and draws."""

from __future__ import annotations

import torch
from boltzmann9.model import RBM
from run import HIDDEN, Run, main


def train(run: Run) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(run.seed)
    images = torch.from_numpy(run.images)
    machine = RBM({"visible_blocks": {"pixels": images.shape[1]}, "hidden_blocks": {"hidden": HIDDEN}})
    others = {name: run.options[name] for name in ("momentum", "weight_decay", "clip_value") if name in run.options}
    with torch.no_grad():
        for epoch in range(run.epochs):
            with run.clock():
                for rows in map(torch.from_numpy, run.batches()):
                    machine.cd_step(images[rows], lr=run.rate(epoch), k=int(run.options.get("steps", 1)), **others)
            run.keep(machine.W, machine.bv, machine.bh)


main(train, "boltzmann9", "torch")
