"""How a machine is trained: what a configuration becomes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ebm_pipeline.models.inference import MeanField
from ebm_pipeline.models.machine import BoltzmannMachine
from ebm_pipeline.support.errors import UserError, check_number, check_whole
from ebm_pipeline.training.constraints import Constraint
from ebm_pipeline.training.objectives import Objective
from ebm_pipeline.training.penalties import Penalty, check_names

PRODUCT_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Recipe:
    """How a machine is trained."""

    objective: Objective
    mean_field: MeanField
    optimizer: Callable[[Iterable[Any]], Optimizer]
    scheduler: Callable[[Optimizer], LRScheduler]
    chains: int = 100  # of all processes together
    products: str = "float32"  # type of the matrix products; parameters and sums stay float32
    centring: float | None = None  # rate of the offsets' running means; None trains without centring
    average_from: int | None = None  # how many updates stand before those whose parameters are averaged; None: no mean
    rates: Mapping[str, float] = field(
        default_factory=dict
    )  # of parameters by name, times the optimizer's learning rate
    variance_rate: float = 1.0  # learning rate of the logarithms of learned variances, times the optimizer's
    seed: int = 0
    penalties: Sequence[Penalty] = field(default_factory=tuple)
    constraints: Sequence[Constraint] = field(default_factory=tuple)  # after each step or epoch, in this order
    fixed: Sequence[str] = field(default_factory=tuple)  # names of parameters that training leaves alone

    def __post_init__(self) -> None:
        check_whole("training.chains", self.chains, 1)
        if self.centring is not None:
            check_number("training.centring, if not null,", self.centring, 0, 1, open_low=True)
        check_number("training.variance_rate", self.variance_rate, 0, 1)
        for name, rate in self.rates.items():
            check_number(f"training.rates[{name}]", rate, open_low=True)
        if self.products not in PRODUCT_TYPES:
            raise UserError(f"training.products must be one of {', '.join(PRODUCT_TYPES)}; got {self.products!r}")

    @property
    def product_type(self) -> torch.dtype:
        """Of the matrix products."""
        return PRODUCT_TYPES[self.products]

    def check(self, machine: BoltzmannMachine) -> None:
        """Raise UserError for what this machine cannot be trained with."""
        check_names("model.fixed", self.fixed, machine)
        check_names("training.rates", list(self.rates), machine)
        if held := sorted(set(self.rates) - set(self.trained(machine))):
            raise UserError(
                f"training.rates names {', '.join(held)}, which does not learn: model.fixed or its layer holds it where it is. "
                "Take it out of training.rates"
            )
        for penalty in self.penalties:
            penalty.check(machine)
        for constraint in self.constraints:
            check_names(f"the constraint {constraint.name}", constraint.parameters, machine)
            for name in constraint.parameters:
                constraint.check(name, machine.named_tensors()[name])
        if self.product_type != torch.float32 and not all(layer.binary for layer in machine.layers):
            raise UserError(f"products={self.products} needs a model of binary units only: set products=float32")
        for name in set(variance_names(machine)) & set(self.fixed):
            raise UserError(
                f"model.fixed names {name}, which this layer learns: take ebm_pipeline.models.layers.Gaussian for it"
            )

    def trained(self, machine: BoltzmannMachine) -> list[str]:
        """Names of the parameters that training changes."""
        held = {f"layers/{index}/{name}" for index, layer in enumerate(machine.layers) for name in layer.fixed}
        return [name for name in machine.named_tensors() if name not in held | set(self.fixed)]

    def optimizer_of(self, parameters: Mapping[str, nn.Parameter]) -> Optimizer:
        """The optimizer of parameters by name; the first group has those at its own rate, others follow by their `rates`."""
        by_rate: dict[float, list[nn.Parameter]] = {1.0: []}
        for name, parameter in parameters.items():
            by_rate.setdefault(float(self.rates.get(name, 1.0)), []).append(parameter)
        groups: list[dict[str, Any]] = [{"params": own} for own in by_rate.values() if own]
        optimizer = self.optimizer(groups)
        for group, rate in zip(optimizer.param_groups, [rate for rate, own in by_rate.items() if own], strict=True):
            group["lr"] *= rate
        return optimizer


def variance_names(machine: BoltzmannMachine) -> list[str]:
    """Names of the variances that the layers of a machine learn."""
    return [f"layers/{index}/{name}" for index, layer in enumerate(machine.layers) for name in layer.learned_variances]
