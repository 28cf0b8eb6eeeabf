"""TAP: the model's side of the gradient from a mean-field free energy with Onsager terms, without sampling.

Gabrie, Tramel & Krzakala (2015) for RBMs; Tramel et al. (2018) for other units and any depth. With means m and variances v,
the expansion of -log Z in the couplings to second or third order (Plefka 1982; Georges & Yedidia 1991) is

    F = sum_l S_l(m_l, v_l) - sum_l [m_l W_l m_{l+1} + 1/2 v_l W_l^2 v_{l+1} + 1/6 k_l W_l^3 k_{l+1}]

with powers of single weights, k = v (1 - 2 m) for Bernoulli and 0 for Gaussian units, and the third order left out by
default. Layers form a chain, so no triangles enter. S is minus the entropy plus the mean energy of a layer alone:

    Bernoulli: m log m + (1 - m) log(1 - m) - b m, v = m - m^2     Gaussian: -1/2 log(2 pi v) - 1/2 + (m^2 + v)/(2 variance) - b m

F is stationary at m = (log_partition of the unit with field B and curvature A)', v = (...)'', where
A = -W^2 v and B = W m + A m summed over neighbours; so its gradient is that of the terms at fixed m and v.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ebm_pipeline.models.inference import MeanField
from ebm_pipeline.models.layers import Bernoulli, Gaussian, Layer
from ebm_pipeline.models.machine import EVEN, ODD, BoltzmannMachine, PartialStates, States
from ebm_pipeline.support.errors import UserError, check_number, check_whole
from ebm_pipeline.training.objectives.contrast import Learning


class FixedPoints(NamedTuple):
    """Means and variances of every layer (points, units), the steps made and the largest change of a mean in the last."""

    means: States
    variances: States
    steps: int
    residual: float


@dataclass(frozen=True)
class Tap:
    """Learning with the TAP free energy of this order (2 or 3); the data phase is mean field.

    Fixed points are found by iteration damped by `damping` and go on, as persistent chains do, from those of the step before;
    where there are several, their gradients are averaged.
    """

    persistent: ClassVar[bool] = True
    mean_field: MeanField
    order: int = 2
    damping: float = 0.5
    tolerance: float = 1e-4
    max_steps: int = 50

    def __post_init__(self) -> None:
        check_whole("objective.order", self.order, 2, 3)
        check_number("objective.damping", self.damping, 0, 1, open_high=True)
        check_number("objective.tolerance", self.tolerance)
        check_whole("objective.max_steps", self.max_steps, 1)

    def init(self, machine: BoltzmannMachine, states: States, means: PartialStates) -> States:
        """The states, as means to start from; raises UserError for units or products that the expansion is not for."""
        check_units(machine)
        machine.check_units(states)
        machine.check_units(means)
        if states[0].dtype == torch.bfloat16:
            raise UserError("objective=tap needs products in float32: set training.products=float32")
        return states

    def __call__(
        self, machine: BoltzmannMachine, clamped: PartialStates, chains: Any, generator: torch.Generator
    ) -> Learning:
        machine.check_states(clamped)
        assert chains is not None, "TAP goes on from the fixed points of the step before"
        data = self.mean_field(machine, clamped).means
        points = self.solve(machine, chains)
        rows = len(data[0])
        gradient = machine.energy_gradient(data, data[0].new_full((rows,), 1 / rows))
        for name, value in free_energy_gradient(machine, points, self.order).items():
            gradient[name] -= value
        return Learning(
            gradient, points.means, data, {"tap_steps": float(points.steps), "tap_residual": points.residual}
        )

    def solve(self, machine: BoltzmannMachine, start: States) -> FixedPoints:
        """Stationary points of the free energy, one from each row of `start` (points, units)."""
        check_units(machine)
        machine.check_units(start)
        assert not machine.offsets, "fold the offsets first"
        means = list(start)
        variances = [_prior_variance(layer, mean) for layer, mean in zip(machine.layers, means, strict=True)]
        residual, steps = math.inf, 0
        while steps < self.max_steps and residual > self.tolerance:
            change = []
            for parity in (ODD, EVEN):
                for index in machine.parity(parity):
                    mean, variances[index] = _update(machine, means, variances, index, self.order)
                    mean = torch.lerp(mean, means[index], self.damping)
                    change.append((mean - means[index]).abs().max())
                    means[index] = mean
                    if isinstance(machine.layers[index], Bernoulli):
                        variances[index] = mean - mean.square()
            residual = float(torch.stack(change).max())
            steps += 1
        return FixedPoints(tuple(means), tuple(variances), steps, residual)


def check_units(machine: BoltzmannMachine) -> None:
    """Raise unless every layer is Bernoulli or Gaussian."""
    for index, layer in enumerate(machine.layers):
        if type(layer) not in (Bernoulli, Gaussian):
            raise UserError(
                f"objective=tap is written for bernoulli and gaussian units; layer {index} is {layer.kind}: use objective=pcd"
            )


def free_energy(machine: BoltzmannMachine, points: FixedPoints, order: int = 2) -> Tensor:
    """F of each fixed point, an estimate of -log Z: (points,)."""
    total = torch.zeros(())
    for layer, mean, variance in zip(machine.layers, points.means, points.variances, strict=True):
        energy = layer.energy(mean)
        if isinstance(layer, Gaussian):
            entropy = 0.5 * torch.log(2 * math.pi * variance) + 0.5
            energy = energy + (variance / (2 * layer.variance)).sum(-1)
        else:
            entropy = -(torch.xlogy(mean, mean) + torch.xlogy(1 - mean, 1 - mean))
        total = total + energy - entropy.sum(-1)
    third = _thirds(machine, points.means, points.variances)
    for index, weights in enumerate(machine.weights):
        lower, upper = index, index + 1
        total = total - (points.means[lower] @ weights * points.means[upper]).sum(-1)
        total = total - 0.5 * (points.variances[lower] @ weights.square() * points.variances[upper]).sum(-1)
        if order == 3:
            total = total - (third[lower] @ weights**3 * third[upper]).sum(-1) / 6
    return total


def free_energy_gradient(machine: BoltzmannMachine, points: FixedPoints, order: int) -> dict[str, Tensor]:
    """Mean over the points of dF by parameter name, means and variances held fixed: what the model's side expects."""
    count = len(points.means[0])
    gradient = {f"layers/{index}/bias": -mean.mean(0) for index, mean in enumerate(points.means)}
    third = _thirds(machine, points.means, points.variances)
    for index, weights in enumerate(machine.weights):
        product = points.means[index].mT @ points.means[index + 1]
        product = product + weights * (points.variances[index].mT @ points.variances[index + 1])
        if order == 3:
            product = product + 0.5 * weights.square() * (third[index].mT @ third[index + 1])
        gradient[f"weights/{index}"] = -product / count
    return gradient


