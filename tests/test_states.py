"""Whatever takes states of a machine refuses a bare tensor, which would be taken for a tuple of its rows."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch

import ebm_pipeline
from ebm_pipeline.models.inference import MeanField
from ebm_pipeline.models.layers import Bernoulli, Gaussian
from ebm_pipeline.models.machine import BoltzmannMachine, assemble
from ebm_pipeline.sampling import Gibbs, GibbsLangevin, ParallelTempering, TrajectoryTempering
from ebm_pipeline.support.errors import UserError
from ebm_pipeline.training.objectives import ContrastiveDivergence, PersistentContrastiveDivergence, Tap

ROOMS = ("models", "sampling", "evaluation", "training.objectives")
BATCH = torch.zeros(4, 6)
MACHINE = assemble([Gaussian.create(6), Bernoulli.create(3)], [torch.zeros(6, 3)])
FIELD = MeanField(1e-6, 10)
OWNERS: dict[str, Any] = {  # an object of each class that has such a method
    "BoltzmannMachine": MACHINE,
    "MeanField": FIELD,
    "Gibbs": Gibbs(),
    "GibbsLangevin": GibbsLangevin(),
    "ParallelTempering": ParallelTempering(),
    "TrajectoryTempering": TrajectoryTempering(),
    "ContrastiveDivergence": ContrastiveDivergence(Gibbs(), FIELD),
    "PersistentContrastiveDivergence": PersistentContrastiveDivergence(Gibbs(), FIELD),
    "Contrastive": PersistentContrastiveDivergence(Gibbs(), FIELD),
    "Tap": Tap(FIELD),
}
NOT_ASKED = ("Sampler", "SamplerState", "Objective")  # protocols
GIVEN = (
    "Chains.completed",
    "Replicas.completed",
    "Ladder.completed",
)  # what an objective hands back of the sampler's own states
OTHERS: dict[str, Any] = {  # an argument for each other parameter, by its name
    "machine": MACHINE, "index": 1, "parity": 1, "rule": None, "generator": None, "sample_weights": torch.ones(4),
    "base": MACHINE.independent(), "posterior": FIELD(MACHINE, (BATCH, None)), "sweeps": 1, "start_beta": 1.0,
    "betas": torch.linspace(0, 1, 3), "data_size": 2, "temperatures": 3, "clamped": (), "count": 1, "chains": None,
    "machines": MACHINE, "room": 3,
}  # fmt: skip


def modules() -> Iterator[ModuleType]:
    for room in ROOMS:
        package = importlib.import_module(f"{ebm_pipeline.__name__}.{room}")
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            yield importlib.import_module(found.name)


def takes_states(function: Any) -> list[str]:
    """Parameters of a public function that are annotated as states of a machine."""
    if not inspect.isfunction(function) or (function.__name__.startswith("_") and function.__name__ != "__call__"):
        return []
    annotations = inspect.get_annotations(function)
    return [name for name, kind in annotations.items() if name != "return" and str(kind) in ("States", "PartialStates")]


def cases() -> Iterator[Any]:
    for module in modules():
        for name, value in vars(module).items():
            if getattr(value, "__module__", None) != module.__name__ or name in NOT_ASKED or name[0] == "_":
                continue
            for parameter in takes_states(value):
                yield pytest.param(value, parameter, id=f"{name}-{parameter}")
            for own, method in vars(value).items() if inspect.isclass(value) else ():
                for parameter in takes_states(method):
                    if f"{name}.{own}" not in GIVEN:
                        yield pytest.param(getattr(OWNERS[name], own), parameter, id=f"{name}.{own}-{parameter}")


def arguments(function: Callable[..., Any], parameter: str) -> dict[str, Any]:
    """A call in which everything is as it should be, but for a bare tensor as `parameter`."""
    whole = (BATCH, torch.zeros(4, 3))
    found: dict[str, Any] = {}
    for name, own in inspect.signature(function).parameters.items():
        if name == parameter:
            found[name] = BATCH
        elif str(own.annotation) in ("States", "PartialStates"):
            found[name] = whole
        elif own.default is inspect.Parameter.empty:
            found[name] = OTHERS[name]
    return found


@pytest.mark.parametrize(("function", "parameter"), list(cases()))
def test_a_bare_tensor_is_refused(function: Callable[..., Any], parameter: str) -> None:
    with pytest.raises(
        UserError, match=r"a tuple of 2 tensors \(\.\.\., units\), one per layer.*got a tensor \(4, 6\)"
    ):
        function(**arguments(function, parameter))


def test_a_wrong_number_of_layers_or_units_is_refused_with_both_shapes() -> None:
    with pytest.raises(UserError, match=r"a tuple of 2 tensors .* got 3 of them"):
        MACHINE.free_energy((BATCH, None, None))
    with pytest.raises(
        UserError, match=r"layer 0 of BoltzmannMachine\(6 gaussian - 3 bernoulli\) has 6 units.* got \(4, 5\)"
    ):
        MACHINE.free_energy((torch.zeros(4, 5), None))
    with pytest.raises(UserError, match=r"layer 1 .* has 3 units: expected a state \(\.\.\., 3\); got \(4, 6\)"):
        MACHINE.energy((BATCH, BATCH))


def test_a_machine_says_its_layers_in_one_line() -> None:
    machine: BoltzmannMachine = assemble([Bernoulli.create(784), Bernoulli.create(200)], [torch.zeros(784, 200)])
    assert repr(machine) == str(machine) == "BoltzmannMachine(784 bernoulli - 200 bernoulli)"
