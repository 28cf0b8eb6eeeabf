"""What chains of a machine cost: states of units that are drawn, and operations in the products with its weights.

The seconds are those of one core of an Intel Xeon with AVX-512 without other work (2026): others take some times as long.
"""

from __future__ import annotations

from dataclasses import dataclass

from ebm_pipeline.models.machine import BoltzmannMachine

OPERATIONS = 4  # for each weight and chain in a sweep: a product and a sum, up and down
SECONDS_PER_DRAW, SECONDS_PER_OPERATION = 7e-9, 6e-12


@dataclass(frozen=True)
class Cost:
    """Of `sweeps` sweeps, those of all chains together."""

    draws: float
    operations: float

    @classmethod
    def of(cls, machine: BoltzmannMachine, sweeps: float) -> Cost:
        weights = sum(matrix.numel() for matrix in machine.weights)
        return cls(sweeps * sum(layer.units for layer in machine.layers), sweeps * OPERATIONS * weights)

    @property
    def seconds(self) -> float:
        return self.draws * SECONDS_PER_DRAW + self.operations * SECONDS_PER_OPERATION

    def __str__(self) -> str:
        return (
            f"{self.draws:.1e} draws of units and {self.operations:.1e} operations in products, about "
            f"{self.seconds / 60:.2g} minutes on a core"
        )
