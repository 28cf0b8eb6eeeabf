"""Initial weights against their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import normal

from ebm_pipeline.models.initialization import glorot_normal, initialize, pixel_deviations, principal_components
from ebm_pipeline.models.initialization import normal as normal_weights
from ebm_pipeline.models.layers import Bernoulli
from ebm_pipeline.support.errors import UserError

PIXELS, HIDDEN = 8, 5


@pytest.fixture
def images(generator: torch.Generator) -> torch.Tensor:
    """Seven pixels that depend on each other, on different scales, and one that never changes."""
    mixed = normal(generator, 500, PIXELS) @ normal(generator, PIXELS, PIXELS) * torch.linspace(0.5, 3, PIXELS)
    mixed[:, 2] = 0.25
    return mixed


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(4)


def test_pixel_deviations_scale_rows_by_the_deviation_of_the_pixel(images: torch.Tensor) -> None:
    found = pixel_deviations(PIXELS, HIDDEN, seeded(), images)
    plain = glorot_normal(PIXELS, HIDDEN, seeded())
    spread = ((images - images.mean(0)).square().sum(0) / (len(images) - 1)).sqrt()
    torch.testing.assert_close(found, torch.diag(spread) @ plain.double())
    assert not found[2].any()
    many = glorot_normal(300, 200, seeded())
    assert float(many.std()) == pytest.approx(math.sqrt(2 / 500), rel=5 / math.sqrt(2 * many.numel()))


def test_principal_components_are_scaled_directions_of_most_variance(images: torch.Tensor) -> None:
    found = principal_components(PIXELS, HIDDEN, seeded(), images).double()
    centred = images - images.mean(0)
    covariance = centred.mT @ centred / (len(images) - 1)
    deviations = torch.linalg.eigvalsh(covariance).flip(0)[:HIDDEN].sqrt()
    norms = found.norm(dim=0)
    torch.testing.assert_close(
        norms, math.sqrt(2 * PIXELS / (PIXELS + HIDDEN)) * deviations / deviations.norm(), rtol=1e-5, atol=0
    )
    directions = found / norms
    torch.testing.assert_close(directions.mT @ directions, torch.eye(HIDDEN, dtype=torch.float64), rtol=0, atol=1e-5)
    torch.testing.assert_close(covariance @ directions, directions * deviations.square(), rtol=0, atol=1e-4)


def test_hidden_units_beyond_the_components_are_drawn_and_more_than_pixels_are_refused(images: torch.Tensor) -> None:
    found = principal_components(PIXELS, PIXELS, seeded(), images)  # the covariance has rank 7
    assert torch.equal(found[:, -1], glorot_normal(PIXELS, PIXELS, seeded())[:, -1])
    assert float(found[2, :-1].abs().max()) < 1e-6
    with pytest.raises(UserError, match="8 principal components, the first hidden layer has 9"):
        principal_components(PIXELS, 9, seeded(), images)


@pytest.mark.parametrize("weights", [pixel_deviations, principal_components])
def test_the_data_set_the_first_weights_alone(weights: object, images: torch.Tensor) -> None:
    layers = [Bernoulli.create(units) for units in (PIXELS, HIDDEN, 3)]
    machine = initialize(layers, weights, torch.full((PIXELS,), 0.5), seeded(), images)  # type: ignore[arg-type]
    plain = initialize(layers, glorot_normal, torch.full((PIXELS,), 0.5), seeded(), images)
    assert not torch.equal(machine.weights[0], plain.weights[0])
    assert torch.equal(machine.weights[1], plain.weights[1])
    assert float(normal_weights(9, 9, seeded(), images, std=0.0).abs().max()) == 0
