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
from ebm_pipeline.models.machine import BoltzmannMachine


def posterior_means(machine: BoltzmannMachine, images: Tensor, mean_field: MeanField) -> list[Tensor]:
    """Mean (units,) of each layer over images (count, units)."""
    means = mean_field(machine, (images, *(None,) * (machine.depth - 1))).means
    return [states.mean(0) for states in means]


def begun_as(given: BoltzmannMachine, fresh: BoltzmannMachine, means: Sequence[Tensor]) -> BoltzmannMachine:
    """`fresh` with the layers and weights of `given` in it, its own weights beside these; `misfit` is None of the two.

    means: of the layers of `given`, (units,) each. A layer that is wider than the one it takes has that in its first units.
    """
    given = given.folded()
    layers = [_with_units_of(own, other) for own, other in zip(fresh.layers, given.layers, strict=False)]
    layers += fresh.layers[given.depth :]
    offsets = [layer.mean(torch.zeros_like(layer.bias)) for layer in layers]
    for offset, mean in zip(offsets, means, strict=False):
        offset[: len(mean)] = mean
    new, old = [weights.clone() for weights in fresh.weights], [torch.zeros_like(w) for w in fresh.weights]
    for index, weights in enumerate(given.weights):
        where = tuple(slice(size) for size in weights.shape)
        new[index][where], old[index][where] = 0.0, weights.to(old[index].dtype)
    added = BoltzmannMachine(tuple(layers), tuple(new), tuple(offsets)).folded()
    return replace(added, weights=tuple(one + other for one, other in zip(new, old, strict=True)))


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
                f"another {name.rsplit('/', 1)[-1]}, which is not learned: {_range(one)} there, {_range(other)} here: give that of "
                "there in model.layers"
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