def _update(
    machine: BoltzmannMachine, means: list[Tensor], variances: list[Tensor], index: int, order: int
) -> tuple[Tensor, Tensor]:
    """Mean and variance (points, units) of a layer given its neighbours and its own mean."""
    layer, own = machine.layers[index], means[index]
    field = machine.inputs(means, index)
    squares = _from_neighbours(machine, variances, index, 2)  # -A
    if isinstance(layer, Gaussian):
        precision = 1 / layer.variance - squares
        if not bool((precision > 0).all()):
            raise UserError(
                f"the TAP expansion has no fixed point for the gaussian layer {index}: its couplings are too strong for "
                "variances this large. Use objective=pcd, or smaller weights or variances"
            )
        variance = 1 / precision
        return variance * (field - own * squares + layer.bias), variance
    inputs = field + (0.5 - own) * squares
    if order == 3:
        # d k / d m = 1 - 6 m + 6 m^2 of this unit, times a sixth of what the neighbours' k send through W^3
        cubes = _from_neighbours(machine, list(_thirds(machine, means, variances)), index, 3)
        inputs = inputs + (1 - 6 * own + 6 * own.square()) * cubes / 6
    mean = layer.mean(inputs)
    return mean, mean - mean.square()


def _from_neighbours(machine: BoltzmannMachine, values: list[Tensor], index: int, power: int) -> Tensor:
    """sum over neighbours of W^power (each weight to the power) times their values (points, units)."""
    total = torch.zeros_like(values[index])
    if index > 0:
        total = total + values[index - 1] @ machine.weights[index - 1] ** power
    if index < machine.depth - 1:
        total = total + values[index + 1] @ machine.weights[index].mT ** power
    return total


def _thirds(machine: BoltzmannMachine, means: States | list[Tensor], variances: States | list[Tensor]) -> States:
    """Third cumulants (points, units) of every layer."""
    return tuple(
        variance * (1 - 2 * mean) if isinstance(layer, Bernoulli) else torch.zeros_like(mean)
        for layer, mean, variance in zip(machine.layers, means, variances, strict=True)
    )


def _prior_variance(layer: Layer, mean: Tensor) -> Tensor:
    """Variance (points, units) of a layer without couplings and of this mean."""
    return layer.variance.expand_as(mean) if isinstance(layer, Gaussian) else mean - mean.square()
