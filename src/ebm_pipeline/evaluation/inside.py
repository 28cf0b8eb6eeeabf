"""What a look inside a machine shows: hidden units and layers that do nothing, the spectrum of the weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ebm_pipeline.models.inference import MeanField, Posterior, bound
from ebm_pipeline.models.layers import Layer
from ebm_pipeline.models.machine import BoltzmannMachine

CONSTANT_SPREAD = 0.01  # deviation of a unit's mean over the images, below which it tells nothing of them


@dataclass(frozen=True)
class HiddenLayer:
    """What a hidden layer says of images, by the mean-field means of its units: `images` is the visible layer's participation.

    dead, saturated: shares of the units whose mean varies by less than 0.01 over the images, below or above the middle of what it
    can be; spread: root mean square deviation of the means over the images, 0.5 where binary units are half of the time on for
    sure (other units: in their range, real ones in their standard deviations); participation: how many directions share the
    variance of the means, (sum s^2)^2 / sum s^4 of their covariance's eigenvalues s^2; use: see `use_of`.
    """

    index: int
    units: int
    dead: float
    saturated: float
    spread: float
    participation: float
    images: float
    use: float

    @property
    def idle(self) -> float:
        """Share of the units that are dead or saturated."""
        return self.dead + self.saturated

    def metrics(self) -> dict[str, float]:
        """By name, as hidden_1_dead."""
        names = ("dead", "saturated", "spread", "participation", "use")
        return {f"hidden_{self.index}_{name}": getattr(self, name) for name in names}


def hidden_layers(machine: BoltzmannMachine, images: Tensor, mean_field: MeanField) -> list[HiddenLayer]:
    """Each hidden layer, on images (count, units)."""
    machine = machine.folded()
    posterior = mean_field(machine, (images, *(None,) * (machine.depth - 1)))
    return [
        _hidden_layer(
            index, layer, means.double(), participation(images), use_of(machine, index, posterior, mean_field)
        )
        for index, (layer, means) in enumerate(zip(machine.layers[1:], posterior.means[1:], strict=True), start=1)
    ]


def use_of(machine: BoltzmannMachine, index: int, posterior: Posterior, mean_field: MeanField) -> float:
    """How much the mean bound of the images of a posterior falls when layer `index` has one state for all of them, in nats.

    It is the most that the bound falls by, log Z and all, when the layer and those above it are taken away and the layer below
    gets what the state sent it in its bias, since log Z >= log Z(without) + c for any state, c as below (Gibbs & Bogoliubov).
    Of the states near the mean over the images the one is taken that gives the least. For a machine without offsets.
    """
    layer, inputs, means = machine.layers[index], posterior.inputs[index], posterior.means[index]
    assert inputs is not None
    average, own = (
        inputs.mean(0),
        layer.bias_for_mean(means.mean(0)) - layer.bias,
    )  # which is clipped where units are saturated
    saturated = means.std(0, correction=0) < CONSTANT_SPREAD
    full = bound(machine, posterior).double().mean()
    held = [
        _bound_at(machine, index, field, posterior.means[0], mean_field)
        for field in (average, own, torch.where(saturated, average, own))
    ]
    return float(full) - max(held)


def _bound_at(machine: BoltzmannMachine, index: int, field: Tensor, images: Tensor, mean_field: MeanField) -> float:
    """The mean bound, without log Z, when layer `index` answers to the inputs `field` (units,) for each of the images."""
    layer, weights = machine.layers[index], machine.weights[index - 1]
    mean = layer.mean(field)
    below = machine.layers[index - 1].with_tensors(bias=machine.layers[index - 1].bias + weights @ mean)
    if index == 1:
        alone = -below.energy(images)
    else:
        lower = replace(machine, layers=(*machine.layers[: index - 1], below), weights=machine.weights[: index - 1])
        alone = _bounds(lower, images, mean_field)
    constant = layer.log_partition(field) - field @ mean
    if index < machine.depth - 1:
        upper = replace(machine, layers=machine.layers[index:], weights=machine.weights[index:])
        constant = constant + layer.energy(mean) + _bounds(upper, mean[None], mean_field)
    return float((alone + constant).double().mean())


def _bounds(machine: BoltzmannMachine, visible: Tensor, mean_field: MeanField) -> Tensor:
    """Without log Z: (count, units) -> (count,)."""
    return bound(machine, mean_field(machine, (visible, *(None,) * (machine.depth - 1))))


def _hidden_layer(index: int, layer: Layer, means: Tensor, images: float, use: float) -> HiddenLayer:
    """Of the means (count, units) of one layer."""
    middle, scale = _range(layer)
    deviations = (means - middle) / scale
    spread = deviations.std(0, correction=0)
    constant = spread < CONSTANT_SPREAD
    above = deviations.mean(0) >= 0 if layer.sites() is not None else torch.zeros_like(constant)
    return HiddenLayer(
        index,
        layer.units,
        dead=float((constant & ~above).double().mean()),
        saturated=float((constant & above).double().mean()),
        spread=float(spread.square().mean().sqrt()),
        participation=participation(means),
        images=images,
        use=use,
    )


def _range(layer: Layer) -> tuple[Tensor, Tensor]:
    """Middle and width of what each unit can be (units,): its least and largest state; of real units 0 and a deviation."""
    sites = layer.sites()
    if sites is None:
        variances = [value for name, value in layer.named_tensors().items() if name.endswith("variance")]
        size = variances[0].double().sqrt() if len(variances) == 1 else torch.ones(layer.units, dtype=torch.float64)
        return torch.zeros_like(size), size
    low, high = (torch.cat([getattr(site, end)(0) for site in sites]) for end in ("amin", "amax"))
    return ((low + high) / 2).to(layer.bias.device), (high - low).to(layer.bias.device)


def participation(rows: Tensor) -> float:
    """Directions that share the variance of rows (count, units): (sum s^2)^2 / sum s^4; 0 where nothing varies."""
    centred = rows.double() - rows.double().mean(0)
    gram = centred @ centred.mT if len(centred) < centred.shape[1] else centred.mT @ centred
    total, squares = float(gram.trace()), float(gram.square().sum())
    return total**2 / squares if squares > 0 else 0.0


def hidden_units(layers: Sequence[HiddenLayer]) -> dict[str, float]:
    """Shares of all hidden units that are dead or saturated."""
    units = sum(layer.units for layer in layers)
    return {
        f"hidden_{name}": sum(getattr(layer, name) * layer.units for layer in layers) / units
        for name in ("dead", "saturated")
    }


def layer_metrics(layers: Sequence[HiddenLayer], part: str) -> dict[str, float]:
    """Numbers of all hidden layers together and of each, on images of the part."""
    metrics = hidden_units(layers)
    for layer in layers:
        metrics |= layer.metrics()
    return {f"{part}/{name}": value for name, value in metrics.items()}


def singular_values(machine: BoltzmannMachine) -> dict[str, float]:
    """Of each weight matrix the largest singular value, and how many share its strength: (sum s^2)^2 / sum s^4.

    From the Gram matrix of the smaller side, which costs little enough for every epoch.
    """
    metrics = {}
    for index, matrix in enumerate(machine.weights, start=1):
        weights = matrix.detach().double()
        gram = weights.mT @ weights if weights.shape[0] > weights.shape[1] else weights @ weights.mT
        squares = torch.linalg.eigvalsh(gram).clamp_min(0) if gram.isfinite().all() else torch.full((1,), torch.nan)
        total = float(squares.sum())
        metrics[f"weights/largest_singular_value_{index}"] = float(squares[-1].sqrt())
        metrics[f"weights/singular_participation_{index}"] = total**2 / float(squares.square().sum()) if total else 0.0
    return metrics


def weight_participation(machine: BoltzmannMachine) -> dict[str, float]:
    """Of the first weights: mean squared norm per hidden unit, and the fraction of its pixels that a unit uses.

    The fraction is the mean over hidden units of (sum w^2)^2 / (pixels * sum w^4) (Tubiana & Monasson 2017).
    """
    weights = machine.weights[0].detach().double()
    squares, fourths = weights.square().sum(0), weights.pow(4).sum(0)
    used = torch.where(fourths > 0, squares.square() / (len(weights) * fourths.clamp_min(1e-300)), 0.0)
    return {"weights/square": float(squares.mean()), "weights/participation": float(used.mean())}


def heat_capacity(machine: BoltzmannMachine, states: tuple[Tensor, ...]) -> float:
    """Variance of the energy over equilibrium samples, per unit: the heat capacity at inverse temperature 1, k = 1."""
    energies = machine.energy(states).double()
    return float(energies.var() / sum(layer.units for layer in machine.layers))
