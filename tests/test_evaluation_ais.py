"""AIS in both directions against enumeration, its schedules, clamped images, and chains in equilibrium."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from helpers import BINARY_MACHINES, joint_probabilities, random_machine, state_numbers

from benchmarks.likelihood import CASES, digits, exact_samples, far_modes, known_machine
from ebm_pipeline.evaluation.ais import (
    LogPartition,
    annealed_importance_sampling,
    base_of_data,
    clamped_log_partition,
    equal_steps,
    even_steps,
    reverse_annealed_importance_sampling,
)
from ebm_pipeline.evaluation.enumeration import blocks, exact_log_partition
from ebm_pipeline.evaluation.equilibrium import equilibrate
from ebm_pipeline.models.inference import MeanField, bound
from ebm_pipeline.models.layers import LAYERS, Bernoulli
from ebm_pipeline.models.machine import BoltzmannMachine, States, assemble
from ebm_pipeline.support.errors import UserError

Case = tuple[tuple[str, ...], tuple[int, ...]]


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def joint_samples(machine: BoltzmannMachine, count: int) -> States:
    states, probabilities = joint_probabilities(machine)
    chosen = torch.multinomial(probabilities, count, True, generator=seeded(5))
    return tuple(state[chosen] for state in states)


@pytest.mark.parametrize("name", CASES)
def test_both_directions_agree_with_enumeration(name: str) -> None:
    machine, images = known_machine(name)
    exact = exact_log_partition(machine)
    generator = seeded(137)
    base = base_of_data(machine, images, MeanField(), generator)
    betas = equal_steps(machine, base, 400, 1000, generator)
    samples = exact_samples(machine, 1000, generator)
    runs = (
        annealed_importance_sampling(machine, base, betas, 1000, generator),
        reverse_annealed_importance_sampling(machine, base, betas, samples, generator),
    )
    for run in runs:
        assert abs(run.value - exact) < min(4 * run.std_error, 0.1)
        assert run.ess > 300
        assert (run.chains, run.temperatures) == (1000, 400)


@pytest.mark.parametrize("case", BINARY_MACHINES)
@pytest.mark.parametrize("temperatures", [2, 5])
def test_the_reverse_one_has_no_bias_with_few_temperatures(case: Case, temperatures: int) -> None:
    """1 / Z is unbiased however coarse the schedule; a wrong weight or transition shows at once."""
    machine = replace(random_machine(*case, seed=13, offsets=0.5, weights=0.5), scale=0.8)
    exact = exact_log_partition(machine)
    samples = joint_samples(machine, 50_000)
    run = reverse_annealed_importance_sampling(
        machine, machine.independent(), even_steps(temperatures), samples, seeded()
    )
    assert run.std_error < 0.03
    assert abs(run.value - exact) < 4 * run.std_error


def test_a_base_of_data_is_as_active_as_every_layer_on_the_data() -> None:
    for name in ("RBM, random, offsets", "DBM, trained"):
        machine, images = known_machine(name)
        posterior = MeanField()(machine, (images, *(None,) * (machine.depth - 1)))
        base = base_of_data(machine, images, MeanField(), seeded())
        for layer, means in zip(base.layers, posterior.means, strict=True):
            error = math.sqrt(0.25 / len(images))
            alone = layer.mean(torch.zeros_like(layer.bias))
            torch.testing.assert_close(alone, means.mean(0), atol=5 * error, rtol=0)
        torch.testing.assert_close(base.layers[0].bias, machine.layers[0].bias_for_mean(images.mean(0)))


def test_few_temperatures_err_to_opposite_sides() -> None:
    machine, images = known_machine("RBM, trained")
    exact = exact_log_partition(machine)
    base = machine.independent(images.mean(0))
    up, down = [], []
    for seed in range(20):
        samples = exact_samples(machine, 10, seeded(seed))
        up.append(annealed_importance_sampling(machine, base, even_steps(2), 10, seeded(seed)).value)
        down.append(reverse_annealed_importance_sampling(machine, base, even_steps(2), samples, seeded(seed)).value)
    assert sum(up) / 20 < exact - 0.2
    assert sum(down) / 20 > exact + 0.2


def test_both_are_functions_of_the_seed() -> None:
    machine, images = known_machine("RBM, trained")
    base = machine.independent(images.mean(0))

    def both(seed: int) -> tuple[LogPartition, LogPartition]:
        generator = seeded(seed)
        betas = equal_steps(machine, base, 30, 20, generator)
        chains = equilibrate(machine, images, 20, 20, generator)
        return (
            annealed_importance_sampling(machine, base, betas, 20, generator),
            reverse_annealed_importance_sampling(machine, base, betas, chains.states, generator),
        )

    assert both(3) == both(3)
    assert both(3) != both(4)


def test_the_way_of_log_z_goes_from_the_base_to_the_estimate() -> None:
    machine, images = known_machine("RBM, random, offsets")
    base = machine.independent(images.mean(0))
    betas = even_steps(350)
    samples = exact_samples(machine, 500, seeded())
    up = annealed_importance_sampling(machine, base, betas, 500, seeded())
    down = reverse_annealed_importance_sampling(machine, base, betas, samples, seeded())
    for run in (up, down):
        assert run.betas[0] == 0
        assert run.betas[-1] == 1
        assert list(run.betas) == sorted(run.betas)
        assert len(run.betas) == len(run.path)
        assert run.path[-1] == pytest.approx(run.value)
        assert run.path[0] == pytest.approx(up.path[0])
        middle = next(index for index, beta in enumerate(run.betas) if beta >= 0.5)
        tempered = machine.folded().annealed(run.betas[middle], base)
        constant = exact_log_partition(machine) - exact_log_partition(machine.folded())
        assert run.path[middle] == pytest.approx(exact_log_partition(tempered) + constant, abs=0.1)


def test_equal_steps_spread_the_weights_less_than_even_ones() -> None:
    machine, images = known_machine("RBM, trained")
    base = machine.independent(images.mean(0))
    betas = equal_steps(machine, base, 15, 500, seeded())
    assert float(betas[0]) == 0
    assert float(betas[-1]) == 1
    assert len(betas) == 15
    assert bool((betas.diff() > 0).all())
    errors = [
        sum(annealed_importance_sampling(machine, base, steps, 500, seeded(seed)).std_error for seed in range(10))
        for steps in (betas, even_steps(15))
    ]
    assert errors[0] < 0.95 * errors[1]


@pytest.mark.parametrize("betas", [[0.0], [0.0, 0.5], [0.1, 1.0], [0.0, 0.7, 0.6, 1.0]])
def test_a_schedule_that_is_none_is_refused(betas: list[float]) -> None:
    machine = random_machine(("bernoulli", "bernoulli"), (3, 2), seed=1)
    with pytest.raises(UserError, match="rise from 0 to 1"):
        annealed_importance_sampling(machine, machine.independent(), torch.tensor(betas), 4, seeded())


def test_energies_that_overflow_are_said_so() -> None:
    machine = random_machine(("bernoulli", "gaussian"), (3, 2), seed=1, weights=1e200)
    with pytest.raises(UserError, match="overflow"):
        annealed_importance_sampling(machine, machine.independent(), even_steps(3), 4, seeded())


def test_enumeration_tells_its_progress() -> None:
    machine = random_machine(("bernoulli", "bernoulli"), (40, 16), seed=1, weights=0.1)
    seen: list[int] = []
    exact_log_partition(machine, seen.append)
    assert seen == list(range(1, blocks(machine) + 1))
    assert len(seen) == 4


# ------------------------------------------------------------------------------------------- one step of annealing


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("size", [1.0, 30.0, 300.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_step_is_the_change_of_log_partition_and_a_draw(kind: str, size: float, dtype: torch.dtype) -> None:
    machine = random_machine((kind, kind), (700, 2), seed=2)
    layer = machine.layers[0].with_tensors(**{k: v.to(dtype) for k, v in machine.layers[0].named_tensors().items()})
    earlier = layer.with_tensors(bias=0.5 * layer.bias)
    field = size * torch.randn(50, 700, generator=seeded(), dtype=torch.float64).to(dtype)
    change, drawn = layer.anneal_step(field, 0.4, earlier, 0.35, seeded(2))
    expected = layer.log_partition(0.4 * field.double()) - earlier.log_partition(0.35 * field.double())
    torch.testing.assert_close(change.double(), expected, rtol=1e-4, atol=1e-4)
    assert drawn.dtype == dtype
    means = layer.mean(0.4 * field)
    spread = math.sqrt(float((drawn - means).square().sum()))
    assert abs(float((drawn - means).sum())) < 5 * spread


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bernoulli_draws_have_their_probabilities(dtype: torch.dtype) -> None:
    layer = Bernoulli(torch.zeros(7, dtype=dtype))
    inputs = torch.tensor([-8.0, -2.0, -0.5, 0.0, 0.5, 2.0, 8.0], dtype=dtype).expand(200_001, 7)
    for draws in (layer.sample(inputs, seeded()), layer.anneal_step(inputs, 1.0, layer, 0.5, seeded())[1]):
        assert set(draws.unique().tolist()) == {0.0, 1.0}
        probability = inputs[0].double().sigmoid()
        error = (draws.double().mean(0) - probability).abs() / (probability * (1 - probability) / len(draws)).sqrt()
        assert float(error.max()) < 4
        correlation = torch.corrcoef(draws[:, 1:6].double().T) - torch.eye(5, dtype=torch.float64)
        assert float(correlation.abs().max()) < 5 / math.sqrt(len(draws))


# ---------------------------------------------------------------------------------------------------- clamped images


@pytest.mark.parametrize(
    "name", ["DBM, random", "DBM, trained", "DBM, Gaussian pixels, random", "DBM of four layers, random"]
)
def test_clamped_images_against_enumeration_of_the_hidden_layers(name: str) -> None:
    machine, images = known_machine(name)
    images = digits("b")[:6] if "trained" in name else images[:6]
    values, std_errors, ess = clamped_log_partition(machine, images, MeanField(), even_steps(100), 200, seeded())
    folded = machine.folded()
    constant = exact_log_partition(machine) - exact_log_partition(folded)
    for image, value, error, size in zip(images, values, std_errors, ess, strict=True):
        given = folded.given_visible(image[None])
        first = given.layers[0].with_tensors(bias=given.layers[0].bias[0, 0])
        hidden = assemble([first, *given.layers[1:]], given.weights)
        exact = exact_log_partition(hidden) - float(folded.layers[0].energy(image)) + constant
        assert abs(float(value) - exact) < 4 * float(error) + 1e-3
        assert 20 < float(size) <= 200.1


def test_the_bound_lies_below_the_clamped_estimate() -> None:
    machine, images = known_machine("DBM, trained")
    below = bound(machine, MeanField()(machine, (images[:50], None, None)))
    values, std_errors, _ = clamped_log_partition(machine, images[:50], MeanField(), even_steps(100), 50, seeded())
    assert bool((values - below > -4 * std_errors).all())


# ------------------------------------------------------------------------------------------------------- equilibrium


def test_chains_in_equilibrium_have_the_distribution_of_the_machine() -> None:
    machine = random_machine(("bernoulli", "bernoulli"), (4, 3), seed=4).map(lambda tensor: tensor.float())
    found = equilibrate(machine, torch.ones(5, 4), 4000, 40, seeded())
    assert found.worst < 1.01
    assert set(found.r_hat) == {"free_energy", "component_1", "component_2", "component_3"}
    expected = joint_probabilities(machine.map(lambda tensor: tensor.double()))[1]
    counts = torch.bincount(state_numbers(found.states), minlength=len(expected)).double()
    assert [len(state) for state in found.states] == [4000, 4000]
    assert float((counts / 4000 - expected).abs().max()) < 5 * math.sqrt(0.25 / 4000)


def test_a_start_in_one_of_two_far_modes_is_found_out() -> None:
    machine, images = far_modes()
    found = equilibrate(machine, images, 100, 200, seeded())
    assert found.worst > 1.2


def test_modes_of_one_energy_are_told_apart() -> None:
    """The two modes are mirror images: the free energy of both families is the same, the states are not."""
    weights = torch.full((20, 10), 2.0)
    machine = assemble([Bernoulli(torch.full((20,), -10.0)), Bernoulli(torch.full((10,), -20.0))], [weights])
    found = equilibrate(machine, torch.zeros(50, 20), 100, 200, seeded())
    assert found.r_hat["component_1"] > 1.2


def test_chains_that_go_on_are_those_of_twice_as_many_sweeps() -> None:
    machine, images = far_modes()
    longer = equilibrate(machine, images, 50, 20, seeded(), doublings=2)
    assert list(longer.tried) == [20, 40, 80]  # none is enough
    whole = equilibrate(machine, images, 50, 80, seeded())
    assert (longer.r_hat, longer.sweeps, longer.mixing) == (whole.r_hat, 80, whole.mixing)
    assert torch.equal(longer.visible[80], whole.visible[80])
    assert torch.equal(longer.states[1], whole.states[1])
    assert sorted(longer.visible) == [1, 10, 20, 40, 80]


def test_sweeps_are_doubled_no_more_once_r_hat_is_low() -> None:
    machine = random_machine(("bernoulli", "bernoulli"), (4, 3), seed=4).map(lambda tensor: tensor.float())
    found = equilibrate(machine, torch.ones(5, 4), 4000, 40, seeded(), doublings=3)
    assert list(found.tried) == [40]
    assert found.tried[40] == found.worst <= 1.01


@pytest.mark.parametrize(("chains", "sweeps"), [(3, 100), (10, 19)])
def test_too_few_chains_or_sweeps_to_compare_are_refused(chains: int, sweeps: int) -> None:
    machine, images = known_machine("RBM, trained")
    with pytest.raises(UserError, match="R-hat needs at least"):
        equilibrate(machine, images, chains, sweeps, seeded())
