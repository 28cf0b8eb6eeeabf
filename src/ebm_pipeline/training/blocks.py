"""Several batches to one turn of Lightning's loop, whose own cost is that of a small update.

Every process makes all batches, in the same order with the same draws, and keeps its share of each.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from torch import Tensor

from ebm_pipeline.data.batches import BatchLoader, StreamLoader
from ebm_pipeline.training.processes import share

SIZE = 20  # batches to a block


class Blocks:
    """A loader's batches in lists of `SIZE`; the last of an epoch may be shorter. Each batch is still one update."""

    def __init__(self, batches: BatchLoader | StreamLoader) -> None:
        self.batches = batches
        self.sampler = batches.sampler  # Lightning tells it the epoch

    def __len__(self) -> int:
        return -(-len(self.batches) // SIZE)

    def __iter__(self) -> Iterator[list[Tensor]]:
        batches = map(share, self.batches)
        while block := list(islice(batches, SIZE)):
            yield block
