"""PCD-k (Younes 1999; Tieleman 2008): persistent chains make `sampler.steps` sweeps per batch.

With parallel tempering as the sampler the coldest replica stands for the model (Desjardins et al. 2010).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from ebm_pipeline.machine import BoltzmannMachine, PartialStates, States
from ebm_pipeline.objectives.contrast import Contrastive, Learning, contrast, contrast_exact, odd_layers_are_free


@dataclass(frozen=True)
class PersistentContrastiveDivergence(Contrastive):
    """Persistent contrastive divergence with these sweeps and this data phase."""

    persistent: ClassVar[bool] = True

    def __call__(
        self, machine: BoltzmannMachine, clamped: PartialStates, chains: States | None, generator: torch.Generator
    ) -> Learning:
        assert chains is not None, "persistent contrastive divergence goes on from chains"
        moved = self.sampler.step(machine, chains, generator, finish=False)
        samples = self.sampler.samples(machine, moved)
        if odd_layers_are_free(clamped):
            learning = contrast_exact(machine, clamped, samples, generator)
        else:
            learning = contrast(machine, self.infer(machine, clamped, generator), samples, generator)
        assert learning.chains is not None
        chains = self.sampler.complete(moved, learning.chains)
        return replace(learning, chains=chains, info=learning.info | self.sampler.info(machine, moved))
