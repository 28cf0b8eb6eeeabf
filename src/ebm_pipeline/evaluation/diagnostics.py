"""A machine's samples against data, and a look inside it. Every figure that rests on samples comes with how they were drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from ebm_pipeline.errors import check_whole
from ebm_pipeline.evaluation.equilibrium import LEAST_SWEEPS, equilibrate
from ebm_pipeline.evaluation.inside import (
    heat_capacity,
    hidden_units,
    standard_deviations,
    weight_participation,
)
from ebm_pipeline.evaluation.likelihood import unnormalized_each
from ebm_pipeline.evaluation.two_sample import compare_samples, energy_distance, mean_deviation, principal_components
from ebm_pipeline.inference import MeanField
from ebm_pipeline.machine import BoltzmannMachine

MOST_COVARIED = 100  # units whose covariances the picture shows
SHOWN = 8  # samples of either family in the picture


@dataclass(frozen=True)
class Checkpoint:
    """Samples of one family of chains after some sweeps, against data.

    energy: mean free energy less that of the first part (nats); distance: energy distance to the first part; deviation: of the
    means from those of the last part, in its standard deviations (`mean_deviation`).
    """

    sweeps: int
    energy: float
    distance: float
    deviation: float


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """Figures by name (those of a part of the data: part/name), how the samples were drawn, and what the pictures need.

    points: two leading principal components (count, 2), of the data's own; energies: free energies (count,) less their
    mean over the first part; each by name of the set, the samples' being "samples". By family of chains, "data" and "noise":
    approach, its checkpoints; traces, free energies (chains, sweeps) in the second half of the sweeps, less the same mean; images
    (shown, units) by the number of sweeps. moments: means and covariances, each of the first part and of the samples, flat.
    """

    figures: dict[str, float]
    drawn: str
    sweeps: int
    points: dict[str, Tensor]
    energies: dict[str, Tensor]
    approach: dict[str, list[Checkpoint]]
    traces: dict[str, Tensor]
    images: dict[str, dict[int, Tensor]]
    moments: dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Diagnostics:
    """Settings: `chains` samples, of chains from data and from noise that make `sweeps` Gibbs sweeps."""

    chains: int
    sweeps: int

    def __post_init__(self) -> None:
        check_whole("diagnostics.chains", self.chains, 4)
        check_whole("diagnostics.sweeps", self.sweeps, LEAST_SWEEPS)

    def __call__(
        self,
        machine: BoltzmannMachine,
        parts: Mapping[str, Tensor],
        mean_field: MeanField,
        seed: int,
        progress: Callable[[int], None] = lambda done: None,
    ) -> Diagnosis:
        """Compare with `parts`, images (count, units) by name; half of the chains start from the last of them."""
        machine = machine.folded().map(Tensor.detach)
        generator = torch.Generator(device=machine.layers[0].bias.device).manual_seed(seed)
        with torch.inference_mode():
            start = list(parts.values())[-1]
            chains = equilibrate(machine, start, self.chains, self.sweeps, generator, progress)
            samples = chains.states[0]
            sets = {name: images[: self.chains] for name, images in parts.items()}
            mixing = chains.mixing
            figures = {
                "samples_r_hat": chains.worst,
                "chains_r_hat": mixing.r_hat,
                "energy_bulk_ess": mixing.bulk_ess,
                "energy_autocorrelation_sweeps": mixing.autocorrelation_time,
                "heat_capacity_per_unit": heat_capacity(machine, chains.states),
            }
            for name, images in sets.items():
                compared = asdict(compare_samples(samples[: len(images)], images))
                figures |= {f"{name}/samples_{figure}": value for figure, value in compared.items()}
            first = next(iter(sets.values()))
            figures |= hidden_units(machine, first, mean_field) | weight_participation(machine)
            for name, (least, most) in standard_deviations(machine).items():
                figures |= {f"{name}_least_deviation": least, f"{name}_largest_deviation": most}
            shown = sets | {"samples": samples}
            energies = {name: -unnormalized_each(machine, visible, mean_field) for name, visible in shown.items()}
            middle = energies[next(iter(sets))].mean()
            families = {"data": slice(self.chains), "noise": slice(self.chains, None)}
            approach = {
                family: [
                    Checkpoint(
                        sweeps,
                        float(-unnormalized_each(machine, visible[rows], mean_field).mean() - middle),
                        energy_distance(visible[rows], first),
                        mean_deviation(visible[rows], start),
                    )
                    for sweeps, visible in chains.visible.items()
                ]
                for family, rows in families.items()
            }
        halves = chains.energies.chunk(2)
        return Diagnosis(
            figures=figures,
            drawn=(
                f"{self.chains} chains, started from data or from noise; {self.sweeps} Gibbs sweeps; "
                f"R-hat over both starts {chains.worst:.3f}"
            ),
            sweeps=self.sweeps,
            points=dict(zip(shown, principal_components(first, 2, *shown.values()), strict=True)),
            energies={name: values - middle for name, values in energies.items()},
            approach=approach,
            traces={family: half - middle for family, half in zip(families, halves, strict=True)},
            images={
                family: {sweeps: visible[rows][:SHOWN] for sweeps, visible in chains.visible.items()}
                for family, rows in families.items()
            },
            moments={
                "mean": (first.mean(0), samples.mean(0)),
                "covariance": (_covariances(first), _covariances(samples)),
            },
        )


def _covariances(images: Tensor) -> Tensor:
    """Covariances of pairs of different units (pairs,), of images (count, units); of many units an even choice of them."""
    units = images.shape[1]
    chosen = images[:, :: -(-units // MOST_COVARIED)].double()
    rows, columns = torch.triu_indices(chosen.shape[1], chosen.shape[1], 1)
    return chosen.mT.cov()[rows, columns]
