"""A machine that begins as another one: it takes the other's layers, and what it has beyond them says nothing at first.

New weights W between layers x and y enter the energy as -(x - o)^T W (y - m), where o and m are the layers' means, so that

    b_x -= W m,   b_y -= W^T o

and p(v) changes in the second order of W alone; not at all for W = 0, with which new units would stay alike for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ebm_pipeline.models.inference import MeanField
from ebm_pipeline.models.layers import Layer, Mixed
from ebm_pipeline.models.machine import EVEN, ODD, BoltzmannMachine


def posterior_means(machine: BoltzmannMachine, images: Tensor, mean_field: MeanField) -> list[Tensor]:
    """Mean (units,) of each layer over images (count, units)."""
    means = mean_field(machine, (images, *(None,) * (machine.depth - 1))).means
    return [states.mean(0) for states in means]


def beyond(given: BoltzmannMachine, fresh: BoltzmannMachine, means: Sequence[Tensor]) -> BoltzmannMachine:
    """What `fresh` has beyond `given`: a machine of its layers with the new weights alone, centred at the means of all units.

    means: of the layers of `given`, (units,) each. A layer that is wider than the one it takes has that in its first units.
    """
    layers = [_with_units_of(own, other) for own, other in zip(fresh.layers, given.folded().layers, strict=False)]
    layers += fresh.layers[given.depth :]
    offsets = [layer.mean(torch.zeros_like(layer.bias)) for layer in layers]
    for offset, mean in zip(offsets, means, strict=False):
        offset[: len(mean)] = mean
    weights = [matrix.clone() for matrix in fresh.weights]
    for matrix, old in zip(weights, given.weights, strict=False):
        matrix[: old.shape[0], : old.shape[1]] = 0.0
    return BoltzmannMachine(tuple(layers), tuple(weights), tuple(offsets))


def begun_as(given: BoltzmannMachine, new: BoltzmannMachine) -> BoltzmannMachine:
    """The machine that has the weights of `given` and the `new` ones of `beyond`."""
    weights = [matrix.clone() for matrix in new.weights]
    for matrix, old in zip(weights, given.weights, strict=False):
        matrix[: old.shape[0], : old.shape[1]] = old
    return replace(new.folded(), weights=tuple(weights))


def grown(given: BoltzmannMachine, fresh: BoltzmannMachine, images: Tensor, mean_field: MeanField) -> BoltzmannMachine:
    """`fresh`, begun as `given`, whose means are those that it has on images (count, units)."""
    return begun_as(given, beyond(given, fresh, posterior_means(given, images, mean_field)))


def change(
    given: BoltzmannMachine, new: BoltzmannMachine, images: Tensor, generator: torch.Generator, sweeps: int = 10
) -> float:
    """The most that log p(v) of images (count, units) changes with the `new` weights, in nats: RMS, in their second order.

    That is the deviation over the images, and hidden states x drawn given each, of the log of what the new units y sum up to,
    log E_y exp((x - o)^T W (y - m)), of which log p(v) gets the mean over x.
    """
    given, new = given.folded(), new.map(Tensor.double)
    given = given.map(Tensor.double)
    states = [
        images.double(),
        *(layer.mean(torch.zeros_like(layer.bias)).expand(len(images), -1) for layer in given.layers[1:]),
    ]
    for _ in range(sweeps if given.depth > 2 else 1):
        states = list(given.sample(states, ODD, generator))
        states = list(given.sample(states, EVEN, generator, clamped=(0,)))
    centres = [offset.expand(len(images), -1) for offset in new.offsets]
    padded = [torch.cat((x, m[:, x.shape[1] :]), 1) for x, m in zip(states, centres, strict=False)] + centres[
        given.depth :
    ]
    total = torch.zeros(len(images), dtype=torch.float64)
    for index, layer in enumerate(new.layers):
        field = new.inputs(padded, index)
        total += layer.log_partition(field) - layer.log_partition(torch.zeros_like(field)) - field @ new.offsets[index]
    return float(total.std(correction=0))


def _with_units_of(layer: Layer, given: Layer) -> Layer:
    """The layer whose first units are those of `given`."""
    tensors = {}
    for name, value in layer.named_tensors().items():
        other = given.named_tensors()[name].to(value.dtype)
        tensors[name] = torch.cat((other, value[len(other) :]))
    return layer.with_tensors(**tensors)


def new_units(given: BoltzmannMachine, fresh: BoltzmannMachine) -> dict[int, int]:
    """How many units `fresh` has beyond `given`, by the layers that have any."""
    there = [layer.units for layer in given.layers] + [0] * (fresh.depth - given.depth)
    found = {index: layer.units - there[index] for index, layer in enumerate(fresh.layers)}
    return {index: count for index, count in found.items() if count}


def misfit(given: BoltzmannMachine, fresh: BoltzmannMachine) -> str | None:
    """Why `fresh` cannot begin as `given`; None where it can."""
    if given.depth > fresh.depth:
        return f"{given.depth} layers there, {fresh.depth} here: give as many or more"
    for index, (there, here) in enumerate(zip(given.layers, fresh.layers, strict=False)):
        reason = _misfit_of_layers(there, here, wider=index > 0)
        if reason is not None:
            return f"{f'layer {index}' if index else 'the visible layer'} has {reason}"
    return None


def _misfit_of_layers(there: Layer, here: Layer, *, wider: bool) -> str | None:
    both = f"{described(there)} there, {described(here)} here"
    if _kind(there) != _kind(here):
        return f"{both}: units of another kind cannot take its weights"
    if here.units < there.units or (here.units > there.units and not wider):
        return f"{both}: give {'as many or more' if wider else 'as many'}"
    for name in here.fixed:
        one, other = there.named_tensors()[name], here.named_tensors()[name]
        if not torch.allclose(one.double(), other[: len(one)].double()):
            return (
                f"another {name.rsplit('/', 1)[-1]}, which is not learned: {_range(one)} there, {_range(other)} here: give that "
                "of there in model.layers"
            )
    return None


def _kind(layer: Layer) -> str:
    """What two layers must share: all of it where the parts of a layer lie side by side."""
    if isinstance(layer, Mixed):
        return described(layer)
    settings = ", ".join(f"{value} {name}" for name, value in layer.settings().items())
    return f"{layer.kind}{f' ({settings})' if settings else ''}"


def described(layer: Layer) -> str:
    """Such as `784 bernoulli` or `12 potts (3 categories)`."""
    if isinstance(layer, Mixed):
        return f"{layer.units} mixed ({' + '.join(described(part) for part in layer.parts)})"
    return f"{layer.units} {_kind(layer)}"


def _range(values: Tensor) -> str:
    low, high = float(values.min()), float(values.max())
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
