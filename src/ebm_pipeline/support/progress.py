"""Progress bars of long work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm


@contextmanager
def progress_bar(what: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
    """A bar, gone when the work is done; what is given is called with the number of steps made, after each of them."""
    with tqdm(total=total, desc=what, unit=f" {unit}", mininterval=0.5, leave=False, disable=None) as bar:
        yield lambda done: _advance(bar)


def _advance(bar: tqdm[Any]) -> None:
    bar.update()


class Stages:
    """Bars of work in several stages, one at a time. `with Stages() as stage: ... stage(name, steps)`."""

    def __init__(self, unit: str) -> None:
        self.unit = unit
        self.bar: tqdm[Any] | None = None

    def __call__(self, what: str, steps: int) -> Callable[[int], None]:
        self.close()
        bar = self.bar = tqdm(total=steps, desc=what, unit=f" {self.unit}", mininterval=1, leave=False, disable=None)
        return lambda done: _advance(bar)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
