"""A machine's samples against data, and a look inside it. Every number that rests on samples comes with how they were drawn."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from ebm_pipeline.evaluation.cost import Cost
from ebm_pipeline.evaluation.enumeration import MOST_UNITS as MOST_EXACT
from ebm_pipeline.evaluation.enumeration import enumerable_parity, enumerate_machine
from ebm_pipeline.evaluation.equilibrium import (
    LEAST_SWEEPS,
    Equilibrium,
    defined,
    equilibrate,
    shown_r_hat,
)
from ebm_pipeline.evaluation.inside import (
    HiddenLayer,
    heat_capacity,
    hidden_layers,
    layer_metrics,
    weight_participation,
)
from ebm_pipeline.evaluation.likelihood import independent_units, unnormalized_each
from ebm_pipeline.evaluation.two_sample import (
    MOST_UNITS,
    compare_samples,
    covariance_deviation,
    covariances,
    energy_distance,
    mean_deviation,
    principal_components,
)
from ebm_pipeline.models.inference import MeanField
from ebm_pipeline.models.machine import BoltzmannMachine, States
from ebm_pipeline.support.errors import check_whole

MOST_COVARIED = 100  # units whose covariances the picture shows
SHOWN = 8  # samples of either family in the picture
MOST_DRAWS = 2.5e9  # states of units that the chains draw: about half a minute on a core
MOST_OPERATIONS = 5e12  # of the products of chains with weights: about a minute on a core
LEAST_CHAINS = 20
ENUMERATED = 20  # binary units at most in a parity that is enumerated for exact samples: some seconds


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
    """Numbers by name (`names`), how the samples were drawn, and what the pictures need.

    A number that is not defined, as R-hat of chains that never move, is not among them.

    exact: the samples are independent draws of an enumerated machine, and the deviation of the means is exact; else they are the
    last states of the chains. layers: what each hidden layer says of the last part of the data (of `held_out` without it).

    points: two leading principal components (count, 2), of the data's own; energies: free energies (count,) less their
    mean over the first part; each by name of the set, the samples' being "samples". By family of chains, "data" and "noise":
    approach, its checkpoints; traces, free energies (chains, sweeps) in the second half of the sweeps, less the same mean; images
    (shown, units) by the number of sweeps. moments: means and covariances, each of the first part and of the samples, flat.
    """

    metrics: dict[str, float]
    drawn: str
    sweeps: int
    points: dict[str, Tensor]
    energies: dict[str, Tensor]
    approach: dict[str, list[Checkpoint]]
    traces: dict[str, Tensor]
    images: dict[str, dict[int, Tensor]]
    moments: dict[str, tuple[Tensor, Tensor]]
    exact: bool = False
    layers: tuple[HiddenLayer, ...] = ()

    @property
    def samples_r_hat(self) -> float:
        """Between the families of chains; inf where it is not defined."""
        return self.metrics.get("sampler/r_hat", math.inf)

    @property
    def chains_r_hat(self) -> float:
        """Over single chains; inf where it is not defined."""
        return self.metrics.get("sampler/chains_r_hat", math.inf)

    def of_a_part(self, name: str) -> float:
        """A number that there is of one part of the data alone."""
        return next(value for key, value in self.metrics.items() if key.endswith(f"/{name}"))

    def told_from(self, part: str) -> str:
        """How well samples are told from a part of the data by their nearest neighbours."""
        ends = ("", "_error", "_of_samples", "_of_data")
        told, error, samples, data = (self.metrics[f"{part}/samples_adversarial_accuracy{end}"] for end in ends)
        return (
            f"samples are told from {part} data in {told:.0%} +- {error:.0%} of cases ({samples:.0%} of samples, {data:.0%} of "
            f"data; 50% is perfect; training data {self.of_a_part('data_adversarial_accuracy'):.0%})"
        )

    @property
    def mixing(self) -> str:
        """How single chains move: what says nothing against a likelihood, but much of samples of one chain."""
        time = self.metrics.get("sampler/energy_autocorrelation_sweeps")
        said = "not defined (it never changes)" if time is None else f"{time:.0f} sweep{'s' * (round(time) != 1)}"
        return (
            f"single chains: R-hat {shown_r_hat(self.chains_r_hat, 2)} within {self.sweeps:,} sweeps, "
            f"autocorrelation time of the free energy {said}"
        )


@dataclass(frozen=True)
class Diagnostics:
    """Settings: `chains` samples, of chains from data and from noise that make `sweeps` Gibbs sweeps.

    exact_units: a machine with at most so many binary units in the even or in the odd layers is enumerated for exact samples.
    """

    chains: int
    sweeps: int
    exact_units: int = ENUMERATED

    def __post_init__(self) -> None:
        check_whole("diagnostics.chains", self.chains, 4)
        check_whole("diagnostics.sweeps", self.sweeps, LEAST_SWEEPS)
        check_whole("diagnostics.exact_units", self.exact_units, 0, MOST_EXACT)

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
            count = self.chains_of(machine)
            chains = equilibrate(machine, start, count, self.sweeps, generator, progress)
            sets = {name: _some(images, count, generator) for name, images in parts.items()}
            if enumerable_parity(machine, self.exact_units) is None:
                drawn = Drawn(chains.states, None)
            else:
                known = enumerate_machine(machine, most_units=self.exact_units)
                drawn = Drawn(known.sample(count, torch.Generator().manual_seed(seed)), known.visible_mean)
            return self._diagnose(Compared(machine, sets, start, chains, drawn, mean_field, seed))

    def chains_of(self, machine: BoltzmannMachine) -> int:
        """`chains`, or as many of them as MOST_DRAWS and MOST_OPERATIONS allow; at least LEAST_CHAINS."""
        return min(self.chains, max(LEAST_CHAINS, min(limit for limit, _ in self._limits(machine))))

    def _limits(self, machine: BoltzmannMachine) -> tuple[tuple[int, str], tuple[int, str]]:
        """How many chains each limit allows, with what more of them would cost; of each there are two, one in either family."""
        cost = Cost.of(machine, 2 * self.sweeps)
        return (
            (int(MOST_DRAWS / cost.draws), f"draw more than {MOST_DRAWS:.1e} states of units"),
            (int(MOST_OPERATIONS / cost.operations), f"take more than {MOST_OPERATIONS:.1e} operations in products"),
        )

    def _diagnose(self, seen: Compared) -> Diagnosis:
        """What the chains and samples say of the machine."""
        machine, count, samples = seen.machine, seen.count, seen.samples
        shown = {**seen.sets, "samples": samples}
        energies = {name: -unnormalized_each(machine, visible, seen.mean_field) for name, visible in shown.items()}
        middle = energies[next(iter(seen.sets))].mean()
        families = {"data": slice(count), "noise": slice(count, None)}
        chains, layers = seen.chains, hidden_layers(machine, seen.first, seen.mean_field)

        def checkpoint(sweeps: int, visible: Tensor) -> Checkpoint:
            energy = float(-unnormalized_each(machine, visible, seen.mean_field).mean() - middle)
            return Checkpoint(sweeps, energy, energy_distance(visible, seen.first), mean_deviation(visible, seen.start))

        return Diagnosis(
            metrics=_metrics(seen) | layer_metrics(layers, next(iter(seen.sets))),
            drawn=self._drawn(seen),
            sweeps=self.sweeps,
            points=dict(zip(shown, _plane(seen.first, shown), strict=True)),
            energies={name: values - middle for name, values in energies.items()},
            approach={
                family: [checkpoint(sweeps, visible[rows]) for sweeps, visible in chains.visible.items()]
                for family, rows in families.items()
            },
            traces={family: half - middle for family, half in zip(families, chains.energies.chunk(2), strict=True)},
            images={
                family: {sweeps: visible[rows][:SHOWN] for sweeps, visible in chains.visible.items()}
                for family, rows in families.items()
            },
            moments={
                "mean": (seen.first.double().mean(0), samples.double().mean(0)),
                "covariance": (_covariances(seen.first), _covariances(samples)),
            },
            exact=seen.drawn.visible_mean is not None,
            layers=tuple(layers),
        )

    def _drawn(self, seen: Compared) -> str:
        """How the samples were drawn, and what was left out because it would cost too much."""
        said = (
            f"{seen.count} chains, started from data or from noise; {self.sweeps} Gibbs sweeps; "
            f"R-hat over both starts {shown_r_hat(seen.chains.worst)}"
        )
        if seen.drawn.visible_mean is not None:
            said = f"{seen.count} independent samples of the enumerated machine; beside them {said}"
        if seen.count < self.chains:
            reason = min(self._limits(seen.machine))[1]
            said += f" ({seen.count} of {self.chains} chains, as all would {reason})"
        units = seen.start.shape[1]
        if units > MOST_UNITS:
            said += f"; covariances of {-(-units // -(-units // MOST_UNITS))} of {units:,} units"
        return said


@dataclass(frozen=True, eq=False)
class Drawn:
    """Samples of every layer (count, units), and the exact mean (units,) of the visible one where it is known."""

    states: States
    visible_mean: Tensor | None


@dataclass(frozen=True, eq=False)
class Compared:
    """A machine, images (count, units) by name and those that half of the chains were started at, chains, samples."""

    machine: BoltzmannMachine
    sets: Mapping[str, Tensor]
    start: Tensor
    chains: Equilibrium
    drawn: Drawn
    mean_field: MeanField
    seed: int

    @property
    def first(self) -> Tensor:
        """The first of the sets: held-out data, where there are any."""
        return next(iter(self.sets.values()))

    @property
    def samples(self) -> Tensor:
        return self.drawn.states[0]

    @property
    def count(self) -> int:
        return len(self.samples)


def _metrics(seen: Compared) -> dict[str, float]:
    """Numbers of the chains, of the samples beside images by name, and of the machine."""
    mixing, machine = seen.chains.mixing, seen.machine
    chains = {
        "sampler/r_hat": seen.chains.worst,
        "sampler/chains_r_hat": mixing.r_hat,
        "sampler/energy_bulk_ess": mixing.bulk_ess,
        "sampler/energy_autocorrelation_sweeps": mixing.autocorrelation_time,
    }
    metrics = defined(chains) | {"sampler/heat_capacity_per_unit": heat_capacity(machine, seen.drawn.states)}
    for name, images in seen.sets.items():
        compared = asdict(compare_samples(seen.samples[: len(images)], images, seen.seed))
        metrics |= {f"{name}/samples_{metric}": value for metric, value in compared.items()}
    return metrics | _references(seen) | weight_participation(machine)


def _references(seen: Compared) -> dict[str, float]:
    """What the numbers of the samples are to be read beside: held-out data against training data, and independent units.

    The last set is training data; both sets are cut to one size. Independent units are those fitted to the training data; of them
    as many samples are drawn as the machine's were compared with held-out data, so that both distances have the same error.
    """
    part, last = next(iter(seen.sets)), list(seen.sets)[-1]
    held_out, training = seen.first, seen.sets[last]
    rows = min(len(held_out), len(training))
    first, training, samples = held_out[:rows], training[:rows], seen.samples[:rows]
    mean = seen.samples.mean(0) if seen.drawn.visible_mean is None else seen.drawn.visible_mean
    alone = independent_units(seen.machine.layers[0], seen.start)
    blank = torch.zeros(len(held_out), alone.units, dtype=alone.bias.dtype, device=alone.bias.device)
    generator = torch.Generator(device=blank.device).manual_seed(seen.seed)
    own = compare_samples(training.to(first.dtype), first, seen.seed)
    independent = compare_samples(alone.sample(blank, generator).to(first.dtype), held_out, seen.seed)
    return {
        f"{last}/samples_mean_deviation": mean_deviation(mean[None], seen.start),
        f"{last}/samples_covariance_deviation": covariance_deviation(samples, training, first),
        f"{part}/data_adversarial_accuracy": own.adversarial_accuracy,
        f"{part}/data_adversarial_accuracy_error": own.adversarial_accuracy_error,
        f"{part}/data_energy_distance": own.energy_distance,
        f"{part}/data_energy_distance_error": own.energy_distance_error,
        f"{part}/independent_adversarial_accuracy": independent.adversarial_accuracy,
        f"{part}/independent_energy_distance": independent.energy_distance,
        f"{part}/independent_energy_distance_error": independent.energy_distance_error,
    }


def _some(images: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """At most `count` of images (rows, units), at random: files may be sorted."""
    if len(images) <= count:
        return images
    return images[torch.randperm(len(images), generator=generator, device=images.device)[:count]]


def _plane(reference: Tensor, sets: Mapping[str, Tensor]) -> list[Tensor]:
    """Each set on the two leading components of the reference (rows, 2); where there is one unit the second is 0."""
    points = principal_components(reference, 2, *sets.values())
    return [torch.nn.functional.pad(own, (0, 2 - own.shape[1])) for own in points]


def _covariances(images: Tensor) -> Tensor:
    """Covariances of pairs of different units (pairs,), of images (count, units); of many units an even choice of them."""
    units = images.shape[1]
    chosen = covariances(images[:, :: -(-units // MOST_COVARIED)])
    rows, columns = torch.triu_indices(len(chosen), len(chosen), 1)
    return chosen[rows, columns]
