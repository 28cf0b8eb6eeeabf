"""Penalties on named parameters: their gradient is added once per step to that of the objective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol, Self

import torch
from torch import Tensor

from ebm_pipeline.models.machine import BoltzmannMachine, States
from ebm_pipeline.support.errors import UserError, check_number


@dataclass(frozen=True)
class Penalty:
    """strength * size of the named parameters (weights/0, weights/1, ...), or of what they do to the data phase's states."""

    name: ClassVar[str]
    strength: float
    parameters: Sequence[str]

    def __post_init__(self) -> None:
        check_number("strength of a penalty", self.strength)

    def check(self, machine: BoltzmannMachine) -> None:
        """Raise UserError where the penalty does not fit the machine."""
        check_names(f"the penalty {self.name}", self.parameters, machine)

    def renamed(self, names: Sequence[str]) -> Self:
        """The penalty on these parameters: for an RBM of a machine of more layers, in which they have other names."""
        return replace(self, parameters=names)

    def add(self, tensors: Mapping[str, Tensor], gradient: dict[str, Tensor], data: States) -> None:
        """Add the penalty's gradient to `gradient`, in place; `data`: the data phase's states (samples, units), one per layer."""
        for name in self.parameters:
            self.add_gradient(tensors[name], gradient[name])

    def add_gradient(self, parameter: Tensor, gradient: Tensor) -> None:
        """Add the gradient of the penalty on one parameter, in place."""
        raise NotImplementedError


class L1(Penalty):
    """strength * sum |w|; the subgradient at 0 is 0."""

    name = "L1"

    def add_gradient(self, parameter: Tensor, gradient: Tensor) -> None:
        gradient.add_(torch.sign(parameter), alpha=self.strength)


class L2(Penalty):
    """strength / 2 * sum w^2."""

    name = "L2"

    def add_gradient(self, parameter: Tensor, gradient: Tensor) -> None:
        gradient.add_(parameter, alpha=self.strength)


class AdaptiveL1(Penalty):
    """strength / 2 * sum_j (sum_i |w_ij|)^2: L1 that weighs the columns with much weight more (Tubiana & Monasson 2017)."""

    name = "adaptive L1"

    def add_gradient(self, parameter: Tensor, gradient: Tensor) -> None:
        gradient.add_(torch.sign(parameter) * parameter.abs().sum(0), alpha=self.strength)


@dataclass(frozen=True)
class SparsityTarget(Penalty):
    """strength * sum_j [-p log q_j - (1 - p) log(1 - q_j)], q_j: mean activity of hidden unit j over the batch, p: `target`.

    The cross entropy of Hinton (2010), section 11, whose derivative by the unit's total input he takes to be q_j - p, as if all
    images gave the unit the same input: so it does not vanish for units that are sure of every image. `parameters` name the
    biases of Bernoulli hidden layers (layers/1/bias); they alone are moved, as in Lee, Ekanadham & Ng (2008).
    """

    name: ClassVar[str] = "sparsity target"
    target: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("target of the activity", self.target, 0, 1, open_low=True, open_high=True)

    def check(self, machine: BoltzmannMachine) -> None:
        super().check(machine)
        known = [
            f"layers/{index}/bias" for index, layer in enumerate(machine.layers) if index and layer.kind == "bernoulli"
        ]
        for name in self.parameters:
            if name not in known:
                raise UserError(
                    f"a sparsity target is for the bias of a Bernoulli hidden layer ({', '.join(known) or 'none'}); got {name}"
                )

    def renamed(self, names: Sequence[str]) -> Self:
        return super().renamed([name for name in names if not name.startswith("layers/0/")])

    def add(self, tensors: Mapping[str, Tensor], gradient: dict[str, Tensor], data: States) -> None:
        for name in self.parameters:
            activity = data[int(name.split("/")[1])].mean(0, dtype=gradient[name].dtype)
            gradient[name].add_(activity - self.target, alpha=self.strength)


class HasNames(Protocol):
    """Anything that knows its parameters' names, as a machine does."""

    def named_tensors(self) -> dict[str, Tensor]: ...


def check_names(what: str, names: Sequence[str], machine: HasNames) -> None:
    """Raise if a configuration names a parameter that the machine does not have."""
    known = list(machine.named_tensors())
    for name in names:
        if name not in known:
            raise UserError(f"{what} names the parameter {name!r}; this model has {', '.join(known)}")
