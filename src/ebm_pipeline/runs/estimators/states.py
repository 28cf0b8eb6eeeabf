"""From a user's numbers to states of the units and back, by the transform of a model."""

from __future__ import annotations

import torch
from torch import Tensor

from ebm_pipeline.data.transforms import Identity, OneHot, Spin, Stochastic, Threshold, Transform
from ebm_pipeline.data.values import KINDS, Values
from ebm_pipeline.support.errors import UserError


def states_of(numbers: Tensor, transform: Transform, seed: int) -> Tensor:
    """States (n, units) of numbers (n, features) as the training data were, or of states where the units are discrete.

    A transform that draws does so by the seed. Raises UserError for numbers that are none of the training data's kind.
    """
    if isinstance(transform, Identity):
        return transform.expected(numbers)  # the layer says what is no state
    if _are_states(numbers, transform):
        return numbers.float()
    _check_kind(numbers, transform.values)
    if isinstance(transform, Stochastic):
        return transform(numbers, torch.Generator().manual_seed(seed))
    return transform.expected(numbers)


def numbers_of(states: Tensor, transform: Transform) -> Tensor:
    """What states (n, units), or means of them, are in the unit of the training data; states of discrete units stay such."""
    if isinstance(transform, (Identity, Threshold, Stochastic)):
        return states
    if isinstance(transform, OneHot):
        sites: Tensor = states.unflatten(1, (-1, transform.units(1)))
        return sites.argmax(2).to(states.dtype)  # the category of each site
    return transform.to_levels(states) * transform.values.span + transform.values.origin


def _are_states(numbers: Tensor, transform: Transform) -> bool:
    """Whether they are what the transform gives; of 0..255 a whole array of 0 and 1 would else be black."""
    if not isinstance(transform, (Threshold, Stochastic)):
        return False
    states = (-1.0, 1.0) if isinstance(transform, Spin) else (0.0, 1.0)
    return bool(torch.isin(numbers, numbers.new_tensor(states)).all())


def _check_kind(numbers: Tensor, values: Values) -> None:
    """Raise UserError for numbers of another kind than those that the transform was fitted to."""
    low, high = float(numbers.min()), float(numbers.max())
    fits = {
        "binary": bool(torch.isin(numbers, numbers.new_tensor((0.0, 1.0))).all()),
        "spins": bool(torch.isin(numbers, numbers.new_tensor((-1.0, 1.0))).all()),
        "grey8": low >= 0 and high <= 255 and not 0 < high <= 1,  # up to 1: another scale, not a black image
        "unit": low >= 0 and high <= 1,
        "categories": low >= 0 and high < max(2, values.categories) and bool((numbers == numbers.round()).all()),
    }
    if not fits.get(values.kind, True):
        expected = KINDS[values.kind]
        if values.kind == "categories":
            expected = f"categories, whole numbers from 0 to {max(2, values.categories) - 1}"
        raise UserError(f"X must hold {expected}, as the training data do; got values from {low:g} to {high:g}")
