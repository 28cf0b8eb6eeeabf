"""One contract over every kind of layer."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers import all_states, assert_mean_close, layer_states, normal, quadrature, random_layer

from ebm_pipeline.models.layers import (
    LAYERS,
    Bernoulli,
    Gaussian,
    Ising,
    Layer,
    LearnedGaussian,
    Mixed,
    Potts,
    RectifiedGaussian,
)
from ebm_pipeline.models.layers.bernoulli import uniform_like
from ebm_pipeline.support.errors import UserError

KINDS = list(LAYERS)


@pytest.mark.parametrize("kind", KINDS)
def test_mean_is_the_gradient_of_log_partition(kind: str, generator: torch.Generator) -> None:
    layer = random_layer(kind, 5, generator)
    inputs = (3 * normal(generator, 7, 5)).requires_grad_()
    (gradient,) = torch.autograd.grad(layer.log_partition(inputs).sum(), inputs)
    torch.testing.assert_close(layer.mean(inputs.detach()), gradient)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "mixed"])
def test_log_partition_sums_over_every_state(kind: str, generator: torch.Generator) -> None:
    layer = random_layer(kind, 4, generator)
    inputs = 3 * normal(generator, 5, 4)
    if layer.sites() is not None:
        states = layer_states(layer)
        expected = torch.logsumexp(-layer.energy(states) + inputs @ states.T, 1)
    else:
        expected = torch.zeros(5, dtype=torch.float64)
        for unit in range(4):
            own = {name: tensor[unit : unit + 1] for name, tensor in layer.named_tensors().items()}
            single = layer.with_tensors(**own)
            nodes, log_weights = quadrature(single)
            exponent = -single.energy(nodes[:, None]) + inputs[:, unit : unit + 1] * nodes + log_weights
            expected += torch.logsumexp(exponent, 1)
    torch.testing.assert_close(layer.log_partition(inputs), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_have_the_conditional_mean_and_variance(kind: str, generator: torch.Generator) -> None:
    layer = random_layer(kind, 4, generator)
    inputs = normal(generator, 4)
    samples = layer.sample(inputs.expand(100_000, 4), generator)
    mean = layer.mean(inputs)
    assert_mean_close(samples, mean)
    variance = torch.autograd.functional.jacobian(layer.mean, inputs).diagonal()  # second derivative of log_partition
    assert_mean_close((samples - mean) ** 2, variance)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_and_modes_are_states(kind: str, generator: torch.Generator) -> None:
    layer = random_layer(kind, 4, generator)
    if layer.sites() is None:
        assert layer.sample(normal(generator, 9, 4), generator).isfinite().all()
        return
    states = layer_states(layer)
    for drawn in (layer.sample(normal(generator, 200, 4), generator), layer.mode(normal(generator, 200, 4))):
        assert (drawn[:, None] == states).all(2).any(1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_mode_is_the_most_probable_state(kind: str, generator: torch.Generator) -> None:
    layer = random_layer(kind, 4, generator)
    inputs = normal(generator, 4)
    best = layer.mode(inputs)
    if layer.sites() is not None:
        others = layer_states(layer)
    else:
        others = best + 0.1 * normal(generator, 200, 4)
        others = others.clamp_min(0) if isinstance(layer, RectifiedGaussian) else others
        if isinstance(layer, Mixed):  # one real unit, then bits
            others[:, 1:] = all_states(3).repeat(25, 1)

    def log_probability(x: torch.Tensor) -> torch.Tensor:
        return -layer.energy(x) + (inputs * x).sum(-1)

    assert log_probability(best) >= log_probability(others).max()


@pytest.mark.parametrize("kind", KINDS)
def test_bias_for_mean_gives_the_layer_that_mean(kind: str, generator: torch.Generator) -> None:
    layer = random_layer(kind, 4, generator)
    mean = torch.tensor([0.2, 0.8, 0.7, 0.3], dtype=torch.float64)  # of two categories each, for Potts units
    alone = layer.with_tensors(bias=layer.bias_for_mean(mean))
    torch.testing.assert_close(alone.mean(torch.zeros(4, dtype=torch.float64)), mean)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fitted_layer_has_the_moments_of_the_states(kind: str, generator: torch.Generator) -> None:
    layer = random_layer(kind, 4, generator)
    nothing = torch.zeros(4, dtype=torch.float64)
    states = layer.sample(torch.zeros(500, 4, dtype=torch.float64), generator)
    fitted = layer.with_tensors(bias=normal(generator, 4)).fitted(states)
    torch.testing.assert_close(fitted.mean(nothing), states.mean(0), atol=1e-3, rtol=0)  # of clipping
    if isinstance(layer, Gaussian):
        narrow = layer.with_tensors(variance=layer.variance / 4).fitted(states)
        torch.testing.assert_close(narrow.mean(nothing), states.mean(0))
        torch.testing.assert_close(narrow.variance, states.var(0, correction=0))
        assert torch.equal(layer.fitted(0 * states).variance, layer.variance)  # never below the layer's own


@pytest.mark.parametrize("kind", KINDS)
def test_further_gradient_is_autograd_of_the_energy(kind: str, generator: torch.Generator) -> None:
    layer = random_layer(kind, 4, generator)
    x, sample_weights = normal(generator, 6, 4), normal(generator, 6)
    tensors = {name: tensor.clone().requires_grad_() for name, tensor in layer.named_tensors().items()}
    (layer.with_tensors(**tensors).energy(x) @ sample_weights).backward()
    found = layer.further_gradient(x, sample_weights)
    assert set(found) == set(tensors) - {"bias", *layer.fixed}
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, tensors[name].grad)
    assert layer.linear == (not found)


def test_a_layer_of_parts_is_its_parts(generator: torch.Generator) -> None:
    parts = [random_layer("potts", 3, generator), random_layer("learned_gaussian", 2, generator)]
    parts.append(random_layer("bernoulli", 2, generator))
    layer = Mixed.create({str(index): part for index, part in enumerate(parts)})
    assert list(layer.named_tensors()) == ["bias", "parts/1/variance", "parts/1/variance_floor"]
    assert (layer.fixed, layer.learned_variances) == (("parts/1/variance_floor",), {"parts/1/variance": slice(3, 5)})
    assert layer.sites() is None
    inputs = normal(generator, 6, 7)
    pieces = inputs.split([3, 2, 2], dim=1)
    for name in ("energy", "log_partition"):
        expected = sum(getattr(part, name)(piece) for part, piece in zip(parts, pieces, strict=True))
        torch.testing.assert_close(getattr(layer, name)(inputs), expected)
    for name in ("mean", "mode", "bias_for_mean"):
        given = inputs.sigmoid() if name == "bias_for_mean" else inputs
        own = [getattr(part, name)(piece) for part, piece in zip(parts, given.split([3, 2, 2], dim=1), strict=True)]
        torch.testing.assert_close(getattr(layer, name)(given), torch.cat(own, 1))
    one, other = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    drawn = torch.cat([part.sample(piece, other) for part, piece in zip(parts, pieces, strict=True)], 1)
    torch.testing.assert_close(layer.sample(inputs, one), drawn, rtol=0, atol=0)


@pytest.mark.parametrize("field", [-200.0, -30.0, -5.5, -4.5, 0.0, 20.0])
def test_rectified_units_far_from_their_bound(field: float, generator: torch.Generator) -> None:
    """Against quadrature in the unit of the field, where most of the probability is."""
    layer = RectifiedGaussian(torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64))
    inputs = torch.full((100_000, 1), field, dtype=torch.float64)
    high = 40 / max(1.0, -field) + max(0.0, field)
    nodes, weights = (torch.from_numpy(array) for array in np.polynomial.legendre.leggauss(400))
    nodes = 0.5 * high * (nodes + 1)
    density = 0.5 * high * weights * torch.exp(-0.5 * nodes.square() + field * nodes - 0.5 * max(0.0, field) ** 2)
    mean = (density @ nodes) / density.sum()
    torch.testing.assert_close(layer.mean(inputs[:1]).squeeze(), mean, rtol=1e-8, atol=0)
    total = density.sum().log() + 0.5 * max(0.0, field) ** 2
    torch.testing.assert_close(layer.log_partition(inputs[:1]).squeeze(), total, rtol=1e-9, atol=0)
    samples = layer.sample(inputs, generator)
    assert_mean_close(samples, mean)
    assert_mean_close(samples.square(), (density @ nodes.square()) / density.sum())
    single = RectifiedGaussian.create(1)
    torch.testing.assert_close(single.mean(inputs[:1].float()).double().squeeze(), mean, rtol=1e-6, atol=0)


def test_a_pixel_that_is_never_on_gets_a_finite_bias() -> None:
    never = torch.tensor([0.0, 1.0])
    for layer in (Bernoulli.create(2), Ising.create(2), Potts.create(2, 2), RectifiedGaussian.create(2)):
        assert torch.isfinite(layer.bias_for_mean(never)).all()


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


def test_each_uniform_number_is_one_of_two_to_the_24(generator: torch.Generator) -> None:
    """The numbers of a call share their last 8 bits, which are uniform over calls; the other 16 are each one's own."""

    def numbers(count: int) -> torch.Tensor:
        return (uniform_like(torch.zeros(count), generator).double() * 2**24).long()

    many = numbers(1_000_001)
    assert len((many % 256).unique()) == 1
    own, shared = many // 256, torch.cat([numbers(1) % 256 for _ in range(20_000)])
    for bits in (own // 256, own % 256, shared):
        counts = bits.bincount(minlength=256).double()
        expected = len(bits) / 256
        assert len(counts) == 256
        assert abs(float((counts - expected).square().sum()) / expected - 255) < 5 * math.sqrt(2 * 255)
    pairs = torch.corrcoef(own[:1_000_000].double().view(-1, 4).T) - torch.eye(4, dtype=torch.float64)
    assert float(pairs.abs().max()) < 5 / math.sqrt(250_000)


@pytest.mark.parametrize(
    ("arguments", "message"), [({"units": 0}, "layer must .* got 0"), ({"units": 2.5}, "layer must .* got 2.5")]
)
def test_a_wrong_number_of_units_is_refused(arguments: dict[str, int], message: str) -> None:
    for layer in (Bernoulli, Gaussian, Ising, LearnedGaussian, RectifiedGaussian):
        with pytest.raises(UserError, match=message):
            layer.create(**arguments)


@pytest.mark.parametrize("variance", [0.0, -1.0, math.inf, math.nan])
def test_a_variance_that_is_not_positive_is_refused(variance: float) -> None:
    for layer in (Gaussian, LearnedGaussian, RectifiedGaussian):
        with pytest.raises(UserError, match="variance"):
            layer.create(3, variance=variance)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LearnedGaussian.create(3, variance=0.1, variance_floor=0.2), "0.1, is below its floor 0.2"),
        (lambda: LearnedGaussian.create(3, variance_floor=0.0), "variance_floor .* above 0; got 0.0"),
        (lambda: Potts.create(7, 3), "7 units are no multiple"),
        (lambda: Potts.create(4, 1), "categories .* at least|categories .* from 2"),
        (lambda: Mixed.create({}), "at least one part"),
    ],
)
def test_settings_that_do_not_fit_are_refused(make: Callable[[], Layer], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize(
    ("layer", "good", "bad"),
    [
        (Ising.create(2), [-1.0, 1.0], [0.0, 1.0]),
        (Potts.create(4, 2), [1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 0.0, 1.0]),
        (Potts.create(2, 2), [1.0, 0.0], [0.5, 0.5]),
        (RectifiedGaussian.create(2), [0.0, 3.0], [0.0, -3.0]),
        (Mixed.create({"image": Gaussian.create(1), "label": Ising.create(1)}), [0.3, 1.0], [0.3, 0.0]),
    ],
)
def test_data_that_are_no_states_are_refused(layer: Layer, good: list[float], bad: list[float]) -> None:
    layer.check_data(torch.tensor([good]))
    with pytest.raises(UserError, match="need data"):
        layer.check_data(torch.tensor([good, bad]))
