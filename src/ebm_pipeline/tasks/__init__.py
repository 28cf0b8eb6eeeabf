"""What one can ask of a trained model. One file per task; the contract is in `base`."""

from ebm_pipeline.tasks.base import Answer, Task
from ebm_pipeline.tasks.classification import Classification
from ebm_pipeline.tasks.conditional import Conditional
from ebm_pipeline.tasks.denoising import Denoising
from ebm_pipeline.tasks.fantasies import Fantasies
from ebm_pipeline.tasks.features import Features
from ebm_pipeline.tasks.inpainting import Inpainting

__all__ = ["Answer", "Classification", "Conditional", "Denoising", "Fantasies", "Features", "Inpainting", "Task"]
