"""Layers of independent units. One file per unit type; the contract is in `base`."""

from ebm_pipeline.layers.base import Layer
from ebm_pipeline.layers.bernoulli import Bernoulli
from ebm_pipeline.layers.gaussian import Gaussian

LAYERS: dict[str, type[Layer]] = {layer.kind: layer for layer in (Bernoulli, Gaussian)}

__all__ = ["LAYERS", "Bernoulli", "Gaussian", "Layer"]
