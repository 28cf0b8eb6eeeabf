"""What a served model answers. The parameter `task` says what comes back:

    reconstruct   the final conditional means of the pass up and down (images, pixels)
    score         free energy F(v) in nats (images, 1); for machines of more than two layers the variational free energy, from
                  the mean-field bound: F up to the bound's gap. Without log Z, so it compares images and not models
    sample        visible states (images, pixels) after `sweeps` block Gibbs sweeps that start at the images
    classify      p(label | image) (images, classes), of a model of images and labels; for more than two layers by the bound

A model of images and labels wants the label behind the pixels, one-hot, in all tasks but `classify`, which does not read it
and takes the pixels alone as well. What one request may cost is bounded, so that no request holds the server for long.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebm_pipeline.evaluation.classification import label_log_probabilities
from ebm_pipeline.evaluation.likelihood import unnormalized_each
from ebm_pipeline.models.inference import MeanField, up_and_down
from ebm_pipeline.models.labels import image_layer
from ebm_pipeline.models.storage import SavedModel
from ebm_pipeline.runs.trust import plain_yaml
from ebm_pipeline.sampling import Gibbs, start_at_visible
from ebm_pipeline.support.errors import MOST_SEED, UserError, check_whole

TASKS = ("reconstruct", "score", "sample", "classify")
MOST_SWEEPS = 100_000
MOST_VALUES = 3 * 10**7  # images x units of all layers: what is held in memory at a time
MOST_WORK = 5 * 10**11  # images x passes x (connections + UNIT_COST x units): a minute or two of one core
UNIT_COST = 100  # connections whose product takes as long as a unit's draw


@dataclass(frozen=True)
class Question:
    """The parameters of a request."""

    task: str = TASKS[0]
    sweeps: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise UserError(f"task must be one of {', '.join(TASKS)}; got {self.task!r}")
        check_whole("sweeps", self.sweeps, 1, MOST_SWEEPS)
        check_whole("seed", self.seed, 0, MOST_SEED)

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Self:
        """From a request's parameters by name; raises UserError for others, and for values that are none."""
        known = [field.name for field in fields(cls)]
        unknown = [name for name in params if name not in known]
        if unknown:
            raise UserError(f"there is no parameter {str(unknown[0])[:40]!r}: params may have {', '.join(known)}")
        return cls(**params)


DEFAULTS: dict[str, str | int] = asdict(Question())


class ServedMachine:
    """A saved model, and its answers."""

    def __init__(self, saved: SavedModel) -> None:
        self.machine = saved.machine
        self.visible = saved.visible
        self.mean_field = _mean_field(saved.config) if self.machine.depth > 2 else MeanField()

    def answer(self, images: Any, params: Mapping[str, Any]) -> NDArray[np.float32]:
        """`images` (images, units), `params` task, sweeps, seed -> float32, as the module says; raises UserError."""
        return self.compute(*self.checked(images, params))

    def checked(self, images: Any, params: Mapping[str, Any]) -> tuple[Tensor, Question]:
        """What can be asked of this model, and does not cost too much; raises UserError for all else."""
        question = Question.of(params)
        if question.task == "classify" and not self.visible.classes:
            raise UserError("this model knows no labels: classify needs one trained with model=rbm_labels")
        return self._states(_tensor(images), question), question

    def compute(self, visible: Tensor, question: Question) -> NDArray[np.float32]:
        """The answer to what `checked` has given."""
        with torch.inference_mode():
            found = self._asked(visible, question).float().numpy()
        if not np.isfinite(found).all():
            raise UserError(
                f"the answer is not finite: the images are too far from what this model was trained on (values up to "
                f"{float(visible.abs().max()):g}). Give images as the training saw them"
            )
        return found

    def _asked(self, visible: Tensor, question: Question) -> Tensor:
        if question.task == "reconstruct":
            return up_and_down(self.machine, visible)[0]
        if question.task == "score":
            return -unnormalized_each(self.machine, visible, self.mean_field)[:, None]
        if question.task == "classify":
            return label_log_probabilities(self.machine, self.visible, visible, self.mean_field).exp()
        generator = torch.Generator().manual_seed(question.seed)
        chains = start_at_visible(self.machine, visible, generator)
        return Gibbs(question.sweeps).sweep(self.machine, chains, generator)[0]

    def _states(self, visible: Tensor, question: Question) -> Tensor:
        """`visible` (images, units), if they are states of the visible layer; for classify the label may be missing."""
        classify = question.task == "classify"
        widths = {self.visible.units} | ({self.visible.pixels} if classify else set())
        if visible.dim() != 2 or visible.shape[1] not in widths or len(visible) == 0:
            expected = " or ".join(f"(images, {width})" for width in sorted(widths))
            label = f", the last {self.visible.classes} columns for the label" if self.visible.classes else ""
            raise UserError(f"expected images {expected}, one row each{label}; got {tuple(visible.shape)}")
        self._check_cost(len(visible), question)
        if classify:
            image_layer(self.machine.layers[0], self.visible).check_data(self.visible.images(visible))
        else:
            self.machine.layers[0].check_data(visible)
        return visible

    def _check_cost(self, images: int, question: Question) -> None:
        """Raise UserError for a request that would take more memory or time than one may."""
        units = sum(layer.units for layer in self.machine.layers)
        if images * units > MOST_VALUES:
            raise UserError(
                f"{images:,} images of a model of {units:,} units are more than one request may ask for: send at most "
                f"{max(1, MOST_VALUES // units):,} at a time"
            )
        passes = self._passes(question)
        each = passes * (sum(weights.numel() for weights in self.machine.weights) + UNIT_COST * units)
        if images * each > MOST_WORK:
            what = f"sweeps={question.sweeps} of {images:,}" if question.task == "sample" else f"{images:,}"
            fewer = (
                f"send at most {MOST_WORK // each:,} images at a time" if each <= MOST_WORK else "train a smaller model"
            )
            if question.task == "sample":
                fewer += f", or ask for at most {max(1, MOST_WORK * passes // (images * each)):,} sweeps"
            raise UserError(f"{what} images cost more than one request may, for a model of {units:,} units: {fewer}")

    def _passes(self, question: Question) -> int:
        """Passes over all connections, at most, that an image takes."""
        by_mean_field = self.mean_field.max_steps if self.machine.depth > 2 else 1
        return {"reconstruct": 2, "score": by_mean_field, "classify": by_mean_field * self.visible.classes}.get(
            question.task, question.sweeps
        )


def _tensor(images: Any) -> Tensor:
    """Images as float32; raises UserError where they are no numbers, or none that float32 holds."""
    try:
        array = np.asarray(images)
    except ValueError as error:  # rows of different lengths
        raise UserError(f"expected images (images, units), rows of numbers of one length; got {error}") from error
    if array.dtype.kind not in "iuf":
        raise UserError(f"expected images (images, units) of numbers; got values of type {array.dtype}")
    with np.errstate(over="ignore"):
        found = array.astype(np.float32)
    if not np.isfinite(found).all():
        raise UserError("expected finite numbers; got NaN, infinity, or numbers too large for float32")
    return torch.from_numpy(found)


def _mean_field(config: str) -> MeanField:
    """The settings in a model's configuration, read as data; those of the class where it has none."""
    found = plain_yaml(config).get("mean_field", {}) if config else {}
    if not isinstance(found, dict):
        raise UserError(f"mean_field must be a mapping with tolerance and max_steps; got {str(found)[:80]!r}")
    return MeanField(**{name: found[name] for name in ("tolerance", "max_steps") if name in found})
