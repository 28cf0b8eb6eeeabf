"""PCD-k (Younes 1999; Tieleman 2008): persistent chains make `sampler.steps` sweeps per batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ebm_pipeline.inference import MeanField
from ebm_pipeline.machine import BoltzmannMachine, PartialStates, States
from ebm_pipeline.objectives.contrast import Learning, contrast, contrast_exact, odd_layers_are_free
from ebm_pipeline.samplers import Gibbs


@dataclass(frozen=True)
class PersistentContrastiveDivergence:
    """Persistent contrastive divergence with these sweeps and this data phase."""

    persistent: ClassVar[bool] = True
    sampler: Gibbs
    mean_field: MeanField

    def __call__(
        self, machine: BoltzmannMachine, clamped: PartialStates, chains: States | None, generator: torch.Generator
    ) -> Learning:
        assert chains is not None, "persistent contrastive divergence goes on from chains"
        moved = self.sampler.step(machine, chains, generator, finish=False)
        if odd_layers_are_free(clamped):
            return contrast_exact(machine, clamped, moved, generator)
        return contrast(machine, self.mean_field(machine, clamped), moved, generator)
