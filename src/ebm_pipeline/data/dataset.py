"""A data set ready for training: parts, split, transform, and batches that are reshuffled every epoch."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ebm_pipeline.data.batches import BatchLoader, EpochOrder, Labels, StreamLoader, generator_of, images_alone
from ebm_pipeline.data.information import check_information
from ebm_pipeline.data.moments import moments
from ebm_pipeline.data.parts import BLOCK_VALUES, MOST_CLASSES, Images, Part, cached_rows, check_labels
from ebm_pipeline.data.reading import read, split_key
from ebm_pipeline.data.transforms import Transform
from ebm_pipeline.data.values import MOST_CATEGORIES, Values, find_values
from ebm_pipeline.data.visible import VisibleUnits
from ebm_pipeline.support.errors import MOST, MOST_SEED, UserError, check_memory, check_number, check_whole

PART_SEEDS = {"train": 1, "validation": 2, "test": 3}
SPLIT = 9  # key of the generator that chooses the validation images
ORDER_BYTES = 16  # of a row number and its copy


@dataclass(frozen=True, eq=False)
class Split:
    """Rows of the training part for training and for validation; `stored` (count, pixels) is None where it streams."""

    train: Part
    stored: Tensor | None
    training_rows: Tensor
    validation_rows: Tensor
    block: int  # images that are read at once

    def blocks(self, rows: Tensor) -> Iterator[Tensor]:
        """Stored images of these rows, a block after the other."""
        for chosen in rows.split(self.block if self.stored is None else cached_rows(self.train.units)):
            yield self.images(chosen)

    def images(self, rows: Tensor) -> Tensor:
        """Stored images (count, pixels) of these rows, which are contiguous where they stream."""
        if self.stored is not None:
            return self.stored[rows]
        return torch.from_numpy(self.train.images(slice(int(rows[0]), int(rows[-1]) + 1)))


@dataclass(frozen=True, eq=False)
class DataSet:
    """Checked images with their split and their fitted transform; `append` is None where labels are left out."""

    name: str
    read: Images
    digest: str
    transform: Transform
    split: Split
    batch_size: int
    passes_per_epoch: int
    seed: int
    append: Labels | None = None  # of the training part

    @property
    def path(self) -> Path:
        return Path(self.read.where)

    @property
    def values(self) -> Values:
        """What the stored numbers are."""
        return self.transform.values

    @property
    def units(self) -> int:
        """Units of the visible layer that an image takes."""
        return self.transform.units(self.read.train.units)

    @property
    def image_shape(self) -> tuple[int, int]:
        """(height, width) of a picture of the units: of the pixels, or a row for each pixel of several units."""
        pixels = self.read.train.units
        return self.read.image_shape if self.units == pixels else (pixels, self.units // pixels)

    @property
    def test(self) -> Part | None:
        return self.read.test

    @property
    def stored(self) -> Tensor | None:
        """The training part as stored, or None where it streams."""
        return self.split.stored

    @property
    def training_rows(self) -> Tensor:
        return self.split.training_rows

    @property
    def validation_rows(self) -> Tensor:
        return self.split.validation_rows

    @property
    def visible(self) -> VisibleUnits:
        """What the columns of images and batches stand for."""
        return VisibleUnits(self.units) if self.append is None else self.append.visible

    @property
    def quantity(self) -> str:
        """What a likelihood of these data is of: the transform, labels if they are modelled too, and the units of a density."""
        labels = "" if self.append is None else ", image and label jointly"
        shift = self.transform.log_scale
        scale = f", log-densities of the data as stored are {abs(shift):.2f} nats {'lower' if shift > 0 else 'higher'}"
        return f"{self.transform.name}{labels}{scale if abs(shift) >= 0.005 else ''}"

    def train_batches(self, device: torch.device | str = "cpu", seed: int = 0) -> BatchLoader | StreamLoader:
        """Batches of the training part, transformed, reshuffled every epoch; `seed`: of their order and of what is drawn."""
        order = EpochOrder(self.training_rows, self.passes_per_epoch, seed)
        append = images_alone if self.append is None else self.append.to(device)
        if self.stored is None:
            return StreamLoader(self.read.train, order, self.transform, self.batch_size, self.split.block, append)
        return BatchLoader(self.stored.to(device), order, self.transform, self.batch_size, append)

    def parts(self) -> list[str]:
        """The names of its parts."""
        return [name for name in PART_SEEDS if name != "test" or self.test is not None]

    def count(self, part: str) -> int:
        """Images of a part."""
        if part == "test":
            return 0 if self.test is None else self.test.count
        return len(self._rows(part))

    def blocks(self, part: str) -> Iterator[Tensor]:
        """All transformed images of a part, a block (count, units) after the other; of its labels nothing."""
        generator = generator_of(self.seed, PART_SEEDS[part])
        for stored in self._stored_blocks(part):
            yield self.transform(stored, generator)

    def images(self, part: str, limit: int | None = None) -> Tensor:
        """Transformed images (count, units) of `train`, `validation` or `test`, the first `limit` of them.

        Where the transform draws (stochastic binarisation), the draw is fixed by the data's seed and the part. Where labels are
        used they stand behind the pixels (`visible`).
        """
        stored = self._stored_rows(part, limit)
        images = self.transform(stored, generator_of(self.seed, PART_SEEDS[part]))
        if self.append is None:
            return images
        labels = self.labels(part, limit)
        assert labels is not None, "labels were checked on loading"
        return self.visible.join(images, labels)

    def labels(self, part: str, limit: int | None = None) -> Tensor | None:
        """Labels (count,) of a part, or None if there are none."""
        source = self.test if part == "test" else self.read.train
        labels = None if source is None else source.labels()
        if labels is None:
            return None
        chosen = torch.from_numpy(labels)
        if part != "test":
            chosen = chosen[self._rows(part)]
        return chosen[:limit]

    def train_mean(self) -> Tensor:
        """Mean (visible.units,), float64, of the transformed training images, over what the transform draws too.

        Where labels are used, their frequencies stand behind it.
        """
        total = torch.zeros(self.units, dtype=torch.float64)
        for stored in self._stored_blocks("train"):
            total += self.transform.expected(stored).double().sum(0)
        mean = total / len(self.training_rows)
        if self.append is None:
            return mean
        counts = self.append.numbers[self.training_rows].bincount(minlength=self.visible.classes)
        return torch.cat((mean, counts / len(self.training_rows)))

    def _rows(self, part: str) -> Tensor:
        return self.training_rows if part == "train" else self.validation_rows

    def _stored_blocks(self, part: str) -> Iterator[Tensor]:
        if part != "test":
            return self.split.blocks(self._rows(part))
        assert self.test is not None, "the part was asked for by name"
        return map(torch.from_numpy, self.test.pieces())

    def _stored_rows(self, part: str, limit: int | None) -> Tensor:
        if part not in PART_SEEDS:
            raise UserError(f"a data set has the parts {', '.join(PART_SEEDS)}; got {part!r}")
        if part != "test":
            return self.split.images(self._rows(part)[:limit])
        if self.test is None:
            raise UserError(f"{self.path} has no test/images: give a file that has, or set part=validation")
        return torch.from_numpy(self.test.images(slice(0, limit)))


def load(
    name: str | None,
    path: str,
    source: Callable[[Path], None],
    transform: Transform,
    units: int | None,
    seed: int,
    batch_size: int = 100,
    validation_fraction: float = 0.05,
    passes_per_epoch: int = 1,
    memory_limit_mb: float = 4000,
    values: str | None = None,
    categories: int | None = None,
    labels: bool = False,
    classes: int | None = None,
) -> DataSet:
    """Make the file if it is missing, find out what its numbers are, split it and fit the transform; all of it is checked.

    path: a file or folder of any format of `data.reading`. name: None takes the file's. units: expected number of visible units
    of an image, None to take the file's. values: what the numbers are, None to find it out (`data.values`).
    seed: of the split, and of what the transform draws for held-out images. The order of the batches has another one, so that
    runs of several seeds are trained and judged on the same images.
    categories: of numbers that are categories, None: as many as the largest one asks for.
    labels: whether the label of each image is appended to it as a one-hot vector of `classes` units; None: as many classes
    as the largest label of the file asks for.
    A training part of more than `memory_limit_mb` streams from disk; its validation images are then its last rows.
    """
    check_whole("data.batch_size", batch_size, 1)
    check_whole("data.passes_per_epoch", passes_per_epoch, 1)
    check_number("data.validation_fraction", validation_fraction, 0, 1, open_low=True, open_high=True)
    check_number("data.memory_limit_mb", memory_limit_mb)
    check_whole("data.seed", seed, 0, MOST_SEED)
    _check_counts(units, classes, categories)
    images = _made_and_read(path, source)
    append = _labels(images, transform, classes) if labels else None
    found = find_values(images, values, categories)
    transform.check(found, images.where)
    split = _split(images, seed, validation_fraction, passes_per_epoch, batch_size, memory_limit_mb)
    fitted = transform.fitted(
        found, lambda: moments(split.blocks(split.training_rows), covariance=transform.mixes_pixels)
    )
    _check_units(images, fitted, units)
    check_information(images, fitted)
    return DataSet(
        name or images.name, images, images.checked_digest(), fitted, split, batch_size, passes_per_epoch, seed, append
    )


def _check_counts(units: int | None, classes: int | None, categories: int | None) -> None:
    """Raise UserError for counts that are not null and no counts."""
    for what, count, least, most in (
        ("units", units, 1, MOST), ("classes", classes, 2, MOST_CLASSES), ("categories", categories, 2, MOST_CATEGORIES),
    ):  # fmt: skip
        if count is not None:
            check_whole(f"data.{what}, if not null,", count, least, most)


def _check_units(images: Images, transform: Transform, units: int | None) -> None:
    """Raise UserError unless the transformed images have the expected units."""
    found = transform.units(images.train.units)
    if units not in (None, found):
        raise UserError(
            f"{images.train.what} has {found} columns, the configuration expects {units}: "
            "set data.units, or give the right file"
        )


def _made_and_read(path: str, source: Callable[[Path], None]) -> Images:
    """What lies at a path, made by `source` if nothing does."""
    if not _takes_a_path(source):  # also where the file is there already, and nothing is called
        raise UserError(f"data.source must be a function that writes the file whose path it is given; got {source!r}")
    file, _ = split_key(path)
    if not file.exists():
        source(file)
    return read(path)


def _takes_a_path(source: object) -> bool:
    """Whether `source` is a function, or an object like one, of one argument; a class is none: it makes an object."""
    function = source.func if isinstance(source, functools.partial) else source
    if not callable(source) or isinstance(function, type):
        return False
    try:
        inspect.signature(source).bind(Path())
    except (TypeError, ValueError):
        return False
    return True


def _labels(images: Images, transform: Transform, classes: int | None) -> Labels:
    """The labels of the training part, to be appended to its images."""
    if not transform.units_are_pixels:
        raise UserError(
            f"data.labels=true takes a transform of single pixels, the units of {transform.name} are none: set "
            "data/transform=dequantise or threshold"
        )
    number, own = check_labels(images, classes), images.train.labels()
    assert own is not None, "labels were checked"
    return Labels(VisibleUnits(images.train.units, number), torch.from_numpy(own))


def _split(
    images: Images, seed: int, validation_fraction: float, passes: int, batch_size: int, memory_limit_mb: float
) -> Split:
    """The rows for training and validation, chosen by the seed; the last rows where the part streams."""
    train = images.train
    check_memory(
        f"the order of an epoch of {passes} passes over {train.count} images", ORDER_BYTES * train.count * passes
    )
    validation = round(train.count * validation_fraction)
    if validation < 1 or train.count - validation < 1:
        raise UserError(
            f"{images.where}: {train.count} training image{'s' * (train.count != 1)} cannot be split with "
            f"data.validation_fraction={validation_fraction}: training and validation need one at least; "
            f"{'set another fraction' if train.count > 1 else 'give more images'}"
        )
    block = max(batch_size, BLOCK_VALUES // train.units)
    stored: Tensor | None = None
    rows = torch.arange(train.count)
    if train.bytes <= memory_limit_mb * 1e6:
        stored = torch.from_numpy(train.images())
        rows = torch.randperm(train.count, generator=generator_of(seed, SPLIT))
    return Split(train, stored, rows[: train.count - validation], rows[train.count - validation :], block)
