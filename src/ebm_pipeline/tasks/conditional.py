"""Samples of the model given a label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ebm_pipeline.evaluation.equilibrium import LEAST_SWEEPS, defined, equilibrate, shown_r_hat
from ebm_pipeline.models.labels import given_label
from ebm_pipeline.models.storage import SavedModel
from ebm_pipeline.support.errors import UserError, check_whole
from ebm_pipeline.tasks.base import Answer, Progress, Task, with_labels


@dataclass(frozen=True)
class Conditional(Task):
    """Samples of the model given each of `labels`, None for every class: `samples` a class.

    As with fantasies half of the chains start from images, here those of the class, and half from noise; R-hat is that
    between the two within the class.
    """

    name = "conditional"
    labels: Sequence[int] | None = None
    samples: int = 20
    sweeps: int = 1000

    def __post_init__(self) -> None:
        if self.labels is not None and (isinstance(self.labels, str | int) or not self.labels):
            raise UserError(f"task.labels is a list of classes, such as [3,8], or null for all; got {self.labels!r}")
        check_whole("task.samples", self.samples, 4)
        check_whole("task.sweeps", self.sweeps, LEAST_SWEEPS)

    def __call__(self, model: SavedModel, images: Tensor, seed: int, progress: Progress = lambda done: None) -> Answer:
        visible = with_labels(model, self.name)
        chosen = range(visible.classes) if self.labels is None else self.labels
        for label in chosen:
            check_whole("each of task.labels", label, 0, visible.classes - 1)
        generator = torch.Generator(device=images.device).manual_seed(seed)
        own = visible.labels(images)
        arrays: dict[str, Tensor] = {}
        made: dict[str, str] = {}
        r_hats: dict[str, float] = {}
        for label in chosen:
            machine = given_label(model.machine, visible, label)
            start = images[own == label] if (own == label).any() else images
            chains = equilibrate(machine, visible.images(start), self.samples, self.sweeps, generator, progress)
            name = f"class_{label}"
            arrays[name] = chains.states[0]
            arrays[f"{name}_means"] = machine.layers[0].mean(machine.inputs(chains.states, 0))
            r_hats[f"r_hat_of_{name}"] = chains.worst
            how = f"label {label} held; R-hat over both starts {shown_r_hat(chains.worst)}"
            made |= {name: f"samples; {how}", f"{name}_means": f"conditional means given the hidden units; {how}"}
        drawn = (
            f"{self.sweeps} Gibbs sweeps with the label held, half of the chains from images of the class, half from noise; "
            f"R-hat over both starts at most {shown_r_hat(max(r_hats.values()))}"
        )
        return Answer(arrays, made, tuple(f"class_{label}" for label in chosen), defined(r_hats), f"samples; {drawn}")
