"""Gradients of the objectives against enumeration in their exact limits, and against autograd of the free energies."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import MACHINES, assert_mean_close, joint_probabilities, normal, random_machine

from ebm_pipeline.models.inference import MeanField, sample_posterior
from ebm_pipeline.models.machine import BoltzmannMachine, States
from ebm_pipeline.sampling import Chains, Gibbs, ParallelTempering, leaves
from ebm_pipeline.support.errors import UserError
from ebm_pipeline.training.objectives import ContrastiveDivergence, Objective, PersistentContrastiveDivergence
from ebm_pipeline.training.objectives.contrast import contrast, contrast_exact

Case = tuple[tuple[str, ...], tuple[int, ...]]
EXACT = MeanField(tolerance=1e-12, max_steps=1000)
CHAINS = 200_000


def data_for(units: int, generator: torch.Generator) -> torch.Tensor:
    return (normal(generator, 20, units) > 0).double()


def exact_gradient(machine: BoltzmannMachine, data: torch.Tensor) -> dict[str, torch.Tensor]:
    """d(-mean log p(data)) of a two-layer binary machine: autograd of mean F + log Z, log Z by enumeration."""
    tensors = {name: tensor.clone().requires_grad_() for name, tensor in machine.named_tensors().items()}
    live = machine.with_tensors(tensors)
    states, _ = joint_probabilities(machine)
    (live.free_energy((data, None)).mean() + torch.logsumexp(-live.energy(states), 0)).backward()
    return {name: tensor.grad for name, tensor in tensors.items() if tensor.grad is not None}


def assert_within_monte_carlo_error(
    found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], chains: int
) -> None:
    """States are 0 or 1, so a mean over independent chains has a standard error of at most 1 / (2 sqrt(chains))."""
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert float((found[name] - value).abs().max()) < 5 * 0.5 / math.sqrt(chains), name


@pytest.mark.parametrize("offsets", [0.0, 0.5])
def test_pcd_with_exact_chains_gives_the_gradient_of_log_p(offsets: float, generator: torch.Generator) -> None:
    machine = random_machine(("bernoulli", "bernoulli"), (4, 3), seed=1, offsets=offsets)
    data = data_for(4, generator)
    states, probabilities = joint_probabilities(machine)
    rows = torch.multinomial(probabilities, CHAINS, replacement=True, generator=generator)
    pcd = PersistentContrastiveDivergence(Gibbs(2), EXACT)
    learning = pcd(machine, (data, None), Chains(tuple(state[rows] for state in states)), generator)
    assert_within_monte_carlo_error(learning.gradient, exact_gradient(machine, data), CHAINS)


@pytest.mark.parametrize(("images", "copies"), [(20, 5), (20, 1), (30, 2)])
def test_data_and_chains_that_agree_have_no_gradient_in_bfloat16(
    images: int, copies: int, generator: torch.Generator
) -> None:
    """The shares of an image and of a chain were rounded apart where there were not as many of both."""
    machine = random_machine(("bernoulli", "bernoulli"), (4, 3), seed=1)
    machine = machine.map(lambda tensor: 1000 * tensor.float()).with_products_in(torch.bfloat16)  # its means are 0 or 1
    visible = (normal(generator, images, 4) > 0).bfloat16()
    hidden = torch.zeros(copies * images, 3, dtype=torch.bfloat16)
    learning = contrast_exact(machine, (visible, None), (visible.repeat(copies, 1), hidden), generator)
    for name, value in learning.gradient.items():
        assert not value.any(), name


def test_pcd_with_exact_replicas_gives_the_gradient_of_log_p(generator: torch.Generator) -> None:
    """Only the coldest of two replicas stands for the model; the other is drawn from the base, without its odd layers."""
    machine = random_machine(("bernoulli", "bernoulli"), (4, 3), seed=1)
    data = data_for(4, generator)
    states, probabilities = joint_probabilities(machine)
    rows = torch.multinomial(probabilities, CHAINS, replacement=True, generator=generator)
    pcd = PersistentContrastiveDivergence(ParallelTempering(steps=2, replicas=2, warm_up=0), EXACT)
    mean = data.mean(0).clamp(0.1, 0.9)
    start = pcd.init(machine, tuple(state[rows] for state in states), (mean, None))
    hot = (torch.rand(CHAINS, 4, generator=generator, dtype=torch.float64) < mean).double()
    chains = start._replace(states=(torch.stack((hot, start.states[0][1])), *start.states[1:]))
    learning = pcd(machine, (data, None), chains, generator)
    assert_within_monte_carlo_error(learning.gradient, exact_gradient(machine, data), CHAINS)
    assert learning.chains is not None
    assert [chain.shape for chain in leaves(learning.chains)] == [chain.shape for chain in leaves(chains)]
    assert {"sampler/swap_rate_1", "sampler/round_trips"} == set(learning.info)


@pytest.mark.parametrize("depth", [3, 4])
def test_a_dbm_with_gibbs_in_both_phases_gives_the_gradient_of_log_p(depth: int, generator: torch.Generator) -> None:
    """Mean field is a bound; sampled data phases are exact once mixed: against d -log p(v) by enumeration."""
    machine = random_machine(("bernoulli",) * depth, (3, 3, 2, 2)[:depth], seed=5, weights=0.5)
    data = data_for(3, generator)[:4]
    states, probabilities = joint_probabilities(machine)
    rows = torch.multinomial(probabilities, CHAINS, replacement=True, generator=generator)
    pcd = PersistentContrastiveDivergence(Gibbs(1), EXACT, data_sweeps=20)
    clamped = (data.repeat(CHAINS // len(data), 1), *(None,) * (depth - 1))
    learning = pcd(machine, clamped, Chains(tuple(state[rows] for state in states)), generator)
    tensors = {name: tensor.clone().requires_grad_() for name, tensor in machine.named_tensors().items()}
    energies = machine.with_tensors(tensors).energy(states)
    log_visible = torch.stack([torch.logsumexp(-energies[(states[0] == row).all(1)], 0) for row in data])
    (torch.logsumexp(-energies, 0) - log_visible.mean()).backward()
    gradient = {name: tensor.grad for name, tensor in tensors.items() if tensor.grad is not None}
    assert_within_monte_carlo_error(learning.gradient, gradient, CHAINS)
    field = PersistentContrastiveDivergence(Gibbs(1), EXACT)
    with pytest.raises(AssertionError):  # so the test would notice a data phase by mean field
        assert_within_monte_carlo_error(
            field(machine, clamped, Chains(tuple(state[rows] for state in states)), generator).gradient,
            gradient,
            CHAINS,
        )


@pytest.mark.parametrize("clamped", [(0,), (1,)])
def test_where_one_update_is_exact_the_data_phase_draws_nothing(
    clamped: tuple[int, ...], generator: torch.Generator
) -> None:
    machine = random_machine(("bernoulli",) * 3, (2, 4, 2), seed=6)
    data = data_for(4, generator)
    given = (None, data, None) if clamped == (1,) else (data[:, :2], None, data[:, 2:])
    before = generator.get_state()
    torch.testing.assert_close(sample_posterior(machine, given, 3, generator).means, EXACT(machine, given).means)
    assert torch.equal(generator.get_state(), before)


def test_a_wrong_number_of_data_sweeps_is_refused() -> None:
    with pytest.raises(UserError, match=r"objective\.data_sweeps"):
        PersistentContrastiveDivergence(Gibbs(1), EXACT, data_sweeps=0)


def test_cd_with_many_sweeps_gives_the_gradient_of_log_p(generator: torch.Generator) -> None:
    machine = random_machine(("bernoulli", "bernoulli"), (4, 3), seed=2, weights=0.4)
    data = data_for(4, generator)
    repeated = data.repeat(CHAINS // len(data), 1)
    learning = ContrastiveDivergence(Gibbs(25), EXACT)(machine, (repeated, None), None, generator)
    assert learning.chains is None
    assert_within_monte_carlo_error(learning.gradient, exact_gradient(machine, data), CHAINS)


def test_cd_with_one_sweep_is_biased(generator: torch.Generator) -> None:
    """So the test above would notice chains that have not moved."""
    machine = random_machine(("bernoulli", "bernoulli"), (4, 3), seed=2, weights=1.5)
    data = data_for(4, generator)
    repeated = data.repeat(CHAINS // len(data), 1)
    learning = ContrastiveDivergence(Gibbs(1), EXACT)(machine, (repeated, None), None, generator)
    with pytest.raises(AssertionError):
        assert_within_monte_carlo_error(learning.gradient, exact_gradient(machine, data), CHAINS)


LINEAR_ABOVE = [case for case in MACHINES if len(case[1]) == 2 and case[0][1] != "learned_gaussian"]


@pytest.mark.parametrize("case", LINEAR_ABOVE)
@pytest.mark.parametrize("offsets", [0.0, 4.0])
def test_the_closed_form_is_autograd_of_the_free_energies(
    case: Case, offsets: float, generator: torch.Generator
) -> None:
    """d [mean F(data) - mean F(chains)], states held fixed: exact for any chains."""
    machine = random_machine(*case, seed=3, offsets=offsets)
    data, chains = data_for(case[1][0], generator), (normal(generator, 30, case[1][0]), None)
    tensors = {name: tensor.clone().requires_grad_() for name, tensor in machine.named_tensors().items()}
    live = machine.with_tensors(tensors)
    (live.free_energy((data, None)).mean() - live.free_energy(chains).mean()).backward()
    learning = contrast_exact(machine, (data, None), chains, generator)
    for name, value in learning.gradient.items():
        torch.testing.assert_close(value, tensors[name].grad, msg=name)
    assert learning.chains is not None
    assert learning.chains[0] is chains[0]
    assert learning.chains[1].shape == (30, case[1][1])
    hidden = machine.layers[1].mean(machine.inputs((data, None), 1))
    torch.testing.assert_close(learning.data, (data, hidden))


@pytest.mark.parametrize("offsets", [0.0, 1.0])
@pytest.mark.parametrize("by_mean_field", [False, True])
def test_a_hidden_variance_learns_from_second_moments(
    offsets: float, by_mean_field: bool, generator: torch.Generator
) -> None:
    """d [mean F(data) - mean F(chains)] by autograd is the mean over draws of the hidden units; their means would not do."""
    machine = random_machine(("bernoulli", "learned_gaussian"), (4, 2), seed=3, offsets=offsets)
    data, chains = data_for(4, generator), data_for(4, generator)
    tensors = {name: tensor.clone().requires_grad_() for name, tensor in machine.named_tensors().items()}
    live = machine.with_tensors(tensors)
    (live.free_energy((data, None)).mean() - live.free_energy((chains, None)).mean()).backward()
    found: dict[str, list[torch.Tensor]] = {}
    for _ in range(3000):
        if by_mean_field:
            learning = contrast(machine, EXACT(machine, (data, None)), (chains, None), generator)
        else:
            learning = contrast_exact(machine, (data, None), (chains, None), generator)
        for name, value in learning.gradient.items():
            found.setdefault(name, []).append(value)
    assert set(found) == {"weights/0", "layers/0/bias", "layers/1/bias", "layers/1/variance"}
    for name, values in found.items():
        gradient = tensors[name].grad
        assert gradient is not None
        assert_mean_close(torch.stack(values), gradient)


@pytest.mark.parametrize("offsets", [0.0, 2.0])
def test_one_product_or_two_give_the_same(offsets: float, generator: torch.Generator) -> None:
    machine = random_machine(("bernoulli", "bernoulli"), (5, 4), seed=4, offsets=offsets)
    data, chains = data_for(5, generator), (data_for(5, generator), None)
    together = contrast_exact(machine, (data, None), chains, torch.Generator().manual_seed(1))
    apart = contrast(machine, EXACT(machine, (data, None)), chains, torch.Generator().manual_seed(1))
    torch.testing.assert_close(together.gradient, apart.gradient)
    torch.testing.assert_close(together.data, apart.data)
    torch.testing.assert_close(together.chains, apart.chains, rtol=0, atol=0)


@pytest.mark.parametrize("depth", [3, 4])
def test_a_dbm_learns_from_mean_field_minus_model(depth: int, generator: torch.Generator) -> None:
    """With exact chains the gradient is <statistics> at the mean-field state minus the enumerated <statistics>."""
    machine = random_machine(("bernoulli",) * depth, (3, 3, 2, 2)[:depth], seed=5, weights=0.5)
    data = data_for(3, generator)
    states, probabilities = joint_probabilities(machine)
    rows = torch.multinomial(probabilities, CHAINS, replacement=True, generator=generator)
    chains: States = tuple(state[rows] for state in states)
    pcd = PersistentContrastiveDivergence(Gibbs(1), EXACT)
    learning = pcd(machine, (data, *(None,) * (depth - 1)), Chains(chains), generator)
    means = EXACT(machine, (data, *(None,) * (depth - 1))).means
    for index in range(depth - 1):
        positive = means[index].T @ means[index + 1] / len(data)
        negative = (states[index] * probabilities[:, None]).T @ states[index + 1]
        error = (learning.gradient[f"weights/{index}"] - (negative - positive)).abs().max()
        assert float(error) < 5 * 0.5 / math.sqrt(CHAINS)
    assert learning.info["train/mean_field_steps"] > 1


@pytest.mark.parametrize("objective", [ContrastiveDivergence, PersistentContrastiveDivergence])
def test_a_mirrored_hidden_chain_learns_from_its_clamped_middle(
    objective: type[ContrastiveDivergence], generator: torch.Generator
) -> None:
    """h-v-h with the middle clamped, the last RBM of a DBM in pretraining: against the enumerated gradient."""
    machine = random_machine(("bernoulli",) * 3, (2, 4, 2), seed=6, weights=0.4)
    data = data_for(4, generator)
    repeated = data.repeat(CHAINS // len(data), 1)
    states, probabilities = joint_probabilities(machine)
    rows = torch.multinomial(probabilities, CHAINS, replacement=True, generator=generator)
    algorithm: Objective = objective(Gibbs(25), EXACT)
    chains = Chains(tuple(state[rows] for state in states)) if algorithm.persistent else None
    learning = algorithm(machine, (None, repeated, None), chains, generator)
    means = EXACT(machine, (None, data, None)).means
    for index in (0, 1):
        positive = means[index].T @ means[index + 1] / len(data)
        negative = (states[index] * probabilities[:, None]).T @ states[index + 1]
        error = (learning.gradient[f"weights/{index}"] - (negative - positive)).abs().max()
        assert float(error) < 5 * 0.5 / math.sqrt(CHAINS)
