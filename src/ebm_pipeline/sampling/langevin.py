"""Gibbs-Langevin sampling of Gaussian visible units (Liao, Kornblith, Ren, Fleet & Hinton 2022, "Gaussian-Bernoulli RBMs
without tears", algorithm 2).

In place of a draw of v given h, Langevin steps go some way towards it: with mean mu(h) and variance s^2 of v given h, the step
size in units of s^2,

    v' = v - step_size / 2 (v - mu(h)) + sqrt(step_size) s xi,        xi ~ Normal(0, 1)

The other layers are drawn as in Gibbs sampling. Units are independent given h, so each accepts its proposal on its own, with
probability min(1, exp(step_size / 8 [z^2 - z'^2])), z = (v - mu(h)) / s: the Metropolis-Hastings rule, under which the joint
distribution of the machine stays as it is. Without it v given h tends to the variance s^2 / (1 - step_size / 4).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from ebm_pipeline.models.layers import Gaussian
from ebm_pipeline.models.machine import EVEN, BoltzmannMachine, States
from ebm_pipeline.sampling.gibbs import Gibbs
from ebm_pipeline.support.errors import UserError, check_number, check_whole

MOST_STEP_SIZE = 4.0  # where the steps without adjustment no longer come back to the mean


@dataclass(frozen=True)
class GibbsLangevin(Gibbs):
    """`steps` sweeps per call of `step`, each with `langevin_steps` steps of the visible layer in place of a draw."""

    langevin_steps: int = 10
    step_size: float = 0.5
    adjusted: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("sampler.langevin_steps", self.langevin_steps, 1)
        check_number(
            "sampler.step_size, in units of the variance,",
            self.step_size,
            0,
            MOST_STEP_SIZE,
            open_low=True,
            open_high=True,
        )

    def draw_even(
        self,
        machine: BoltzmannMachine,
        states: States,
        generator: torch.Generator | None,
        clamped: Collection[int],
    ) -> States:
        """Langevin steps of the visible layer, and a draw of the other even ones."""
        layer = machine.layers[0]
        if not isinstance(layer, Gaussian):
            raise UserError(
                f"Gibbs-Langevin sampling needs Gaussian visible units; got {layer.kind}: use sampler=gibbs"
            )
        drawn = machine.sample(states, EVEN, generator, {0, *clamped})
        if 0 in clamped:
            return drawn
        deviation = layer.variance.sqrt()
        mean = layer.mean(machine.inputs(states, 0))
        z = (states[0] - mean) / deviation
        for _ in range(self.langevin_steps):
            z = self._moved(z, generator)
        return (torch.addcmul(mean, z, deviation), *drawn[1:])

    def _moved(self, z: Tensor, generator: torch.Generator | None) -> Tensor:
        """One step of standardized units (..., units)."""
        noise: Tensor = torch.randn(z.shape, generator=generator, dtype=z.dtype, device=z.device)
        proposed: Tensor = (1 - self.step_size / 2) * z + self.step_size**0.5 * noise
        if not self.adjusted:
            return proposed
        log_ratio = self.step_size / 8 * (z.square() - proposed.square())
        uniform = torch.rand(z.shape, generator=generator, dtype=z.dtype, device=z.device)
        return torch.where(uniform.log() < log_ratio, proposed, z)
