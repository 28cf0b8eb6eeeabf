"""A data set ready for training: parts, transform, and batches that are reshuffled every epoch."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from ebm_pipeline.data.hdf5 import (
    EXPECTED,
    MOST_CLASSES,
    Source,
    check_labels,
    digest,
    image_shape,
    locate,
    opened,
    read_images,
    read_labels,
)
from ebm_pipeline.data.transforms import Transform
from ebm_pipeline.errors import UserError, check_memory, check_number, check_whole
from ebm_pipeline.visible import VisibleUnits

PART_SEEDS = {"train": 1, "validation": 2, "test": 3}
BLOCKS_IN_MEMORY = 4
ORDER_BYTES = 16  # of a row number and its copy


def _generator(*key: int) -> torch.Generator:
    """A generator that is a function of the key alone."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))


class EpochOrder:
    """The order of the training rows: `passes` permutations per epoch, a function of (seed, epoch)."""

    def __init__(self, rows: Tensor, passes: int, seed: int) -> None:
        self.rows = rows
        self.passes = passes
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.rows) * self.passes

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch."""
        self.epoch = epoch

    def generator(self) -> torch.Generator:
        """What this epoch's draws come from."""
        return _generator(self.seed, 0, self.epoch)

    def order(self, generator: torch.Generator) -> Tensor:
        """Row numbers (len(self),) for the epoch."""
        return torch.cat([self.rows[torch.randperm(len(self.rows), generator=generator)] for _ in range(self.passes)])


@dataclass(frozen=True, eq=False)
class Labels:
    """Appends their one-hot labels to the images of some rows; `numbers` (rows of the part,) are the classes."""

    visible: VisibleUnits
    numbers: Tensor

    def __call__(self, images: Tensor, rows: Tensor) -> Tensor:
        """(count, pixels), (count,) -> (count, units)."""
        return self.visible.join(images, self.numbers[rows])

    def to(self, device: torch.device | str) -> Labels:
        return Labels(self.visible, self.numbers.to(device))


def _images_alone(images: Tensor, rows: Tensor) -> Tensor:
    return images


