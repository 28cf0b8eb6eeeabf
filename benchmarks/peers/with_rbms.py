"""rbms (Decelle et al.): its centred gradient and its chains, one update after the other, as `rbms.training.pcd.train` makes
them; without the file that `train` opens at every update.
"""

from __future__ import annotations

import numpy as np
import torch
from rbms.bernoulli_bernoulli.classes import BBRBM
from rbms.dataset.dataset_class import RBMDataset
from rbms.training.pcd import fit_batch_pcd
from run import HIDDEN, Run, main


def train(run: Run) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(run.seed)
    ones = np.ones(len(run.images), np.float32)
    data = RBMDataset(run.images, ones, ones, np.arange(len(ones)), "MNIST", is_binary=True, device="cpu")
    machine = BBRBM.init_parameters(num_hiddens=HIDDEN, dataset=data, device="cpu", dtype=torch.float32)
    machine.init_grad()
    optimizer = torch.optim.SGD(machine.parameters(), lr=run.rate(0), maximize=True)
    chains = machine.init_chains(int(run.options.get("chains", 100)))
    with torch.no_grad():
        for epoch in range(run.epochs):
            optimizer.param_groups[0]["lr"] = run.rate(epoch)
            with run.clock():
                for rows in map(torch.from_numpy, run.batches()):
                    optimizer.zero_grad(set_to_none=False)
                    chains, _ = fit_batch_pcd(
                        (data.data[rows], data.weights[rows]),
                        chains,
                        machine,
                        int(run.options.get("steps", 1)),
                        beta=1.0,
                    )
                    optimizer.step()
            run.keep(machine.weight_matrix, machine.vbias, machine.hbias)


main(train, "rbms", "torch")
