"""Means of the hidden units given the images."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ebm_pipeline.evaluation.classification import label_log_probabilities
from ebm_pipeline.models.inference import MeanField
from ebm_pipeline.models.labels import given_label
from ebm_pipeline.models.machine import BoltzmannMachine
from ebm_pipeline.models.storage import SavedModel
from ebm_pipeline.tasks.base import Answer, Progress, Task, parts


@dataclass(frozen=True)
class Features(Task):
    """Means of the hidden layers given the images: exact for two layers, by mean field for more.

    Labels are no part of what is given: over them the mean is taken by their probabilities given the image.
    """

    name = "features"
    mean_field: MeanField

    def __call__(self, model: SavedModel, images: Tensor, seed: int, progress: Progress = lambda done: None) -> Answer:
        visible, machine = model.visible, model.machine
        alone: list[tuple[BoltzmannMachine, Tensor | float]] = [(machine, 1.0)]
        if visible.classes:
            probabilities = label_log_probabilities(machine, visible, images, self.mean_field).exp().to(images.dtype)
            alone = [
                (given_label(machine, visible, label), probabilities[:, label, None])
                for label in range(visible.classes)
            ]
        layers: dict[str, Tensor] = {}
        residual = 0.0
        for part, weight in alone:
            posterior = self.mean_field(part, (visible.images(images), *(None,) * (machine.depth - 1)))
            residual = max(residual, posterior.residual)
            for index, state in enumerate(posterior.means[1:], start=1):
                name = f"layer_{index}"
                layers[name] = layers[name] + weight * state if name in layers else weight * state
        how = "exact" if machine.depth == 2 else f"mean field, largest last change {residual:.1e}"
        given = "the images, the labels summed out" if visible.classes else "the data"
        return Answer(
            parts(visible, data=images) | layers,
            dict.fromkeys(layers, f"hidden means given {given}; {how}"),
            ("data",),
            hidden=tuple(layers),
        )
