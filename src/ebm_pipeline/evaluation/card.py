"""The likelihood card: what is known of a machine's log-likelihood, or why nothing is.

Nats per image are `unnormalized - log Z`, so what bounds log Z from below bounds the likelihood from above. AIS forward tends
to be too low and reverse AIS too high (`ais`); with two standard errors each the interval of log Z is

    [forward - 2 SE, reverse + 2 SE],   and that of the likelihood   [u - (reverse + 2 SE), u - (forward - 2 SE)].

An interval is stated only if nothing speaks against it: else the card says "not determined", why, and what to raise. The
standard errors come from the weights themselves, so that few effective samples give an error that means nothing, and weights
that missed a mode look fine: that is what the reverse run, its start in equilibrium and the run with half the temperatures are
for. Where one parity has few binary units log Z is exact and the interval a point. For machines of more than two layers the
number is the variational bound; its tightness is measured on a few images by AIS with the visible layer clamped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ebm_pipeline.evaluation.ais import (
    LogPartition,
    annealed_importance_sampling,
    base_of_data,
    equal_steps,
    even_steps,
    halfway,
    pilot_temperatures,
    reverse_annealed_importance_sampling,
)
from ebm_pipeline.evaluation.cost import Cost
from ebm_pipeline.evaluation.enumeration import MOST_UNITS, blocks, enumerable_parity, exact_log_partition
from ebm_pipeline.evaluation.equilibrium import LEAST_SWEEPS, above, equilibrate, shown_r_hat
from ebm_pipeline.evaluation.lacking import of_the_likelihood
from ebm_pipeline.evaluation.likelihood import (
    highest_log_likelihood,
    independent_each,
    independent_units,
    standard_error,
    unnormalized_each,
)
from ebm_pipeline.evaluation.tightness import Stage, Tightness, silent, tightness
from ebm_pipeline.evaluation.trajectory import LEAST_COLUMNS, trajectory_log_partition
from ebm_pipeline.evaluation.two_sample import mean_deviation
from ebm_pipeline.models.inference import MeanField
from ebm_pipeline.models.machine import BoltzmannMachine
from ebm_pipeline.support.errors import UserError, check_number, check_whole

NOT_DETERMINED = "not determined"
ERRORS = 2.0  # standard errors that the interval adds on either side
DISAGREEMENT = 3.0  # standard errors by which two estimates of one quantity must not differ
PLACEMENTS = ("equal", "even")
BASES = ("data", "data_mean", "uniform")
MOST_DOUBLINGS = 10
WHOLE: tuple[tuple[str, *tuple[int, ...]], ...] = (  # settings that are whole numbers, their least and most
    ("temperatures", 4), ("chains", 4), ("sweeps", LEAST_SWEEPS), ("trajectory_chains", LEAST_COLUMNS),
    ("exact_units", 0, MOST_UNITS), ("doublings", 0, MOST_DOUBLINGS),
)  # fmt: skip
TEMPERATURES = "likelihood.temperatures"  # what a reason names where more of them may be its cure


@dataclass(frozen=True)
class Interval:
    """From `low` to `high`, nats per image."""

    low: float
    high: float

    @property
    def width(self) -> float:
        return self.high - self.low

    def __str__(self) -> str:
        return f"{self.low:.2f}" if self.width == 0 else f"[{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class LikelihoodCard:
    """See the module's text. `reasons` is empty where the intervals are determined; `unnormalized` is theirs without log Z."""

    quantity: str  # "log_likelihood" or "variational_bound"
    method: str  # "exact" or "AIS"
    binarisation: str  # name of the data's transform
    images: dict[str, int]
    unnormalized: dict[str, float]
    independent: dict[str, float]  # nats per image of independent units fitted to the training data: what to beat
    log_partition: Interval
    reasons: tuple[str, ...]
    seconds: float
    forward: LogPartition | None = None
    reverse: LogPartition | None = None
    half: tuple[LogPartition, LogPartition] | None = None  # forward and reverse, with half as many temperatures
    r_hat: dict[str, float] | None = None  # of the chains that the reverse run starts from
    settings: dict[str, Any] | None = None
    tightness: Tightness | None = None
    image_errors: dict[str, float] | None = None  # standard errors, over the images, of the gain over independent units
    # the most nats per image that any distribution can have on each part; None where units are continuous
    highest: dict[str, float | None] | None = None
    # of the means that the forward weights give from those of the training data, in standard deviations; and what chance gives
    weighted_deviation: tuple[float, float] | None = None
    varies: bool = True  # whether the training images are not all the same
    cost: Cost | None = None  # of the chains of AIS
    lacking: tuple[str, ...] = ()  # what it cannot have, each with the reason
    trajectory: LogPartition | None = None  # along the run's history, where it has kept one

    @property
    def determined(self) -> bool:
        return not self.reasons

    @property
    def intervals(self) -> dict[str, Interval]:
        """By part of the data; empty if not determined."""
        if not self.determined:
            return {}
        return {
            part: Interval(value - self.log_partition.high, value - self.log_partition.low)
            for part, value in self.unnormalized.items()
        }

    def as_dict(self) -> dict[str, Any]:
        """For JSON: without the ways of log Z, and with "not determined" in place of numbers that are not."""
        record = asdict(self)
        for run in (record["forward"], record["reverse"], record["trajectory"], *(record["half"] or ())):
            if run is not None:
                del run["betas"], run["path"], run["visible_mean"]
        stated = {
            part: asdict(self.intervals[part]) if self.determined else NOT_DETERMINED for part in self.unnormalized
        }
        del record["log_partition"], record["unnormalized"], record["independent"]
        if self.r_hat is not None:
            record["r_hat"] = {k: v if math.isfinite(v) else shown_r_hat(v) for k, v in self.r_hat.items()}
        log_partition = asdict(self.log_partition) if self.determined else NOT_DETERMINED
        return {
            f"{self.quantity}_nats_per_image": stated,
            "independent_pixels_nats_per_image": self.independent,
            "log_partition_nats": log_partition,
            **record,
        }

    def metrics(self) -> dict[str, float]:
        """Numbers by name; the ends of the intervals only if they are determined."""
        metrics = {f"{part}/independent_log_likelihood": value for part, value in self.independent.items()}
        for part, interval in self.intervals.items():
            metrics |= {f"{part}/{self.quantity}_low": interval.low, f"{part}/{self.quantity}_high": interval.high}
        for name, run in (("forward", self.forward), ("reverse", self.reverse), ("trajectory", self.trajectory)):
            if run is not None:
                metrics |= {
                    f"sampler/log_partition_{name}": run.value,
                    f"sampler/log_partition_{name}_std_error": run.std_error,
                    f"sampler/log_partition_{name}_ess": run.ess,
                }
        if self.tightness is not None:
            metrics[f"{next(iter(self.images))}/bound_below_log_likelihood"] = self.tightness.nats
        return metrics

    @property
    def agrees(self) -> bool | None:
        """Whether the interval along the trajectory meets that of AIS; None where there is none."""
        if self.trajectory is None:
            return None
        own, apart = self.trajectory.value, ERRORS * self.trajectory.std_error
        return self.log_partition.low - apart <= own <= self.log_partition.high + apart

    def tags(self) -> dict[str, str]:
        """Tags for MLflow."""
        return {"ebm.likelihood": "determined" if self.determined else f"{NOT_DETERMINED}: {'; '.join(self.reasons)}"}

    def __str__(self) -> str:
        name = self.quantity.replace("_", " ").replace("log likelihood", "log-likelihood")
        lines = []
        for part, count in self.images.items():
            value = f"{self.intervals[part]} nats" if self.determined else NOT_DETERMINED
            about = f"{count} images, {self.binarisation}; independent pixels {self.independent[part]:.2f}"
            lines.append(f"{name}, {part}: {value} per image ({about})")
        if self.forward is None or self.reverse is None:
            lines.append("log Z exact")
        else:
            size = f"{self.forward.temperatures} temperatures, {self.forward.chains} chains"
            lines.append(f"log Z by AIS: forward {self.forward}, reverse {self.reverse}; {size}")
        if self.trajectory is not None:
            verdict = "agrees with AIS" if self.agrees else "does not agree with AIS"
            size = f"{self.trajectory.temperatures} machines, {self.trajectory.chains} chains"
            lines.append(f"log Z along the trajectory: {self.trajectory}; {size}: {verdict}")
        if self.tightness is not None:
            lines.append(
                f"the bound lies {self.tightness.nats:.2f} +- {self.tightness.std_error:.2f} nats below the log-likelihood "
                f"(AIS with {self.tightness.images} clamped images)"
            )
        return "\n".join((*lines, *self.lacking, *self.reasons))


