"""What a person looks at: weights, reconstructions, denoised images and fantasy particles of a machine."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ebm_pipeline import plots
from ebm_pipeline.errors import UserError
from ebm_pipeline.inference import up_and_down
from ebm_pipeline.machine import EVEN, BoltzmannMachine
from ebm_pipeline.samplers import start_at_mean

Shape = tuple[int, int]


@dataclass(frozen=True)
class Pictures:
    """What is drawn, how often, and how fantasy particles are sampled."""

    every_epochs: int
    digits: int
    flips: float
    weight_tiles: int
    fantasy_sweeps: int
    fantasy_start_beta: float
    fantasy_mean_field: bool

    def __post_init__(self) -> None:
        if self.every_epochs < 0 or min(self.digits, self.weight_tiles, self.fantasy_sweeps) < 1:
            raise UserError(
                "evaluation needs every_epochs >= 0 and digits, weight_tiles, fantasy_sweeps >= 1; got "
                f"{self.every_epochs}, {self.digits}, {self.weight_tiles}, {self.fantasy_sweeps}"
            )
        if not 0 <= self.flips <= 1 or not 0 < self.fantasy_start_beta <= 1:
            raise UserError(
                "evaluation needs 0 <= flips <= 1 and 0 < fantasy_start_beta <= 1; "
                f"got flips={self.flips}, fantasy_start_beta={self.fantasy_start_beta}"
            )

    def fantasy_description(self) -> str:
        """How the fantasy particles were drawn: what a grid of them must not hide."""
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
        for beta in torch.linspace(self.fantasy_start_beta, 1, self.fantasy_sweeps).tolist():
            current = machine if self.fantasy_start_beta == 1 else machine.annealed(beta, base)
            chains = current.sample(chains, EVEN, generator)
            last = current.sample(chains, 1 - EVEN, generator)
            if self.fantasy_mean_field:
                # The means that the last sweep's visible sample was or would be drawn from.
                means = current.layers[0].mean(current.inputs(last, 0))
            chains = last
        return means if self.fantasy_mean_field else chains[0]

    def arrays(
        self, machine: BoltzmannMachine, clean: Tensor, noisy: Tensor, data_mean: Tensor, seed: int
    ) -> dict[str, Tensor]:
        """The images behind the pictures (digits, units): data, reconstructions, noisy, denoised, fantasies."""
        clean, noisy = clean[: self.digits], noisy[: self.digits]
        return {
            "data": clean,
            "reconstructions": up_and_down(machine, clean)[1],
            "noisy": noisy,
            "denoised": up_and_down(machine, noisy)[1],
            "fantasies": self.fantasies(machine, data_mean, seed),
        }

    def figures(
        self, machine: BoltzmannMachine, arrays: dict[str, Tensor], shape: Shape, name: str
    ) -> dict[str, Figure]:
        """A figure per picture, by the key of its image series."""
        images = {key: tensor.cpu().numpy() for key, tensor in arrays.items()}
        once = "up through all layers and down again by conditional modes"
        figures = {
            "reconstructions": plots.comparison(
                {"Data": images["data"], name: images["reconstructions"]}, shape, f"{name}: reconstructions", once
            ),
            "denoising": plots.comparison(
                {"Data": images["data"], "Noisy": images["noisy"], name: images["denoised"]},
                shape,
                f"{name}: denoising",
                f"{self.flips:.0%} of the pixels flipped; {once}",
            ),
            "fantasies": plots.image_grid(
                images["fantasies"], shape, f"{name}: fantasy particles", self.fantasy_description()
            ),
        }
        projection = None
        for index, weights in enumerate(machine.weights):
            projection = weights if projection is None else projection @ weights
            what = "weights of" if index == 0 else "products of the weights from the pixels to"
            tiles = min(self.weight_tiles, projection.shape[1])
            figures[f"weights_{index + 1}"] = plots.weight_grid(
                projection.cpu().numpy(),
                shape,
                f"{name}: weights, layer {index + 1}",
                f"{what} the first {tiles} of {projection.shape[1]} units",
                count=tiles,
            )
        return figures
