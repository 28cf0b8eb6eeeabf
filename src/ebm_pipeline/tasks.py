"""What one can ask of a trained model: fantasy particles, missing pixels, noisy images, hidden features, and where labels
are modelled the label of an image and the images of a label.

A task is its settings; calling it with a saved model, images (count, units) of the model's kind of data and a seed gives an
answer: arrays, how each was made, and figures. Of a model of images and labels the array NAME has the pixels and
NAME_labels the units of the label.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from ebm_pipeline.errors import UserError, check_memory, check_number, check_whole
from ebm_pipeline.evaluation.classification import label_log_probabilities, wrong_labels
from ebm_pipeline.evaluation.equilibrium import LEAST_SWEEPS, check_size, equilibrate
from ebm_pipeline.evaluation.metrics import flip_pixels
from ebm_pipeline.files import read_truth_values
from ebm_pipeline.inference import MeanField, up_and_down
from ebm_pipeline.labels import given_label, image_layer
from ebm_pipeline.machine import BoltzmannMachine
from ebm_pipeline.samplers import Gibbs, ParallelTempering, Sampler, anneal, inpaint, start_at_mean
from ebm_pipeline.storage import SavedModel
from ebm_pipeline.visible import VisibleUnits

MASKS = ("lower_half", "upper_half", "left_half", "right_half", "box", "random")
Progress = Callable[[int], None]


@dataclass(frozen=True, eq=False)
class Answer:
    """Arrays by name (count, units), with how each was made; `shown` are those that are images, in the order of a picture.

    how: of the picture, where `made` of the last of them does not say it; confusion: (classes, classes), how many images of
    the class of each row were given the label of each column, shown in place of images; hidden: the arrays that are of no
    visible units.
    """

    arrays: dict[str, Tensor]
    made: dict[str, str]
    shown: tuple[str, ...]
    figures: dict[str, float] = field(default_factory=dict)
    how: str = ""
    confusion: Tensor | None = None
    hidden: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """A question to a model."""

    name: ClassVar[str]
    changes_pixels: ClassVar[bool] = False  # hides or flips single ones, which a transform must not have mixed

    def __call__(self, model: SavedModel, images: Tensor, seed: int, progress: Progress = lambda done: None) -> Answer:
        raise NotImplementedError


@dataclass(frozen=True)
class Fantasies(Task):
    """As many samples of the model as there are images.

    With start_beta = 1 half of the chains start from the images and half from noise, and R-hat says whether that is still to
    be seen after `sweeps` Gibbs sweeps, or after as many of parallel tempering with `replicas` replicas, whose rungs are
    placed in the first half of them. With start_beta below 1 the sweeps anneal from that inverse temperature, from independent
    pixels at the data mean: better looking samples, in no exact equilibrium.
    """

    name = "fantasies"
    sweeps: int = 1000
    start_beta: float = 1.0
    replicas: int | None = None

    def __post_init__(self) -> None:
        check_whole("task.sweeps", self.sweeps, LEAST_SWEEPS)
        check_number("task.start_beta", self.start_beta, 0, 1, open_low=True)
        if self.replicas is not None:
            check_whole("task.replicas, if not null,", self.replicas, 2)
            if self.start_beta != 1:
                raise UserError("task.replicas tempers and task.start_beta below 1 anneals: set one of them")

    def __call__(self, model: SavedModel, images: Tensor, seed: int, progress: Progress = lambda done: None) -> Answer:
        check_size("task", len(images), self.sweeps, sum(layer.units for layer in model.machine.layers))
        generator = torch.Generator(device=images.device).manual_seed(seed)
        figures = {}
        if self.start_beta == 1:
            sampler: Sampler = Gibbs()
            if self.replicas is not None:
                sampler = ParallelTempering(replicas=self.replicas, warm_up=self.sweeps // 2)
            chains = equilibrate(
                model.machine, images, len(images), self.sweeps, generator, progress, sampler, model.data_mean
            )
            states, figures = chains.states, {"r_hat": chains.worst} | chains.info
            kind = "Gibbs sweeps"
            if self.replicas is not None:
                rates = [rate for name, rate in chains.info.items() if name.startswith("swap_rate")]
                kind = (
                    f"sweeps of parallel tempering with {self.replicas} replicas (swap rates {min(rates):.2f} to "
                    f"{max(rates):.2f}, {chains.info['round_trips']:.2g} round trips per chain)"
                )
            how = (
                f"{self.sweeps} {kind}, half of the chains from data, half from noise; "
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
            _parts(model.visible, fantasies=states[0], fantasy_means=means),
            {"fantasies": f"samples; {how}", "fantasy_means": f"conditional means given the hidden units; {how}"},
            ("fantasies",),
            figures,
        )


@dataclass(frozen=True)
class Inpainting(Task):
    """Pixels under a mask, given the others: a sample, and the mean over `chains` chains per image and half of their sweeps.

    mask: one of MASKS (what is hidden; box is the middle half of height and width, random hides `fraction` of the pixels), or
    a file .npy of the image's shape, true where the pixel is hidden. Labels are hidden too.
    """

    name = "inpainting"
    changes_pixels = True
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
        visible = model.visible
        pixels = hidden_pixels(self.mask, self.fraction, model.image_shape, seed)
        hidden = torch.cat((pixels, torch.ones(visible.classes, dtype=torch.bool))).to(images.device)
        mean = model.data_mean.to(images)
        several = images.repeat(self.chains, 1)
        samples, means = inpaint(model.machine, several, ~hidden, mean, self.sweeps, generator, progress)
        sample, means = samples[: len(images)], means.unflatten(0, (self.chains, -1)).mean(0)
        judged = hidden & visible.is_pixel.to(hidden.device)
        truth = images[:, judged]
        figures = {}
        for name, guess in (("inpainted", means[:, judged]), ("data_mean", mean[judged].expand_as(truth))):
            figures[f"error_of_{name}"] = _rms(guess - truth)
            if image_layer(model.machine.layers[0], visible).binary:
                figures[f"wrong_pixels_of_{name}"] = float(((guess > 0.5) != (truth > 0.5)).double().mean())
        label = " and the label" if visible.classes else ""
        how = f"{int(pixels.sum())} pixels{label} hidden ({self.mask}); {self.sweeps} Gibbs sweeps given the others"
        return Answer(
            _parts(
                visible, data=images, given=torch.where(hidden, mean, images), inpainted=sample, inpainted_means=means
            ),
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
    changes_pixels = True
    flips: float = 0.15

    def __post_init__(self) -> None:
        check_number("task.flips", self.flips, 0, 1)

    def __call__(self, model: SavedModel, images: Tensor, seed: int, progress: Progress = lambda done: None) -> Answer:
        visible = model.visible
        noisy = flip_pixels(images, self.flips, seed, visible)
        means, modes = up_and_down(model.machine, noisy)
        label = "; the label is given" if visible.classes else ""
        how = (
            f"{self.flips:.0%} of the pixels flipped; up through all layers and down again by conditional modes{label}"
        )
        return Answer(
            _parts(visible, data=images, noisy=noisy, denoised=modes, denoised_means=means),
            {"denoised": how, "denoised_means": f"{how}; means of the last step"},
            ("data", "noisy", "denoised"),
            {"error": _rms(visible.images(means - images)), "error_of_noisy": _rms(visible.images(noisy - images))},
        )


@dataclass(frozen=True)
class Features(Task):
    """Means of the hidden layers given the images: exact for two layers, by mean field for more.

    Labels are no part of what is given: over them the mean is taken by their probabilities given the image.
    """

    name = "features"
    mean_field: MeanField

    def __call__(self, model: SavedModel, images: Tensor, seed: int, progress: Progress = lambda done: None) -> Answer:
        visible, machine = model.visible, model.machine
        alone: list[tuple[BoltzmannMachine, Tensor | float]] = [(machine, 1.0)]
        if visible.classes:
            probabilities = label_log_probabilities(machine, visible, images, self.mean_field).exp().to(images.dtype)
            alone = [
                (given_label(machine, visible, label), probabilities[:, label, None])
                for label in range(visible.classes)
            ]
        layers: dict[str, Tensor] = {}
        residual = 0.0
        for part, weight in alone:
            posterior = self.mean_field(part, (visible.images(images), *(None,) * (machine.depth - 1)))
            residual = max(residual, posterior.residual)
            for index, state in enumerate(posterior.means[1:], start=1):
                name = f"layer_{index}"
                layers[name] = layers[name] + weight * state if name in layers else weight * state
        how = "exact" if machine.depth == 2 else f"mean field, largest last change {residual:.1e}"
        given = "the images, the labels summed out" if visible.classes else "the data"
        return Answer(
            _parts(visible, data=images) | layers,
            dict.fromkeys(layers, f"hidden means given {given}; {how}"),
            ("data",),
            hidden=tuple(layers),
        )


@dataclass(frozen=True)
class Classification(Task):
    """p(label | image) of each image: exact for two layers, by the variational bound for more."""

    name = "classification"
    mean_field: MeanField

    def __call__(self, model: SavedModel, images: Tensor, seed: int, progress: Progress = lambda done: None) -> Answer:
        visible = _with_labels(model, self.name)
        log_probabilities = label_log_probabilities(model.machine, visible, images, self.mean_field, progress)
        labels, predicted = visible.labels(images), log_probabilities.argmax(1)
        error = wrong_labels(log_probabilities, labels)
        std_error = math.sqrt(error * (1 - error) / len(images))
        exact = "exact" if model.machine.depth == 2 else "by the variational bound for each label, so approximate"
        how = f"p(label | image) from the free energy of each label; {exact}"
        return Answer(
            {"probabilities": log_probabilities.exp().to(images.dtype), "predicted": predicted},
            {"probabilities": how, "predicted": "the most probable label"},
            (),
            {
                "classification_error": error,
                "classification_error_std_error": std_error,
                "cross_entropy_nats": -float(log_probabilities.gather(1, labels[:, None]).mean()),
            },
            f"{len(images)} images, {error:.2%} +- {std_error:.2%} wrong; {how}",
            (labels * visible.classes + predicted).bincount(minlength=visible.classes**2).view(visible.classes, -1),
        )


@dataclass(frozen=True)
class Conditional(Task):
    """Samples of the model given each of `labels`, None for every class: `samples` a class.

    As with fantasies half of the chains start from images, here those of the class, and half from noise; R-hat is that
    between the two within the class.
    """

    name = "conditional"
    labels: Sequence[int] | None = None
    samples: int = 20
    sweeps: int = 1000

    def __post_init__(self) -> None:
        if self.labels is not None and (isinstance(self.labels, str | int) or not self.labels):
            raise UserError(f"task.labels is a list of classes, such as [3,8], or null for all; got {self.labels!r}")
        check_whole("task.samples", self.samples, 4)
        check_whole("task.sweeps", self.sweeps, LEAST_SWEEPS)

    def __call__(self, model: SavedModel, images: Tensor, seed: int, progress: Progress = lambda done: None) -> Answer:
        visible = _with_labels(model, self.name)
        chosen = range(visible.classes) if self.labels is None else self.labels
        for label in chosen:
            check_whole("each of task.labels", label, 0, visible.classes - 1)
        generator = torch.Generator(device=images.device).manual_seed(seed)
        own = visible.labels(images)
        arrays: dict[str, Tensor] = {}
        made: dict[str, str] = {}
        figures: dict[str, float] = {}
        for label in chosen:
            machine = given_label(model.machine, visible, label)
            start = images[own == label] if (own == label).any() else images
            chains = equilibrate(machine, visible.images(start), self.samples, self.sweeps, generator, progress)
            name = f"class_{label}"
            arrays[name] = chains.states[0]
            arrays[f"{name}_means"] = machine.layers[0].mean(machine.inputs(chains.states, 0))
            figures[f"r_hat_of_{name}"] = chains.worst
            how = f"label {label} held; R-hat over both starts {chains.worst:.3f}"
            made |= {name: f"samples; {how}", f"{name}_means": f"conditional means given the hidden units; {how}"}
        drawn = (
            f"{self.sweeps} Gibbs sweeps with the label held, half of the chains from images of the class, half from noise; "
            f"R-hat over both starts at most {max(figures.values()):.3f}"
        )
        return Answer(arrays, made, tuple(f"class_{label}" for label in chosen), figures, f"samples; {drawn}")


def _with_labels(model: SavedModel, task: str) -> VisibleUnits:
    """The visible units of a model that has labels among them."""
    if not model.visible.classes:
        raise UserError(
            f"this model knows no labels, which {task} needs: train one that does, as with model=rbm_labels"
        )
    return model.visible


def _parts(visible: VisibleUnits, **states: Tensor) -> dict[str, Tensor]:
    """Visible states (count, units) by name as arrays of an answer: the pixels, and the units of the labels if there are."""
    arrays = {}
    for name, tensor in states.items():
        arrays[name] = visible.images(tensor)
        if visible.classes:
            arrays[f"{name}_labels"] = visible.label_units(tensor)
    return arrays


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
    return torch.from_numpy(read_truth_values(path, image_shape))


def _rms(difference: Tensor) -> float:
    return float(difference.square().mean().sqrt())
