"""Penalties on named parameters: their gradient is added once per step to that of the objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from ebm_pipeline.errors import UserError, check_number


@dataclass(frozen=True)
class Penalty:
    """strength * size of the named parameters (weights/0, weights/1, ...)."""

    name: ClassVar[str]
    strength: float
    parameters: Sequence[str]

    def __post_init__(self) -> None:
        check_number("strength of a penalty", self.strength)

    def add_gradient(self, parameter: Tensor, gradient: Tensor) -> None:
        """Add the penalty's gradient to `gradient`, in place."""
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


class HasNames(Protocol):
    """Anything that knows its parameters' names, as a machine does."""

    def named_tensors(self) -> dict[str, Tensor]: ...


def check_names(what: str, names: Sequence[str], machine: HasNames) -> None:
    """Raise if a configuration names a parameter that the machine does not have."""
    known = list(machine.named_tensors())
    for name in names:
        if name not in known:
            raise UserError(f"{what} names the parameter {name!r}; this model has {', '.join(known)}")
