"""Samplers: stateless configuration with `init` and `step`; states are explicit, given and returned."""

from ebm_pipeline.sampling.annealing import anneal
from ebm_pipeline.sampling.base import Sampler, SamplerState, leaves, with_leaves
from ebm_pipeline.sampling.gibbs import Chains, Gibbs, start_at_mean, start_at_visible, visible_at_mean
from ebm_pipeline.sampling.inpainting import inpaint
from ebm_pipeline.sampling.ladder import Ladder
from ebm_pipeline.sampling.langevin import GibbsLangevin
from ebm_pipeline.sampling.tempering import ParallelTempering
from ebm_pipeline.sampling.trajectory import TrajectoryTempering

__all__ = [
    "Chains",
    "Gibbs",
    "GibbsLangevin",
    "Ladder",
    "ParallelTempering",
    "Sampler",
    "SamplerState",
    "TrajectoryTempering",
    "anneal",
    "inpaint",
    "leaves",
    "start_at_mean",
    "start_at_visible",
    "visible_at_mean",
    "with_leaves",
]
