"""PCD-k (Younes 1999; Tieleman 2008): persistent chains make `sampler.steps` sweeps per batch.

With parallel tempering as the sampler the coldest replica stands for the model (Desjardins et al. 2010).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ebm_pipeline.models.machine import BoltzmannMachine, PartialStates
from ebm_pipeline.training.objectives.contrast import (
    Contrastive,
    Learning,
    contrast,
    contrast_exact,
    odd_layers_are_free,
)


@dataclass(frozen=True)
class PersistentContrastiveDivergence(Contrastive):
    """Persistent contrastive divergence with these sweeps and this data phase."""

    persistent: ClassVar[bool] = True

    def __call__(
        self, machine: BoltzmannMachine, clamped: PartialStates, chains: Any, generator: torch.Generator
    ) -> Learning:
        machine.check_states(clamped)
        assert chains is not None, "persistent contrastive divergence goes on from chains"
        moved, info = self.sampler.step(machine, chains, generator, finish=False)
        if odd_layers_are_free(machine, clamped):
            learning = contrast_exact(machine, clamped, moved.samples, generator)
        else:
            learning = contrast(machine, self.infer(machine, clamped, generator), moved.samples, generator)
        return Learning(learning.gradient, moved.completed(learning.chains), learning.data, {**learning.info, **info})
