"""Mean field, its bound, and reconstruction."""

from __future__ import annotations

import pytest
import torch
from helpers import BINARY_MACHINES, MACHINES, joint_states, naive_energy, normal, random_machine

from ebm_pipeline.models.inference import MeanField, bound, up_and_down
from ebm_pipeline.models.machine import ODD
from ebm_pipeline.support.errors import UserError

Case = tuple[tuple[str, ...], tuple[int, ...]]
EXACT = MeanField(tolerance=1e-12, max_steps=2000)


@pytest.mark.parametrize("case", [case for case in MACHINES if len(case[1]) == 2])
@pytest.mark.parametrize("offsets", [0.0, 3.0])
def test_two_layers_are_exact_and_the_bound_is_the_free_energy(
    case: Case, offsets: float, generator: torch.Generator
) -> None:
    machine = random_machine(*case, seed=1, offsets=offsets)
    visible = normal(generator, 5, case[1][0])
    posterior = EXACT(machine, (visible, None))
    assert (posterior.steps, posterior.residual) == (1, 0.0)
    torch.testing.assert_close(posterior.means[1], machine.layers[1].mean(machine.inputs((visible, None), 1)))
    torch.testing.assert_close(bound(machine, posterior), -machine.free_energy((visible, None)))


@pytest.mark.parametrize("case", [case for case in BINARY_MACHINES if len(case[1]) > 2])
@pytest.mark.parametrize("offsets", [0.0, 2.0])
@pytest.mark.parametrize("steps", [1, 3, 2000])
def test_the_bound_is_below_the_enumerated_probability(case: Case, offsets: float, steps: int) -> None:
    machine = random_machine(*case, seed=2, offsets=offsets, weights=0.3)
    states = joint_states(machine)
    energy = naive_energy(machine, states)
    visible, inverse = states[0].unique(dim=0, return_inverse=True)
    exact = torch.stack([torch.logsumexp(-energy[inverse == row], 0) for row in range(len(visible))])
    posterior = MeanField(tolerance=0.0, max_steps=steps)(machine, (visible, *(None,) * (machine.depth - 1)))
    gap = exact - bound(machine, posterior)
    assert float(gap.min()) > -1e-9
    if steps == 2000:
        assert float(gap.max()) < 0.6  # weak couplings: mean field is nearly right


@pytest.mark.parametrize("case", [case for case in MACHINES if len(case[1]) > 2])
def test_mean_field_ends_at_a_fixed_point(case: Case, generator: torch.Generator) -> None:
    machine = random_machine(*case, seed=3, offsets=1.0, weights=0.3)
    visible = normal(generator, 5, case[1][0])
    posterior = EXACT(machine, (visible, *(None,) * (machine.depth - 1)))
    assert posterior.residual <= 1e-12
    for index in range(1, machine.depth):
        expected = machine.layers[index].mean(machine.inputs(posterior.means, index))
        torch.testing.assert_close(posterior.means[index], expected, rtol=0, atol=1e-10)
        inputs = posterior.inputs[index]
        assert inputs is not None
        assert torch.equal(posterior.means[index], machine.layers[index].mean(inputs))
    assert posterior.inputs[0] is None


def test_the_number_of_steps_is_bounded(generator: torch.Generator) -> None:
    machine = random_machine(("bernoulli",) * 3, (4, 5, 4), seed=4)
    visible = normal(generator, 5, 4)
    assert MeanField(tolerance=0.0, max_steps=7)(machine, (visible, None, None)).steps == 7
    loose = MeanField(tolerance=0.5, max_steps=50)(machine, (visible, None, None))
    assert loose.steps < 10
    assert loose.residual <= 0.5


@pytest.mark.parametrize("middle_clamped", [False, True])
def test_layers_that_are_no_neighbours_are_inferred_exactly(middle_clamped: bool, generator: torch.Generator) -> None:
    machine = random_machine(("bernoulli",) * 3, (3, 2, 3), seed=5)
    states = joint_states(machine)
    probabilities = torch.softmax(-naive_energy(machine, states), 0)
    if middle_clamped:
        value = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
        posterior = EXACT(machine, (None, value, None))
        match = (states[1] == value).all(1)
        free: tuple[int, ...] = (0, 2)
    else:
        first, last = states[0][100:101], states[2][7:8]
        posterior = EXACT(machine, (first, None, last))
        match = (states[0] == first).all(1) & (states[2] == last).all(1)
        free = (1,)
    weights = probabilities[match] / probabilities[match].sum()
    for index in free:
        torch.testing.assert_close(posterior.means[index], (weights @ states[index][match])[None])


def test_up_and_down_of_an_rbm_is_two_conditional_modes(generator: torch.Generator) -> None:
    machine = random_machine(("bernoulli", "bernoulli"), (5, 4), seed=6)
    visible = (normal(generator, 8, 5) > 0).double()
    hidden = (visible @ machine.weights[0] + machine.layers[1].bias > 0).double()
    mean = torch.sigmoid(hidden @ machine.weights[0].T + machine.layers[0].bias)
    found_mean, found_mode = up_and_down(machine, visible)
    torch.testing.assert_close(found_mean, mean)
    assert torch.equal(found_mode, (mean > 0.5).double())


def test_up_and_down_of_a_dbm_hears_both_neighbours_on_the_way_down(generator: torch.Generator) -> None:
    machine = random_machine(("bernoulli",) * 3, (5, 4, 3), seed=7)
    visible = (normal(generator, 8, 5) > 0).double()
    first, second = machine.weights
    biases = [layer.bias for layer in machine.layers]
    low = (2 * visible @ first + biases[1] > 0).double()
    high = (low @ second + biases[2] > 0).double()
    low = (visible @ first + high @ second.T + biases[1] > 0).double()
    torch.testing.assert_close(up_and_down(machine, visible)[0], torch.sigmoid(low @ first.T + biases[0]))


def test_inputs_without_neighbours_are_zero() -> None:
    machine = random_machine(("bernoulli",) * 3, (5, 4, 3), seed=8)
    assert not machine.inputs((None, None, None), ODD).any()


@pytest.mark.parametrize("settings", [{"tolerance": -1.0}, {"max_steps": 0}])
def test_wrong_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"mean_field\.(tolerance|max_steps) must be a"):
        MeanField(**settings)  # type: ignore[arg-type]
