"""What a look inside a machine shows: hidden units that do nothing, the spectrum of the weights, the spread of real units."""

from __future__ import annotations

import torch
from torch import Tensor

from ebm_pipeline.inference import MeanField
from ebm_pipeline.layers import Gaussian
from ebm_pipeline.machine import BoltzmannMachine

CONSTANT_SPREAD = 0.01  # deviation of a unit's mean over the images, below which it tells nothing of them


def hidden_units(machine: BoltzmannMachine, images: Tensor, mean_field: MeanField) -> dict[str, float]:
    """Fractions of the binary hidden units that are dead (never on), or saturated (always on), on images (count, units).

    A unit is either where its conditional mean varies by less than 0.01 (standard deviation) over the images, off or on.
    """
    posterior = mean_field(machine, (images, *(None,) * (machine.depth - 1)))
    means = [state for layer, state in zip(machine.layers[1:], posterior.means[1:], strict=True) if layer.binary]
    if not means:
        return {}
    activity = torch.cat([state.mean(0) for state in means])
    constant = torch.cat([state.std(0) for state in means]) < CONSTANT_SPREAD
    return {
        "hidden_units_dead": float((constant & (activity < 0.5)).double().mean()),
        "hidden_units_saturated": float((constant & (activity >= 0.5)).double().mean()),
    }


def singular_values(machine: BoltzmannMachine) -> dict[str, float]:
    """Of each weight matrix the largest singular value, and how many share its strength: (sum s^2)^2 / sum s^4.

    From the Gram matrix of the smaller side, which costs little enough for every epoch.
    """
    figures = {}
    for index, matrix in enumerate(machine.weights, start=1):
        weights = matrix.detach().double()
        gram = weights.mT @ weights if weights.shape[0] > weights.shape[1] else weights @ weights.mT
        squares = torch.linalg.eigvalsh(gram).clamp_min(0) if gram.isfinite().all() else torch.full((1,), torch.nan)
        total = float(squares.sum())
        figures[f"weights_{index}_largest_singular_value"] = float(squares[-1].sqrt())
        figures[f"weights_{index}_singular_participation"] = total**2 / float(squares.square().sum()) if total else 0.0
    return figures


def weight_participation(machine: BoltzmannMachine) -> dict[str, float]:
    """Of the first weights: mean squared norm per hidden unit, and the fraction of its pixels that a unit uses.

    The fraction is the mean over hidden units of (sum w^2)^2 / (pixels * sum w^4) (Tubiana & Monasson 2017).
    """
    weights = machine.weights[0].detach().double()
    squares, fourths = weights.square().sum(0), weights.pow(4).sum(0)
    used = torch.where(fourths > 0, squares.square() / (len(weights) * fourths.clamp_min(1e-300)), 0.0)
    return {"weight_square": float(squares.mean()), "weight_participation": float(used.mean())}


def standard_deviations(machine: BoltzmannMachine) -> dict[str, tuple[float, float]]:
    """Smallest and largest standard deviation of each layer of Gaussian units, by the layer's name."""
    return {
        f"layers/{index}": (float(layer.variance.min().sqrt()), float(layer.variance.max().sqrt()))
        for index, layer in enumerate(machine.layers)
        if isinstance(layer, Gaussian)
    }


def heat_capacity(machine: BoltzmannMachine, states: tuple[Tensor, ...]) -> float:
    """Variance of the energy over equilibrium samples, per unit: the heat capacity at inverse temperature 1, k = 1."""
    energies = machine.energy(states).double()
    return float(energies.var() / sum(layer.units for layer in machine.layers))
