"""log Z and likelihoods against brute force in float64, and the monitored metrics against their definitions."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from helpers import (
    BINARY_MACHINES,
    MACHINES,
    all_states,
    joint_states,
    layer_states,
    naive_energy,
    normal,
    quadrature,
    random_machine,
    unit_variances,
)
from torch import Tensor
from torch.nn.functional import softplus

from ebm_pipeline.evaluation import enumeration
from ebm_pipeline.evaluation.ais import LogPartition, annealed_importance_sampling, summarize
from ebm_pipeline.evaluation.enumeration import enumerable_parity, exact_log_partition
from ebm_pipeline.evaluation.likelihood import (
    highest_log_likelihood,
    independent_log_likelihood,
    independent_units,
    unnormalized,
)
from ebm_pipeline.evaluation.metrics import (
    PIXELS_OF_IMAGE,
    MonitoredImages,
    flip_pixels,
    monitor,
    monitor_clamped,
    weight_metrics,
)
from ebm_pipeline.models.inference import MeanField, bound
from ebm_pipeline.models.layers import Bernoulli, Layer, Mixed, RectifiedGaussian
from ebm_pipeline.models.machine import EVEN, ODD, BoltzmannMachine, assemble
from ebm_pipeline.support.errors import UserError

Case = tuple[tuple[str, ...], tuple[int, ...]]
CONVERGED = MeanField(tolerance=1e-12, max_steps=2000)
# beside the common machines: Gaussian layers in the middle, at the top of a deep machine, and next to each other
MORE_MACHINES: list[Case] = [
    *(case for case in MACHINES if "rectified_gaussian" not in case[0]),  # a test of their own: no Gaussian integral
    (("bernoulli", "gaussian", "bernoulli"), (3, 2, 3)),
    (("bernoulli", "bernoulli", "gaussian"), (3, 3, 2)),
    (("bernoulli", "bernoulli", "bernoulli", "gaussian"), (3, 2, 3, 2)),
]
GAUSSIAN_NEIGHBOURS: list[Case] = [
    (("gaussian", "gaussian"), (3, 2)),
    (("gaussian", "gaussian", "bernoulli"), (2, 2, 3)),
]


def discrete_parts(layer: Layer) -> list[Layer]:
    """The layers of discrete units that a layer is or has as parts."""
    if isinstance(layer, Mixed):
        return [own for part in layer.parts for own in discrete_parts(part)]
    return [] if layer.sites() is None else [layer]


def brute_log_partition(machine: BoltzmannMachine) -> float:
    """log Z from values of `naive_energy` alone.

    For each state of the discrete units the energy is a quadratic form in the others, E = c - b.x + x.A x / 2: its
    coefficients are read off at 0, e_i and e_i + e_j, and the integral over x is (2 pi)^(n/2) |A|^(-1/2) exp(b A^-1 b / 2 - c).
    """
    sizes = [layer.units for layer in machine.layers]
    real = torch.tensor([variance is not None for layer in machine.layers for variance in unit_variances(layer)])
    count = int(real.sum())
    unit = torch.eye(count, dtype=torch.float64)
    pairs = list(itertools.combinations_with_replacement(range(count), 2))
    points = torch.stack([torch.zeros(count).double(), *unit, *(unit[i] + unit[j] for i, j in pairs)])
    tables = [layer_states(part) for layer in machine.layers for part in discrete_parts(layer)]
    empty = torch.zeros(0, dtype=torch.float64)
    binary = torch.stack([torch.cat((empty, *rows)) for rows in itertools.product(*tables)])
    joint = torch.zeros(len(binary), len(points), sum(sizes), dtype=torch.float64)
    joint[:, :, ~real] = binary[:, None]
    joint[:, :, real] = points[None]
    energy = naive_energy(machine, joint.flatten(0, 1).split(sizes, dim=1)).view(len(binary), len(points))
    constant, single = energy[:, 0], energy[:, 1 : count + 1]
    matrix = torch.zeros(len(binary), count, count, dtype=torch.float64)
    for index, (i, j) in enumerate(pairs):
        matrix[:, i, j] = matrix[:, j, i] = energy[:, count + 1 + index] - single[:, i] - single[:, j] + constant
    linear = 0.5 * matrix.diagonal(dim1=1, dim2=2) - (single - constant[:, None])
    lower = torch.linalg.cholesky(matrix)  # fails unless the distribution can be normalized
    solved = torch.linalg.solve_triangular(lower, linear[:, :, None], upper=False).square().sum((1, 2))
    log_determinant = 2 * lower.diagonal(dim1=1, dim2=2).log().sum(1)
    integral = 0.5 * (count * math.log(2 * math.pi) - log_determinant + solved) - constant
    return float(torch.logsumexp(integral, 0))


def enumerated_log_probabilities(machine: BoltzmannMachine) -> tuple[Tensor, Tensor]:
    """All visible states (states, units) of a binary machine and log p of each."""
    states = joint_states(machine)
    log_joint = torch.log_softmax(-naive_energy(machine, states), 0)
    visible, inverse = states[0].unique(dim=0, return_inverse=True)
    return visible, torch.stack([torch.logsumexp(log_joint[inverse == row], 0) for row in range(len(visible))])


def visible_mean(units: int) -> Tensor:
    return torch.linspace(0.2, 0.7, units, dtype=torch.float64)


# ---------------------------------------------------------------------------------------------- exact log Z


@pytest.mark.parametrize("case", MORE_MACHINES)
@pytest.mark.parametrize(("offsets", "scale"), [(0.0, 1.0), (3.0, 0.4)])
def test_exact_log_partition_is_that_of_brute_force(case: Case, offsets: float, scale: float) -> None:
    machine = replace(random_machine(*case, seed=11, offsets=offsets, weights=0.4), scale=scale)
    assert exact_log_partition(machine) == pytest.approx(brute_log_partition(machine), rel=1e-10)


def test_rectified_hidden_units_against_quadrature() -> None:
    """log Z of three pixels and two rectified units, the latter integrated on a grid: exact by enumeration, and by AIS."""
    machine = random_machine(("bernoulli", "rectified_gaussian"), (3, 2), seed=11, offsets=0.5, weights=0.4)
    nodes, log_weights = quadrature(machine.layers[1])
    hidden = torch.cartesian_prod(nodes, nodes)
    log_weight = torch.cartesian_prod(log_weights, log_weights).sum(1)
    terms = [log_weight - machine.energy((v.expand(len(hidden), 3), hidden)) for v in all_states(3)]
    expected = float(torch.logsumexp(torch.cat(terms), 0))
    assert exact_log_partition(machine) == pytest.approx(expected, rel=1e-9)
    found = estimate(machine)
    assert found.std_error < 0.04
    assert abs(found.value - expected) < 4 * found.std_error


@pytest.mark.parametrize("kind", ["gaussian", "learned_gaussian"])
def test_gaussian_pixels_against_quadrature(kind: str) -> None:
    """log Z of two Gaussian pixels, integrated on a grid, and four hidden units: exact by enumeration, and by AIS."""
    machine = random_machine((kind, "bernoulli"), (2, 4), seed=12, offsets=0.5, weights=0.6)
    nodes, log_weights = quadrature(machine.layers[0])
    pixels = torch.cartesian_prod(nodes, nodes)
    log_weight = torch.cartesian_prod(log_weights, log_weights).sum(1)
    expected = float(torch.logsumexp(log_weight - machine.free_energy((pixels, None)), 0))
    assert exact_log_partition(machine) == pytest.approx(expected, rel=1e-9)
    found = estimate(machine)
    assert found.std_error < 0.04
    assert abs(found.value - expected) < 4 * found.std_error


def test_exact_log_partition_of_more_states_than_a_block(generator: torch.Generator) -> None:
    machine = assemble(
        [Bernoulli(normal(generator, 15)), Bernoulli(normal(generator, 16))], [0.5 * normal(generator, 15, 16)]
    )
    assert 2**enumeration.BLOCK_BITS < 2**15
    v = all_states(15)
    log_weights = v @ machine.layers[0].bias + softplus(v @ machine.weights[0] + machine.layers[1].bias).sum(1)
    assert exact_log_partition(machine) == pytest.approx(float(torch.logsumexp(log_weights, 0)), rel=1e-12)


def test_joint_states_of_bits_are_all_states_once() -> None:
    blocks = list(enumeration.joint_states([torch.tensor([[0.0], [1.0]])] * 15))
    assert [len(block) for block in blocks] == [2**14, 2**14]
    assert len(torch.cat(blocks).unique(dim=0)) == 2**15
    assert torch.cat(blocks).unique().tolist() == [0, 1]


@pytest.mark.parametrize(
    ("kinds", "sizes", "expected"),
    [
        (("bernoulli", "bernoulli"), (64, 20), ODD),
        (("bernoulli", "bernoulli"), (9, 200), EVEN),
        (("bernoulli", "gaussian"), (25, 3), EVEN),
        (("gaussian", "bernoulli"), (784, 25), ODD),
        (("bernoulli", "bernoulli"), (26, 26), None),
        (("bernoulli", "gaussian"), (26, 3), None),
        (("gaussian", "gaussian"), (2, 2), None),
        (("bernoulli", "bernoulli", "bernoulli"), (13, 40, 13), None),
        (("bernoulli", "gaussian", "gaussian"), (2, 2, 2), None),
        (("ising", "bernoulli"), (20, 64), EVEN),
        (("potts", "bernoulli"), (45, 64), EVEN),  # 15 sites of 3 categories: 2^23.8 states
        (("potts", "bernoulli"), (51, 64), None),  # 2^26.9
        (("mixed", "bernoulli"), (9, 14), ODD),
    ],
)
def test_the_smaller_binary_parity_is_enumerated(
    kinds: tuple[str, ...], sizes: tuple[int, ...], expected: int | None
) -> None:
    machine = random_machine(kinds, sizes, seed=1)
    assert enumerable_parity(machine) == expected
    if expected is None:
        with pytest.raises(UserError, match=r"at most 25 binary units .* layers of \d+, .*use AIS"):
            exact_log_partition(machine)


# ---------------------------------------------------------------------------------------------- AIS


def estimate(machine: BoltzmannMachine, temperatures: int = 60, chains: int = 2000) -> LogPartition:
    betas = torch.linspace(0, 1, temperatures, dtype=torch.float64)
    base = machine.independent(visible_mean(machine.layers[0].units))
    return annealed_importance_sampling(machine, base, betas, chains, torch.Generator().manual_seed(3))


@pytest.mark.parametrize("case", [*MORE_MACHINES, *GAUSSIAN_NEIGHBOURS])
@pytest.mark.parametrize("offsets", [0.0, 1.0])
def test_ais_is_within_its_error_of_log_z(case: Case, offsets: float) -> None:
    machine = random_machine(*case, seed=12, offsets=offsets, weights=0.25 if case in GAUSSIAN_NEIGHBOURS else 0.4)
    found = estimate(machine)
    assert found.std_error < 0.04  # or the next line would say little
    assert abs(found.value - brute_log_partition(machine)) < 4 * found.std_error
    assert (found.chains, found.temperatures) == (2000, 60)


@pytest.mark.parametrize("case", [MACHINES[0], MACHINES[3], MACHINES[5]])
@pytest.mark.parametrize("temperatures", [2, 5])
def test_ais_has_no_bias_with_few_temperatures(case: Case, temperatures: int) -> None:
    """Z is unbiased however coarse the schedule: with many chains a wrong weight or transition shows at once."""
    machine = replace(random_machine(*case, seed=13, offsets=0.5, weights=0.5), scale=0.8)
    found = estimate(machine, temperatures, chains=50_000)
    assert found.std_error < 0.03
    assert abs(found.value - brute_log_partition(machine)) < 4 * found.std_error


def test_ais_of_a_machine_that_is_its_base_is_exact() -> None:
    machine = random_machine(("bernoulli", "gaussian"), (4, 3), seed=14)
    base = machine.independent(visible_mean(4))
    found = annealed_importance_sampling(base, base, torch.linspace(0, 1, 5), 10, torch.Generator().manual_seed(1))
    assert found.value == pytest.approx(brute_log_partition(base), rel=1e-12)
    assert found.std_error == pytest.approx(0.0, abs=1e-12)
    assert found.ess == pytest.approx(10.0)


def test_progress_counts_the_temperatures() -> None:
    machine = random_machine(("bernoulli", "bernoulli"), (3, 2), seed=15)
    seen: list[int] = []
    generator = torch.Generator().manual_seed(1)
    annealed_importance_sampling(machine, machine.independent(), torch.linspace(0, 1, 6), 4, generator, seen.append)
    assert seen == [1, 2, 3, 4, 5]


def test_the_standard_error_is_the_spread_of_the_estimates(generator: torch.Generator) -> None:
    """Log-normal weights, E w = exp(1/2 * 0.25): the estimates scatter about it as each of them says."""
    runs = [summarize(0.5 * normal(generator, 500), 0.0, 2) for _ in range(1000)]
    values = torch.tensor([run.value for run in runs])
    spread = float(values.std())
    reported = sum(run.std_error for run in runs) / len(runs)
    assert reported == pytest.approx(spread, rel=5 / math.sqrt(2 * len(runs)))
    assert abs(float(values.mean()) - 0.125) < 5 * spread / math.sqrt(len(runs)) + spread**2
    # (sum w)^2 / sum w^2 -> n exp(-s^2)
    assert sum(run.ess for run in runs) / len(runs) == pytest.approx(500 * math.exp(-0.25), rel=0.03)


def test_huge_weights_do_not_overflow() -> None:
    found = summarize(torch.tensor([2000.0, 0.0, 0.0, 0.0], dtype=torch.float64), 1.0, 7)
    assert found.value == pytest.approx(2001 - math.log(4))
    assert found.ess == pytest.approx(1.0)
    assert (found.chains, found.temperatures) == (4, 7)


# ---------------------------------------------------------------------------------------------- likelihoods


def likelihood_of(machine: BoltzmannMachine, images: Tensor, mean_field: MeanField = CONVERGED) -> float:
    return unnormalized(machine, images, mean_field) - exact_log_partition(machine)


@pytest.mark.parametrize("case", [case for case in BINARY_MACHINES if len(case[1]) == 2])
@pytest.mark.parametrize("offsets", [0.0, 2.0])
def test_log_likelihood_is_that_of_enumeration_and_sums_to_one(case: Case, offsets: float) -> None:
    machine = random_machine(*case, seed=16, offsets=offsets)
    visible, exact = enumerated_log_probabilities(machine)
    found = torch.tensor([likelihood_of(machine, state[None]) for state in visible])
    torch.testing.assert_close(found, exact.to(found.dtype))
    assert float(found.double().exp().sum()) == pytest.approx(1.0, abs=1e-5)
    assert likelihood_of(machine, visible) == pytest.approx(float(exact.mean()), rel=1e-9)


@pytest.mark.parametrize("kinds", [("bernoulli", "gaussian"), ("gaussian", "bernoulli")])
def test_log_likelihood_with_gaussian_units_is_normalized(kinds: tuple[str, str]) -> None:
    machine = random_machine(kinds, (1, 4) if kinds[0] == "gaussian" else (4, 3), seed=17, offsets=1.0)
    if kinds[0] == "bernoulli":
        states, width = all_states(4), 1.0
    else:
        states = torch.linspace(-40, 40, 4001, dtype=torch.float64)[:, None]
        width = 80 / 4000
    log_density = -machine.free_energy((states, None)) - brute_log_partition(machine)
    assert float(log_density.exp().sum()) * width == pytest.approx(1.0, abs=1e-6)
    assert likelihood_of(machine, states[5:7]) == pytest.approx(float(log_density[5:7].mean()), rel=1e-9)


@pytest.mark.parametrize("case", [case for case in BINARY_MACHINES if len(case[1]) > 2])
@pytest.mark.parametrize("offsets", [0.0, 2.0])
@pytest.mark.parametrize("mean_field", [MeanField(tolerance=0.0, max_steps=1), CONVERGED])
def test_the_bound_of_a_deep_machine_is_below_log_p(case: Case, offsets: float, mean_field: MeanField) -> None:
    machine = random_machine(*case, seed=18, offsets=offsets, weights=0.4)
    visible, exact = enumerated_log_probabilities(machine)
    one_by_one = torch.tensor([likelihood_of(machine, state[None], mean_field) for state in visible])
    gap = exact - one_by_one.double()
    assert float(gap.min()) > -1e-6
    assert float(gap.mean()) == pytest.approx(
        float(exact.mean()) - likelihood_of(machine, visible, mean_field), abs=1e-5
    )
    if mean_field is CONVERGED:
        assert float(gap.max()) < 1.0  # weak couplings: mean field is nearly right


def test_ais_of_a_machine_that_cannot_be_enumerated() -> None:
    """Bernoulli-Gaussian with too many pixels to enumerate, whose log Z another machine gives: unused pixels factor out."""
    small = random_machine(("bernoulli", "gaussian"), (5, 3), seed=19, weights=0.3)
    extra = 0.5 * torch.ones(25, dtype=torch.float64)
    layers = [small.layers[0].with_tensors(bias=torch.cat((small.layers[0].bias, extra))), small.layers[1]]
    weights = torch.cat((small.weights[0], torch.zeros(25, 3, dtype=torch.float64)))
    machine = assemble(layers, [weights])
    assert enumerable_parity(machine) is None
    base = machine.independent(torch.cat((visible_mean(5), extra.sigmoid())))
    betas = torch.linspace(0, 1, 60, dtype=torch.float64)
    found, again = (
        annealed_importance_sampling(machine, base, betas, 3000, torch.Generator().manual_seed(2)) for _ in range(2)
    )
    assert again == found
    assert found.std_error < 0.03
    assert abs(found.value - brute_log_partition(small) - float(softplus(extra).sum())) < 4 * found.std_error


def test_many_images_are_taken_block_by_block() -> None:
    machine = random_machine(("bernoulli",) * 3, (3, 3, 2), seed=20)
    images = all_states(3)
    assert likelihood_of(machine, images.repeat(1500, 1)) == pytest.approx(likelihood_of(machine, images), abs=1e-9)


def alone(kind: str, training: torch.Tensor, images: torch.Tensor) -> float:
    """Nats per image of independent units fitted to training images, from a machine of random parameters."""
    machine = random_machine((kind, "bernoulli"), (training.shape[1], 3), seed=21, offsets=1.0)
    return independent_log_likelihood(independent_units(machine.layers[0], training), images)


def test_independent_units_are_those_of_the_data_and_not_of_the_machine(generator: torch.Generator) -> None:
    """Each kind against its formula in the data's own means and variances; the machine's parameters are random."""
    ones, images = ((torch.rand(rows, 4, generator=generator) < 0.3).double() for rows in (50, 9))
    mean = ones.mean(0)
    expected = (images * mean.log() + (1 - images) * (1 - mean).log()).sum(1).mean()
    assert alone("bernoulli", ones, images) == pytest.approx(float(expected), rel=1e-9)
    assert alone("ising", 2 * ones - 1, 2 * images - 1) == pytest.approx(float(expected), rel=1e-9)

    sites, seen = (torch.randint(2, (rows, 2), generator=generator) for rows in (50, 9))
    one_hot = torch.nn.functional.one_hot
    shares = one_hot(sites, 2).double().mean(0)
    expected = (one_hot(seen, 2) * shares.log()).sum((1, 2)).mean()
    assert alone("potts", one_hot(sites, 2).flatten(1).double(), one_hot(seen, 2).flatten(1).double()) == pytest.approx(
        float(expected), rel=1e-9
    )

    for scale, shift in ((1.0, 0.0), (1e-3, 500.0), (1e3, 500.0)):
        real, images = (scale * normal(generator, rows, 4) + shift for rows in (50, 9))
        distribution = torch.distributions.Normal(real.mean(0), real.std(0, correction=0))
        expected = distribution.log_prob(images).sum(1).mean()
        for kind in ("gaussian", "learned_gaussian"):
            assert alone(kind, real, images) == pytest.approx(float(expected), abs=1e-3)


def test_independent_rectified_units_are_those_of_the_data(generator: torch.Generator) -> None:
    """Draws of a known layer: the fit has at least nearly its likelihood, and is the same from any machine."""
    layer = RectifiedGaussian(torch.tensor([-0.5, 2.0]).double(), torch.tensor([2.0, 0.3]).double())
    training = layer.sample(torch.zeros(5000, 2, dtype=torch.float64), generator)
    own = float(-(layer.energy(training) + layer.log_partition(torch.zeros(2, dtype=torch.float64))).mean())
    found = alone("rectified_gaussian", training, training)
    assert own - 0.02 < found < own + 0.01


def test_six_units_of_white_noise_have_the_entropy_of_six_unit_gaussians(generator: torch.Generator) -> None:
    noise = normal(generator, 4000, 6)
    assert alone("gaussian", noise, noise) == pytest.approx(-3 * math.log(2 * math.pi * math.e), abs=0.1)  # -8.5


def test_units_that_are_constant_in_the_data_keep_the_independent_likelihood_finite() -> None:
    training = torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0]], dtype=torch.float64)
    found = alone("bernoulli", training, torch.tensor([[1.0, 0.0, 1.0, 0.0]], dtype=torch.float64))
    assert found == pytest.approx(2 * math.log(1e-4) + math.log(0.5) + math.log(1 - 1e-4), rel=1e-6)
    assert math.isfinite(alone("gaussian", 3 * training, training))
    assert math.isfinite(alone("gaussian", training[:1], training))
    assert math.isfinite(alone("rectified_gaussian", training, training))


def test_no_distribution_has_more_nats_than_the_entropy_of_the_images(generator: torch.Generator) -> None:
    layer = random_machine(("bernoulli", "bernoulli"), (3, 2), seed=1).layers[0]
    images = torch.tensor([[0.0, 0, 0], [0, 0, 0], [1, 0, 0], [1, 1, 0]], dtype=torch.float64)
    assert highest_log_likelihood(layer, images) == pytest.approx(0.5 * math.log(0.5) + 0.5 * math.log(0.25))
    assert highest_log_likelihood(layer, images[1:]) == pytest.approx(-math.log(3))
    assert highest_log_likelihood(random_machine(("gaussian", "bernoulli"), (3, 2), seed=1).layers[0], images) is None
    for seed in range(20):
        machine = random_machine(("bernoulli", "bernoulli"), (3, 2), seed=seed, weights=3.0)
        nats = unnormalized(machine, images, MeanField()) - exact_log_partition(machine)
        bound = highest_log_likelihood(layer, images)
        assert bound is not None
        assert nats < bound


# ---------------------------------------------------------------------------------------------- monitored metrics


def spectrum(matrices: int) -> list[str]:
    """Names of the metrics of singular values."""
    names = ("largest_singular_value", "singular_participation")
    return [f"weights/{name}_{index + 1}" for index in range(matrices) for name in names]


def monitored(images: Tensor) -> MonitoredImages:
    half = len(images) // 2
    return MonitoredImages(images[:half], images[half:], flip_pixels(images[:half], 0.3, seed=4))


def binary_images(generator: torch.Generator, count: int = 40, units: int = 4) -> Tensor:
    return (normal(generator, count, units) > 0.3).double()


def rms(difference: Tensor) -> float:
    return math.sqrt(float((difference**2).mean()))


@pytest.mark.parametrize("offsets", [0.0, 1.5])
def test_figures_of_an_rbm_are_their_definitions(offsets: float, generator: torch.Generator) -> None:
    machine = random_machine(("bernoulli", "bernoulli"), (4, 3), seed=23, offsets=offsets)
    images = monitored(binary_images(generator))
    metrics = monitor(machine, images, CONVERGED)
    plain = machine.folded()
    (weights,) = plain.weights
    b, c = plain.layers[0].bias, plain.layers[1].bias
    for name, given in (("reconstruction", images.validation), ("denoising", images.noisy)):
        hidden = (given @ weights + c > 0).double()  # modes
        mean = torch.sigmoid(hidden @ weights.T + b)
        assert metrics[f"validation/{name}_error"] == pytest.approx(rms(images.validation - mean))
        wrong = ((mean > 0.5).double() != images.validation).double().mean()
        assert metrics[f"validation/{name}_wrong_pixels"] == pytest.approx(float(wrong))

    def free_energy(visible: Tensor) -> Tensor:
        return -(visible @ b) - softplus(visible @ weights + c).sum(1)

    gap = free_energy(images.validation).mean() - free_energy(images.training).mean()
    assert metrics["validation/free_energy_gap"] == pytest.approx(float(gap))
    assert set(metrics) == {
        "validation/reconstruction_error", "validation/reconstruction_wrong_pixels", "validation/denoising_error",
        "validation/denoising_wrong_pixels",
        "weights/norm", "weights/sparsity", "validation/free_energy_gap", "validation/pseudo_likelihood", *spectrum(1),
    }  # fmt: skip


def test_figures_of_a_hopfield_network_go_through_hidden_means(generator: torch.Generator) -> None:
    machine = random_machine(("bernoulli", "gaussian"), (4, 3), seed=24)
    images = monitored(binary_images(generator))
    metrics = monitor(machine, images, CONVERGED)
    tensors = machine.named_tensors()
    hidden = tensors["layers/1/variance"] * (images.noisy @ tensors["weights/0"] + tensors["layers/1/bias"])
    mean = torch.sigmoid(hidden @ tensors["weights/0"].T + tensors["layers/0/bias"])
    assert metrics["validation/denoising_error"] == pytest.approx(rms(images.validation - mean))
    assert {"validation/pseudo_likelihood", "validation/free_energy_gap", "validation/denoising_wrong_pixels"} <= set(
        metrics
    )


def test_a_gaussian_rbm_has_no_figures_of_binary_pixels(generator: torch.Generator) -> None:
    machine = random_machine(("gaussian", "bernoulli"), (4, 3), seed=25)
    tensors = machine.named_tensors()
    for images in (monitored(normal(generator, 40, 4)), monitored(binary_images(generator))):
        metrics = monitor(machine, images, CONVERGED)
        hidden = (images.validation @ tensors["weights/0"] + tensors["layers/1/bias"] > 0).double()
        mean = tensors["layers/0/variance"] * (hidden @ tensors["weights/0"].T + tensors["layers/0/bias"])
        assert metrics["validation/reconstruction_error"] == pytest.approx(rms(images.validation - mean))
        assert set(metrics) == {
            "validation/reconstruction_error", "validation/denoising_error", "weights/norm", "weights/sparsity",
            "validation/free_energy_gap", *spectrum(1)
        }  # fmt: skip


def test_grey_pixels_have_no_figures_of_binary_pixels(generator: torch.Generator) -> None:
    machine = random_machine(("bernoulli", "bernoulli"), (4, 3), seed=26)
    images = monitored(torch.rand(40, 4, generator=generator, dtype=torch.float64))
    metrics = monitor(machine, images, CONVERGED)
    assert not {
        "validation/pseudo_likelihood",
        "validation/reconstruction_wrong_pixels",
        "validation/denoising_wrong_pixels",
    } & set(metrics)


@pytest.mark.parametrize("case", [case for case in BINARY_MACHINES if len(case[1]) > 2])
def test_a_dbm_has_the_gap_of_its_bound_and_no_pseudo_likelihood(case: Case, generator: torch.Generator) -> None:
    """At a fixed point of the mean field the bound is -E(means) + entropy, for the energy is linear in each unit."""
    machine = random_machine(*case, seed=27, offsets=1.0, weights=0.3)
    images = monitored(binary_images(generator, units=case[1][0]))
    metrics = monitor(machine, images, CONVERGED)

    def bound_by_hand(visible: Tensor) -> Tensor:
        means = CONVERGED(machine, (visible, *(None,) * (machine.depth - 1))).means
        entropy = sum(
            (torch.distributions.Bernoulli(mean).entropy().sum(1) for mean in means[1:]), torch.zeros(len(visible))
        )
        return entropy - naive_energy(machine, means)

    gap = bound_by_hand(images.training).mean() - bound_by_hand(images.validation).mean()
    assert metrics["validation/bound_gap"] == pytest.approx(float(gap), abs=1e-8)
    assert metrics["validation/mean_field_residual"] <= 1e-12
    assert not {"validation/pseudo_likelihood", "validation/free_energy_gap"} & set(metrics)
    assert {"validation/reconstruction_wrong_pixels", "validation/denoising_error"} <= set(metrics)


@pytest.mark.parametrize("kinds", [("bernoulli", "bernoulli"), ("bernoulli", "gaussian")])
@pytest.mark.parametrize("offsets", [0.0, 1.5])
def test_the_pseudo_likelihood_is_estimated_without_bias(kinds: tuple[str, str], offsets: float) -> None:
    machine = random_machine(kinds, (4, 3), seed=28, offsets=offsets)
    visible, copies = all_states(4), 2000
    if kinds[1] == "bernoulli":
        visible, log_p = enumerated_log_probabilities(machine)
    else:
        log_p = -machine.folded().free_energy((visible, None))  # up to log Z, which conditionals do not need
    number = (visible * 2 ** torch.arange(3, -1, -1)).sum(1).long()
    table = torch.empty(16, dtype=torch.float64)
    table[number] = log_p
    # log p(v_i | rest) = log p(v) - log(p(v) + p(v with i flipped)), for each state and pixel
    flipped = torch.stack([table[number ^ (1 << (3 - pixel))] for pixel in range(4)], dim=1)
    conditionals = log_p[:, None] - torch.logaddexp(log_p[:, None], flipped)
    exact = float(conditionals.sum(1).mean())
    error = math.sqrt(float((4 * conditionals).var(1, correction=0).mean()) / (16 * copies * PIXELS_OF_IMAGE))
    images = MonitoredImages(*(visible.repeat(copies, 1),) * 3)
    found = monitor(machine, images, CONVERGED)["validation/pseudo_likelihood"]
    assert abs(found - exact) < 4 * error
    assert found == monitor(machine, images, CONVERGED)["validation/pseudo_likelihood"]


def test_weight_metrics() -> None:
    weights = (torch.tensor([[3.0, 0.001], [0.0, -4.0]]), torch.tensor([[-0.009], [12.0]]))
    machine = assemble([Bernoulli.create(2), Bernoulli.create(2), Bernoulli.create(1)], weights)
    metrics = weight_metrics(machine)
    assert metrics["weights/norm"] == pytest.approx(13.0, rel=1e-5)
    assert metrics["weights/sparsity"] == pytest.approx(3 / 6)


@pytest.mark.parametrize("clamped", [(0, 2), (1,)])
def test_figures_of_a_mirrored_rbm(clamped: tuple[int, ...], generator: torch.Generator) -> None:
    machine = random_machine(("bernoulli",) * 3, (3, 2, 3), seed=29)
    sizes = (3, 2, 3)
    data = [binary_images(generator, 20, units) if index in clamped else None for index, units in enumerate(sizes)]
    first, second = machine.weights
    biases = [layer.bias for layer in machine.layers]
    if clamped == (1,):
        visible = data[1]
        assert visible is not None
        low = (visible @ first.T + biases[0] > 0).double()
        high = (visible @ second + biases[2] > 0).double()
        mean = torch.sigmoid(low @ first + high @ second.T + biases[1])
    else:
        visible, other = data[0], data[2]
        assert visible is not None
        assert other is not None
        middle = (visible @ first + other @ second.T + biases[1] > 0).double()
        mean = torch.sigmoid(middle @ first.T + biases[0])
    found = monitor_clamped(machine, data)
    assert found["validation/reconstruction_error"] == pytest.approx(rms(visible - mean))
    assert set(found) == {"validation/reconstruction_error", "weights/norm", "weights/sparsity", *spectrum(2)}


@pytest.mark.parametrize("fraction", [0.0, 0.15, 1.0])
def test_flips_mirror_this_fraction_of_the_pixels(fraction: float, generator: torch.Generator) -> None:
    images = binary_images(generator, 2000, 10).float()
    noisy = flip_pixels(images, fraction, seed=6)
    changed = (noisy != images).double()
    assert abs(float(changed.mean()) - fraction) <= 5 * math.sqrt(fraction * (1 - fraction) / images.numel())
    assert torch.equal(noisy, torch.where(changed.bool(), 1 - images, images))
    assert torch.equal(noisy, flip_pixels(images, fraction, seed=6))
    grey = flip_pixels(torch.tensor([[-1.0, 0.5, 3.0]]), 1.0, seed=6)
    assert grey.tolist() == [[3.0, 1.5, -1.0]]


def test_reconstruction_of_a_perfect_memory_has_no_error() -> None:
    """Two far patterns held by strong weights: both come back, also from noise of one pixel."""
    pattern = torch.tensor([1.0, 1, 1, 0, 0, 0], dtype=torch.float64)
    sign = 2 * pattern - 1
    weights = 40 * torch.stack((sign, -sign), dim=1)
    layers = [Bernoulli(torch.zeros(6, dtype=torch.float64)), Bernoulli(torch.zeros(2, dtype=torch.float64))]
    machine = assemble(layers, [weights])
    clean = torch.stack((pattern, 1 - pattern))
    noisy = clean.clone()
    noisy[:, 0] = 1 - noisy[:, 0]
    metrics = monitor(machine, MonitoredImages(clean, clean, noisy), CONVERGED)
    for name in (
        "validation/reconstruction_error",
        "validation/reconstruction_wrong_pixels",
        "validation/denoising_error",
        "validation/denoising_wrong_pixels",
    ):
        assert metrics[name] == pytest.approx(0.0, abs=1e-12)
    assert metrics["validation/pseudo_likelihood"] == pytest.approx(0.0, abs=1e-12)


def test_the_bound_of_two_layers_is_the_log_likelihood() -> None:
    machine = random_machine(("bernoulli", "bernoulli"), (4, 3), seed=30)
    visible, exact = enumerated_log_probabilities(machine)
    posterior = CONVERGED(machine, (visible, None))
    torch.testing.assert_close(bound(machine, posterior) - exact_log_partition(machine), exact)
