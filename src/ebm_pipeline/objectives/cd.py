"""CD-k (Hinton 2002): chains restart at the data for each batch and make `sampler.steps` sweeps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from ebm_pipeline.inference import MeanField
from ebm_pipeline.machine import ODD, BoltzmannMachine, PartialStates, States
from ebm_pipeline.objectives.contrast import Learning, contrast
from ebm_pipeline.samplers import Gibbs


@dataclass(frozen=True)
class ContrastiveDivergence:
    """Contrastive divergence with these sweeps and this data phase."""

    persistent: ClassVar[bool] = False
    sampler: Gibbs
    mean_field: MeanField

    def __call__(
        self, machine: BoltzmannMachine, clamped: PartialStates, chains: States | None, generator: torch.Generator
    ) -> Learning:
        posterior = self.mean_field(machine, clamped)
        start = tuple(
            state if inputs is None else layer.sample(inputs, generator)
            for layer, state, inputs in zip(machine.layers, posterior.means, posterior.inputs, strict=True)
        )
        if clamped[ODD] is not None:  # the data are the first to move, or they would still be in the chains' statistics
            start = machine.sample(start, ODD, generator)
        moved = self.sampler.step(machine, start, generator, finish=False)
        return replace(contrast(machine, posterior, moved, generator), chains=None)
