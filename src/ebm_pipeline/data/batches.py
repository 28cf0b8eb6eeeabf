"""Batches of training images, preloaded or streamed, in an order that is a function of the seed and the epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ebm_pipeline.data.parts import Part
from ebm_pipeline.data.transforms import Transform
from ebm_pipeline.data.visible import VisibleUnits

BLOCKS_IN_MEMORY = 4


def generator_of(*key: int) -> torch.Generator:
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
        return generator_of(self.seed, 0, self.epoch)

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


def images_alone(images: Tensor, rows: Tensor) -> Tensor:
    return images


class BatchLoader:
    """Batches (batch, units) of a preloaded tensor, by index_select, transformed, with labels if there are, on `device`."""

    def __init__(
        self,
        images: Tensor,
        order: EpochOrder,
        transform: Transform,
        batch_size: int,
        append: Callable[[Tensor, Tensor], Tensor] = images_alone,
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
        part: Part,
        order: EpochOrder,
        transform: Transform,
        batch_size: int,
        block: int,
        append: Callable[[Tensor, Tensor], Tensor] = images_alone,
    ) -> None:
        self.part = part
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
        for _ in range(self.sampler.passes):
            shuffled = starts[torch.randperm(len(starts), generator=generator)]
            for group in shuffled.split(BLOCKS_IN_MEMORY):
                parts = [self._read(start, rows) for start in group.tolist()]
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

    def _read(self, start: int, rows: int) -> tuple[Tensor, Tensor]:
        """A block's images, and the numbers of their rows."""
        stop = min(start + self.block, rows)
        return torch.from_numpy(self.part.images(slice(start, stop))), torch.arange(start, stop)
