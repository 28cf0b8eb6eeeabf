"""What a model's yaml says: layers, what training adds to the objective or leaves alone, and pretraining."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ebm_pipeline.models.layers import Layer
from ebm_pipeline.training.constraints import Constraint
from ebm_pipeline.training.penalties import Penalty
from ebm_pipeline.training.pretraining import Pretraining


@dataclass(frozen=True)
class Model:
    """Layers from the visible one up, by names that only the configuration uses."""

    name: str
    layers: Mapping[str, Layer]
    penalties: Sequence[Penalty]
    fixed: Sequence[str]
    pretraining: Pretraining | None
    constraints: Sequence[Constraint] = ()
