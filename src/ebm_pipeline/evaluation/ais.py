"""Annealed importance sampling of log Z (Neal 2001; Salakhutdinov & Murray 2008), for any depth and unit type.

Chains go through machines of inverse temperatures beta between a base without couplings, whose log Z is known, and the
machine in question. One parity of the layers is summed out; the other is the state x of a chain, and a step from a to b
adds F_a(x) - F_b(x) to its log weight, F the free energy at that beta. The mean weight is then an unbiased estimate of

    Z / Z_base  on the way up from samples of the base (forward): log Z comes out too low in probability,
    Z_base / Z  on the way down from samples of the machine (reverse; Grosse, Ghahramani & Adams 2015): too high,

so that the two together bracket log Z. The reverse one is worth what its starting samples are: see `equilibrium`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from ebm_pipeline.models.inference import MeanField
from ebm_pipeline.models.layers import Layer
from ebm_pipeline.models.machine import EVEN, ODD, BoltzmannMachine, States
from ebm_pipeline.support.errors import UserError

PATH_POINTS = 100  # points at which the way of log Z is kept for a picture
LEAST_SHARE = 0.1  # the most that equal steps thin out the temperatures anywhere, against even spacing
PILOT_SHARE = 10  # the pilot run has so many times fewer temperatures

Progress = Callable[[int], None]  # called after each temperature with the number of those done


def no_progress(done: int) -> None:
    """Progress that nobody sees."""


@dataclass(frozen=True)
class LogPartition:
    """Estimate of log Z in nats, its standard error, the effective sample size of its weights; the way: log Z at each beta."""

    value: float
    std_error: float
    ess: float
    chains: int
    temperatures: int
    betas: tuple[float, ...] = ()
    path: tuple[float, ...] = ()
    visible_mean: tuple[
        float, ...
    ] = ()  # of the machine, by the weights of a forward run, whether single chains mix or not

    def joint_error(self, other: LogPartition) -> float:
        """Of the difference of two estimates."""
        return math.hypot(self.std_error, other.std_error)

    def __str__(self) -> str:
        return f"{self.value:.2f} +- {self.std_error:.2f} (effective sample size {self.ess:.0f})"


def annealed_importance_sampling(
    machine: BoltzmannMachine,
    base: BoltzmannMachine,
    betas: Tensor,
    chains: int,
    generator: torch.Generator,
    progress: Progress = no_progress,
) -> LogPartition:
    """Forward estimate of log Z of `machine` from `chains` chains through `betas` (count,), which go from 0 to 1.

    base: a machine without couplings and of the same layers, as `base_of_data` or `machine.independent` gives it.
    """
    schedule = _checked(betas)
    states = _draw(base, chains, generator)
    log_weights, steps, ratios, ends = _anneal(machine.folded(), base, schedule, states, generator, progress)
    mean = torch.softmax(log_weights, 0) @ ends[0].double()
    start = float(base_log_partition(base)) + constant(machine)
    path = (start, *(start + float(ratio) for ratio in ratios))
    found = summarize(log_weights, start, len(schedule))
    return replace(found, betas=(0.0, *steps), path=path, visible_mean=tuple(mean.tolist()))


def reverse_annealed_importance_sampling(
    machine: BoltzmannMachine,
    base: BoltzmannMachine,
    betas: Tensor,
    states: States,
    generator: torch.Generator,
    progress: Progress = no_progress,
) -> LogPartition:
    """Reverse estimate of log Z from `states`, one tensor (chains, units) per layer: independent samples of `machine`.

    betas (count,) go from 0 to 1, as for the forward one. Samples that are not in equilibrium make it no upper bound.
    """
    machine.check_units(states)
    schedule = _checked(betas)[::-1]
    log_weights, steps, ratios, _ = _anneal(machine.folded(), base, schedule, states, generator, progress)
    down = summarize(log_weights, 0.0, len(schedule))
    top = float(base_log_partition(base)) + constant(machine) - down.value
    path = (*(top + float(ratio) for ratio in reversed(ratios)), top)
    return replace(down, value=top, betas=(*reversed(steps), 1.0), path=path)


def clamped_log_partition(
    machine: BoltzmannMachine,
    visible: Tensor,
    mean_field: MeanField,
    betas: Tensor,
    chains: int,
    generator: torch.Generator,
    progress: Progress = no_progress,
) -> tuple[Tensor, Tensor, Tensor]:
    """log sum_h exp(-E(v, h)) for each of `visible` (images, units): estimates, standard errors, ESS, (images,) each.

    Forward AIS, all images at once with `chains` chains each, from a base that is the mean-field posterior of each image:
    the first weights are those of the variational bound, so that what AIS adds is the bound's gap.
    """
    folded = machine.folded()
    posterior = mean_field(folded, (visible, *(None,) * (machine.depth - 1)))
    given = folded.given_visible(visible)
    base = given.independent()
    layers = [
        layer.with_tensors(bias=layer.bias_for_mean(mean[:, None]))
        for layer, mean in zip(base.layers, posterior.means[1:], strict=True)
    ]
    base = BoltzmannMachine(tuple(layers), base.weights)
    states = _draw(base, chains, generator)
    log_weights, *_ = _anneal(given, base, _checked(betas), states, generator, progress)
    value, std_error, ess = _log_mean(log_weights)
    start = base_log_partition(base).squeeze(-1) - folded.layers[0].energy(visible) + constant(machine)
    return start + value, std_error, ess


def base_of_data(
    machine: BoltzmannMachine, images: Tensor, mean_field: MeanField, generator: torch.Generator
) -> BoltzmannMachine:
    """The base of independent units in which every layer has the moments that it has on `images` (count, units).

    Hidden states are drawn from the mean-field posterior of each image. A base that knows the visible means alone, with hidden
    units at 1/2, can lead all forward chains into one region of small weight, where they agree with each other and are wrong.
    """
    folded = machine.folded()
    posterior = mean_field(folded, (images, *(None,) * (machine.depth - 1)))
    states = [
        mean if inputs is None else layer.sample(inputs, generator)
        for layer, mean, inputs in zip(folded.layers, posterior.means, posterior.inputs, strict=True)
    ]
    return folded.fitted(tuple(states))


def even_steps(count: int) -> Tensor:
    """`count` inverse temperatures from 0 to 1 at equal distances."""
    return torch.linspace(0, 1, count, dtype=torch.float64)


def equal_steps(
    machine: BoltzmannMachine,
    base: BoltzmannMachine,
    count: int,
    chains: int,
    generator: torch.Generator,
    progress: Progress = no_progress,
) -> Tensor:
    """`count` inverse temperatures between which the log weights spread equally, as a short pilot run finds them.

    The standard deviation of a step's log weight over the chains, per beta, is the speed of the thermodynamic length
    (Crooks 2007); betas at equal lengths give the weights the least variance where chains keep up.
    """
    pilot = even_steps(pilot_temperatures(count))
    spreads: list[Tensor] = []
    states = _draw(base, chains, generator)
    _anneal(machine.folded(), base, pilot.tolist(), states, generator, progress, spreads.append)
    spread = torch.stack(spreads).cpu()  # as the temperatures are
    window = max(1, len(spread) // 50)
    smooth = torch.nn.functional.avg_pool1d(
        torch.nn.functional.pad(spread[None], (window, window), mode="replicate"), 2 * window + 1, 1
    )[0]
    density = smooth.clamp_min(LEAST_SHARE * float(smooth.mean()) + 1e-12)
    length = torch.cat((torch.zeros(1, dtype=torch.float64), density.cumsum(0)))
    wanted = torch.linspace(0, float(length[-1]), count, dtype=torch.float64)
    upper = torch.searchsorted(length, wanted).clamp(1, len(pilot) - 1)
    share = (wanted - length[upper - 1]) / (length[upper] - length[upper - 1])
    betas = pilot[upper - 1] + share * (pilot[upper] - pilot[upper - 1])
    betas[0], betas[-1] = 0, 1
    return betas


def halfway(betas: Tensor) -> Tensor:
    """The inverse temperatures (count,) with one more between each and the next."""
    between = torch.stack((betas[:-1], (betas[:-1] + betas[1:]) / 2), 1).flatten()
    return torch.cat((between, betas[-1:]))


def pilot_temperatures(count: int) -> int:
    """How many temperatures the pilot run of `equal_steps` has."""
    return max(20, count // PILOT_SHARE)


def summarize(log_weights: Tensor, base_log_partition: float, count: int) -> LogPartition:
    """Estimate from the log weights (chains,) of a run through `count` temperatures."""
    value, std_error, ess = (float(number) for number in _log_mean(log_weights))
    return LogPartition(base_log_partition + value, std_error, ess, len(log_weights), count)


def _log_mean(log_weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log mean w, the delta-method standard error of that log, and (sum w)^2 / sum w^2: (..., chains) -> (...) each."""
    if not log_weights.isfinite().all():
        raise UserError("the log weights of AIS are not finite: the energies of this machine overflow")
    chains = log_weights.shape[-1]
    weights = torch.exp(log_weights - log_weights.amax(-1, keepdim=True))
    return (
        torch.logsumexp(log_weights, -1) - math.log(chains),
        weights.std(-1) / weights.mean(-1) / math.sqrt(chains),
        weights.sum(-1).square() / weights.square().sum(-1),
    )


