"""Samplers: stateless configuration with `init` and `step`; chains are explicit states, one tensor per layer."""

from ebm_pipeline.samplers.gibbs import Gibbs, start_at_mean, start_at_visible, visible_at_mean

__all__ = ["Gibbs", "start_at_mean", "start_at_visible", "visible_at_mean"]
