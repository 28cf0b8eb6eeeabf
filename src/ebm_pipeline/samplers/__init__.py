"""Samplers: stateless configuration with `start` and `step`; chains are explicit states, given and returned."""

from ebm_pipeline.samplers.annealing import anneal
from ebm_pipeline.samplers.base import Sampler
from ebm_pipeline.samplers.gibbs import Gibbs, start_at_mean, start_at_visible, visible_at_mean
from ebm_pipeline.samplers.inpainting import inpaint
from ebm_pipeline.samplers.langevin import GibbsLangevin
from ebm_pipeline.samplers.tempering import ParallelTempering

__all__ = [
    "Gibbs",
    "GibbsLangevin",
    "ParallelTempering",
    "Sampler",
    "anneal",
    "inpaint",
    "start_at_mean",
    "start_at_visible",
    "visible_at_mean",
]
