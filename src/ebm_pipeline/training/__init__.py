"""Training: the Lightning module, penalties, schedules, pretraining, and what is shown on the way.

The names below are loaded when they are asked for: with `Model` comes Lightning, which most commands do without.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ebm_pipeline.training.constraints import Constraint, FixedColumnNorm, NonNegative, ProximalL1, ZeroMask
    from ebm_pipeline.training.model import Model
    from ebm_pipeline.training.penalties import L1, L2, AdaptiveL1, Penalty, SparsityTarget
    from ebm_pipeline.training.pictures import Pictures
    from ebm_pipeline.training.pretraining import Pretraining
    from ebm_pipeline.training.schedules import power_law

_HOMES = {
    "constraints": ("Constraint", "FixedColumnNorm", "NonNegative", "ProximalL1", "ZeroMask"),
    "model": ("Model",),
    "penalties": ("L1", "L2", "AdaptiveL1", "Penalty", "SparsityTarget"),
    "pictures": ("Pictures",),
    "pretraining": ("Pretraining",),
    "schedules": ("power_law",),
}

__all__ = [
    "L1", "L2", "AdaptiveL1", "Constraint", "FixedColumnNorm", "Model", "NonNegative", "Penalty", "Pictures", "Pretraining",
    "ProximalL1", "SparsityTarget", "ZeroMask", "power_law",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    home = next((home for home, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"ebm_pipeline.training has no {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"ebm_pipeline.training.{home}"), name)
