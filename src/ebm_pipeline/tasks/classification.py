"""The label of an image, by the free energies of all labels."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ebm_pipeline.evaluation.classification import label_log_probabilities, wrong_labels
from ebm_pipeline.models.inference import MeanField
from ebm_pipeline.models.storage import SavedModel
from ebm_pipeline.tasks.base import Answer, Progress, Task, with_labels


@dataclass(frozen=True)
class Classification(Task):
    """p(label | image) of each image: exact for two layers, by the variational bound for more."""

    name = "classification"
    mean_field: MeanField

    def __call__(self, model: SavedModel, images: Tensor, seed: int, progress: Progress = lambda done: None) -> Answer:
        visible = with_labels(model, self.name)
        log_probabilities = label_log_probabilities(model.machine, visible, images, self.mean_field, progress)
        labels, predicted = visible.labels(images), log_probabilities.argmax(1)
        error = wrong_labels(log_probabilities, labels)
        std_error = math.sqrt(error * (1 - error) / len(images))
        exact = "exact" if model.machine.depth == 2 else "by the variational bound for each label, so approximate"
        how = f"p(label | image) from the free energy of each label; {exact}"
        return Answer(
            {"probabilities": log_probabilities.exp().to(images.dtype), "predicted": predicted},
            {"probabilities": how, "predicted": "the most probable label"},
            (),
            {
                "classification_error": error,
                "classification_error_std_error": std_error,
                "cross_entropy_nats": -float(log_probabilities.gather(1, labels[:, None]).mean()),
            },
            f"{len(images)} images, {error:.2%} +- {std_error:.2%} wrong; {how}",
            (labels * visible.classes + predicted).bincount(minlength=visible.classes**2).view(visible.classes, -1),
        )
