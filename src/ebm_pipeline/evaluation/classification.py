"""Classification by a machine of images and labels: p(label | image) is exp(-F(image, label)), normalised over the labels.

F is the free energy, so that this is exact for machines of two layers (Larochelle & Bengio 2008, equation 2); for more the
variational bound takes its place, and the probabilities are as good as its gap is the same for all labels. Log Z drops out.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ebm_pipeline.data.visible import VisibleUnits
from ebm_pipeline.evaluation.likelihood import ROWS, unnormalized_each
from ebm_pipeline.models.inference import MeanField
from ebm_pipeline.models.machine import BoltzmannMachine


def label_log_probabilities(
    machine: BoltzmannMachine,
    visible: VisibleUnits,
    states: Tensor,
    mean_field: MeanField,
    progress: Callable[[int], None] = lambda done: None,
) -> Tensor:
    """log p(label | image) of images (count, pixels): (count, classes), float64. A label in `states` is not read."""
    machine = machine.folded()
    score = _negative_free_energies if machine.depth == 2 else _bounds
    found = []
    for done, block in enumerate(visible.images(states).split(ROWS), start=1):
        found.append(score(machine, visible, block, mean_field))
        progress(done)
    return torch.cat(found).log_softmax(1)


def wrong_labels(log_probabilities: Tensor, labels: Tensor) -> float:
    """Fraction of the images whose most probable label, by (count, classes), is not theirs, (count,)."""
    return float((log_probabilities.argmax(1) != labels).double().mean())


def _negative_free_energies(
    machine: BoltzmannMachine, visible: VisibleUnits, images: Tensor, mean_field: MeanField
) -> Tensor:
    """-F(image, label) less what all labels share: (count, classes). The image's share of the inputs is computed once."""
    hidden = machine.layers[1]
    inputs = images @ visible.images(machine.weights[0].mT).mT
    scores = [
        bias + hidden.log_partition(inputs + weights)
        for bias, weights in zip(
            visible.label_units(machine.layers[0].bias), visible.label_units(machine.weights[0].mT).mT, strict=True
        )
    ]
    return torch.stack(scores, 1).double()


def _bounds(machine: BoltzmannMachine, visible: VisibleUnits, images: Tensor, mean_field: MeanField) -> Tensor:
    """The variational bound on log p(image, label), without log Z: (count, classes)."""
    return torch.stack(
        [
            unnormalized_each(machine, visible.join(images, label), mean_field)
            for label in range(visible.classes)
        ],
        1,
    )  # fmt: skip
