"""What a person looks at: weights, reconstructions, denoised images and fantasy particles of a machine."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ebm_pipeline import plots
from ebm_pipeline.data.visible import VisibleUnits
from ebm_pipeline.models.inference import up_and_down
from ebm_pipeline.models.labels import image_layer
from ebm_pipeline.models.layers import Layer, LearnedGaussian
from ebm_pipeline.models.machine import BoltzmannMachine
from ebm_pipeline.sampling import anneal, start_at_mean
from ebm_pipeline.sampling.denoising import UP_AND_DOWN, can_denoise, restoration, restored
from ebm_pipeline.support.errors import check_number, check_whole

Shape = tuple[int, int]
MOST_TILES = 400  # images of a picture, which may stand in one row
POWERS = {2: "²", 3: "³"}
RESTORED = 500  # validation images that are restored for the metric


@dataclass(frozen=True)
class Pictures:
    """What is drawn, how often, and how fantasy particles are sampled."""

    every_epochs: int
    digits: int
    flips: float
    denoising_sweeps: int
    weight_tiles: int
    fantasy_sweeps: int
    fantasy_start_beta: float
    fantasy_mean_field: bool

    def __post_init__(self) -> None:
        check_whole("evaluation.every_epochs", self.every_epochs, 0)
        for name in ("digits", "weight_tiles"):
            check_whole(f"evaluation.{name}", getattr(self, name), 1, MOST_TILES)
        check_whole("evaluation.denoising_sweeps", self.denoising_sweeps, 0)
        check_whole("evaluation.fantasy_sweeps", self.fantasy_sweeps, 1)
        check_number("evaluation.flips", self.flips, 0, 1)
        check_number("evaluation.fantasy_start_beta", self.fantasy_start_beta, 0, 1, open_low=True)

    def descriptions(self, layer: Layer, visible: VisibleUnits) -> dict[str, str]:
        """How the images of each kind were made: what a grid of them must not hide."""
        given = "; the label is given" if visible.classes else ""
        return {
            "reconstructions": UP_AND_DOWN + given,
            "denoised": f"{self.flips:.0%} of the pixels flipped; {restoration(layer, self.flips, self.denoising_sweeps)}{given}",
            "fantasies": self._fantasy_description(),
        }

    def _fantasy_description(self) -> str:
        annealing = (
            "" if self.fantasy_start_beta == 1 else f" annealed from inverse temperature {self.fantasy_start_beta:g}"
        )
        last = "conditional means of the last sweep" if self.fantasy_mean_field else "samples"
        return f"start: independent pixels at the data mean; {self.fantasy_sweeps} Gibbs sweeps{annealing}; {last}"

    def fantasies(self, machine: BoltzmannMachine, data_mean: Tensor, seed: int) -> Tensor:
        """`digits` fantasy particles (digits, units)."""
        generator = torch.Generator(device=data_mean.device).manual_seed(seed)
        base = machine.independent(data_mean)
        chains = start_at_mean(machine, self.digits, data_mean, generator)
        chains = anneal(machine, base, chains, self.fantasy_sweeps, self.fantasy_start_beta, generator)
        return machine.layers[0].mean(machine.inputs(chains, 0)) if self.fantasy_mean_field else chains[0]

    def arrays(
        self, machine: BoltzmannMachine, clean: Tensor, noisy: Tensor, data_mean: Tensor, seed: int
    ) -> dict[str, Tensor]:
        """The states behind the pictures (digits, units): data, reconstructions, noisy, denoised, fantasies."""
        clean, noisy = clean[: self.digits], noisy[: self.digits]
        return {
            "data": clean,
            "reconstructions": up_and_down(machine, clean)[1],
            "noisy": noisy,
            "denoised": restored(machine, noisy, self.flips, self.denoising_sweeps, seed)[1],
            "fantasies": self.fantasies(machine, data_mean, seed),
        }

    def restored_wrong(self, machine: BoltzmannMachine, clean: Tensor, noisy: Tensor, seed: int) -> dict[str, float]:
        """Share of the pixels that sampling leaves wrong in noisy images (samples, units); empty where nothing is sampled."""
        if not (self.denoising_sweeps and can_denoise(machine.layers[0])):
            return {}
        clean, noisy = clean[:RESTORED], noisy[:RESTORED]
        _, guesses = restored(machine, noisy, self.flips, self.denoising_sweeps, seed)
        return {"validation/restored_wrong_pixels": float((guesses != clean).double().mean())}

    def figures(
        self,
        machine: BoltzmannMachine,
        arrays: dict[str, Tensor],
        shape: Shape,
        name: str,
        *,
        units_are_pixels: bool = True,
    ) -> dict[str, Figure]:
        """A figure per picture, by the key of its image series; of labels nothing is shown.

        units_are_pixels: False where a transform has mixed them, so that what is known of units lies nowhere in an image.
        """
        visible = VisibleUnits.of(shape, machine.layers[0].units)
        images = {key: visible.images(tensor).cpu().numpy() for key, tensor in arrays.items()}
        made = self.descriptions(machine.layers[0], visible)
        figures = {
            "reconstructions": plots.comparison(
                {"Data": images["data"], name: images["reconstructions"]},
                shape,
                f"{name}: reconstructions",
                made["reconstructions"],
            ),
            "denoising": plots.comparison(
                {"Data": images["data"], "Noisy": images["noisy"], name: images["denoised"]},
                shape,
                f"{name}: denoising",
                made["denoised"],
            ),
            "fantasies": plots.image_grid(images["fantasies"], shape, f"{name}: fantasy particles", made["fantasies"]),
        }
        pixels = image_layer(machine.layers[0], visible)
        if isinstance(pixels, LearnedGaussian):
            figures["deviations"] = deviations(pixels, shape, name, units_are_pixels=units_are_pixels)
        for layer, projection in enumerate(weights_from_pixels(machine, visible), start=1):
            figures[f"weights_{layer}"] = weight_figure(
                projection, shape, layer, f"{name}: weights, layer {layer}", self.weight_tiles
            )
        return figures


def weights_from_pixels(machine: BoltzmannMachine, visible: VisibleUnits) -> list[Tensor]:
    """For each hidden layer the weights from the pixels to its units, (pixels, units); to higher layers the products of them."""
    products = list(itertools.accumulate(machine.weights, torch.matmul))
    return [visible.images(product.mT).mT for product in products]


def is_image(shape: Shape) -> bool:
    """Whether what has this shape is an image: a row or a column of numbers is none."""
    return min(shape) > 1


def weight_label(layer: int) -> str:
    """What a colour bar says of the weights from the pixels to a hidden layer, counted from 1."""
    return "weight (nats)" if layer == 1 else f"product of weights (nats{POWERS.get(layer, f'^{layer}')})"


def weight_figure(projection: Tensor, shape: Shape, layer: int, title: str, most: int, columns: int = 5) -> Figure:
    """Weights from the pixels to the first `most` units of a hidden layer (pixels, units): a tile each where the data are images,
    else one field of all.

    layer: from 1; of higher ones the weights are the products with those below.
    """
    tiles = min(most, projection.shape[1])
    weights = projection[:, :tiles].cpu().numpy()
    what = "weights from the pixels to" if layer == 1 else "products of the weights from the pixels to"
    bar = weight_label(layer)
    shown = f"the first {tiles} of {projection.shape[1]}" if tiles < projection.shape[1] else f"all {tiles}"
    said = f"{what} {shown} units; red: positive, blue: negative"
    if is_image(shape):
        return plots.weight_grid(weights, shape, title, said, columns, tiles, bar)
    said = said.replace("pixels", "visible units")
    return plots.matrices({"": weights}, "hidden unit", "visible unit", bar, title, said, signed=True)


def deviations(layer: LearnedGaussian, shape: Shape, name: str, *, units_are_pixels: bool = True) -> Figure:
    """The learned standard deviation of each pixel given the hidden units, and the floor it is held at."""
    spread, floor = layer.variance.cpu().sqrt(), layer.variance_floor.cpu().sqrt()
    held = int((layer.variance <= layer.variance_floor).sum())
    title, unit = f"{name}: standard deviations", "standard deviation\n(units of pixels)"
    said = (
        f"given the hidden units, from {spread.min():.3g} to {spread.max():.3g}; {held} of {layer.units} visible units at the "
        f"floor of {floor.max():.3g}"
    )
    if units_are_pixels and is_image(shape):
        return plots.value_map(spread.numpy(), shape, unit, title, said)
    x_label = "visible unit" if units_are_pixels else "principal component of the data, the largest first"
    return plots.unit_values(spread.numpy(), float(floor.max()), x_label, unit, title, said)
