"""Machines whose visible layer is an image and its label: the layer of the image alone, and the machine given a label.

Conditioning is another machine, as tempering is: with the label y held the units of the layer above have the bias
b + W_y, where W_y are the weights of the label's unit, and

    p(image, hidden | y) = exp(-E_y(image, hidden)) / Z_y

is that of a machine of the image alone, so that whatever samples or measures machines serves for it too.
"""

from __future__ import annotations

from dataclasses import replace

from ebm_pipeline.data.visible import VisibleUnits
from ebm_pipeline.models.layers import Layer, Mixed, Potts
from ebm_pipeline.models.machine import BoltzmannMachine


def fits(layer: Layer, visible: VisibleUnits) -> bool:
    """Whether a layer has these units: those of the label, if there are any, as the one site of its last part."""
    if layer.units != visible.units or visible.classes == 0:
        return layer.units == visible.units
    last = layer.parts[-1] if isinstance(layer, Mixed) else None
    return isinstance(last, Potts) and last.units == last.categories == visible.classes


def image_layer(layer: Layer, visible: VisibleUnits) -> Layer:
    """The layer of the pixels alone, with its share of the bias."""
    if visible.classes == 0:
        return layer
    assert isinstance(layer, Mixed), "labels are the last part of a mixed layer"
    return layer.without_last_part()


def given_label(machine: BoltzmannMachine, visible: VisibleUnits, label: int) -> BoltzmannMachine:
    """The machine of image and hidden layers with the label held; its energy is that of the whole plus the label's bias."""
    assert not machine.offsets, "fold the offsets first"
    unit = visible.pixels + label
    above = machine.layers[1]
    shifted = above.with_tensors(bias=above.bias + machine.scale * machine.weights[0][unit])
    return replace(
        machine,
        layers=(image_layer(machine.layers[0], visible), shifted, *machine.layers[2:]),
        weights=(visible.images(machine.weights[0].mT).mT, *machine.weights[1:]),
    )
