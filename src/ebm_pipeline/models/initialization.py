"""Where training starts: visible biases at the data mean, small random weights, hidden biases zero.

Visible biases at the logit of the data mean: Hinton (2010), "A practical guide to training restricted Boltzmann machines",
section 8; weights: the same section, Glorot & Bengio (2010), or after the data as in Paysage (Unlearn.AI). What looks at the data
sets the first weights alone; those above are `glorot_normal`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ebm_pipeline.models.layers import Layer
from ebm_pipeline.models.machine import BoltzmannMachine, assemble
from ebm_pipeline.support.errors import UserError, check_memory, check_number

# (lower units, upper units, generator, images (count, lower units) for the first weights and None for those above) -> weights
WeightInitializer = Callable[[int, int, torch.Generator, Tensor | None], Tensor]
NO_VARIANCE = 1e-6  # of the largest deviation: below, a principal component is none
COPIES = 4  # of the weights in memory: as they start, as they are, their gradient and the optimizer's step


def normal(lower: int, upper: int, generator: torch.Generator, images: Tensor | None = None, *, std: float) -> Tensor:
    """Weights (lower, upper) from Normal(0, std^2)."""
    check_number("the standard deviation of the weights", std)
    return std * torch.randn(lower, upper, generator=generator)


def glorot_normal(lower: int, upper: int, generator: torch.Generator, images: Tensor | None = None) -> Tensor:
    """Weights (lower, upper) from Normal(0, 2 / (lower + upper))."""
    return normal(lower, upper, generator, std=math.sqrt(2 / (lower + upper)))


def pixel_deviations(lower: int, upper: int, generator: torch.Generator, images: Tensor | None = None) -> Tensor:
    """`glorot_normal`, the weights of each pixel times its standard deviation: a pixel that never changes starts at 0."""
    weights = glorot_normal(lower, upper, generator)
    return weights if images is None else weights * images.std(0)[:, None]


def principal_components(lower: int, upper: int, generator: torch.Generator, images: Tensor | None = None) -> Tensor:
    """Column j is sqrt(2 lower / (lower + upper)) * s_j / |s| times principal direction j, s_j: deviation of the data along it.

    Largest first. Where the data do not vary any more the column is that of `glorot_normal`, or all such hidden units would
    stay alike. Raises UserError for more hidden units than pixels.
    """
    weights = glorot_normal(lower, upper, generator)
    if images is None:
        return weights
    if upper > min(images.shape):
        raise UserError(
            f"{len(images)} images of {lower} pixels have at most {min(images.shape)} principal components, the first hidden "
            f"layer has {upper} units: take initialization=normal, or fewer units"
        )
    from sklearn.decomposition import PCA  # slow to import, and rarely asked for

    found = PCA(upper, svd_solver="covariance_eigh").fit(images.numpy())
    directions, variances = torch.from_numpy(found.components_.T), torch.from_numpy(found.explained_variance_)
    deviations = variances.clamp(min=0).sqrt()
    scaled = math.sqrt(2 * lower / (lower + upper)) * deviations / deviations.norm() * directions
    return torch.where(deviations > NO_VARIANCE * deviations[0], scaled.to(weights), weights)


@dataclass(frozen=True)
class FromRun:
    """Begin as the model of a run (`models.growth`); what is new has weights from Normal(0, std^2).

    run: a run's folder or id, or a model.h5.
    """

    run: str | None
    std: float

    def __post_init__(self) -> None:
        check_number("initialization.std", self.std, 0.0)

    def __call__(self, lower: int, upper: int, generator: torch.Generator, images: Tensor | None = None) -> Tensor:
        """Weights (lower, upper) of what is new."""
        return normal(lower, upper, generator, std=self.std)


def initialize(
    layers: Sequence[Layer],
    weights: WeightInitializer,
    visible_mean: Tensor,
    generator: torch.Generator,
    images: Tensor | None = None,
) -> BoltzmannMachine:
    """A machine whose visible layer alone has the data mean (units,) and whose weights come from `weights`.

    images (count, units): training data, for what initializes by them; variances that are learned start at theirs where
    it is below the layer's own.
    """
    if len(layers) < 2:
        raise UserError(f"a machine needs at least two layers, visible and hidden; got {len(layers)}")
    if layers[0].units != visible_mean.numel():
        raise UserError(
            f"the data have {visible_mean.numel()} columns, the model has {layers[0].units} visible units: "
            "choose another data set, set the units of model.layers.0, or with data.labels whether labels are modelled too"
        )
    numbers = sum(lower.units * upper.units for lower, upper in pairwise(layers))
    check_memory(
        f"weights between layers of {', '.join(str(layer.units) for layer in layers)} units", COPIES * 4 * numbers
    )
    visible = layers[0] if images is None else layers[0].within(images.var(0, correction=0))
    visible = visible.with_tensors(bias=visible.bias_for_mean(visible_mean))
    matrices = [
        weights(lower.units, upper.units, generator, images if index == 0 else None)
        for index, (lower, upper) in enumerate(pairwise(layers))
    ]
    if not all(torch.isfinite(matrix).all() for matrix in matrices):
        raise UserError("the weights that training would start from are not finite: lower initialization.std")
    return assemble([visible, *layers[1:]], matrices)
