"""Proximal steps and constraints against their definitions, alone and in a training step."""

from __future__ import annotations

import pytest
import torch
from helpers import normal
from test_training import fit, monitored, recipe, small_machine, stripes
from torch import Tensor

from ebm_pipeline.errors import UserError
from ebm_pipeline.training import Constraint, FixedColumnNorm, NonNegative, ProximalL1
from ebm_pipeline.training.module import BoltzmannTraining
from ebm_pipeline.training.pretraining import recipe_for

NAMES = ["weights/0"]


def test_the_proximal_step_minimizes_its_definition(generator: torch.Generator) -> None:
    """prox(w) = argmin_u |u - w|^2 / 2 + lr * strength * |u|, on a grid of u that holds 0."""
    weights = normal(generator, 5, 4)
    found = weights.clone()
    ProximalL1(NAMES, 2.0).apply(found, 0.3)
    grid = torch.linspace(-4, 4, 80_001, dtype=torch.float64)
    cost = 0.5 * (grid - weights[..., None]).square() + 0.6 * grid.abs()
    torch.testing.assert_close(found, grid[cost.argmin(-1)], rtol=0, atol=1e-4)
    assert torch.equal(found == 0, weights.abs() <= 0.6)
    assert 0 < int((found == 0).sum()) < 20


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
