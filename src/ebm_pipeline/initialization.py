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

from ebm_pipeline.errors import UserError, check_number
from ebm_pipeline.layers import Layer
from ebm_pipeline.machine import BoltzmannMachine, assemble

WeightInitializer = Callable[[int, int, torch.Generator], Tensor]


def normal(lower: int, upper: int, generator: torch.Generator, *, std: float) -> Tensor:
    """Weights (lower, upper) from Normal(0, std^2)."""
    check_number("the standard deviation of the weights", std)
    return std * torch.randn(lower, upper, generator=generator)


def glorot_normal(lower: int, upper: int, generator: torch.Generator) -> Tensor:
    """Weights (lower, upper) from Normal(0, 2 / (lower + upper))."""
    return normal(lower, upper, generator, std=math.sqrt(2 / (lower + upper)))


def initialize(
    layers: Sequence[Layer],
    weights: WeightInitializer,
    visible_mean: Tensor,
    generator: torch.Generator,
    visible_variance: Tensor | None = None,
) -> BoltzmannMachine:
    """A machine whose visible layer alone has the data mean (units,) and whose weights come from `weights`.

    Variances that are learned start at that of the data, visible_variance (units,), where it is below the layer's own.
    """
    if len(layers) < 2:
        raise UserError(f"a machine needs at least two layers, visible and hidden; got {len(layers)}")
    if layers[0].units != visible_mean.numel():
        raise UserError(
            f"the data have {visible_mean.numel()} columns, the model has {layers[0].units} visible units: "
            "choose another data set or set the units of model.layers.0"
        )
    visible = layers[0] if visible_variance is None else layers[0].within(visible_variance)
    visible = visible.with_tensors(bias=visible.bias_for_mean(visible_mean))
    matrices = [weights(lower.units, upper.units, generator) for lower, upper in pairwise(layers)]
    return assemble([visible, *layers[1:]], matrices)
