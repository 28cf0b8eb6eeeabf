"""Restoring flipped pixels: the sampled posterior against enumeration, and what a task says of how it was done."""

from __future__ import annotations

import pytest
import torch
from helpers import joint_probabilities, layer_states, random_machine

from ebm_pipeline.models.machine import EVEN
from ebm_pipeline.models.storage import SavedModel
from ebm_pipeline.sampling.denoising import denoise, given_noisy
from ebm_pipeline.tasks import Denoising

CHAINS, SWEEPS, FLIPS = 2000, 60, 0.2
MACHINES = [
    (("bernoulli", "bernoulli"), (4, 3), 0.0), (("bernoulli", "bernoulli"), (4, 3), 1.0),
    (("ising", "bernoulli"), (4, 3), 0.0), (("bernoulli", "bernoulli", "bernoulli"), (4, 3, 2), 0.7),
]  # fmt: skip


@pytest.mark.parametrize(("kinds", "sizes", "offsets"), MACHINES)
def test_the_means_given_noisy_images_are_those_of_enumeration(
    kinds: tuple[str, ...], sizes: tuple[int, ...], offsets: float
) -> None:
    machine = random_machine(kinds, sizes, seed=31, offsets=offsets, weights=1.0)
    states, probabilities = joint_probabilities(machine)
    noisy = layer_states(machine.layers[0])[5]
    same = (states[0] == noisy).double()
    posterior = probabilities * (same * (1 - FLIPS) + (1 - same) * FLIPS).prod(1)
    exact = posterior @ states[0] / posterior.sum()
    found = denoise(
        machine, noisy.repeat(CHAINS, 1), FLIPS, SWEEPS, torch.Generator().manual_seed(7)
    )  # of independent chains
    error = found.std(0) / CHAINS**0.5
    assert ((found.mean(0) - exact).abs() < 5 * error).all()
    _, shifted = joint_probabilities(given_noisy(machine, noisy, FLIPS))
    assert torch.allclose(shifted @ states[0], exact)


@pytest.mark.parametrize("kind", ["bernoulli", "ising"])
def test_without_noise_the_image_is_left_as_it_is(kind: str) -> None:
    machine = random_machine((kind, "bernoulli"), (5, 3), seed=3)
    images = layer_states(machine.layers[0])
    assert torch.equal(denoise(machine, images, 0.0, 2, torch.Generator().manual_seed(1)), images)


def test_sampling_takes_back_more_flips_than_one_pass_up_and_down() -> None:
    """Of exact samples of a machine the sampled guess is the best that there is."""
    machine = random_machine(("bernoulli", "bernoulli"), (40, 4), seed=5, weights=1.5)
    generator = torch.Generator().manual_seed(2)
    hidden = layer_states(machine.layers[1])
    log_probabilities = -machine.free_energy((None, hidden), summed=EVEN)
    chosen = hidden[torch.multinomial(log_probabilities.softmax(0), 500, replacement=True, generator=generator)]
    samples = machine.sample((torch.empty(0, 40), chosen), EVEN, generator)[0]
    model = SavedModel(machine, samples.mean(0).float(), (5, 8), "")
    sampled, passed = (Denoising(flips=0.2, sweeps=sweeps)(model, samples, 3) for sweeps in (100, 0))
    assert sampled.metrics["wrong_pixels_of_noisy"] == passed.metrics["wrong_pixels_of_noisy"]
    assert sampled.metrics["wrong_pixels"] < 0.9 * passed.metrics["wrong_pixels"]
    assert sampled.metrics["wrong_pixels"] < 0.6 * sampled.metrics["wrong_pixels_of_noisy"]
    assert "by 100 Gibbs sweeps given the noisy image and the share of flips, 20%" in sampled.made["denoised"]
    assert "up through all layers and down again" in passed.made["denoised"]
    assert set(sampled.arrays["denoised"].unique().tolist()) <= {0.0, 1.0}


def test_units_of_more_states_are_restored_by_one_pass_and_the_answer_says_so() -> None:
    machine = random_machine(("gaussian", "bernoulli"), (6, 4), seed=5)
    images = torch.randn(9, 6, generator=torch.Generator().manual_seed(1)).double()
    answer = Denoising()(SavedModel(machine, images.mean(0), (2, 3), ""), images, 1)
    assert "up through all layers and down again" in answer.made["denoised"]
    assert "wrong_pixels" not in answer.metrics
