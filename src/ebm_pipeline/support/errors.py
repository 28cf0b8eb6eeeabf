"""Errors that a user can cause and mend, and the checks that raise them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import psutil


class UserError(Exception):
    """Wrong input: says what was expected, what came and what to do. The command line shows only this message."""


class DivergedError(UserError):
    """A training whose numbers are not finite any more."""


class PrunedError(Exception):
    """A training that a search ends early, as others are better: no failure."""


MOST = 10**9  # of anything that is counted: above it, a typing error
MOST_SEED = 2**32 - 1  # what NumPy takes


def check_whole(name: str, value: object, least: int, most: int = MOST) -> None:
    """Raise unless `value` is an int (no bool) from `least` to `most`."""
    if type(value) is not int or not least <= value <= most:
        open_end = most >= MOST and not (type(value) is int and value > most)
        span = f"at least {least}" if open_end else f"from {least} to {most}"
        raise UserError(f"{name} must be a whole number, {span}; got {value!r}")


def check_memory(what: str, size: float) -> None:
    """Raise unless this machine has `size` bytes of memory, those in use included: asking for more may end any process."""
    total = psutil.virtual_memory().total
    if size > total:
        raise UserError(
            f"{what} would take {size / 1e9:,.1f} GB of memory, and this machine has {total / 1e9:,.1f} GB: choose smaller "
            "numbers"
        )


@contextmanager
def within_memory() -> Iterator[None]:
    """Turns what Python, NumPy and torch raise when memory ends into one message."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        first = (str(error) or "no more to be had").splitlines()[0]
        if not isinstance(error, MemoryError) and "out of memory" not in first and "allocate memory" not in first:
            raise
        raise UserError(f"memory ended ({first}): choose smaller layers, fewer chains or a smaller batch") from error


def check_number(
    name: str,
    value: object,
    low: float = 0.0,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> None:
    """Raise unless `value` is a finite number (no bool) from `low` to `high`; open_: the end itself is not allowed."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if good:
        assert isinstance(value, (int, float))
        good = (value > low if open_low else value >= low) and (value < high if open_high else value <= high)
    if not good:
        lower = f"{'above' if open_low else 'at least'} {low:g}"
        upper = "" if math.isinf(high) else f" and {'below' if open_high else 'at most'} {high:g}"
        raise UserError(f"{name} must be a number, {lower}{upper}; got {value!r}")
