"""Training: the Lightning module, penalties, schedules, pretraining, and what is shown on the way."""

from ebm_pipeline.training.constraints import Constraint, FixedColumnNorm, NonNegative, ProximalL1, ZeroMask
from ebm_pipeline.training.model import Model
from ebm_pipeline.training.penalties import L1, L2, AdaptiveL1, Penalty, SparsityTarget
from ebm_pipeline.training.pictures import Pictures
from ebm_pipeline.training.pretraining import Pretraining
from ebm_pipeline.training.schedules import power_law

__all__ = [
    "L1", "L2", "AdaptiveL1", "Constraint", "FixedColumnNorm", "Model", "NonNegative", "Penalty", "Pictures", "Pretraining",
    "ProximalL1", "SparsityTarget", "ZeroMask", "power_law",
]  # fmt: skip