def _anneal(
    machine: BoltzmannMachine,
    base: BoltzmannMachine,
    schedule: Sequence[float],
    states: States,
    generator: torch.Generator,
    progress: Progress,
    watch: Callable[[Tensor], object] | None = None,
) -> tuple[Tensor, list[float], list[Tensor], list[Tensor]]:
    """Log weights (..., chains) of chains along the schedule; betas on the way and log mean weights there; last states.

    Two matrix products per temperature: one gives the inputs of the layers that are summed out, which serve the weights and
    the draw; one gives the inputs of the others. The energies of the layers that are not summed out are linear in beta.
    The weights lie in memory as products with the layer above take them fastest, which costs those with the one below less.
    """
    sizes = {parity: sum(machine.layers[index].units for index in machine.parity(parity)) for parity in (EVEN, ODD)}
    summed = ODD if sizes[ODD] <= sizes[EVEN] else EVEN
    machine = machine.map(Tensor.detach)
    machine = replace(machine, weights=tuple(weights.mT.contiguous().mT for weights in machine.weights))
    kept = machine.parity(1 - summed)
    every = max(1, (len(schedule) - 1) // PATH_POINTS)
    log_weights = torch.zeros((), dtype=torch.float64)
    steps, ratios = [], []
    drawn = list(states)
    current = _annealed(machine, base, schedule[0])
    for done, (before, after) in enumerate(pairwise(schedule), start=1):
        following = _annealed(machine, base, after)
        increment = torch.zeros(())
        for index in kept:
            change = base.layers[index].energy(drawn[index]) - machine.layers[index].energy(drawn[index])
            increment = torch.add(increment, change, alpha=after - before)
        for index in machine.parity(summed):
            field = machine.inputs(drawn, index)
            change, drawn[index] = following[index].anneal_step(field, after, current[index], before, generator)
            increment = increment + change
        log_weights = (
            log_weights + increment.double()
        )  # a number without dimensions would take the type of what it is added to
        for index in kept:
            drawn[index] = following[index].sample(machine.inputs(drawn, index).mul_(after), generator)
        current = following
        if watch is not None:
            watch(increment.double().std())
        if done % every == 0 or done == len(schedule) - 1:
            steps.append(after)
            ratios.append(torch.logsumexp(log_weights, -1) - math.log(log_weights.shape[-1]))
        progress(done)
    return log_weights, steps, ratios, drawn


def _annealed(machine: BoltzmannMachine, base: BoltzmannMachine, beta: float) -> list[Layer]:
    return [layer.annealed(beta, other) for layer, other in zip(machine.layers, base.layers, strict=True)]


def _draw(base: BoltzmannMachine, chains: int, generator: torch.Generator) -> States:
    """Samples (chains, units) of a machine without couplings; (images, chains, units) if its biases are those of replicas."""
    shapes = [torch.broadcast_shapes((chains, 1), layer.bias.shape) for layer in base.layers]
    return tuple(
        layer.sample(torch.zeros(shape, dtype=layer.bias.dtype, device=layer.bias.device), generator)
        for layer, shape in zip(base.layers, shapes, strict=True)
    )


def base_log_partition(base: BoltzmannMachine) -> Tensor:
    """log Z of a machine without couplings; (images, 1) where its biases are those of replicas."""
    total = torch.zeros((), dtype=torch.float64)
    for layer in base.layers:
        total = total + layer.log_partition(torch.zeros_like(layer.bias)).double()
    return total


def constant(machine: BoltzmannMachine) -> float:
    """What folding the offsets takes from log Z: scale * sum_l o_l^T W_l o_{l+1}."""
    if not machine.offsets:
        return 0.0
    pairs = zip(machine.weights, pairwise(machine.offsets), strict=True)
    return float(machine.scale) * sum(float(lower @ weights @ upper) for weights, (lower, upper) in pairs)


def _checked(betas: Tensor) -> list[float]:
    """The schedule as numbers; it must rise from 0 to 1."""
    schedule: list[float] = betas.tolist()
    if len(schedule) < 2 or schedule[0] != 0 or schedule[-1] != 1 or any(a > b for a, b in pairwise(schedule)):
        raise UserError(
            f"AIS needs at least 2 inverse temperatures that rise from 0 to 1; got {len(schedule)}, "
            f"from {schedule[0] if schedule else None} to {schedule[-1] if schedule else None}"
        )
    return schedule
