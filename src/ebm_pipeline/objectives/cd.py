"""CD-k (Hinton 2002): chains restart at the data for each batch and make `sampler.steps` sweeps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from ebm_pipeline.errors import UserError
from ebm_pipeline.machine import ODD, BoltzmannMachine, PartialStates, States
from ebm_pipeline.objectives.contrast import Contrastive, Learning, contrast
from ebm_pipeline.samplers import Gibbs


@dataclass(frozen=True)
class ContrastiveDivergence(Contrastive):
    """Contrastive divergence with these sweeps and this data phase."""

    persistent: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.sampler, Gibbs):
            raise UserError(
                f"objective=cd starts its chains anew at every batch, which {type(self.sampler).__name__} cannot: "
                "use sampler=gibbs, or objective=pcd"
            )

    def __call__(
        self, machine: BoltzmannMachine, clamped: PartialStates, chains: States | None, generator: torch.Generator
    ) -> Learning:
        posterior = self.infer(machine, clamped, generator)
        start = tuple(
            state if inputs is None else layer.sample(inputs, generator)
            for layer, state, inputs in zip(machine.layers, posterior.means, posterior.inputs, strict=True)
        )
        if clamped[ODD] is not None:  # the data are the first to move, or they would still be in the chains' statistics
            start = machine.sample(start, ODD, generator)
        moved = self.sampler.step(machine, start, generator, finish=False)
        return replace(contrast(machine, posterior, moved, generator), chains=None)