@dataclass(frozen=True)
class Bracketed:
    """Both estimates of log Z, both with half as many temperatures, and R-hat of the chains that the reverse ones start from."""

    forward: LogPartition
    reverse: LogPartition
    half: tuple[LogPartition, LogPartition]
    r_hat: dict[str, float]


@dataclass(frozen=True)
class Likelihood:
    """Settings of the card. Calling it measures a machine."""

    temperatures: int
    chains: int
    base: str
    placement: str
    sweeps: int
    most_width: float
    least_ess: float
    most_r_hat: float
    exact_units: int = MOST_UNITS
    doublings: int = 0
    trajectory_chains: int = 100
    trajectory_sweeps: int = 0

    def __post_init__(self) -> None:
        for name, *ends in WHOLE:
            check_whole(f"likelihood.{name}", getattr(self, name), *ends)
        if self.trajectory_sweeps != 0:
            check_whole("likelihood.trajectory_sweeps, if not 0,", self.trajectory_sweeps, LEAST_SWEEPS)
        for name in ("most_width", "least_ess", "most_r_hat"):
            check_number(f"likelihood.{name}", getattr(self, name), open_low=True)
        if self.base not in BASES or self.placement not in PLACEMENTS:
            raise UserError(
                f"likelihood.base is one of {', '.join(BASES)} and likelihood.placement one of {', '.join(PLACEMENTS)}; "
                f"got {self.base!r} and {self.placement!r}"
            )

    def __call__(
        self,
        machine: BoltzmannMachine,
        data_mean: Tensor,
        parts: Mapping[str, Tensor],
        start: Tensor,
        binarisation: str,
        mean_field: MeanField,
        seed: int,
        stage: Stage = silent,
        ladder: BoltzmannMachine | None = None,
    ) -> LikelihoodCard:
        """Measure on `parts`, images (count, units) by name; `start` (images, units): training data, where the chains of the
        reverse run start and which the independent units are fitted to; `ladder`: what the machine was before, stacked.
        """
        began = time.perf_counter()
        machine = machine.folded().map(Tensor.detach)
        deep = machine.depth > 2
        generator = torch.Generator(device=data_mean.device).manual_seed(seed)
        with torch.inference_mode():
            each = {part: unnormalized_each(machine, images, mean_field) for part, images in parts.items()}
            layer = machine.layers[0]
            units = independent_units(layer, start)
            alone = {part: independent_each(units, images) for part, images in parts.items()}
            tight = tightness(machine, next(iter(parts.values())), mean_field, generator, stage) if deep else None
            known: dict[str, Any] = {
                "quantity": "variational_bound" if deep else "log_likelihood",
                "binarisation": binarisation,
                "images": {part: len(images) for part, images in parts.items()},
                "unnormalized": {part: float(values.mean()) for part, values in each.items()},
                "independent": {part: float(values.mean()) for part, values in alone.items()},
                "image_errors": {part: standard_error(values - alone[part]) for part, values in each.items()},
                "tightness": tight,
                "highest": {part: highest_log_likelihood(layer, images) for part, images in parts.items()},
                "varies": bool((start != start[:1]).any()),
                "cost": self.cost(machine),
            }
            enumerable = enumerable_parity(machine, self.exact_units) is not None
            known["lacking"] = of_the_likelihood(machine, exact=enumerable)
            if enumerable:
                exact = exact_log_partition(machine, stage("enumeration", blocks(machine)))
                return LikelihoodCard(
                    **known, method="exact", log_partition=Interval(exact, exact), reasons=(),
                    seconds=time.perf_counter() - began,
                )  # fmt: skip
            found = self.bracketed(machine, data_mean, start, mean_field, generator, stage)
            third = self.along(ladder, machine, start, generator, stage)
        return LikelihoodCard(
            **known, method="AIS", log_partition=bracket(found.forward, found.reverse), reasons=self.objections(found),
            weighted_deviation=_weighted_deviation(found.forward, start), trajectory=third,
            forward=found.forward, reverse=found.reverse, half=found.half, r_hat=found.r_hat, settings=asdict(self),
            seconds=time.perf_counter() - began,
        )  # fmt: skip

    def cost(self, machine: BoltzmannMachine) -> Cost | None:
        """Of all its chains; None where log Z is enumerated."""
        if enumerable_parity(machine, self.exact_units) is not None:
            return None
        pilot = pilot_temperatures(self.temperatures) if self.placement == "equal" else 0
        return Cost.of(machine, self.chains * (3 * self.temperatures + pilot + 2 * self.sweeps))

    def along(
        self,
        ladder: BoltzmannMachine | None,
        machine: BoltzmannMachine,
        start: Tensor,
        generator: torch.Generator,
        stage: Stage,
    ) -> LogPartition | None:
        """log Z along the stacked `ladder`; None where there is none, or it is not asked for."""
        if ladder is None or not self.trajectory_sweeps:
            return None
        chains, sweeps = self.trajectory_chains, self.trajectory_sweeps
        return trajectory_log_partition(machine, ladder, start, chains, sweeps, generator, stage("trajectory", sweeps))

    def bracketed(
        self,
        machine: BoltzmannMachine,
        data_mean: Tensor,
        start: Tensor,
        mean_field: MeanField,
        generator: torch.Generator,
        stage: Stage = silent,
    ) -> Bracketed:
        """Both estimates of log Z, with half the temperatures and with all; with twice as many again, at most `doublings` times,
        where nothing but too few temperatures speaks against the interval.
        """
        if self.base == "data":
            base = base_of_data(machine, start, mean_field, generator)
        else:
            base = machine.independent(data_mean if self.base == "data_mean" else None)
        betas = even_steps(self.temperatures)
        if self.placement == "equal":
            pilot = stage("pilot", pilot_temperatures(self.temperatures) - 1)
            betas = equal_steps(machine, base, self.temperatures, self.chains, generator, pilot)
        chains = equilibrate(machine, start, self.chains, self.sweeps, generator, stage("equilibrium", self.sweeps))

        def both(schedule: Tensor) -> tuple[LogPartition, LogPartition]:
            steps = len(schedule) - 1
            up, down = (stage(f"AIS {way}, {len(schedule)} temperatures", steps) for way in ("forward", "reverse"))
            return (
                annealed_importance_sampling(machine, base, schedule, self.chains, generator, up),
                reverse_annealed_importance_sampling(machine, base, schedule, chains.states, generator, down),
            )

        half = both(torch.cat((betas[:-1:2], betas[-1:])))
        found = Bracketed(*both(betas), half, chains.r_hat)
        for _ in range(self.doublings):
            reasons = self.objections(found)
            if not reasons or not all(TEMPERATURES in reason for reason in reasons):
                break
            betas = halfway(betas)
            found = Bracketed(*both(betas), (found.forward, found.reverse), chains.r_hat)
        return found

    def objections(self, estimates: Bracketed) -> tuple[str, ...]:
        """What speaks against the interval, each with what to raise; empty if nothing does."""
        forward, reverse = estimates.forward, estimates.reverse
        found = []
        for name, run, coarse in (("forward", forward, estimates.half[0]), ("reverse", reverse, estimates.half[1])):
            if run.ess < self.least_ess:
                found.append(
                    f"{name} AIS has an effective sample size of {run.ess:.1f}, below {self.least_ess:g}, so its error means "
                    "nothing: raise likelihood.temperatures or likelihood.chains"
                )
            moved = abs(run.value - coarse.value)
            if min(run.ess, coarse.ess) >= self.least_ess and moved > DISAGREEMENT * run.joint_error(coarse):
                found.append(
                    f"{name} AIS moved by {moved:.2f} nats when the temperatures were doubled, beyond its errors: "
                    "raise likelihood.temperatures"
                )
        metric, worst = max(estimates.r_hat.items(), key=lambda item: item[1])
        if worst > self.most_r_hat:
            found.append(
                f"the chains that reverse AIS starts from are not in equilibrium: R-hat of {metric.replace('_', ' ')} between "
                f"starts from data and from noise is {shown_r_hat(worst)}{above(worst, self.most_r_hat)}: raise likelihood.sweeps"
            )
        below = forward.value - reverse.value
        if below > DISAGREEMENT * forward.joint_error(reverse):
            found.append(
                f"the reverse estimate of log Z lies {below:.2f} nats below the forward one, beyond their errors: its chains "
                "miss a mode: raise likelihood.sweeps"
            )
        width = bracket(forward, reverse).width
        if width > self.most_width:
            found.append(
                f"the interval would be {width:.2f} nats wide, above {self.most_width:g}: "
                "raise likelihood.temperatures or likelihood.chains"
            )
        return tuple(found)


def bracket(forward: LogPartition, reverse: LogPartition) -> Interval:
    """[forward - 2 SE, reverse + 2 SE] of log Z; the ends change places where the errors let them cross."""
    ends = forward.value - ERRORS * forward.std_error, reverse.value + ERRORS * reverse.std_error
    return Interval(min(ends), max(ends))


def _weighted_deviation(forward: LogPartition, images: Tensor) -> tuple[float, float]:
    """How far the weighted means lie from those of images (count, units), and what as many effective samples give by chance."""
    mean = torch.tensor(forward.visible_mean, dtype=torch.float64, device=images.device)
    return mean_deviation(mean[None], images), forward.ess**-0.5
