"""Steps in the coordinates of learned variances against autograd of the change of coordinates."""

from __future__ import annotations

import pytest
import torch
from helpers import normal, random_machine
from torch import Tensor

from ebm_pipeline.models.layers import Bernoulli, LearnedGaussian
from ebm_pipeline.models.machine import BoltzmannMachine, assemble
from ebm_pipeline.training import centring
from ebm_pipeline.training.objectives.contrast import contrast_exact
from ebm_pipeline.training.precision import precision_scaled

KINDS = [
    ("learned_gaussian", "bernoulli"),
    ("mixed", "bernoulli"),
    ("bernoulli", "learned_gaussian"),
    ("learned_gaussian", "learned_gaussian"),
]


def spread(machine: BoltzmannMachine, index: int, z: Tensor) -> Tensor:
    """exp(z) of the units whose variance is learned, 1 of the others."""
    learned = torch.zeros(len(z), dtype=torch.bool)
    for where in machine.layers[index].learned_variances.values():
        learned[where] = True
    return torch.where(learned, z.exp(), 1.0)


@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize(("offsets", "rate"), [(0.0, 1.0), (2.0, 1.0), (2.0, 0.1)])
def test_the_step_is_that_in_the_scaled_coordinates(
    kinds: tuple[str, str], offsets: float, rate: float, generator: torch.Generator
) -> None:
    """J D J^T g, with J the derivative of (weights, biases, variances) by the coordinates and D the size of the steps."""
    machine = random_machine(kinds, (4, 3), seed=2)
    centres = [offsets * normal(generator, 4), offsets * normal(generator, 3)]
    names = [f"layers/{index}/{name}" for index, layer in enumerate(machine.layers) for name in layer.learned_variances]
    tensors = machine.named_tensors()

    def natural(scaled: Tensor, lower: Tensor, upper: Tensor, z_lower: Tensor, z_upper: Tensor) -> tuple[Tensor, ...]:
        below, above = spread(machine, 0, z_lower), spread(machine, 1, z_upper)
        weights = scaled / torch.outer(below, above)
        biases = (lower / below - weights @ centres[1], upper / above - centres[0] @ weights)
        variances = [
            (below, above)[index][where]
            for index, layer in enumerate(machine.layers)
            for where in layer.learned_variances.values()
        ]
        return (weights, *biases, *variances)

    logs = []
    for index, layer in enumerate(machine.layers):
        z = torch.zeros(layer.units, dtype=torch.float64)
        for name, where in layer.learned_variances.items():
            z[where] = tensors[f"layers/{index}/{name}"].log()
        logs.append(z)
    below, above = spread(machine, 0, logs[0]), spread(machine, 1, logs[1])
    weights = machine.weights[0]
    scaled = weights * torch.outer(below, above)
    means = (
        below * (machine.layers[0].bias + weights @ centres[1]), above * (machine.layers[1].bias + centres[0] @ weights)
    )  # fmt: skip
    at = (scaled, *means, *logs)
    keys = ["weights/0", "layers/0/bias", "layers/1/bias", *names]
    for key, value in zip(keys, natural(*at), strict=True):
        torch.testing.assert_close(value, tensors[key])

    gradient = {key: normal(generator, *tensors[key].shape) for key in keys}
    _, back = torch.autograd.functional.vjp(natural, at, tuple(gradient[key] for key in keys))
    sizes = (torch.outer(below, above), below, above, torch.full((4,), rate), torch.full((3,), rate))
    step = tuple(size * part for size, part in zip(sizes, back, strict=True))
    _, expected = torch.autograd.functional.jvp(natural, at, step)
    used = centres if offsets else ()
    centring.subtract_outer(gradient, used)
    precision_scaled(gradient, machine, used, rate)
    centring.follow(gradient, used, keys)
    assert list(gradient) == keys
    for key, value in zip(keys, expected, strict=True):
        torch.testing.assert_close(gradient[key], value, msg=key)


def test_at_its_floor_a_variance_that_would_fall_moves_nothing(generator: torch.Generator) -> None:
    """The other parameters then step as if the variance were fixed; a variance that would rise leaves the floor."""
    machine = random_machine(("learned_gaussian", "bernoulli"), (4, 3), seed=2)
    variance = machine.named_tensors()["layers/0/variance"]
    at_floor = machine.with_tensors({"layers/0/variance_floor": variance})
    gradient = {name: normal(generator, *tensor.shape) for name, tensor in machine.named_tensors().items()}
    gradient["layers/0/variance"] = torch.tensor([9.0, -9.0, 9.0, -9.0], dtype=torch.float64)
    free, held = ({name: value.clone() for name, value in gradient.items()} for _ in range(2))
    precision_scaled(free, machine)
    precision_scaled(held, at_floor)
    falls, rises = slice(0, None, 2), slice(1, None, 2)
    assert not held["layers/0/variance"][falls].any()
    torch.testing.assert_close(held["weights/0"][falls], (gradient["weights/0"] / variance[:, None])[falls])
    torch.testing.assert_close(held["layers/0/bias"][falls], (gradient["layers/0/bias"] / variance)[falls])
    for name in ("layers/0/variance", "layers/0/bias", "weights/0"):
        torch.testing.assert_close(held[name][rises], free[name][rises])
        assert not torch.isclose(held[name][falls], free[name][falls]).all()


def test_without_couplings_the_variances_of_the_data_are_learned(generator: torch.Generator) -> None:
    """Mean and variance of each unit over the data are the maximum of the likelihood, where W is 0 and stays there."""
    data = normal(generator, 500, 3) * torch.tensor([0.1, 1.0, 5.0], dtype=torch.float64) + 2
    visible = LearnedGaussian.create(3).with_tensors(bias=torch.zeros(3, dtype=torch.float64))
    machine = assemble([visible, Bernoulli.create(2)], [torch.zeros(3, 2)]).map(Tensor.double)
    for _ in range(1000):
        layer = machine.layers[0]
        # Chains of exactly the model's mean and variance: two points.
        mean, deviation = layer.mean(torch.zeros(3).double()), layer.named_tensors()["variance"].sqrt()
        chains = torch.stack((mean + deviation, mean - deviation))
        gradient = contrast_exact(machine, (data, None), (chains, None), generator).gradient
        precision_scaled(gradient, machine)
        tensors = machine.named_tensors()
        learned = ("layers/0/bias", "layers/0/variance")
        machine = machine.with_tensors({name: tensors[name] - 0.05 * gradient[name] for name in learned})
    torch.testing.assert_close(machine.layers[0].mean(torch.zeros(3).double()), data.mean(0))
    torch.testing.assert_close(machine.named_tensors()["layers/0/variance"], data.var(0, correction=0))
