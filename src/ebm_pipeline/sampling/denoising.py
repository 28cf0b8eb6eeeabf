"""What images were before some of their pixels were flipped: sampled given what is seen, with the share of flips known."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ebm_pipeline.models.inference import up_and_down
from ebm_pipeline.models.layers import Bernoulli, Ising, Layer
from ebm_pipeline.models.machine import EVEN, ODD, BoltzmannMachine
from ebm_pipeline.sampling.gibbs import start_at_visible

UP_AND_DOWN = "up through all layers and down again by conditional modes"


def can_denoise(layer: Layer) -> bool:
    """Whether every unit of a visible layer has two states, of which a flip makes the other one."""
    return isinstance(layer, (Bernoulli, Ising))


def two_states(layer: Layer) -> tuple[float, float]:
    """The two states of each unit of a layer that `can_denoise`."""
    assert can_denoise(layer)
    return (0.0 if isinstance(layer, Bernoulli) else -1.0), 1.0


def given_noisy(machine: BoltzmannMachine, noisy: Tensor, flips: float) -> BoltzmannMachine:
    """The machine p(v, h | noisy): each unit of `noisy` (samples, units) is that of v, or with probability `flips` the other.

    log p(noisy | v) is linear in v, so it is a bias of the visible units, another one for each sample.
    """
    return machine.with_tensors({"layers/0/bias": layer_given_noisy(machine.layers[0], noisy, flips).bias})


def layer_given_noisy(layer: Layer, noisy: Tensor, flips: float) -> Layer:
    """The visible layer of `given_noisy`, without hidden units."""
    low, high = two_states(layer)
    sign = 2 * (noisy - low) / (high - low) - 1
    evidence = torch.logit(torch.tensor(1 - flips, dtype=layer.bias.dtype)) / (high - low)
    return layer.with_tensors(bias=layer.bias + evidence * sign)


def nearer_states(layer: Layer, means: Tensor) -> Tensor:
    """The state of each unit that is nearer to its mean."""
    low, high = two_states(layer)
    return torch.where(means > (low + high) / 2, high, low).to(means.dtype)


def denoise(
    machine: BoltzmannMachine,
    noisy: Tensor,
    flips: float,
    sweeps: int,
    generator: torch.Generator | None,
    progress: Callable[[int], None] = lambda done: None,
) -> Tensor:
    """Means (samples, units) of the images given `noisy` ones, of whose units each was flipped with probability `flips`.

    By Gibbs sweeps that start at `noisy`; the mean is over the second half of them. The state that is nearer to the mean
    is right in the most pixels that a guess can be (Geman & Geman 1984, doi:10.1109/TPAMI.1984.4767596: restoration by
    sampling the posterior).
    """
    posterior = given_noisy(machine, noisy, flips)
    states = start_at_visible(posterior, noisy, generator)
    total, kept = torch.zeros_like(noisy), sweeps - sweeps // 2
    for done in range(sweeps):
        if done >= sweeps - kept:
            total += posterior.layers[0].mean(posterior.inputs(states, 0))
        states = posterior.sample(states, EVEN, generator)
        states = posterior.sample(states, ODD, generator)
        progress(done + 1)
    return total / kept


def restored(
    machine: BoltzmannMachine,
    noisy: Tensor,
    flips: float,
    sweeps: int,
    seed: int,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[Tensor, Tensor]:
    """Means and guesses (samples, units) of the images behind `noisy` ones, as `restoration` says."""
    if not (sweeps and can_denoise(machine.layers[0])):
        return up_and_down(machine, noisy)
    generator = torch.Generator(noisy.device).manual_seed(seed)
    means = denoise(machine, noisy, flips, sweeps, generator, progress)
    return means, nearer_states(machine.layers[0], means)


def restoration(layer: Layer, flips: float, sweeps: int) -> str:
    """How `restored` makes images of a machine with this visible layer."""
    if not (sweeps and can_denoise(layer)):
        return UP_AND_DOWN
    return f"the likelier state of each pixel, by {sweeps} Gibbs sweeps given the noisy image and the share of flips, {flips:.0%}"
