"""Cheap numbers of a machine, watched while it trains. None of them is a likelihood.

*Reconstruction*: up through all layers and down by conditional modes (`inference.up_and_down`); its error is the root
mean square of v minus the final conditional mean, and for binary units the fraction of pixels that the mode gets wrong.
*Denoising*: the same, from images with flipped pixels, against the clean ones.
*Pseudo-likelihood* (Besag 1975): sum_i log p(v_i | v_rest), estimated with ten pixels of each image, each
pixel as often: D log sigmoid(F(v with pixel i flipped) - F(v)). Two-layer machines with Bernoulli visible units only.
*Free-energy gap*: mean F(validation) - mean F(training); it grows when a machine overfits (Hinton 2010, section 6). For
deeper machines the same of minus the variational bound without log Z.
*Deviations*: of pixels given the hidden units, where their variance is learned.
*Classification*: fraction of the images whose most probable label, given the image, is not theirs; for two-layer machines
of images and labels. Reconstruction and denoising are then given the label, and their errors are those of the pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ebm_pipeline.data.visible import VisibleUnits
from ebm_pipeline.evaluation.classification import label_log_probabilities, wrong_labels
from ebm_pipeline.evaluation.inside import singular_values
from ebm_pipeline.models.inference import MeanField, bound, up_and_down
from ebm_pipeline.models.labels import image_layer
from ebm_pipeline.models.layers import Bernoulli, Layer
from ebm_pipeline.models.machine import BoltzmannMachine, PartialStates

PIXELS_OF_IMAGE = 10  # by which the pseudo-likelihood is estimated
NEGLIGIBLE_WEIGHT = 0.01  # weights/sparsity is the fraction of weights whose size is below this


@dataclass(frozen=True, eq=False)
class MonitoredImages:
    """Images (samples, units) that the numbers are computed on; `noisy` are the validation images with flipped pixels.

    classes: of the labels that stand behind the pixels, if they do; part: which one the first are of, before the names.
    """

    validation: Tensor
    training: Tensor
    noisy: Tensor
    classes: int = 0
    part: str = "validation"

    @property
    def visible(self) -> VisibleUnits:
        return VisibleUnits(self.validation.shape[1] - self.classes, self.classes)

    @property
    def binary(self) -> bool:
        """Whether every pixel is 0 or 1: what the fraction of wrong pixels and the pseudo-likelihood are made for."""
        return bool(((self.validation == 0) | (self.validation == 1)).all())

    def to(self, device: torch.device) -> MonitoredImages:
        return replace(
            self,
            validation=self.validation.to(device),
            training=self.training.to(device),
            noisy=self.noisy.to(device),
        )


def flip_pixels(images: Tensor, fraction: float, seed: int, visible: VisibleUnits | None = None) -> Tensor:
    """Images (samples, units) with this fraction of their pixels mirrored about the middle of the range: 0 <-> 1.

    Labels, where `visible` has any, stay as they are.
    """
    generator = torch.Generator().manual_seed(seed)
    pixels = images if visible is None else visible.images(images)
    low, high = pixels.min(), pixels.max()
    flipped = torch.where(torch.rand(pixels.shape, generator=generator) < fraction, low + high - pixels, pixels)
    return flipped if visible is None else torch.cat((flipped, visible.label_units(images)), 1)


def monitor(machine: BoltzmannMachine, images: MonitoredImages, mean_field: MeanField) -> dict[str, float]:
    """Every number that this machine has, by name; a number that it does not have is left out."""
    visible = images.visible
    binary = images.binary and isinstance(image_layer(machine.layers[0], visible), Bernoulli)
    metrics = {
        **_restoration("reconstruction", machine, images.validation, images.validation, visible, binary=binary),
        **_restoration("denoising", machine, images.noisy, images.validation, visible, binary=binary),
    }
    if machine.depth == 2:
        validation = machine.free_energy((images.validation, None))
        metrics["free_energy_gap"] = float(validation.mean() - machine.free_energy((images.training, None)).mean())
        if visible.classes:
            log_probabilities = label_log_probabilities(machine, visible, images.validation, mean_field)
            metrics["classification_error"] = wrong_labels(log_probabilities, visible.labels(images.validation))
        elif binary:
            metrics["pseudo_likelihood"] = _pseudo_likelihood(machine, images.validation)
    else:
        hidden = (None,) * (machine.depth - 1)
        posterior = mean_field(machine, (images.validation, *hidden))
        training = bound(machine, mean_field(machine, (images.training, *hidden)))
        metrics["bound_gap"] = float(training.mean() - bound(machine, posterior).mean())
        metrics["mean_field_residual"] = posterior.residual
    named = {f"{images.part}/{name}": value for name, value in metrics.items()}
    return named | weight_metrics(machine) | deviation_metrics(machine.layers[0])


def weight_metrics(machine: BoltzmannMachine) -> dict[str, float]:
    """Frobenius norm of all weights together, the fraction of them that is negligible, and the singular values in short."""
    weights = torch.cat([matrix.flatten() for matrix in machine.weights])
    negligible = (weights.abs() < NEGLIGIBLE_WEIGHT).to(weights.dtype).mean()
    return {"weights/norm": float(weights.norm()), "weights/sparsity": float(negligible), **singular_values(machine)}


def deviation_metrics(layer: Layer) -> dict[str, float]:
    """Of visible units whose variance is learned: least and largest standard deviation, fraction of units at the floor."""
    if not layer.learned_variances:
        return {}
    tensors = layer.named_tensors()
    variance = torch.cat([tensors[name] for name in layer.learned_variances])
    floor = torch.cat([tensors[f"{name}_floor"] for name in layer.learned_variances])
    return {
        "weights/deviation_least": float(variance.min().sqrt()),
        "weights/deviation_largest": float(variance.max().sqrt()),
        "weights/deviations_at_floor": float((variance <= floor).double().mean()),
    }


def monitor_clamped(machine: BoltzmannMachine, clamped: PartialStates) -> dict[str, float]:
    """Reconstruction error where the layers that are None in `clamped` are no neighbours of each other (pretraining)."""
    machine.check_units(clamped)
    hidden = [
        layer.mode(machine.inputs(clamped, index)) if clamped[index] is None else None
        for index, layer in enumerate(machine.layers)
    ]
    index, visible = next((index, state) for index, state in enumerate(clamped) if state is not None)
    mean = machine.layers[index].mean(machine.inputs(hidden, index))
    error = float((visible - mean).square().mean().sqrt())
    return {"validation/reconstruction_error": error, **weight_metrics(machine)}


def _restoration(
    name: str, machine: BoltzmannMachine, given: Tensor, clean: Tensor, visible: VisibleUnits, *, binary: bool
) -> dict[str, float]:
    mean, mode, clean = (visible.images(states) for states in (*up_and_down(machine, given), clean))
    metrics = {f"{name}_error": float((clean - mean).square().mean().sqrt())}
    if binary:
        metrics[f"{name}_wrong_pixels"] = float((mode != clean).to(mean.dtype).mean())
    return metrics


def _pseudo_likelihood(machine: BoltzmannMachine, images: Tensor) -> float:
    """Nats per image; every call takes the same pixels of an image, so that epochs and runs compare."""
    visible, hidden = machine.folded().layers
    (weights,) = machine.weights
    inputs = machine.folded().inputs((images, None), 1)
    generator = torch.Generator().manual_seed(0)
    samples, units = images.shape
    before = hidden.log_partition(inputs)
    total = torch.zeros_like(before)
    for _ in range(PIXELS_OF_IMAGE):
        pixels = (torch.randperm(samples, generator=generator) % units).to(images.device)
        change = 1 - 2 * images.gather(1, pixels[:, None])
        after = hidden.log_partition(inputs + change * weights[pixels])
        total += logsigmoid(before - after - change[:, 0] * visible.bias[pixels])
    return float(units * total.mean() / PIXELS_OF_IMAGE)
