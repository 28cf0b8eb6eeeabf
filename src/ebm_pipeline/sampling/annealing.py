"""Gibbs sweeps at rising inverse temperature: chains cross barriers early, but end in no exact equilibrium."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ebm_pipeline.models.machine import BoltzmannMachine, States
from ebm_pipeline.sampling.gibbs import Gibbs


def anneal(
    machine: BoltzmannMachine,
    base: BoltzmannMachine,
    chains: States,
    sweeps: int,
    start_beta: float,
    generator: torch.Generator | None,
    progress: Callable[[int], None] = lambda done: None,
) -> States:
    """Chains (chains, units) after sweeps at inverse temperatures from `start_beta` to 1, in even steps.

    `base` is the machine without couplings that stands at inverse temperature 0. start_beta = 1 is plain Gibbs sampling.
    """
    gibbs = Gibbs()
    for done, beta in enumerate(torch.linspace(start_beta, 1, sweeps).tolist(), start=1):
        chains = gibbs.sweep(machine if start_beta == 1 else machine.annealed(beta, base), chains, generator)
        progress(done)
    return chains
