"""From stored pixels to what the visible layer sees. Each transform is fitted once on the training images' moments."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from ebm_pipeline.errors import check_number

GREY_LEVELS = 255


def _grey(images: Tensor) -> Tensor:
    """Grey levels in [0, 1] from stored pixels: uint8 divided by 255, floats as they are."""
    return images / GREY_LEVELS if images.dtype == torch.uint8 else images


@dataclass(frozen=True, eq=False)
class Transform:
    """Stored pixels (samples, units) -> float32 of the same shape."""

    name: ClassVar[str]
    needs_unit_range: ClassVar[bool] = False
    mixes_pixels: ClassVar[bool] = False  # a unit depends on several pixels; `fitted` then gets their covariance

    def fitted(self, mean: Tensor, std: Tensor, covariance: Tensor | None = None) -> Self:
        """The transform with what it needs of the training images' grey levels.

        mean, std (units,) and, where pixels are mixed, covariance (units, units); float64.
        """
        return self

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        raise NotImplementedError

    def expected(self, images: Tensor) -> Tensor:
        """The mean over what the transform draws, of stored pixels or grey levels (samples, units)."""
        return self(images, torch.Generator())

    def to_grey(self, images: Tensor) -> Tensor:
        """What a picture shows of transformed images (samples, units): grey levels, or the images where they serve as such."""
        return images

    def weights_to_grey(self, weights: Tensor) -> Tensor:
        """What a picture shows of weights (hidden units, units) to transformed images: those to grey levels."""
        return weights


@dataclass(frozen=True, eq=False)
class Threshold(Transform):
    """1 where the grey level is above `threshold`, else 0."""

    name = "threshold"
    needs_unit_range = True
    threshold: float = 0.5

    def __post_init__(self) -> None:
        check_number("data.transform.threshold, a grey level,", self.threshold, 0, 1, open_high=True)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        limit = self.threshold * GREY_LEVELS if images.dtype == torch.uint8 else self.threshold
        out = torch.empty(images.shape, dtype=torch.float32, device=images.device)
        return torch.gt(images, limit, out=out)


@dataclass(frozen=True, eq=False)
class Spin(Threshold):
    """1 where the grey level is above `threshold`, else -1."""

    name = "spin"

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return super().__call__(images, generator).mul_(2).sub_(1)


@dataclass(frozen=True, eq=False)
class Stochastic(Transform):
    """Each pixel drawn 0 or 1 with its grey level as the probability of 1."""

    name = "stochastic"
    needs_unit_range = True

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        uniform = torch.rand(images.shape, generator=generator, device=images.device)
        return torch.lt(uniform, _grey(images), out=torch.empty_like(uniform))

    def expected(self, images: Tensor) -> Tensor:
        return _grey(images)


@dataclass(frozen=True, eq=False)
class Scale(Transform):
    """Grey levels in [0, 1] for uint8; floats as they are."""

    name = "scale"

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return _grey(images).to(torch.float32)


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
        noise = torch.rand(images.shape, generator=generator, device=images.device)
        return noise.sub_(0.5).mul_(self.width).add_(_grey(images))

    def expected(self, images: Tensor) -> Tensor:
        return _grey(images)


@dataclass(frozen=True, eq=False)
class Decorrelate(Dequantise):
    """Dequantised grey levels less their mean, along the principal components of the training images, the largest first.

    A rotation: densities and distances are those of grey levels. Units that are uncorrelated are, without couplings, a Gaussian
    of full covariance, from which a Gaussian RBM goes on.
    """

    name = "decorrelate"
    mixes_pixels = True
    mean: Tensor | None = None
    components: Tensor | None = None  # (units, units), one per column

    def fitted(self, mean: Tensor, std: Tensor, covariance: Tensor | None = None) -> Self:
        assert covariance is not None, "principal components need a covariance"
        components = torch.linalg.eigh(covariance).eigenvectors.flip(1)
        return replace(self, mean=mean.float(), components=components.float())

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return self._rotated(super().__call__(images, generator))

    def expected(self, images: Tensor) -> Tensor:
        return self._rotated(_grey(images).float())

    def to_grey(self, images: Tensor) -> Tensor:
        assert self.mean is not None, "the transform is not fitted"
        return self.mean.to(images.device) + self.weights_to_grey(images)

    def weights_to_grey(self, weights: Tensor) -> Tensor:
        assert self.components is not None, "the transform is not fitted"
        return weights @ self.components.mT.to(weights.device)

    def _rotated(self, grey: Tensor) -> Tensor:
        assert self.mean is not None, "the transform is not fitted"
        assert self.components is not None, "the transform is not fitted"
        return (grey - self.mean.to(grey.device)) @ self.components.to(grey.device)


@dataclass(frozen=True, eq=False)
class Standardize(Transform):
    """Each pixel minus its training mean, divided by its training deviation (at least `floor`)."""

    name = "standardize"
    floor: float = 0.1
    mean: Tensor | None = None
    std: Tensor | None = None

    def __post_init__(self) -> None:
        check_number("data.transform.floor", self.floor, open_low=True)

    def fitted(self, mean: Tensor, std: Tensor, covariance: Tensor | None = None) -> Self:
        return replace(self, mean=mean.float(), std=std.float().clamp_min(self.floor))

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        assert self.mean is not None, "the transform is not fitted"
        assert self.std is not None, "the transform is not fitted"
        return (_grey(images) - self.mean.to(images.device)) / self.std.to(images.device)


@dataclass(frozen=True, eq=False)
class Identity(Transform):
    """Stored values as they are."""

    name = "none"

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return images.to(torch.float32)
