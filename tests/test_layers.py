"""One contract over every kind of layer."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import all_states, assert_mean_close, normal, quadrature, random_layer

from ebm_pipeline.errors import UserError
from ebm_pipeline.layers import LAYERS, Bernoulli, Gaussian

KINDS = list(LAYERS)


@pytest.mark.parametrize("kind", KINDS)
def test_mean_is_the_gradient_of_log_partition(kind: str, generator: torch.Generator) -> None:
    layer = random_layer(kind, 5, generator)
    inputs = (3 * normal(generator, 7, 5)).requires_grad_()
    (gradient,) = torch.autograd.grad(layer.log_partition(inputs).sum(), inputs)
    torch.testing.assert_close(layer.mean(inputs.detach()), gradient)


@pytest.mark.parametrize("kind", KINDS)
def test_log_partition_sums_over_every_state(kind: str, generator: torch.Generator) -> None:
    layer = random_layer(kind, 3, generator)
    inputs = normal(generator, 4, 3)
    if layer.binary:
        states = all_states(3)
        expected = torch.logsumexp(-layer.energy(states) + inputs @ states.T, 1)
    else:
        assert isinstance(layer, Gaussian)
        expected = torch.zeros(4, dtype=torch.float64)
        for unit in range(3):
            single = Gaussian(layer.bias[unit : unit + 1], layer.variance[unit : unit + 1])
            nodes, log_weights = quadrature(single)
            exponent = -single.energy(nodes[:, None]) + inputs[:, unit : unit + 1] * nodes + log_weights
            expected += torch.logsumexp(exponent, 1)
    torch.testing.assert_close(layer.log_partition(inputs), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_have_the_conditional_mean_and_variance(kind: str, generator: torch.Generator) -> None:
    layer = random_layer(kind, 4, generator)
    inputs = normal(generator, 4)
    samples = layer.sample(inputs.expand(100_000, 4), generator)
    assert_mean_close(samples, layer.mean(inputs))
    mean = layer.mean(inputs)
    variance = layer.variance if isinstance(layer, Gaussian) else mean * (1 - mean)
    assert_mean_close((samples - mean) ** 2, variance)


@pytest.mark.parametrize("kind", KINDS)
def test_mode_is_the_most_probable_state(kind: str, generator: torch.Generator) -> None:
    layer = random_layer(kind, 4, generator)
    inputs = normal(generator, 4)
    best = layer.mode(inputs)
    others = all_states(4) if layer.binary else best + 0.1 * normal(generator, 200, 4)

    def log_probability(x: torch.Tensor) -> torch.Tensor:
        return -layer.energy(x) + (inputs * x).sum(-1)

    assert log_probability(best) >= log_probability(others).max()


@pytest.mark.parametrize("kind", KINDS)
def test_bias_for_mean_gives_the_layer_that_mean(kind: str, generator: torch.Generator) -> None:
    layer = random_layer(kind, 4, generator)
    mean = torch.tensor([0.2, 0.5, 0.7, 0.95], dtype=torch.float64)
    alone = layer.with_tensors(bias=layer.bias_for_mean(mean))
    torch.testing.assert_close(alone.mean(torch.zeros(4, dtype=torch.float64)), mean)


def test_a_pixel_that_is_never_on_gets_a_finite_bias() -> None:
    assert torch.isfinite(Bernoulli.create(2).bias_for_mean(torch.tensor([0.0, 1.0]))).all()


@pytest.mark.parametrize("kind", KINDS)
def test_annealed_interpolates_the_energy(kind: str, generator: torch.Generator) -> None:
    layer, base = random_layer(kind, 3, generator), random_layer(kind, 3, generator)
    x = normal(generator, 6, 3)
    for beta in (0.0, 0.3, 1.0):
        expected = (1 - beta) * base.energy(x) + beta * layer.energy(x)
        torch.testing.assert_close(layer.annealed(beta, base).energy(x), expected)
    betas = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)[:, None, None]
    replicas = layer.annealed(betas, base).energy(x.expand(3, 6, 3))
    for index, beta in enumerate((0.0, 0.3, 1.0)):
        torch.testing.assert_close(replicas[index], layer.annealed(beta, base).energy(x))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outputs_have_the_dtype_of_the_inputs(kind: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    layer = random_layer(kind, 3, generator)
    layer = layer.with_tensors(**{name: tensor.float() for name, tensor in layer.named_tensors().items()})
    inputs = normal(generator, 5, 3).to(dtype)
    assert layer.mean(inputs).dtype == layer.sample(inputs, generator).dtype == layer.mode(inputs).dtype == dtype


def test_small_probabilities_survive_products_in_bfloat16(generator: torch.Generator) -> None:
    """The comparison with the uniform draw is made in float32: in bfloat16 the smallest probability would be 1/256."""
    layer = Bernoulli(torch.full((1000,), math.log(1e-3)))
    on = layer.sample(torch.zeros(1000, 1000, dtype=torch.bfloat16), generator).double().mean()
    expected = 1e-3 / (1 + 1e-3)
    assert abs(float(on) - expected) < 5 * math.sqrt(expected / 1e6)


@pytest.mark.parametrize(
    ("arguments", "message"), [({"units": 0}, "layer must .* got 0"), ({"units": 2.5}, "layer must .* got 2.5")]
)
def test_a_wrong_number_of_units_is_refused(arguments: dict[str, int], message: str) -> None:
    for layer in (Bernoulli, Gaussian):
        with pytest.raises(UserError, match=message):
            layer.create(**arguments)


@pytest.mark.parametrize("variance", [0.0, -1.0, math.inf, math.nan])
def test_a_variance_that_is_not_positive_is_refused(variance: float) -> None:
    with pytest.raises(UserError, match="variance"):
        Gaussian.create(3, variance=variance)
