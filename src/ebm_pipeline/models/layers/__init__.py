"""Layers of independent units. One file per unit type; the contract is in `base`."""

from ebm_pipeline.models.layers.base import Layer
from ebm_pipeline.models.layers.bernoulli import Bernoulli
from ebm_pipeline.models.layers.gaussian import Gaussian
from ebm_pipeline.models.layers.ising import Ising
from ebm_pipeline.models.layers.learned_gaussian import LearnedGaussian
from ebm_pipeline.models.layers.mixed import Mixed
from ebm_pipeline.models.layers.potts import Potts
from ebm_pipeline.models.layers.rectified_gaussian import RectifiedGaussian

LAYERS: dict[str, type[Layer]] = {
    layer.kind: layer for layer in (Bernoulli, Ising, Potts, Gaussian, LearnedGaussian, RectifiedGaussian, Mixed)
}


def known_layers() -> dict[str, type[Layer]]:
    """The kinds of this package, and those of own modules that are imported."""
    found, waiting = dict(LAYERS), Layer.__subclasses__()
    while waiting:
        layer = waiting.pop()
        waiting += layer.__subclasses__()
        if "kind" in vars(layer):
            found.setdefault(layer.kind, layer)
    return found


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
    "known_layers",
]
