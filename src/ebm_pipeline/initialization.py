"""Where training starts: visible biases at the data mean, small random weights, hidden biases zero.

Visible biases at the logit of the data mean: Hinton (2010), "A practical guide to training restricted Boltzmann machines",
section 8; weights: the same section, or Glorot & Bengio (2010).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ebm_pipeline.errors import UserError, check_memory, check_number
from ebm_pipeline.layers import Layer
from ebm_pipeline.machine import BoltzmannMachine, assemble

COPIES = 4  # of the weights in memory: as they start, as they are, their gradient and the optimizer's step
WeightInitializer = Callable[[int, int, torch.Generator], Tensor]


def normal(lower: int, upper: int, generator: torch.Generator, *, std: float) -> Tensor:
    """Weights (lower, upper) from Normal(0, std^2)."""
    check_number("the standard deviation of the weights", std)
    return std * torch.randn(lower, upper, generator=generator)


def glorot_normal(lower: int, upper: int, generator: torch.Generator) -> Tensor:
    """Weights (lower, upper) from Normal(0, 2 / (lower + upper))."""
    return normal(lower, upper, generator, std=math.sqrt(2 / (lower + upper)))


def initialize(
    layers: Sequence[Layer], weights: WeightInitializer, visible_mean: Tensor, generator: torch.Generator
) -> BoltzmannMachine:
    """A machine whose visible layer alone has the data mean (units,) and whose weights come from `weights`."""
    if len(layers) < 2:
        raise UserError(f"a machine needs at least two layers, visible and hidden; got {len(layers)}")
    if layers[0].units != visible_mean.numel():
        raise UserError(
            f"the data have {visible_mean.numel()} columns, the model has {layers[0].units} visible units: "
            "choose another data set or set the units of model.layers.0"
        )
    numbers = sum(lower.units * upper.units for lower, upper in pairwise(layers))
    check_memory(
        f"weights between layers of {', '.join(str(layer.units) for layer in layers)} units", COPIES * 4 * numbers
    )
    visible = layers[0].with_tensors(bias=layers[0].bias_for_mean(visible_mean))
    matrices = [weights(lower.units, upper.units, generator) for lower, upper in pairwise(layers)]
    if not all(torch.isfinite(matrix).all() for matrix in matrices):
        raise UserError("the weights that training would start from are not finite: lower initialization.std")
    return assemble([visible, *layers[1:]], matrices)
