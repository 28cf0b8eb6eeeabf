"""What the numbers of a set of images are. It is found in the numbers themselves, whatever their type, and said.

Where two readings are possible the one that was taken is named, or the question is asked; `data.values` answers it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ebm_pipeline.data.parts import Array, Images, Part
from ebm_pipeline.support.errors import UserError

KINDS = {  # what each is, and what it is taken for in training
    "binary": "0 and 1",
    "spins": "-1 and +1",
    "grey8": "grey levels from 0 to 255",
    "unit": "grey levels from 0 to 1",
    "categories": "categories, whole numbers from 0",
    "real": "real numbers",
}
FITTING = {  # the model and transform that fit
    "binary": "model=rbm, or model=ising",
    "spins": "model=ising, or model=rbm, for which -1 becomes 0",
    "grey8": "data/transform=threshold or stochastic with model=rbm, or model=grbm",
    "unit": "data/transform=threshold or stochastic with model=rbm, or model=grbm",
    "categories": "model=rbm_categories (data/transform=one_hot)",
    "real": "model=grbm",
}
GREY_LEVELS = 255
MOST_CATEGORIES = 1000
DARK = 0.5  # images whose largest value is below this share of the range may be something else than grey levels
OTHER_SCALE = 100.0  # a part of real numbers that lies so many ranges off the training part is in other units
FEW_LEVELS = 256  # different values that make numbers levels


class AskedValuesError(UserError):
    """The numbers can be read in several ways: the message asks which is right."""


@dataclass(frozen=True)
class Values:
    """The kind of the numbers, and the range of those of the training part.

    low, high: of all of the training part. categories: how many (0 for other kinds). levels: whether the numbers are few
    different ones that most pixels range over, as grey levels are. remark: another reading, where there is one.
    """

    kind: str
    low: float = 0.0
    high: float = 1.0
    categories: int = 0
    levels: bool = True
    remark: str = ""

    @property
    def origin(self) -> float:
        """The number that is grey level 0; 0 for numbers that are no grey levels."""
        return -1.0 if self.kind == "spins" else 0.0

    @property
    def span(self) -> float:
        """What the number that is grey level 1 is more than that; 1 for numbers that are no grey levels."""
        return {"spins": 2.0, "grey8": float(GREY_LEVELS)}.get(self.kind, 1.0)

    def __str__(self) -> str:
        detail = {
            "categories": f"{self.categories} categories, 0 to {self.categories - 1}",
            "real": f"real numbers from {self.low:.4g} to {self.high:.4g}",
        }.get(self.kind, KINDS[self.kind])
        return f"{detail} (data.values={self.kind}){self.remark}"


@dataclass(frozen=True, eq=False)
class Survey:
    """Range of each column of a part, whether all numbers are whole, all are -1 or +1, and they are few different ones."""

    lows: Array
    highs: Array
    whole: bool
    spins: bool
    few: bool

    @property
    def low(self) -> float:
        return float(self.lows.min())

    @property
    def high(self) -> float:
        return float(self.highs.max())

    @property
    def varies(self) -> Array:
        """Which columns are not the same in all images (units,)."""
        varies: Array = self.highs > self.lows
        return varies

    @property
    def levels(self) -> bool:
        """Whether the numbers are few different ones that the middle one of the varying columns ranges over at least half of."""
        ranges = (self.highs.astype(float) - self.lows)[self.varies]
        return bool(self.few and len(ranges) and np.median(ranges) >= 0.5 * (self.high - self.low))

    def fits(self, kind: str) -> bool:
        """Whether all of the numbers may be of this kind."""
        return {
            "binary": self.whole and self.low >= 0 and self.high <= 1,
            "spins": self.spins,
            "grey8": self.low >= 0 and self.high <= GREY_LEVELS,
            "unit": self.low >= 0 and self.high <= 1,
            "categories": self.whole and self.low >= 0 and self.high < MOST_CATEGORIES,
            "real": True,
        }[kind]

    def found(self) -> str | None:
        """The kind that the numbers are by themselves; None where that is a question."""
        if self.fits("binary"):
            return "binary"
        if self.spins:
            return "spins"
        if self.fits("unit"):
            return "unit" if self.high > DARK else "real"
        if self.whole and self.fits("grey8"):
            return "grey8" if self.high > DARK * GREY_LEVELS else None
        return "real"

    def __str__(self) -> str:
        return f"{'whole' if self.whole else 'real'} numbers from {self.low:g} to {self.high:g}"


def survey(blocks: Iterable[Array]) -> Survey:
    """What the numbers (count, units) of a part are."""
    lows, highs, whole, spins, count = np.array(np.inf), np.array(-np.inf), True, True, 0
    known: Array | None = np.empty(0)  # the different numbers; None: they are too many
    for block in blocks:
        lows, highs, count = np.minimum(lows, block.min(0)), np.maximum(highs, block.max(0)), count + block.size
        if block.dtype != np.uint8:  # which holds whole numbers alone, few different ones
            spins = spins and lows.min() >= -1 and highs.max() <= 1 and bool((np.abs(block) == 1).all())
            whole = whole and bool((block == np.rint(block)).all())
            known = None if known is None else _different(known, block)
    few = known is not None and len(known) <= count / 4  # also repeated ones
    return Survey(lows, highs, whole, bool(spins and lows.min() == -1), few)


def find_values(images: Images, given: str | None = None, categories: int | None = None) -> Values:
    """What the numbers of all parts are, or whether they can be what `given` says; raises UserError where they cannot.

    categories: how many there are, if not as many as the largest number asks for.
    """
    if given is not None and given not in KINDS:
        raise UserError(f"data.values must be null (it is found) or one of {', '.join(KINDS)}; got {given!r}")
    surveys = {name: survey(part.blocks()) for name, part in images.parts.items()}
    train = surveys["train"]
    if images.train.count > 1 and not train.varies.any():
        raise UserError(
            f"{images.where}: all {images.train.count} training images are the same: there is nothing to learn from them"
        )
    kind = given or train.found()
    if kind is None:
        raise AskedValuesError(_question(images.train, train))
    for name, found in surveys.items():
        _check_part(images, name, found, train, kind, given is not None)
    number = max(int(found.high) for found in surveys.values()) + 1 if kind == "categories" else 0
    if kind == "categories" and categories is not None:
        if number > categories:
            raise UserError(
                f"{images.where} holds the category {number - 1}: data.categories={categories} has none such"
            )
        number = categories
    return Values(
        kind, train.low, train.high, max(2, number) if number else 0, train.levels, _remark(train, kind, given)
    )


def _remark(train: Survey, kind: str, given: str | None) -> str:
    """The other reading that is possible, where the kind was found and not given."""
    if given is not None:
        return ""
    if kind == "grey8":
        return "; if they are something else, say so: data.values=categories or real"
    if kind == "real" and train.low >= 0 and train.high <= 1:
        return "; if they are dark grey levels from 0 to 1, say so: data.values=unit"
    if kind == "real" and train.fits("grey8"):
        return "; if they are grey levels from 0 to 255, say so: data.values=grey8"
    return ""


def _question(part: Part, found: Survey) -> str:
    number, first = _others(part, lambda block: (block == 0) | (block == 1))
    outliers = ""
    if number <= 0.01 * part.count * part.units:
        outliers = f" All but {number} of {part.count * part.units} are 0 or 1; the first other one is {first}: is it a mistake?"
    return (
        f"{part.what} holds {found}: categories, dark grey levels, or quantities?{outliers} Say it: "
        f"data.values=categories for {FITTING['categories']}; data.values=real for model=grbm, whatever their scale; "
        f"data.values=grey8 for grey levels of which {GREY_LEVELS} is white (of which {found.high:g} is white: divide by "
        f"{found.high:g} first)"
    )


def _others(part: Part, fit: object) -> tuple[int, str]:
    """How many numbers are none of those that `fit` says, and where the first is."""
    assert callable(fit)
    number, first, start = 0, "", 0
    for block in part.blocks():
        others = ~fit(block)
        if others.any() and not first:
            row, column = np.argwhere(others)[0]
            first = f"{block[row, column]:g} in image {start + row}, column {column}"
        number += int(others.sum())
        start += len(block)
    return number, first


def _check_part(images: Images, name: str, found: Survey, train: Survey, kind: str, was_given: bool) -> None:
    """Raise UserError where a part's numbers are not of the kind, or are in other units than those of the training part."""
    part = images.parts[name]
    if not found.fits(kind):
        if name == "train" or was_given:
            own = found.found()
            cure = f"they are {KINDS[own]}: data.values={own}" if own else "data.values=categories or real"
            raise UserError(f"data.values={kind} says {KINDS[kind]}, and {part.what} holds {found}: {cure}")
        raise UserError(_other_units(images.where, name, found, KINDS[kind]))
    if name == "train" or was_given:
        return
    reach = (train.high - train.low) or 1.0
    far = max(train.low - found.low, found.high - train.high) > OTHER_SCALE * reach
    near = part.count > 1 and found.high - found.low < reach / OTHER_SCALE**2
    darker = kind == "grey8" and found.high <= 1
    if (kind == "real" and (far or near)) or darker:
        raise UserError(_other_units(images.where, name, found, str(train)))


def _other_units(where: str, name: str, found: Survey, there: str) -> str:
    return (
        f"{where}: the {name} part holds {found}, and the training part holds {there}: they are in different units. Bring both "
        "to one scale; if that is how they are, say what they are by data.values"
    )


def _different(known: Array, block: Array) -> Array | None:
    """The different numbers among `known` and a block; None where they are too many to be levels."""
    flat = block.reshape(-1)
    known = np.union1d(known, np.unique(flat[:: max(1, len(flat) // 10_000)]))
    if len(known) > FEW_LEVELS:
        return None
    places = np.searchsorted(known, flat).clip(max=len(known) - 1)
    known = np.union1d(known, np.unique(flat[known[places] != flat]))
    return known if len(known) <= FEW_LEVELS else None
