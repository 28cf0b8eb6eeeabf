"""Learning objectives: (machine, clamped data, chains) -> gradient and new chains. One file per algorithm."""

from ebm_pipeline.training.objectives.cd import ContrastiveDivergence
from ebm_pipeline.training.objectives.contrast import Contrastive, Learning, Objective
from ebm_pipeline.training.objectives.pcd import PersistentContrastiveDivergence
from ebm_pipeline.training.objectives.tap import Tap

__all__ = ["Contrastive", "ContrastiveDivergence", "Learning", "Objective", "PersistentContrastiveDivergence", "Tap"]
