"""Learning-rate schedules that torch does not have. They advance once per epoch, as all schedules here."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class PowerLaw:
    """Factor 1 / (1 + coefficient * epoch)."""

    def __init__(self, coefficient: float) -> None:
        self.coefficient = coefficient

    def __call__(self, epoch: int) -> float:
        return 1 / (1 + self.coefficient * epoch)


def power_law(optimizer: Optimizer, coefficient: float = 1.0) -> LambdaLR:
    """lr(epoch) = initial / (1 + coefficient * epoch): the study's schedule."""
    return LambdaLR(optimizer, PowerLaw(coefficient))
