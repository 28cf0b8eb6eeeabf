"""Tables of numbers, and of words where there is no number; the best of each column, and means over seeds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ebm_pipeline.runs.swept import Group, finite, mean_and_error, with_error
from ebm_pipeline.support.glossary import ALL, FRACTION, HALF, HIGHER, LOWER, NATS, ONE, RMS, SECONDS, Term
from ebm_pipeline.support.names import found

ARROWS = {LOWER: "↓", HIGHER: "↑", HALF: "→ 50 %", ONE: "→ 1"}  # which way is better
SHOWN = {FRACTION: ".1f", NATS: ".2f", "nats": ".2f", RMS: ".3f", SECONDS: ".3g"}  # how numbers of a unit are written
SUFFIXES = {FRACTION: " %", SECONDS: " s"}
MOST_DIGITS = 1e5  # above which three of them and an exponent are written


@dataclass(frozen=True)
class Cell:
    """What stands in a place of a table; `value` is None where that is words.

    reach: the end of an interval up to which the value may be as good; note: a second line; colour: of a verdict.
    """

    text: str
    value: float | None = None
    reach: float | None = None
    note: str = ""
    colour: str = ""
    best: bool = False


@dataclass(frozen=True)
class Column:
    """A heading, what stands under it, and which way is better (of the glossary); `suffix` ends each number."""

    heading: str
    unit: str = ""
    better: str = ""
    suffix: str = ""

    @property
    def arrow(self) -> str:
        return ARROWS.get(self.better, "")


@dataclass(frozen=True)
class Row:
    """A cell for each column; `run_id` is "" for a row of no run."""

    name: str
    cells: tuple[Cell, ...]
    run_id: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under columns; `notes` say what was left out."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()


def term_of(name: str) -> Term:
    """What the glossary says of a metric."""
    known = found(name)
    assert known is not None, name
    return known[0]


def column_of(name: str) -> Column:
    """The column of a metric, by its label."""
    term, part = term_of(name), name.split("/")[0]
    unit = "" if term.unit in ("1", FRACTION, SECONDS) else term.unit
    words = [word for word in (unit, part if part in ALL else "") if word]
    return Column(term.label, ", ".join(words), term.better, SUFFIXES.get(term.unit, ""))


def number(name: str, raw: float) -> Cell:
    """A metric as it is written; what is not finite says so."""
    term = term_of(name)
    unit = term.unit
    value = finite(raw) * (100 if unit == FRACTION else 1)
    if math.isnan(value):
        return Cell("not finite")
    shown = SHOWN.get(unit, ".3f" if term.better == ONE else ".3g") if abs(value) < MOST_DIGITS else ".3g"
    return Cell(f"{value:{shown}}{SUFFIXES.get(unit, '')}", value, value)


def marked(table: Table) -> Table:
    """The table with the best of the runs marked in each column that has a better end: all that may be as good as the best,
    and all that are written as it is.
    """
    runs = [row for row in table.rows if row.run_id]
    best = [_best(column, [row.cells[index] for row in runs]) for index, column in enumerate(table.columns)]

    def with_marks(row: Row) -> Row:
        cells = (replace(cell, best=cell in good) for cell, good in zip(row.cells, best, strict=True))
        return replace(row, cells=tuple(cells)) if row.run_id else row

    return replace(table, rows=tuple(with_marks(row) for row in table.rows))


def _best(column: Column, cells: Sequence[Cell]) -> list[Cell]:
    sign = -1 if column.better == LOWER else 1
    numbers = {
        cell: (sign * cell.value, sign * cell.reach)
        for cell in cells
        if cell.value is not None and cell.reach is not None
    }
    if column.better not in (LOWER, HIGHER) or len(cells) < 2 or not numbers:
        return []
    first = max(numbers, key=lambda cell: numbers[cell][0])
    return [cell for cell, (_, reach) in numbers.items() if cell.text == first.text or reach >= numbers[first][0]]


def over_seeds(table: Table, groups: Sequence[Group]) -> Table:
    """A row for each group of runs that differ in their seed alone: means and standard errors; of intervals, their lower ends."""
    cells_of = {row.run_id: row.cells for row in table.rows}
    rows = []
    for group in groups:
        by_column = zip(*(cells_of[run.run_id] for run in group.runs), strict=True)
        cells = [_together(column, cells) for column, cells in zip(table.columns, by_column, strict=True)]
        name = group.label or group.runs[0].name
        rows.append(Row(name, (Cell(str(len(group.runs))), *cells)))
    return Table((Column("seeds"), *table.columns), tuple(rows))


def _together(column: Column, cells: Sequence[Cell]) -> Cell:
    numbers = [cell.value for cell in cells if cell.value is not None]
    if not numbers:
        counts = Counter(cell.text for cell in cells)
        return Cell(", ".join(text if count == len(cells) else f"{count} {text}" for text, count in counts.items()))
    if len(numbers) < len(cells):
        return Cell(f"{len(numbers)} of {len(cells)} have it")
    mean, error = mean_and_error(numbers)
    return Cell(f"{with_error(mean, error)}{column.suffix}", mean, mean, cells[0].note)