class BatchLoader:
    """Batches (batch, units) of a preloaded tensor, by index_select, transformed, with labels if there are, on `device`."""

    def __init__(
        self,
        images: Tensor,
        order: EpochOrder,
        transform: Transform,
        batch_size: int,
        append: Callable[[Tensor, Tensor], Tensor] = _images_alone,
    ) -> None:
        self.images = images
        self.sampler = order
        self.transform = transform
        self.batch_size = batch_size
        self.append = append

    def __len__(self) -> int:
        return -(-len(self.sampler) // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        generator = self.sampler.generator()
        order = self.sampler.order(generator).to(self.images.device)
        if self.images.is_cuda:
            generator = torch.Generator(self.images.device).manual_seed(generator.initial_seed())
        self.sampler.epoch += 1  # for whoever iterates without Lightning, which sets it before each epoch
        for rows in order.split(self.batch_size):
            yield self.append(self.transform(self.images.index_select(0, rows), generator), rows)


class StreamLoader:
    """Batches of a file that is too large to preload: contiguous blocks in random order, shuffled a few at a time."""

    def __init__(
        self,
        path: Path,
        source: Source,
        order: EpochOrder,
        transform: Transform,
        batch_size: int,
        block: int,
        append: Callable[[Tensor, Tensor], Tensor] = _images_alone,
    ) -> None:
        self.path = path
        self.source = source
        self.sampler = order
        self.transform = transform
        self.batch_size = batch_size
        self.block = block
        self.append = append

    def __len__(self) -> int:
        return -(-len(self.sampler) // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        generator = self.sampler.generator()
        self.sampler.epoch += 1
        rows = len(self.sampler.rows)
        starts = torch.arange(0, rows, self.block)
        left: tuple[Tensor, Tensor] | None = None
        with opened(self.path) as file:
            for _ in range(self.sampler.passes):
                shuffled = starts[torch.randperm(len(starts), generator=generator)]
                for group in shuffled.split(BLOCKS_IN_MEMORY):
                    parts = [self._read(file, start, rows) for start in group.tolist()]
                    pool, numbers = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
                    order = torch.randperm(len(pool), generator=generator)
                    pool, numbers = pool[order], numbers[order]
                    if left is not None:
                        pool, numbers = torch.cat((left[0], pool)), torch.cat((left[1], numbers))
                    whole = len(pool) - len(pool) % self.batch_size
                    for batch, own in zip(
                        pool[:whole].split(self.batch_size), numbers[:whole].split(self.batch_size), strict=True
                    ):
                        yield self.append(self.transform(batch, generator), own)
                    left = pool[whole:], numbers[whole:]
        if left is not None and len(left[0]):
            yield self.append(self.transform(left[0], generator), left[1])

    def _read(self, file: h5py.File, start: int, rows: int) -> tuple[Tensor, Tensor]:
        """A block's images, and the numbers of their rows."""
        stop = min(start + self.block, rows)
        return torch.from_numpy(read_images(file, self.source, slice(start, stop))), torch.arange(start, stop)


@dataclass(frozen=True, eq=False)
class DataSet:
    """A checked HDF5 file with its split and transform.

    `stored` is None where the training part streams from disk; `append` is None where labels are left out.
    """

    name: str
    path: Path
    digest: str
    units: int
    image_shape: tuple[int, int]
    transform: Transform
    batch_size: int
    passes_per_epoch: int
    seed: int
    train: Source
    test: Source | None
    stored: Tensor | None
    training_rows: Tensor
    validation_rows: Tensor
    block: int
    append: Labels | None = None  # of the training part

    @property
    def visible(self) -> VisibleUnits:
        """What the columns of images and batches stand for."""
        return VisibleUnits(self.units) if self.append is None else self.append.visible

    @property
    def quantity(self) -> str:
        """What a likelihood of these data is of: the transform, and labels if they are modelled too."""
        return self.transform.name if self.append is None else f"{self.transform.name}, image and label jointly"

    def train_batches(self, device: torch.device | str = "cpu") -> BatchLoader | StreamLoader:
        """Batches of the training part, transformed, reshuffled every epoch."""
        order = EpochOrder(self.training_rows, self.passes_per_epoch, self.seed)
        append = _images_alone if self.append is None else self.append.to(device)
        if self.stored is None:
            return StreamLoader(self.path, self.train, order, self.transform, self.batch_size, self.block, append)
        return BatchLoader(self.stored.to(device), order, self.transform, self.batch_size, append)

    def images(self, part: str, limit: int | None = None) -> Tensor:
        """Transformed images (count, units) of `train`, `validation` or `test`, the first `limit` of them.

        Where the transform draws (stochastic binarisation), the draw is fixed by the seed and the part. Where labels are
        used they stand behind the pixels (`visible`).
        """
        stored = self._stored_rows(part, limit)
        images = self.transform(stored, _generator(self.seed, PART_SEEDS[part]))
        if self.append is None:
            return images
        labels = self.labels(part, limit)
        assert labels is not None, "labels were checked on loading"
        return self.visible.join(images, labels)

    def labels(self, part: str, limit: int | None = None) -> Tensor | None:
        """Labels (count,) of a part, or None if the file has none."""
        source = self.test if part == "test" else self.train
        with opened(self.path) as file:
            labels = None if source is None else read_labels(file, source)
        if labels is None:
            return None
        chosen = torch.from_numpy(labels)
        if part != "test":
            chosen = chosen[self.training_rows if part == "train" else self.validation_rows]
        return chosen[:limit]

    def train_mean(self) -> Tensor:
        """Mean (visible.units,), float64, of the transformed training images, over what the transform draws too.

        Where labels are used, their frequencies stand behind it.
        """
        total = torch.zeros(self.units, dtype=torch.float64)
        for stored in self._training_blocks():
            total += self.transform.expected(stored).double().sum(0)
        mean = total / len(self.training_rows)
        if self.append is None:
            return mean
        counts = self.append.numbers[self.training_rows].bincount(minlength=self.visible.classes)
        return torch.cat((mean, counts / len(self.training_rows)))

    def _training_blocks(self) -> Iterator[Tensor]:
        if self.stored is not None:
            for rows in self.training_rows.split(self.block):
                yield self.stored[rows]
        else:
            with opened(self.path) as file:
                for start in range(0, len(self.training_rows), self.block):
                    stop = min(start + self.block, len(self.training_rows))
                    yield torch.from_numpy(read_images(file, self.train, slice(start, stop)))

    def _stored_rows(self, part: str, limit: int | None) -> Tensor:
        if part not in PART_SEEDS:
            raise UserError(f"a data set has the parts {', '.join(PART_SEEDS)}; got {part!r}")
        source = self.test if part == "test" else self.train
        if source is None:
            raise UserError(f"{self.path} has no test/images: give a file that has, or evaluate on validation")
        if part == "test":
            with opened(self.path) as file:
                return torch.from_numpy(read_images(file, source, slice(0, limit)))
        rows = (self.training_rows if part == "train" else self.validation_rows)[:limit]
        if self.stored is not None:
            return self.stored[rows]
        with opened(self.path) as file:  # streamed parts are contiguous
            return torch.from_numpy(read_images(file, self.train, slice(int(rows[0]), int(rows[-1]) + 1)))


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


def load(
    name: str,
    path: str,
    source: Callable[[Path], None],
    transform: Transform,
    units: int | None,
    seed: int,
    batch_size: int = 100,
    validation_fraction: float = 0.05,
    passes_per_epoch: int = 1,
    memory_limit_mb: float = 4000,
    hidden_units: int | None = None,
    labels: bool = False,
    classes: int | None = None,
) -> DataSet:
    """Make the file if it is missing, check it, split it and fit the transform.

    units: expected number of pixels, None to take the file's. hidden_units is for the model's configuration alone.
    labels: whether the label of each image is appended to it as a one-hot vector of `classes` units; None: as many classes
    as the largest label of the file asks for.
    A training part of more than `memory_limit_mb` streams from disk; its validation images are then its last rows.
    """
    check_whole("data.batch_size", batch_size, 1)
    check_whole("data.passes_per_epoch", passes_per_epoch, 1)
    check_number("data.validation_fraction", validation_fraction, 0, 1, open_low=True, open_high=True)
    check_number("data.memory_limit_mb", memory_limit_mb)
    if units is not None:
        check_whole("data.units", units, 1)
    if classes is not None:
        check_whole("data.classes, if not null,", classes, 2, MOST_CLASSES)
    if labels and transform.mixes_pixels:
        raise UserError(
            f"data.labels=true takes a transform of single pixels, {transform.name} mixes them: set data/transform=dequantise"
        )
    check_whole("seed", seed, 0)
    if not _takes_a_path(source):  # also where the file is there already, and nothing is called
        raise UserError(f"data.source must be a function that writes the file whose path it is given; got {source!r}")
    file_path = Path(path).absolute()
    if not file_path.exists():
        source(file_path)
    with opened(file_path) as file:
        train, test = locate(file, "train"), locate(file, "test")
        if train is None:
            raise UserError(f"{file_path} has no train/images. {EXPECTED}")
        for part in (train, test):
            if part is not None and part.units != (units or train.units):
                raise UserError(
                    f"{file_path}: {part.images} has {part.units} columns, the configuration expects {units or train.units}: "
                    "set data.units, or give the right file"
                )
        shape = image_shape(file, train.units)
        append: Labels | None = None
        if labels:
            number, own = check_labels(file, classes), read_labels(file, train)
            assert own is not None, "labels were checked"
            append = Labels(VisibleUnits(train.units, number), torch.from_numpy(own))
        validation = round(train.count * validation_fraction)
        if validation < 1 or train.count - validation < 1:
            raise UserError(
                f"{file_path}: {train.count} training images cannot be split with validation_fraction={validation_fraction}"
            )
        check_memory(
            f"the order of an epoch of {passes_per_epoch} passes over {train.count} images",
            ORDER_BYTES * train.count * passes_per_epoch,
        )
        stored: Tensor | None = None
        if train.count * train.units * train.dtype.itemsize <= memory_limit_mb * 1e6:
            stored = torch.from_numpy(read_images(file, train))
            rows = torch.randperm(train.count, generator=_generator(seed, 9))
        else:
            rows = torch.arange(train.count)
    data = DataSet(
        name=name,
        path=file_path,
        digest=digest(file_path),
        units=train.units,
        image_shape=shape,
        transform=transform,
        batch_size=batch_size,
        passes_per_epoch=passes_per_epoch,
        seed=seed,
        train=train,
        test=test,
        stored=stored,
        training_rows=rows[: train.count - validation],
        validation_rows=rows[train.count - validation :],
        block=max(batch_size, 2**24 // train.units),
        append=append,
    )
    return _fitted(data)


def _fitted(data: DataSet) -> DataSet:
    """The data set with its transform fitted to the training images, whose range is checked on the way."""
    total = torch.zeros(data.units, dtype=torch.float64)
    squares = torch.zeros(data.units, dtype=torch.float64)
    products = torch.zeros(data.units, data.units, dtype=torch.float64) if data.transform.mixes_pixels else None
    for stored in data._training_blocks():
        if stored.dtype == torch.uint8:
            grey = stored.double() / 255
        else:
            grey = stored.double()
            if data.transform.needs_unit_range and (grey.min() < 0 or grey.max() > 1):
                raise UserError(
                    f"{data.path}: the images range from {grey.min():g} to {grey.max():g}, and the transform "
                    f"{data.transform.name!r} needs grey levels in [0, 1]: use data/transform=standardize or none with model=grbm"
                )
        total += grey.sum(0)
        squares += grey.square().sum(0)
        if products is not None:
            products.addmm_(grey.mT, grey)
    mean = total / len(data.training_rows)
    std = (squares / len(data.training_rows) - mean.square()).clamp_min(0).sqrt()
    covariance = None if products is None else products / len(data.training_rows) - torch.outer(mean, mean)
    return replace(data, transform=data.transform.fitted(mean, std, covariance))
