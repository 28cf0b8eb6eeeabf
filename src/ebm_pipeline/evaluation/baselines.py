"""What there is without a model: noisy images as they are, and independent units fitted to the training images.

Independent units answer every image alike: its reconstruction, and its restoration by one pass up and down, is the mean image.
Restored by sampling, each of their pixels is the likelier state given the noisy one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ebm_pipeline.evaluation.likelihood import independent_log_likelihood, independent_units
from ebm_pipeline.evaluation.metrics import MonitoredImages
from ebm_pipeline.models.labels import image_layer
from ebm_pipeline.models.layers import Layer
from ebm_pipeline.sampling.denoising import can_denoise, layer_given_noisy, nearer_states, two_states


def baselines(layer: Layer, training: Tensor, images: MonitoredImages, flips: float) -> dict[str, float]:
    """Numbers of the noisy images, and of independent units of the kind of `layer` fitted to `training` (count, units).

    flips: share of the pixels that were flipped. Shares of wrong pixels are those of pixels of two states.
    """
    fitted = independent_units(layer, training)
    pixels = image_layer(fitted, images.visible)
    clean, noisy = (images.visible.images(x).double() for x in (images.validation, images.noisy))
    mean = pixels.mean(torch.zeros_like(clean[:1]))
    found = {
        "independent_log_likelihood": independent_log_likelihood(fitted, images.validation.double()),
        "independent_error": float((clean - mean).square().mean().sqrt()),
        "noisy_error": float((clean - noisy).square().mean().sqrt()),
    }
    if can_denoise(pixels) and torch.isin(clean, torch.tensor(two_states(pixels), dtype=clean.dtype)).all():
        restored = nearer_states(pixels, layer_given_noisy(pixels, noisy, flips).mean(torch.zeros_like(noisy)))
        guesses = {"noisy": noisy, "independent": nearer_states(pixels, mean), "independent_restored": restored}
        found |= {f"{name}_wrong_pixels": float((guess != clean).double().mean()) for name, guess in guesses.items()}
    return {f"{images.part}/{name}": value for name, value in found.items()}
