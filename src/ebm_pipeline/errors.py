"""Errors that a user can cause and mend, and the checks that raise them."""

from __future__ import annotations

import math


class UserError(Exception):
    """Wrong input: says what was expected, what came and what to do. The command line shows only this message."""


class DivergedError(UserError):
    """A training whose numbers are not finite any more."""


def check_whole(name: str, value: object, least: int, most: int | None = None) -> None:
    """Raise unless `value` is an int (no bool) from `least` to `most`."""
    if type(value) is not int or value < least or (most is not None and value > most):
        span = f"at least {least}" if most is None else f"from {least} to {most}"
        raise UserError(f"{name} must be a whole number, {span}; got {value!r}")


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
