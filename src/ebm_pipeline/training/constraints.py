"""What is applied to named parameters after each step of the optimizer: a proximal penalty, or a constraint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ebm_pipeline.errors import check_number


@dataclass(frozen=True)
class Constraint:
    """Changes the named parameters (weights/0, weights/1, ...) in place."""

    name: ClassVar[str]
    parameters: Sequence[str]

    def apply(self, parameter: Tensor, learning_rate: float) -> None:
        """Change `parameter` in place, after a step of this learning rate."""
        raise NotImplementedError


@dataclass(frozen=True)
class ProximalL1(Constraint):
    """strength * sum |w| by its proximal step (Daubechies, Defrise & De Mol 2004): w <- sign(w) max(|w| - lr * strength, 0).

    Weights become exactly 0, which a subgradient never makes them. The step takes the optimizer's learning rate as it is,
    so with Adam it is decoupled from the scaling of the gradient, as the weight decay of AdamW is.
    """

    name: ClassVar[str] = "proximal L1"
    strength: float

    def __post_init__(self) -> None:
        check_number("strength of a penalty", self.strength)

    def apply(self, parameter: Tensor, learning_rate: float) -> None:
        parameter.copy_(torch.nn.functional.softshrink(parameter, learning_rate * self.strength))


class NonNegative(Constraint):
    """w <- max(w, 0)."""

    name = "non-negative"

    def apply(self, parameter: Tensor, learning_rate: float) -> None:
        parameter.clamp_(min=0)


@dataclass(frozen=True)
class FixedColumnNorm(Constraint):
    """Each column of a weight matrix, the weights of one upper unit, is scaled to this Euclidean norm; zero columns stay."""

    name: ClassVar[str] = "fixed column norm"
    norm: float

    def __post_init__(self) -> None:
        check_number("norm of a column", self.norm, open_low=True)

    def apply(self, parameter: Tensor, learning_rate: float) -> None:
        norms = parameter.norm(dim=0)
        parameter.mul_(torch.where(norms > 0, self.norm / norms, 1.0))
