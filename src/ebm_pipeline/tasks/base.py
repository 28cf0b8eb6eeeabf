"""The contract of a task: what is asked, and what an answer holds.

A task is its settings; calling it with a saved model, images (count, units) of the model's kind of data and a seed gives an
answer: arrays, how each was made, and numbers. Of a model of images and labels the array NAME has the pixels and
NAME_labels the units of the label.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from ebm_pipeline.data.visible import VisibleUnits
from ebm_pipeline.models.storage import SavedModel
from ebm_pipeline.support.errors import UserError

Progress = Callable[[int], None]


@dataclass(frozen=True, eq=False)
class Answer:
    """Arrays by name (count, units), with how each was made; `shown` are those that are images, in the order of a picture.

    how: of the picture, where `made` of the last of them does not say it; confusion: (classes, classes), how many images of
    the class of each row were given the label of each column, shown in place of images; hidden: the arrays that are of no
    visible units; families: samples (count, units) by where their chains started, all of which had the same sweeps; tried: R-hat
    by the number of sweeps after which it was computed.
    """

    arrays: dict[str, Tensor]
    made: dict[str, str]
    shown: tuple[str, ...]
    metrics: dict[str, float] = field(default_factory=dict)
    how: str = ""
    confusion: Tensor | None = None
    hidden: tuple[str, ...] = ()
    families: dict[str, Tensor] = field(default_factory=dict)
    tried: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """A question to a model."""

    name: ClassVar[str]
    needs_images: ClassVar[bool] = True  # False: they are only where chains start
    changes_pixels: ClassVar[bool] = False  # hides or flips single ones, which a transform must not have mixed

    @property
    def needs_ladder(self) -> bool:
        """Whether it takes the ladder that the model's run has kept."""
        return False

    def __call__(self, model: SavedModel, images: Tensor, seed: int, progress: Progress = lambda done: None) -> Answer:
        raise NotImplementedError


def with_labels(model: SavedModel, task: str) -> VisibleUnits:
    """The visible units of a model that has labels among them."""
    if not model.visible.classes:
        raise UserError(
            f"this model knows no labels, which {task} needs: train one that does, as with model=rbm_labels"
        )
    return model.visible


def parts(visible: VisibleUnits, **states: Tensor) -> dict[str, Tensor]:
    """Visible states (count, units) by name as arrays of an answer: the pixels, and the units of the labels if there are."""
    arrays = {}
    for name, tensor in states.items():
        arrays[name] = visible.images(tensor)
        if visible.classes:
            arrays[f"{name}_labels"] = visible.label_units(tensor)
    return arrays


def root_mean_square(difference: Tensor) -> float:
    """Root of the mean square of a difference."""
    return float(difference.square().mean().sqrt())
