"""Whether images carry anything to learn: before the transform and after it, and whether the test part is held out at all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ebm_pipeline.data.moments import moments
from ebm_pipeline.data.parts import Array, Images, Part
from ebm_pipeline.data.transforms import Transform
from ebm_pipeline.support.errors import UserError

MUCH = 0.1  # standard deviation of a pixel, in grey levels, that a transform must not make nothing of
SHOWN = 5  # pixels in a message
CHANCE = 3.0  # standard errors by which repeats are more than chance gives


def check_information(images: Images, transform: Transform) -> None:
    """Raise UserError where the transform makes the images of a part all the same, or pixels that vary much."""
    for name, part in images.parts.items():
        kept = _varies(transform.expected(block) for block in map(torch.from_numpy, part.pieces()))
        if not kept.any() and _differ(part):
            raise UserError(
                f"{part.what}: after data/transform={transform.name} all {part.count} images are the same, and in the file they "
                f"are not. Its numbers were taken for {transform.values}: set data.values, or data/transform"
            )
        if name == "train" and transform.units_are_pixels and not kept.all():
            _check_pixels(part, transform, kept)


def _varies(blocks: Iterable[Tensor]) -> Tensor:
    """Which columns are not the same in all rows of all blocks (samples, units): (units,)."""
    ranges = [(block.amin(0), block.amax(0)) for block in blocks]
    lows, highs = (torch.stack(ends) for ends in zip(*ranges, strict=True))
    return lows.amin(0) < highs.amax(0)


def _differ(part: Part) -> bool:
    first = part.images(slice(0, 1))
    return any(bool((block != first).any()) for block in part.blocks())


def _check_pixels(part: Part, transform: Transform, kept: Tensor) -> None:
    """Raise UserError for pixels that vary much and, after the transform, not at all; barely grey ones may go."""
    same = (~kept).nonzero().flatten()
    found = moments(transform.levels(torch.from_numpy(block)[:, same]) for block in part.blocks())
    lost = found.std > MUCH
    if lost.any():
        shown = [
            f"{number} (grey levels {low:.3g} to {high:.3g})"
            for number, low, high in zip(
                same[lost].tolist(), found.low[lost].tolist(), found.high[lost].tolist(), strict=True
            )
        ]
        raise UserError(
            f"{part.what}: {len(shown)} of {part.units} pixels vary in the file and are all the same after "
            f"data/transform={transform.name}: {', '.join(shown[:SHOWN])}{', ...' if len(shown) > SHOWN else ''}. Take "
            "data/transform=stochastic or another data.transform.threshold, or leave those pixels out"
        )


@dataclass(frozen=True)
class Repeats:
    """Images of the test part that are in the training part too, and how many of them chance would give.

    by_chance: the share of training images that have a twin among the other ones, times the test images.
    """

    found: int
    images: int
    by_chance: float

    @property
    def leak(self) -> bool:
        """Whether there are more than chance gives."""
        return bool(self.found > self.by_chance + CHANCE * max(self.by_chance, 1.0) ** 0.5)

    def __str__(self) -> str:
        return (
            f"{self.found} of {self.images} test images are in the training part too; as many repeats as within the training "
            f"part would be {self.by_chance:.0f}"
        )


def repeats(images: Images) -> Repeats | None:
    """Repeats between the parts, by a hash of each image; None without a test part."""
    if images.test is None:
        return None
    common = np.result_type(images.train.dtype, images.test.dtype)
    train, test = (_hashes(part, common) for part in (images.train, images.test))
    different, counts = np.unique(train, return_counts=True)
    twins = int(counts[counts > 1].sum())
    return Repeats(int(np.isin(test, different).sum()), len(test), twins / len(train) * len(test))


def _hashes(part: Part, dtype: np.dtype[np.generic]) -> Array:
    """A number (count,) for each image, the same for the same images."""
    return np.array([hash(row.tobytes()) for block in part.blocks() for row in block.astype(dtype, copy=False)])
