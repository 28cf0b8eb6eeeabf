"""What a model cannot have, in a sentence each: numbers and pictures without meaning for its units, its depth or its data."""

from __future__ import annotations

from ebm_pipeline.data.visible import VisibleUnits
from ebm_pipeline.models.labels import image_layer
from ebm_pipeline.models.layers import Bernoulli
from ebm_pipeline.models.machine import BoltzmannMachine
from ebm_pipeline.sampling.denoising import can_denoise


def of_the_pictures(machine: BoltzmannMachine, image_shape: tuple[int, int]) -> tuple[str, ...]:
    """Of metrics and pictures of a machine over images of this (height, width)."""
    visible = VisibleUnits.of(image_shape, machine.layers[0].units)
    pixels, said = image_layer(machine.layers[0], visible), []
    if not can_denoise(machine.layers[0]):
        why = (
            "pixels and label are units of different kinds"
            if visible.classes
            else "its visible units have other than two states"
        )
        said.append(
            f"No restoring by sampling, given the share of flipped pixels: {why}. The picture of denoising is one pass up and "
            "down, from pixels mirrored about the middle of their range."
        )
    if not isinstance(pixels, Bernoulli):
        said.append("No shares of wrong pixels and no pseudo-likelihood: they are made for pixels that are 0 or 1.")
    elif machine.depth > 2:
        said.append("No pseudo-likelihood: with more than one hidden layer it cannot be computed.")
    elif visible.classes:
        said.append("No pseudo-likelihood: it is computed of pixels alone, and this machine has labels.")
    if machine.depth > 2:
        said.append("No free-energy gap, with more than one hidden layer: the gap of the bound takes its place.")
    if pixels.sites() is None and not pixels.learned_variances:
        said.append("No picture of standard deviations: this model does not learn them.")
    if not visible.classes:
        said.append("No error of classification: the machine knows no labels.")
    if min(image_shape) == 1:
        said.append("No weights as images: the data are rows of numbers, and the weights are one field of colour.")
    return tuple(said)


def of_the_likelihood(machine: BoltzmannMachine, *, exact: bool) -> tuple[str, ...]:
    """Of the likelihood card; exact: log Z was enumerated."""
    said = []
    if machine.depth > 2:
        said.append("no log-likelihood itself: with more than one hidden layer only a bound below it can be computed")
    if machine.layers[0].sites() is None:
        said.append("no highest possible value: of real numbers the likelihood is a density, which has none")
    if exact:
        said.append("no picture of the estimates of log Z: there are none, it is enumerated")
    return tuple(said)
