"""Learned variances: gradient steps in the coordinates of Cho, Ilin & Raiko (2011), made on the machine as it is.

With weights W = W~ / variance, bias = mean / variance and variance = exp(z) (rows of W for a visible layer) a change of the
variance leaves the conditional mean W~ h + mean alone, which it would not at fixed W. A step of size (variance, variance,
1) in (W~, mean, z), the scale of their Fisher information, is this one in (W, bias, variance):

    g_z = variance g_variance - sum_j W_j g_W_j - bias g_bias
    g_W' = g_W / variance - W g_z,      g_bias' = g_bias / variance - bias g_z,      g_variance' = variance g_z

where g_z may be taken times a rate below 1: variances that adapt more slowly than weights leave the structure of the data to
the hidden units, before they grow to the variance of the data and hide it. So one learning rate serves every scale of
the data, and model.h5 holds weights as every other machine has them. Where a variance stands at its floor and would
fall (g_z > 0), g_z counts as 0, or the weights would follow a change that the floor then takes back.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ebm_pipeline.models.machine import BoltzmannMachine


def precision_scaled(
    gradient: dict[str, Tensor], machine: BoltzmannMachine, offsets: Sequence[Tensor] = (), rate: float = 1.0
) -> None:
    """Transform the gradient, in place, with respect to the parameters of the machine centred at `offsets`, if any.

    rate: of g_z, against the other parameters.

    That machine is the same distribution with the biases b_l + W_l o_{l+1} + o_{l-1} W_{l-1}. Weights between two layers that
    learn a variance are scaled by both.
    """
    biases = [layer.bias for layer in machine.layers]
    if offsets:
        for index, weights in enumerate(machine.weights):
            biases[index] = biases[index] + weights @ offsets[index + 1]
            biases[index + 1] = biases[index + 1] + offsets[index] @ weights
    variances, steps = [], []  # per unit of each layer: the variance, and d E / d z; 1 and 0 where it is not learned
    for index, layer in enumerate(machine.layers):
        variance, step = torch.ones_like(layer.bias), torch.zeros_like(layer.bias)
        tensors = layer.named_tensors()
        for name, where in layer.learned_variances.items():
            moved = -biases[index] * gradient[f"layers/{index}/bias"]
            if index < machine.depth - 1:
                moved -= (machine.weights[index] * gradient[f"weights/{index}"]).sum(1)
            if index > 0:
                moved -= (machine.weights[index - 1] * gradient[f"weights/{index - 1}"]).sum(0)
            variance[where] = tensors[name]
            wanted = tensors[name] * gradient[f"layers/{index}/{name}"] + moved[where]
            held = (tensors[name] <= tensors[f"{name}_floor"]) & (wanted > 0)
            step[where] = rate * wanted.masked_fill(held, 0.0)
        variances.append(variance)
        steps.append(step)
    for index, weights in enumerate(machine.weights):
        scale = torch.outer(variances[index], variances[index + 1])
        moved = weights * (steps[index][:, None] + steps[index + 1])
        gradient[f"weights/{index}"].div_(scale).sub_(moved)
    for index, layer in enumerate(machine.layers):
        gradient[f"layers/{index}/bias"].div_(variances[index]).sub_(biases[index] * steps[index])
        for name, where in layer.learned_variances.items():
            gradient[f"layers/{index}/{name}"] = variances[index][where] * steps[index][where]
