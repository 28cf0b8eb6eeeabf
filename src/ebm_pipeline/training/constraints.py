"""What is applied to named parameters after the optimizer: constraints at each step, a proximal penalty at each epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from ebm_pipeline.support.errors import check_number
from ebm_pipeline.support.files import read_truth_values


@dataclass(frozen=True)
class Constraint:
    """Changes the named parameters (weights/0, weights/1, ...) in place."""

    name: ClassVar[str]
    once_an_epoch: ClassVar[bool] = False  # applied after the last update of an epoch, for all of them, not after each
    parameters: Sequence[str]

    def check(self, name: str, parameter: Tensor) -> None:
        """Raise UserError where the constraint does not fit the parameter of this name."""

    def apply(self, parameter: Tensor, step: float | Tensor) -> None:
        """Change `parameter` in place; `step`: what multiplied its gradients since the last time (see `step_size`)."""
        raise NotImplementedError

    def apply_to_mean(self, mean: Tensor, last: Tensor) -> None:
        """Change the mean of a parameter over updates in place; `last`: the parameter after the last of them."""
        self.apply(mean, 0.0)


def _group_of(optimizer: Optimizer, parameter: Tensor) -> dict[str, Any]:
    return next(group for group in optimizer.param_groups if any(one is parameter for one in group["params"]))


def step_size(optimizer: Optimizer, parameter: Tensor) -> float | Tensor:
    """By what the optimizer multiplies a gradient that stays the same: a number, or one for each element of the parameter.

    The learning rate; with momentum mu, lr / (1 - mu); for the Adam family lr / (sqrt(v) + eps), v: its mean square gradient.
    """
    group, state = _group_of(optimizer, parameter), optimizer.state[parameter]
    rate = float(group["lr"])
    if "exp_avg_sq" in state:
        correction = 1 - group["betas"][1] ** float(state["step"])
        denominator: Tensor = (state["exp_avg_sq"] / correction).sqrt_().add_(group["eps"])
        return rate / denominator
    return rate * float(1 - group.get("dampening", 0)) / float(1 - group.get("momentum", 0))


@dataclass(frozen=True)
class ProximalL1(Constraint):
    """strength * sum |w| by its proximal step (Daubechies, Defrise & De Mol 2004): w <- sign(w) max(|w| - step * strength, 0).

    Weights become exactly 0, which a subgradient never makes them. `step` is the optimizer's own for each weight: with Adam
    the step is proximal in the metric of its preconditioner (Yun, Lozano & Yang 2021), so that the weights at rest are
    those where the gradient is within the strength, whatever the optimizer.

    The gradient of a batch is mostly noise, and carries nearly every weight over the threshold of a single update. Over the n
    updates of an epoch the noise adds up to sqrt(n) times its size, the threshold to n times: so one step, after the last of
    them, stands for all (truncated gradient; Langford, Li & Zhang 2009), for the same pull on the weights and more that are 0.
    """

    name: ClassVar[str] = "proximal L1"
    once_an_epoch: ClassVar[bool] = True
    strength: float

    def __post_init__(self) -> None:
        check_number("strength of a penalty", self.strength)

    def apply(self, parameter: Tensor, step: float | Tensor) -> None:
        threshold = torch.as_tensor(step * self.strength, dtype=parameter.dtype, device=parameter.device)
        parameter.sub_(torch.maximum(torch.minimum(parameter, threshold), -threshold))

    def apply_to_mean(self, mean: Tensor, last: Tensor) -> None:
        mean[last == 0] = 0


class NonNegative(Constraint):
    """w <- max(w, 0)."""

    name = "non-negative"

    def apply(self, parameter: Tensor, step: float | Tensor) -> None:
        parameter.clamp_(min=0)


@dataclass(frozen=True)
class ZeroMask(Constraint):
    """Weights where a mask is false are 0: receptive fields, diagonals, single units.

    kept: a .npy file of truth values of the parameter's shape, (lower units, upper units) for weights: true where a weight may
    differ from 0.
    """

    name: ClassVar[str] = "zero mask"
    kept: str

    @cached_property
    def mask(self) -> Tensor:
        """The file's truth values."""
        return torch.from_numpy(read_truth_values(Path(self.kept)))

    def check(self, name: str, parameter: Tensor) -> None:
        read_truth_values(Path(self.kept), tuple(parameter.shape))

    def apply(self, parameter: Tensor, step: float | Tensor) -> None:
        parameter.mul_(self.mask.to(parameter))


@dataclass(frozen=True)
class FixedColumnNorm(Constraint):
    """Each column of a weight matrix, the weights of one upper unit, is scaled to this Euclidean norm; zero columns stay."""

    name: ClassVar[str] = "fixed column norm"
    norm: float

    def __post_init__(self) -> None:
        check_number("norm of a column", self.norm, open_low=True)

    def apply(self, parameter: Tensor, step: float | Tensor) -> None:
        norms = parameter.norm(dim=0)
        parameter.mul_(torch.where(norms > 0, self.norm / norms, 1.0))
