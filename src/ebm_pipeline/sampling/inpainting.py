"""Sampling with some pixels known: Gibbs sampling of the others, exact because visible units are independent given the rest."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ebm_pipeline.models.machine import EVEN, ODD, BoltzmannMachine
from ebm_pipeline.sampling.gibbs import start_at_visible


def inpaint(
    machine: BoltzmannMachine,
    images: Tensor,
    known: Tensor,
    visible_mean: Tensor,
    sweeps: int,
    generator: torch.Generator | None,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[Tensor, Tensor]:
    """A sample of the unknown pixels given the known ones, and their mean over the second half of the sweeps.

    images (samples, units); known (units,), True where the pixel is given; the unknown ones of `images` are not read: chains
    start there from draws at visible_mean (units,). Both results are (samples, units), with the known pixels as they are.
    """
    layer = machine.independent(visible_mean).layers[0]
    visible = torch.where(known, images, layer.sample(torch.zeros_like(images), generator))
    states = start_at_visible(machine, visible, generator)
    total = torch.zeros_like(images)
    kept = sweeps - sweeps // 2
    for done in range(sweeps):
        if done >= sweeps - kept:
            total += machine.layers[0].mean(machine.inputs(states, 0))
        states = machine.sample(states, EVEN, generator)
        states = (torch.where(known, images, states[0]), *states[1:])
        states = machine.sample(states, ODD, generator)
        progress(done + 1)
    return states[0], torch.where(known, images, total / kept)
