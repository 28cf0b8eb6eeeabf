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
    singular_values,
    standard_deviations,
    weight_participation,
)
from ebm_pipeline.evaluation.two_sample import compare_samples, principal_components
from ebm_pipeline.inference import MeanField, bound
from ebm_pipeline.machine import BoltzmannMachine


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """Figures by name (those of a part of the data: part/name), how the samples were drawn, and what a picture needs.

    points: two leading principal components (count, 2), of the data's own; energies: free energies (count,) less their
    mean over the first part; each by name of the set, the samples' being "samples".
    """

    figures: dict[str, float]
    drawn: str
    points: dict[str, Tensor]
    energies: dict[str, Tensor]


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
            figures = {"samples_r_hat": chains.worst, "heat_capacity_per_unit": heat_capacity(machine, chains.states)}
            for name, images in sets.items():
                compared = asdict(compare_samples(samples[: len(images)], images))
                figures |= {f"{name}/samples_{figure}": value for figure, value in compared.items()}
            first = next(iter(sets.values()))
            figures |= hidden_units(machine, first, mean_field) | weight_participation(machine)
            for index, values in enumerate(singular_values(machine)):
                figures[f"weights_{index + 1}_largest_singular_value"] = float(values[0])
            for name, (least, most) in standard_deviations(machine).items():
                figures |= {f"{name}_least_deviation": least, f"{name}_largest_deviation": most}
            shown = sets | {"samples": samples}
            energies = {name: _free_energy(machine, visible, mean_field) for name, visible in shown.items()}
        middle = energies[next(iter(sets))].mean()
        return Diagnosis(
            figures=figures,
            drawn=(
                f"{self.chains} chains, started from data or from noise; {self.sweeps} Gibbs sweeps; "
                f"R-hat over both starts {chains.worst:.3f}"
            ),
            points=dict(zip(shown, principal_components(first, 2, *shown.values()), strict=True)),
            energies={name: values - middle for name, values in energies.items()},
        )


def _free_energy(machine: BoltzmannMachine, visible: Tensor, mean_field: MeanField) -> Tensor:
    """F(v), or minus the variational bound for deeper machines, without log Z: (count,)."""
    if machine.depth == 2:
        return machine.free_energy((visible, None))
    return -bound(machine, mean_field(machine, (visible, *(None,) * (machine.depth - 1))))
