"""Proximal steps and constraints against their definitions, alone and in a training step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import normal
from test_training import fit, monitored, recipe, small_machine, stripes
from torch import Tensor
from torch.optim import Optimizer

from ebm_pipeline.support.errors import UserError
from ebm_pipeline.training import Constraint, FixedColumnNorm, NonNegative, ProximalL1, ZeroMask
from ebm_pipeline.training.constraints import step_size
from ebm_pipeline.training.module import BoltzmannTraining
from ebm_pipeline.training.pretraining import recipe_for

NAMES = ["weights/0"]


def test_the_proximal_step_minimizes_its_definition(generator: torch.Generator) -> None:
    """prox(w) = argmin_u |u - w|^2 / 2 + lr * strength * |u|, on a grid of u that holds 0."""
    weights = normal(generator, 5, 4)
    found = weights.clone()
    ProximalL1(NAMES, 2.0).apply(found, 0.3)
    for_each = weights.clone()
    ProximalL1(NAMES, 2.0).apply(for_each, torch.full_like(weights, 0.3))
    assert torch.equal(for_each, found)
    grid = torch.linspace(-4, 4, 80_001, dtype=torch.float64)
    cost = 0.5 * (grid - weights[..., None]).square() + 0.6 * grid.abs()
    torch.testing.assert_close(found, grid[cost.argmin(-1)], rtol=0, atol=1e-4)
    assert torch.equal(found == 0, weights.abs() <= 0.6)
    assert 0 < int((found == 0).sum()) < 20


@pytest.mark.parametrize(
    ("optimizer", "strength"),
    [
        (partial(torch.optim.SGD, lr=0.05), 0.7),
        (partial(torch.optim.SGD, lr=0.01, momentum=0.9), 0.7),
        (partial(torch.optim.Adam, lr=0.01, betas=(0.9, 0.99)), 0.7),
        (partial(torch.optim.AdamW, lr=0.01, weight_decay=0.0, betas=(0.9, 0.99)), 0.7),
    ],
)
def test_whatever_the_optimizer_the_proximal_step_ends_at_the_least_cost(
    optimizer: Callable[[list[Tensor]], Optimizer], strength: float
) -> None:
    """argmin (c/2) (w - a)^2 + strength |w| is a - strength sign(a) / c, or 0 where c |a| <= strength; gradients are noisy."""
    generator = torch.Generator().manual_seed(3)
    curvature, centre = torch.tensor([1.0, 4.0, 1.0, 0.25, 2.0]), torch.tensor([2.0, -1.0, 0.5, 2.0, 0.3])
    weights = centre.clone()
    own = optimizer([weights])
    tail = torch.zeros_like(weights)
    for update in range(3000):
        noise = 0.1 * torch.randn(5, generator=generator)
        weights.grad = curvature * (weights - centre) + noise
        own.step()
        ProximalL1(NAMES, strength).apply(weights, step_size(own, weights))
        tail += weights / 1000 if update >= 2000 else 0
    cost = centre.sign() * (centre.abs() - strength / curvature).clamp(min=0)
    assert int((cost == 0).sum()) == 3
    torch.testing.assert_close(tail, cost, rtol=0, atol=0.05)
    assert bool((weights[cost == 0] == 0).any())


def test_a_proximal_step_stands_for_the_updates_of_an_epoch_other_constraints_follow_each() -> None:
    images = stripes(100)  # five updates to an epoch
    steps: dict[str, list[float]] = {"proximal L1": [], "non-negative": []}

    class WatchedL1(ProximalL1):
        def apply(self, parameter: Tensor, step: float | Tensor) -> None:
            steps[self.name].append(float(step) / 0.5)

    class WatchedSign(NonNegative):
        def apply(self, parameter: Tensor, step: float | Tensor) -> None:
            steps[self.name].append(float(step) / 0.5)

    own = recipe(lr=0.5, scheduler=partial(torch.optim.lr_scheduler.ConstantLR, factor=1.0))
    own = replace(own, constraints=(WatchedL1(NAMES, 0.1), WatchedSign(NAMES)))
    module = BoltzmannTraining(small_machine(6, 4), own, images.mean(0), monitored(stripes()))
    fit(module, images, 2)
    assert steps == {"proximal L1": [5, 5], "non-negative": [1] * 10}


def test_fewer_proximal_steps_make_more_zeros_at_the_same_cost() -> None:
    """The least cost of |w - a|^2 / 2 + strength |w| is 0 in half of the weights; gradients are far noisier than the strength."""
    shares, costs = [], []
    for every in (1, 50):
        generator = torch.Generator().manual_seed(3)
        centre = torch.cat((torch.linspace(-0.05, 0.05, 100), torch.linspace(1.0, 2.0, 100)))
        weights = centre.clone()
        optimizer = torch.optim.SGD([weights], lr=0.01)
        for update in range(1, 2001):
            weights.grad = weights - centre + torch.randn(200, generator=generator)
            optimizer.step()
            if update % every == 0:
                ProximalL1(NAMES, 0.1).apply(weights, every * step_size(optimizer, weights))
        shares.append(float((weights[:100] == 0).float().mean()))
        costs.append(float(((weights - centre).square() / 2 + 0.1 * weights.abs()).mean()))
        assert bool((weights[100:] != 0).all())
    assert shares[0] < 0.2
    assert shares[1] > 2 * shares[0]
    assert costs[1] < costs[0] + 0.001


def test_a_weight_whose_gradient_was_always_zero_is_zero_after_the_first_adaptive_step() -> None:
    weights = torch.tensor([0.3, 0.3])
    own = torch.optim.Adam([weights], lr=0.01)
    weights.grad = torch.tensor([0.0, 1.0])
    own.step()
    ProximalL1(NAMES, 0.01).apply(weights, step_size(own, weights))
    torch.testing.assert_close(weights, torch.tensor([0.0, 0.3 - 0.01 - 0.0001]))


def test_a_mask_keeps_weights_at_zero(tmp_path: Path, generator: torch.Generator) -> None:
    kept = np.tri(6, 4, dtype=bool)
    np.save(tmp_path / "kept.npy", kept)
    images = stripes(20)
    own = recipe(lr=0.5, constraints=(ZeroMask(NAMES, str(tmp_path / "kept.npy")),))
    module = BoltzmannTraining(small_machine(6, 4), own, images.mean(0), monitored(stripes()))
    fit(module, images, 1)
    assert np.array_equal(module.machine.weights[0].numpy() != 0, kept)
    np.save(tmp_path / "other.npy", kept.T)
    for name, message in (
        ("other.npy", r"shape \(6, 4\); got bool of the shape \(4, 6\)"),
        ("none.npy", "a mask is a .npy file that is there"),
    ):
        wrong = recipe(constraints=(ZeroMask(NAMES, str(tmp_path / name)),))
        with pytest.raises(UserError, match=message):
            BoltzmannTraining(small_machine(6, 4), wrong, images.mean(0), monitored(images))


def test_columns_get_their_norm_and_signs_their_side(generator: torch.Generator) -> None:
    weights = normal(generator, 5, 4)
    weights[:, 1] = 0
    scaled, positive = weights.clone(), weights.clone()
    FixedColumnNorm(NAMES, 2.5).apply(scaled, 0.1)
    expected = torch.tensor([2.5, 0, 2.5, 2.5], dtype=torch.float64)
    torch.testing.assert_close(scaled.square().sum(0).sqrt(), expected)
    torch.testing.assert_close(scaled[:, 0] / weights[:, 0], (2.5 / weights[:, 0].norm()).expand(5))
    NonNegative(NAMES).apply(positive, 0.1)
    assert torch.equal(positive, torch.where(weights > 0, weights, torch.zeros_like(weights)))


def test_they_follow_the_optimizer_in_their_order() -> None:
    images = stripes(20)

    def weights_after_one_step(*constraints: Constraint) -> Tensor:
        own = recipe(lr=0.5, constraints=constraints)
        module = BoltzmannTraining(small_machine(6, 4), own, images.mean(0), monitored(stripes()))
        fit(module, images, 1)
        return module.machine.weights[0]

    expected = weights_after_one_step()
    found = weights_after_one_step(ProximalL1(NAMES, 0.1), NonNegative(NAMES))
    torch.testing.assert_close(found, (expected - 0.05).clamp(min=0))
    assert bool((found == 0).any())


def test_mistakes_and_names() -> None:
    images = stripes()
    wrong = recipe(constraints=(NonNegative(["weights/4"]),))
    with pytest.raises(UserError, match="the constraint non-negative names the parameter 'weights/4'"):
        BoltzmannTraining(small_machine(6, 4), wrong, images.mean(0), monitored(images))
    with pytest.raises(UserError, match="strength"):
        ProximalL1(NAMES, -1.0)
    with pytest.raises(UserError, match="norm"):
        FixedColumnNorm(NAMES, 0.0)
    second = recipe_for(recipe(constraints=(NonNegative(["weights/1"]),)), 1)
    assert list(second.constraints[0].parameters) == NAMES
