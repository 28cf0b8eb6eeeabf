"""Layers of independent units. One file per unit type; the contract is in `base`."""

from ebm_pipeline.layers.base import Layer
from ebm_pipeline.layers.bernoulli import Bernoulli
from ebm_pipeline.layers.gaussian import Gaussian
from ebm_pipeline.layers.ising import Ising
from ebm_pipeline.layers.learned_gaussian import LearnedGaussian
from ebm_pipeline.layers.mixed import Mixed
from ebm_pipeline.layers.potts import Potts
from ebm_pipeline.layers.rectified_gaussian import RectifiedGaussian

LAYERS: dict[str, type[Layer]] = {
    layer.kind: layer for layer in (Bernoulli, Ising, Potts, Gaussian, LearnedGaussian, RectifiedGaussian, Mixed)
}

__all__ = [
    "LAYERS",
    "Bernoulli",
    "Gaussian",
    "Ising",
    "Layer",
    "LearnedGaussian",
    "Mixed",
    "Potts",
    "RectifiedGaussian",
]
