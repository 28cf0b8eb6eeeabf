"""CD-k (Hinton 2002): chains restart at the data for each batch and make `sampler.steps` sweeps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from ebm_pipeline.models.machine import ODD, BoltzmannMachine, PartialStates
from ebm_pipeline.sampling import Chains, Gibbs
from ebm_pipeline.support.errors import UserError
from ebm_pipeline.training.objectives.contrast import Contrastive, Learning, contrast


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
        self, machine: BoltzmannMachine, clamped: PartialStates, chains: Any, generator: torch.Generator
    ) -> Learning:
        posterior = self.infer(machine, clamped, generator)
        start = tuple(
            state if inputs is None else layer.sample(inputs, generator)
            for layer, state, inputs in zip(machine.layers, posterior.means, posterior.inputs, strict=True)
        )
        if clamped[ODD] is not None:  # the data are the first to move, or they would still be in the chains' statistics
            start = machine.sample(start, ODD, generator)
        moved, info = self.sampler.step(machine, Chains(start), generator, finish=False)
        learning = contrast(machine, posterior, moved.samples, generator)
        return replace(learning, chains=None, info={**learning.info, **info})
