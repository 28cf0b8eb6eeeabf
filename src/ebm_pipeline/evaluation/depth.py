"""Hidden layers that are of no use: what the verdict says of them, by its name or beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from ebm_pipeline.evaluation.inside import HiddenLayer

ONE_WAY, MANY_WAYS = 1.1, 5.0  # participations: of a layer that has one thing to say, of images that vary in many ways
NOTHING = 0.01  # nats of the bound: so much no layer is used for


def _name(layer: HiddenLayer) -> str:
    return f"layer {layer.index} ({layer.units} units)"


def without_use(layer: HiddenLayer, most_idle: float, least_spread: float) -> str | None:
    """Why a layer says nothing of the images; None where it says something."""
    if layer.idle > most_idle:
        setting = (
            "lower optimizer.lr or a weaker penalty"
            if layer.dead > layer.saturated
            else "lower optimizer.lr or model=rbm_sparse"
        )
        return (
            f"{_name(layer)}: {layer.dead:.0%} of the units are dead and {layer.saturated:.0%} saturated, the same for every "
            f"image, above {most_idle:.0%}: {setting}, or fewer units"
        )
    if layer.spread < least_spread:
        return (
            f"{_name(layer)} says the same of every image: its units' means spread by {layer.spread:.3f} over the images, below "
            f"{least_spread:g}: {_cure(layer)}"
        )
    if layer.participation < ONE_WAY and layer.images > MANY_WAYS and layer.units > MANY_WAYS:
        return (
            f"{_name(layer)} has collapsed: its units' means vary in {layer.participation:.1f} directions, the images in "
            f"{layer.images:.1f}: {_cure(layer)}"
        )
    return None


def _cure(layer: HiddenLayer) -> str:
    """What to change for a hidden layer that says too little."""
    if layer.index == 1:
        return "raise training.epochs or optimizer.lr, or take larger initial weights"
    return "pretrain the layers (pretraining.epochs of model=dbm), raise training.epochs, or leave the layer out (model=rbm)"


def of_deep_layers(
    layers: Sequence[HiddenLayer], least_use: float, least_participation: float
) -> Iterator[tuple[str, str]]:
    """(name of a layer, what is to be known of it) above the first: the lowest that is unused, those that have collapsed.

    least_use: as a share of the use of the first layer; least_participation: of the units' means.
    """
    for below, layer in pairwise(layers):
        if layer.use <= max(least_use * layers[0].use, NOTHING):
            yield _name(layer), _unused(layer, layers[0])
            return  # those above it hear nothing either
        if layer.participation < least_participation and min(layer.units, below.participation) > MANY_WAYS:
            yield _name(layer), _collapsed(layer, below)


def _unused(layer: HiddenLayer, first: HiddenLayer) -> str:
    return (
        f"{_name(layer)} is unused: its units' means spread by {layer.spread:.2g} over the images, and without it the bound "
        f"would be at most {max(layer.use, 0):.2g} nats lower, without layer 1 {max(first.use, 0):.3g}"
    )


def _collapsed(layer: HiddenLayer, below: HiddenLayer) -> str:
    return (
        f"{_name(layer)} has collapsed: its units' means vary in {layer.participation:.1f} directions, those of the layer below "
        f"in {below.participation:.1f}"
    )
