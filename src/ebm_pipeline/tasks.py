"""What one can ask of a trained model: fantasy particles, missing pixels, noisy images, hidden features.

A task is its settings; calling it with a saved model, images (count, units) of the model's kind of data and a seed gives an
answer: arrays, how each was made, and figures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ebm_pipeline.errors import UserError, check_memory, check_number, check_whole
from ebm_pipeline.evaluation.equilibrium import LEAST_SWEEPS, check_size, equilibrate
from ebm_pipeline.evaluation.metrics import flip_pixels
from ebm_pipeline.inference import MeanField, up_and_down
from ebm_pipeline.samplers import anneal, inpaint, start_at_mean
from ebm_pipeline.storage import SavedModel

MASKS = ("lower_half", "upper_half", "left_half", "right_half", "box", "random")
Progress = Callable[[int], None]


@dataclass(frozen=True, eq=False)
class Answer:
    """Arrays by name (count, units), with how each was made; `shown` are those that are images, in the order of a picture."""

    arrays: dict[str, Tensor]
    made: dict[str, str]
    shown: tuple[str, ...]
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """A question to a model."""

    name: ClassVar[str]

    def __call__(self, model: SavedModel, images: Tensor, seed: int, progress: Progress = lambda done: None) -> Answer:
        raise NotImplementedError


@dataclass(frozen=True)
class Fantasies(Task):
    """As many samples of the model as there are images.

    With start_beta = 1 half of the chains start from the images and half from noise, and R-hat says whether that is still to
    be seen after `sweeps` Gibbs sweeps. Below 1 the sweeps anneal from that inverse temperature, from independent pixels
    at the data mean: better looking samples, in no exact equilibrium.
    """

    name = "fantasies"
    sweeps: int = 1000
    start_beta: float = 1.0

    def __post_init__(self) -> None:
        check_whole("task.sweeps", self.sweeps, LEAST_SWEEPS)
        check_number("task.start_beta", self.start_beta, 0, 1, open_low=True)

    def __call__(self, model: SavedModel, images: Tensor, seed: int, progress: Progress = lambda done: None) -> Answer:
        check_size("task", len(images), self.sweeps, sum(layer.units for layer in model.machine.layers))
        generator = torch.Generator(device=images.device).manual_seed(seed)
        figures = {}
        if self.start_beta == 1:
            chains = equilibrate(model.machine, images, len(images), self.sweeps, generator, progress)
            states, figures["r_hat"] = chains.states, chains.worst
            how = (
                f"{self.sweeps} Gibbs sweeps, half of the chains from data, half from noise; "
                f"R-hat over both starts {chains.worst:.3f}"
            )
        else:
            start = start_at_mean(model.machine, len(images), model.data_mean, generator)
            base = model.machine.independent(model.data_mean)
            states = anneal(model.machine, base, start, self.sweeps, self.start_beta, generator, progress)
            how = (
                f"start: independent pixels at the data mean; {self.sweeps} Gibbs sweeps annealed from inverse temperature "
                f"{self.start_beta:g}; not checked for equilibrium"
            )
        means = model.machine.layers[0].mean(model.machine.inputs(states, 0))
        return Answer(
            {"fantasies": states[0], "fantasy_means": means},
            {"fantasies": f"samples; {how}", "fantasy_means": f"conditional means given the hidden units; {how}"},
            ("fantasies",),
            figures,
        )


@dataclass(frozen=True)
class Inpainting(Task):
    """Pixels under a mask, given the others: a sample, and the mean over `chains` chains per image and half of their sweeps.

    mask: one of MASKS (what is hidden; box is the middle half of height and width, random hides `fraction` of the pixels), or
    a file .npy of the image's shape, true where the pixel is hidden.
    """

    name = "inpainting"
    mask: str = "lower_half"
    fraction: float = 0.5
    sweeps: int = 500
    chains: int = 10

    def __post_init__(self) -> None:
        check_whole("task.sweeps", self.sweeps, 2)
        check_whole("task.chains", self.chains, 1)
        check_number("task.fraction", self.fraction, 0, 1, open_low=True, open_high=True)

    def __call__(self, model: SavedModel, images: Tensor, seed: int, progress: Progress = lambda done: None) -> Answer:
        units = sum(layer.units for layer in model.machine.layers)
        check_memory(
            f"task.chains={self.chains} chains for each of {len(images)} images", 12 * self.chains * len(images) * units
        )
        generator = torch.Generator(device=images.device).manual_seed(seed)
        hidden = hidden_pixels(self.mask, self.fraction, model.image_shape, seed).to(images.device)
        mean = model.data_mean.to(images)
        several = images.repeat(self.chains, 1)
        samples, means = inpaint(model.machine, several, ~hidden, mean, self.sweeps, generator, progress)
        sample, means = samples[: len(images)], means.unflatten(0, (self.chains, -1)).mean(0)
        truth = images[:, hidden]
        figures = {}
        for name, guess in (("inpainted", means[:, hidden]), ("data_mean", mean[hidden].expand_as(truth))):
            figures[f"error_of_{name}"] = _rms(guess - truth)
            if model.machine.layers[0].binary:
                figures[f"wrong_pixels_of_{name}"] = float(((guess > 0.5) != (truth > 0.5)).double().mean())
        how = f"{int(hidden.sum())} pixels hidden ({self.mask}); {self.sweeps} Gibbs sweeps given the others"
        return Answer(
            {"data": images, "given": torch.where(hidden, mean, images), "inpainted": sample, "inpainted_means": means},
            {
                "given": f"{how}; here the data mean in their place",
                "inpainted": f"{how}; a sample",
                "inpainted_means": f"{how}; mean of the second half of them over {self.chains} chains",
            },
            ("data", "given", "inpainted", "inpainted_means"),
            figures,
        )


@dataclass(frozen=True)
class Denoising(Task):
    """Images with flipped pixels, through the model up and down (`inference.up_and_down`)."""

    name = "denoising"
    flips: float = 0.15

    def __post_init__(self) -> None:
        check_number("task.flips", self.flips, 0, 1)

    def __call__(self, model: SavedModel, images: Tensor, seed: int, progress: Progress = lambda done: None) -> Answer:
        noisy = flip_pixels(images, self.flips, seed)
        means, modes = up_and_down(model.machine, noisy)
        how = f"{self.flips:.0%} of the pixels flipped; up through all layers and down again by conditional modes"
        return Answer(
            {"data": images, "noisy": noisy, "denoised": modes, "denoised_means": means},
            {"denoised": how, "denoised_means": f"{how}; means of the last step"},
            ("data", "noisy", "denoised"),
            {"error": _rms(means - images), "error_of_noisy": _rms(noisy - images)},
        )


@dataclass(frozen=True)
class Features(Task):
    """Means of the hidden layers given the images: exact for two layers, by mean field for more."""

    name = "features"
    mean_field: MeanField

    def __call__(self, model: SavedModel, images: Tensor, seed: int, progress: Progress = lambda done: None) -> Answer:
        posterior = self.mean_field(model.machine, (images, *(None,) * (model.machine.depth - 1)))
        layers = {f"layer_{index}": state for index, state in enumerate(posterior.means) if index}
        how = "exact" if model.machine.depth == 2 else f"mean field, largest last change {posterior.residual:.1e}"
        return Answer(
            {"data": images} | layers, dict.fromkeys(layers, f"hidden means given the data; {how}"), ("data",)
        )


def hidden_pixels(mask: str, fraction: float, image_shape: tuple[int, int], seed: int) -> Tensor:
    """True where a pixel is hidden: (units,), by the name of a pattern or from a .npy file."""
    height, width = image_shape
    hidden = torch.zeros(height, width, dtype=torch.bool)
    match mask:
        case "lower_half":
            hidden[height // 2 :] = True
        case "upper_half":
            hidden[: height // 2] = True
        case "left_half":
            hidden[:, : width // 2] = True
        case "right_half":
            hidden[:, width // 2 :] = True
        case "box":
            hidden[height // 4 : height - height // 4, width // 4 : width - width // 4] = True
        case "random":
            chosen = torch.randperm(height * width, generator=torch.Generator().manual_seed(seed))
            hidden.view(-1)[chosen[: round(fraction * height * width)]] = True
        case _:
            hidden = _mask_file(Path(mask), image_shape)
    if not hidden.any() or hidden.all():
        raise UserError(
            f"the mask {mask} hides {int(hidden.sum())} of {hidden.numel()} pixels: some must be, and not all"
        )
    return hidden.view(-1)


def _mask_file(path: Path, image_shape: tuple[int, int]) -> Tensor:
    if path.suffix != ".npy" or not path.is_file():
        raise UserError(f"task.mask is one of {', '.join(MASKS)}, or a .npy file that is there; got {path}")
    try:
        array = np.load(path, allow_pickle=False)
    except Exception as error:  # a damaged file can raise anything
        raise UserError(f"{path} is damaged or no .npy file ({error}): write it with numpy.save") from error
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path} is an archive: expected one array, as numpy.save writes it")
    if array.shape != image_shape or array.dtype.kind not in "biu":
        raise UserError(
            f"{path} must hold truth values of the shape {image_shape}; got {array.dtype} of the shape {array.shape}"
        )
    return torch.from_numpy(array != 0)


def _rms(difference: Tensor) -> float:
    return float(difference.square().mean().sqrt())
