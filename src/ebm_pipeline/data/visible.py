"""What the units of the visible layer stand for: the pixels of an image and, where labels are modelled, one unit per class.

The one place that knows their order: pixels first, then the label as a one-hot vector.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot


@dataclass(frozen=True)
class VisibleUnits:
    """`pixels` units of an image, and `classes` units of its label; 0: images alone."""

    pixels: int
    classes: int = 0

    @classmethod
    def of(cls, image_shape: tuple[int, int], units: int) -> VisibleUnits:
        """Of a layer of `units` units whose image has this (height, width)."""
        pixels = math.prod(image_shape)
        return cls(pixels, units - pixels)

    @property
    def units(self) -> int:
        return self.pixels + self.classes

    @property
    def is_pixel(self) -> Tensor:
        """True for pixels, False for the units of the label: (units,)."""
        return torch.arange(self.units) < self.pixels

    def images(self, visible: Tensor) -> Tensor:
        """The pixels of visible states: (..., units) -> (..., pixels); images alone come back as they are."""
        return visible[..., : self.pixels]

    def label_units(self, visible: Tensor) -> Tensor:
        """The units of the label: (..., units) -> (..., classes)."""
        return visible[..., self.pixels :]

    def labels(self, visible: Tensor) -> Tensor:
        """The class of each state, or the most probable one where the units are means: (..., units) -> (...), integers."""
        return self.label_units(visible).argmax(-1)

    def join(self, images: Tensor, labels: Tensor | int) -> Tensor:
        """Visible states of images (count, pixels) and their labels (count,), or one label: (count, units)."""
        numbers = torch.as_tensor(labels, device=images.device).expand(len(images))
        return torch.cat((images, one_hot(numbers, self.classes).to(images.dtype)), 1)
