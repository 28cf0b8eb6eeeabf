"""What was swept: the settings in which runs differ, as they were given, and the runs that differ in their seed alone.

Over n seeds a number is stated as mean and standard error s / sqrt(n), where s is the sample deviation (n - 1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ebm_pipeline.runs.trust import plain_yaml
from ebm_pipeline.support.errors import UserError
from ebm_pipeline.tracking.records import RunRecord

OVERRIDES = Path(".hydra") / "overrides.yaml"  # where Hydra leaves what a job was given
MODEL, SEED = "model", "seed"
SETTINGS = {  # dotted name of a setting -> its short name among the parameters of a run
    "sampler.steps": "k",
    "training.chains": "chains",
    "optimizer.lr": "lr",
    "optimizer.momentum": "momentum",
    "optimizer.weight_decay": "weight_decay",
    "training.epochs": "epochs",
    "data.batch_size": "batch_size",
    "training.centring": "centring",
    "training.averaging": "averaging",
    "seed": "seed",
}
GROUPS = {  # and of a group
    "initialization": "initialization",
    "sampler": "sampler",
    "objective": "objective",
    "optimizer": "optimizer",
    "scheduler": "schedule",
}
NOT_SETTINGS = ("resume", "sweep", "hydra.", "tracking.", "output_root", "plots")
OVERFLOW = 1e300  # MLflow stores an infinite number as the largest number there is


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone; `settings` is what sets the group apart, by name."""

    settings: dict[str, str]
    runs: tuple[RunRecord, ...]

    @property
    def label(self) -> str:
        """Such as `RBM, steps=5, lr=0.05`."""
        return label_of(self.settings)

    def metric(self, key: str) -> tuple[float, float]:
        """(mean, standard error) over the runs; NaN where a run lacks the number, and for the error of a single run."""
        return mean_and_error([finite(run.metrics.get(key, math.nan)) for run in self.runs])


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error; the error of a single value is NaN."""
    array = np.array(values, dtype=np.float64)
    error = float(array.std(ddof=1)) / math.sqrt(len(array)) if len(array) > 1 else math.nan
    return float(array.mean()), error


def with_error(mean: float, error: float) -> str:
    """`mean ± error`, to two digits of the error; a dash for NaN."""
    if math.isnan(mean):
        return "-"
    if math.isnan(error) or error == 0:
        return f"{mean:.4g}"
    digits = max(0, 1 - math.floor(math.log10(error)))
    return f"{mean:.{digits}f} ± {error:.{digits}f}"


def finite(value: float) -> float:
    """The number, NaN where it is infinite."""
    return value if abs(value) < OVERFLOW else math.nan


def given(run: RunRecord) -> dict[str, str]:
    """What a run was given on the command line, or by its sweep: name -> value as written. Empty where that is not known."""
    known = {} if run.output_dir is None else overrides_of(run.output_dir)
    return {name: value for name, value in known.items() if not name.startswith(NOT_SETTINGS)}


def words_of(folder: Path) -> list[str]:
    """The words that the run in a folder was given, as written; empty where that is not known."""
    path = folder / OVERRIDES
    return [str(word) for word in yaml.safe_load(path.read_text(encoding="utf-8")) or ()] if path.is_file() else []


def overrides_of(folder: Path) -> dict[str, str]:
    """The same, name -> value."""
    return {name: value for name, _, value in (word.lstrip("+~").partition("=") for word in words_of(folder))}


def setting(run: RunRecord, name: str) -> str:
    """A setting that a run was not given: of its configuration, or of its parameters in the store; "" where neither has it."""
    path = (run.output_dir or Path()) / "config.yaml"
    if run.output_dir is not None and path.is_file():
        try:
            value: Any = plain_yaml(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, UserError):
            value = None
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None and not isinstance(value, Mapping):
            return str(value)
    return run.params.get(name, run.params.get({**SETTINGS, **GROUPS}.get(name, ""), ""))


def differing(runs: Sequence[RunRecord]) -> list[dict[str, str]]:
    """For each run, those of the given settings that are not the same in all; the model by its name."""
    known = [given(run) | {MODEL: run.name} for run in runs]
    names = dict.fromkeys(name for settings in known for name in (MODEL, *settings))
    for settings, run in zip(known, runs, strict=True):
        settings |= {name: setting(run, name) for name in names if name not in settings}
    kept = [name for name in names if len({settings[name] for settings in known}) > 1]
    return [{name: settings[name] for name in kept} for settings in known]


def groups_of(runs: Sequence[RunRecord]) -> list[Group]:
    """The runs, those that differ in their seed alone put together, in the order of the first of each."""
    found: dict[tuple[str, ...], Group] = {}
    for run, settings in zip(runs, differing(runs), strict=True):
        apart = {name: value for name, value in settings.items() if name != SEED}
        group = found.setdefault(tuple(apart.values()), Group(apart, ()))
        found[tuple(apart.values())] = replace(group, runs=(*group.runs, run))
    return list(found.values())


def label_of(settings: Mapping[str, str]) -> str:
    """Settings in short: the model's name, the last part of other names, numbers to three digits."""
    return ", ".join(
        value if name == MODEL else f"{name.rsplit('.', 1)[-1]}={short(value)}" for name, value in settings.items()
    )


def short(value: str) -> str:
    """A number to three digits; other values as they are."""
    number = number_of(value)
    return value if math.isnan(number) else f"{number:.3g}"


def number_of(value: str) -> float:
    """The number that a value stands for; NaN where it is none."""
    try:
        return float(value)
    except ValueError:
        return math.nan


@dataclass(frozen=True)
class Axes:
    """How groups are laid out in a plot: one setting along x, one curve per value of the others."""

    x: str
    numeric: bool
    values: list[str]  # of x, in their order
    curves: dict[str, dict[str, Group]]  # label -> value of x -> group

    @property
    def whole(self) -> bool:
        """Whether every curve has every value: a grid."""
        return all(len(curve) == len(self.values) for curve in self.curves.values())


MOST_CURVES = 8  # a setting of more values than that is told apart by no curve


def axes_of(groups: Sequence[Group]) -> Axes | None:
    """x is the setting of most values, a number if there is one; None where no setting but the model differs."""
    names = list(groups[0].settings)
    values = {name: list(dict.fromkeys(group.settings[name] for group in groups)) for name in names}
    numeric = [name for name in names if not any(math.isnan(number_of(value)) for value in values[name])]
    if not [name for name in names if name != MODEL]:
        return None
    x = max(numeric or names, key=lambda name: len(values[name]))
    if x in numeric:
        values[x].sort(key=number_of)
    others = [name for name in names if name != x and len(values[name]) <= MOST_CURVES]
    curves: dict[str, dict[str, Group]] = {}
    for group in sorted(groups, key=lambda group: [_rank(group.settings[name]) for name in others]):
        label = label_of({name: group.settings[name] for name in others})
        curves.setdefault(label, {})[group.settings[x]] = group
    return Axes(x, x in numeric, values[x], curves)


def _rank(value: str) -> tuple[float, str]:
    number = number_of(value)
    return (math.inf if math.isnan(number) else number, value)
