"""From stored numbers to what the visible layer sees. A transform is fitted once: to what the numbers are, whatever their type
(`values`), and to the training images' moments.

Grey levels are numbers from 0 (black) to 1 (white): 0..255 divided by 255, spins of -1 and +1 brought to 0 and 1, others as
they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ebm_pipeline.data.moments import Moments
from ebm_pipeline.data.values import FITTING, GREY_LEVELS, KINDS, Values
from ebm_pipeline.support.errors import UserError, check_number

DEVIATIONS = 4.0  # standard deviations that are the unit of a pixel of real numbers
NO_VARIANCE = 1e-9  # of the largest variance: below, a principal component has none
GREY = ("binary", "spins", "grey8", "unit")  # kinds that are grey levels, or black and white


@dataclass(frozen=True, eq=False)
class Transform:
    """Stored numbers (samples, pixels) -> float32 (samples, units), as many units as pixels if not said otherwise."""

    name: ClassVar[str]
    takes: ClassVar[tuple[str, ...]] = GREY  # kinds of numbers
    mixes_pixels: ClassVar[bool] = False  # `fitted` then gets their covariance
    units_are_pixels: ClassVar[bool] = True  # a unit is one pixel, so that a task may change single ones

    values: Values = field(default=Values("unit"), kw_only=True)

    def check(self, values: Values, where: str) -> None:
        """Raise UserError for numbers that the transform can make nothing of."""
        if values.kind not in self.takes:
            raise UserError(
                f"{where} holds {values}, and data/transform={self.name} takes {', '.join(KINDS[kind] for kind in self.takes)}: "
                f"what fits is {FITTING[values.kind]}"
            )

    def fitted(self, values: Values, measure: Callable[[], Moments]) -> Self:
        """The transform with what it needs of the training images, whose moments `measure` gives."""
        return replace(self, values=values)

    def units(self, pixels: int) -> int:
        """Units of the visible layer for images of that many pixels."""
        return pixels

    def levels(self, images: Tensor) -> Tensor:
        """Grey levels of stored numbers (samples, pixels), or the numbers themselves where they are none."""
        if self.values.kind == "spins":
            return (images + 1) / 2
        return images / GREY_LEVELS if self.values.kind == "grey8" else images

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        raise NotImplementedError

    def of_levels(self, levels: Tensor) -> Tensor:
        """The mean over what the transform draws, of `levels` (samples, pixels): float32 (samples, units)."""
        raise NotImplementedError

    def expected(self, images: Tensor) -> Tensor:
        """The mean over what the transform draws, of stored numbers (samples, pixels): float32 (samples, units)."""
        return self.of_levels(self.levels(images))

    def to_grey(self, images: Tensor) -> Tensor:
        """What a picture shows of transformed images (samples, units): grey levels, or the images where they serve as such."""
        return images

    def weights_to_grey(self, weights: Tensor) -> Tensor:
        """What a picture shows of weights (hidden units, units) to transformed images: those to grey levels."""
        return weights

    def to_levels(self, images: Tensor) -> Tensor:
        """Grey levels, or numbers where they are none, of transformed images (samples, units) or of means of them."""
        return self.to_grey(images)

    def with_pixels_changed(self, images: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        """Transformed images (samples, units) after `change` of their pixels."""
        return change(images)

    @property
    def log_scale(self) -> float:
        """Nats by which a log-density of the units is above that of the stored numbers; 0 where units are grey levels."""
        return 0.0


@dataclass(frozen=True, eq=False)
class Threshold(Transform):
    """1 where the grey level is above `threshold`, else 0."""

    name = "threshold"
    threshold: float = 0.5

    def __post_init__(self) -> None:
        check_number("data.transform.threshold, a grey level,", self.threshold, 0, 1, open_high=True)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return self._above(images, self.threshold * self.values.span + self.values.origin)

    def of_levels(self, levels: Tensor) -> Tensor:
        return self._above(levels, self.threshold)

    def _above(self, images: Tensor, limit: float) -> Tensor:
        out = torch.empty(images.shape, dtype=torch.float32, device=images.device)
        return torch.gt(images, limit, out=out)


@dataclass(frozen=True, eq=False)
class Spin(Threshold):
    """1 where the grey level is above `threshold`, else -1."""

    name = "spin"

    def _above(self, images: Tensor, limit: float) -> Tensor:
        return super()._above(images, limit).mul_(2).sub_(1)


@dataclass(frozen=True, eq=False)
class Stochastic(Transform):
    """Each pixel drawn 0 or 1 with its grey level as the probability of 1."""

    name = "stochastic"

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        uniform = torch.rand(images.shape, generator=generator, device=images.device)
        return torch.lt(uniform, self.levels(images), out=torch.empty_like(uniform))

    def of_levels(self, levels: Tensor) -> Tensor:
        return levels.to(torch.float32)


@dataclass(frozen=True, eq=False)
class Scale(Transform):
    """Grey levels, from 0 to 1."""

    name = "scale"

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return self.of_levels(self.levels(images))

    def of_levels(self, levels: Tensor) -> Tensor:
        return levels.to(torch.float32)


@dataclass(frozen=True, eq=False)
class Dequantise(Transform):
    """Grey levels with uniform noise of this width about each, so that real units see a density (Uria, Murray & Larochelle 2013).

    A density of discrete grey levels has no bound. Log-likelihoods depend on the width: compare them at the same one.
    """

    name = "dequantise"
    width: float = 1 / 16

    def __post_init__(self) -> None:
        check_number("data.transform.width, in grey levels,", self.width, 0, 1, open_low=True)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return self._noise(images, generator).add_(self.levels(images))

    def of_levels(self, levels: Tensor) -> Tensor:
        return levels.to(torch.float32)

    def _noise(self, images: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.rand(images.shape, generator=generator, device=images.device)
        return noise.sub_(0.5).mul_(self.width)


@dataclass(frozen=True, eq=False)
class Decorrelate(Dequantise):
    """Numbers in a unit of their own, less their mean, along the principal components of the training images, the largest first.

    Levels (few different numbers that most pixels range over): their range is the unit of all pixels, with noise of
    `width` units about each. Other numbers have a density and get no noise: the unit of each pixel is
    `DEVIATIONS` of its standard deviations, so that it varies about as much as pixels do in grey levels.
    So nothing depends on the scale of the data, or on where their zero is. Beside that it is a rotation: units that are
    uncorrelated are, without couplings, a Gaussian of full covariance, from which a Gaussian RBM goes on.
    """

    name = "decorrelate"
    takes = (*GREY, "real")
    mixes_pixels = True
    units_are_pixels = False
    mean: Tensor | None = None
    unit: Tensor | None = None  # (pixels,), in stored numbers
    components: Tensor | None = None  # (pixels, units), one per column

    def fitted(self, values: Values, measure: Callable[[], Moments]) -> Self:
        moments = measure()
        assert moments.covariance is not None, "principal components need a covariance"
        own = torch.where(moments.varies, DEVIATIONS * moments.std, 1.0)
        unit = torch.full_like(own, values.high - values.low) if values.levels else own
        variances, components = torch.linalg.eigh(moments.covariance / torch.outer(unit, unit))
        components = components.flip(1) if values.levels else _turned(variances.flip(0), components.flip(1))
        return replace(self, values=values, mean=moments.mean, unit=unit, components=components.float())

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        standard = self._standard(images)
        if self.values.levels:
            standard = standard + self._noise(images, generator)
        return standard @ self._of(images, self.components)

    def of_levels(self, levels: Tensor) -> Tensor:
        return self.expected(levels.double() * self.values.span + self.values.origin)

    def expected(self, images: Tensor) -> Tensor:
        return self._standard(images) @ self._of(images, self.components)

    def to_grey(self, images: Tensor) -> Tensor:
        stored = (images @ self._of(images, self.components).mT) * self._of(images, self.unit) + self._of(
            images, self.mean
        )
        return self.levels(stored).float()

    def weights_to_grey(self, weights: Tensor) -> Tensor:
        return weights @ self._of(weights, self.components).mT

    def with_pixels_changed(self, images: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        return self.of_levels(change(self.to_grey(images)))

    @property
    def log_scale(self) -> float:
        assert self.unit is not None, "the transform is not fitted"
        return (
            float((self.unit / self.values.span).log().sum())
            if self.values.kind in GREY
            else float(self.unit.log().sum())
        )

    def _standard(self, images: Tensor) -> Tensor:
        mean, unit = self._of(images, self.mean), self._of(images, self.unit)
        if images.dtype == torch.uint8:
            return (images - mean.float()) / unit.float()
        return ((images - mean) / unit).float()

    def _of(self, images: Tensor, fitted: Tensor | None) -> Tensor:
        assert fitted is not None, "the transform is not fitted"
        return fitted.to(images.device)


def _turned(variances: Tensor, components: Tensor) -> Tensor:
    """Principal components (pixels, units) with signs, and a basis of those without variance, that rounding cannot change.

    Each is what is left of a fixed random direction in the space of its own.
    """
    fixed = torch.randn(components.shape, generator=torch.Generator().manual_seed(0), dtype=components.dtype)
    number = int((variances > NO_VARIANCE * variances[0]).sum())
    kept, rest = components[:, :number], components[:, number:]
    signs = (kept * fixed[:, :number]).sum(0).sign()
    basis, triangle = torch.linalg.qr(rest @ (rest.mT @ fixed[:, number:]))
    return torch.cat((kept * signs, basis * triangle.diagonal().sign()), 1)


@dataclass(frozen=True, eq=False)
class Standardize(Transform):
    """Each pixel minus its training mean, divided by its training deviation.

    The deviations of grey levels are at least `floor`, so that pixels that hardly vary stay small; real numbers have units of
    their own.
    """

    name = "standardize"
    takes = (*GREY, "real")
    floor: float = 0.1
    mean: Tensor | None = None
    std: Tensor | None = None

    def __post_init__(self) -> None:
        check_number("data.transform.floor", self.floor, open_low=True)

    def fitted(self, values: Values, measure: Callable[[], Moments]) -> Self:
        moments = measure()
        mean, std = (moments.mean - values.origin) / values.span, moments.std / values.span
        std = torch.where(moments.varies, std, 1.0) if values.kind == "real" else std.clamp_min(self.floor)
        return replace(self, values=values, mean=mean, std=std)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return self.of_levels(self.levels(images))

    def of_levels(self, levels: Tensor) -> Tensor:
        assert self.mean is not None, "the transform is not fitted"
        assert self.std is not None, "the transform is not fitted"
        return ((levels - self.mean.to(levels.device)) / self.std.to(levels.device)).float()

    def to_levels(self, images: Tensor) -> Tensor:
        assert self.mean is not None, "the transform is not fitted"
        assert self.std is not None, "the transform is not fitted"
        return (images * self.std.to(images.device) + self.mean.to(images.device)).float()

    @property
    def log_scale(self) -> float:
        assert self.std is not None, "the transform is not fitted"
        return float(self.std.log().sum())


@dataclass(frozen=True, eq=False)
class OneHot(Transform):
    """Each pixel, a category, as one unit per category of which one is 1: a site of Potts units."""

    name = "one_hot"
    takes = ("categories", "binary")
    units_are_pixels = False

    def units(self, pixels: int) -> int:
        return pixels * self._categories

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return self.of_levels(images)

    def of_levels(self, levels: Tensor) -> Tensor:
        return one_hot(levels.long(), self._categories).flatten(1).float()

    def with_pixels_changed(self, images: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        return self.of_levels(change(images.reshape(len(images), -1, self._categories).argmax(-1)))

    @property
    def _categories(self) -> int:
        return max(2, self.values.categories)


@dataclass(frozen=True, eq=False)
class Identity(Transform):
    """Stored numbers as they are."""

    name = "none"
    takes = tuple(KINDS)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return images.to(torch.float32)

    def of_levels(self, levels: Tensor) -> Tensor:
        return (levels * self.values.span + self.values.origin).to(torch.float32)
