"""Samplers: stateless configuration with `step`; chains are explicit states, one tensor per layer."""

from ebm_pipeline.samplers.annealing import anneal
from ebm_pipeline.samplers.gibbs import Gibbs, start_at_mean, start_at_visible, visible_at_mean
from ebm_pipeline.samplers.inpainting import inpaint

__all__ = ["Gibbs", "anneal", "inpaint", "start_at_mean", "start_at_visible", "visible_at_mean"]
