"""What the scripts of the peers share. They run in environments that have NumPy and a peer, and not this package.

A script is given a file: `images` (a .npy of bits), `folder`, `epochs`, `seed`, `keep` (epochs after which weights are kept)
and `options`. It trains, and leaves `EPOCH.npz` with weights, visible_bias and hidden_bias, and `seconds.json`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

HIDDEN = 200


class Run:
    """One training: its images (count, 784) of float32, its settings, and the processor seconds of its epochs."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.images = np.load(plan["images"]).astype(np.float32)
        self.folder = Path(plan["folder"])
        self.epochs, self.keep_after, self.options = plan["epochs"], set(plan["keep"]), plan["options"]
        self.seed = plan["seed"]
        self.random = np.random.default_rng(self.seed)
        self.seconds: list[float] = []

    @property
    def batch_size(self) -> int:
        return int(self.options.get("batch_size", 100))

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, which falls linearly to 0 where the options say so."""
        share = 1 - epoch / self.epochs if self.options["falling"] else 1.0
        return float(self.options["rate"]) * share

    def batches(self) -> Iterator[Any]:
        """Rows of the images for each batch of an epoch, in a new order."""
        order = self.random.permutation(len(self.images))
        for start in range(0, len(order), self.batch_size):
            yield order[start : start + self.batch_size]

    @contextmanager
    def clock(self) -> Iterator[None]:
        """Takes the processor time of an epoch."""
        self.start()
        yield
        self.stop()

    def start(self) -> None:
        self.began = time.process_time()

    def stop(self) -> None:
        self.seconds.append(time.process_time() - self.began)

    def keep(self, weights: Any, visible_bias: Any, hidden_bias: Any) -> None:
        """Keep the weights (visible, hidden) after an epoch, if they are wanted; what an epoch took is written in any case."""
        epoch = len(self.seconds)
        if epoch in self.keep_after:
            arrays = {"weights": weights, "visible_bias": visible_bias, "hidden_bias": hidden_bias}
            named: dict[str, Any] = {name: np.array(array) for name, array in arrays.items()}
            np.savez(self.folder / f"{epoch}.npz", **named)
        (self.folder / "seconds.json").write_text(json.dumps(self.seconds), encoding="utf-8")


def main(train: Any, *packages: str) -> None:
    """Train as the plan says whose file is the argument; prints the versions of the packages."""
    train(Run(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
    print(", ".join(f"{name} {version(name)}" for name in packages))
