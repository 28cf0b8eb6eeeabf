"""What runs are sorted and filtered by in MLflow: few settings under short names. All others are in config.yaml."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebm_pipeline.runs import swept
from ebm_pipeline.tracking.records import PARENT_VARIABLE

if TYPE_CHECKING:  # with Lightning, of which the head of a sweep has no need
    from ebm_pipeline.runs.plan import Plan
    from ebm_pipeline.training.constraints import Constraint
    from ebm_pipeline.training.penalties import Penalty

SWEPT_VARIABLE = PARENT_VARIABLE + "_SWEPT"  # how the jobs of a sweep learn what is swept
OTHERWISE = ("model", "hidden_units", "data", "data/transform")  # what names a parameter of its own


def parameters_of(plan: Plan, folder: Path) -> dict[str, Any]:
    """Parameters of the run in `folder`, and what its sweep gave it."""
    model, resolved = plan.model, plan.resolved
    layers = list(model.layers.values())
    held: list[Penalty | Constraint] = [*model.penalties, *model.constraints]
    trained = [plan.initial.named_tensors()[name] for name in plan.recipe.trained(plan.initial)]
    found = {
        "model": model.name,
        "hidden": "-".join(str(layer.units) for layer in layers[1:]),
        "parameters": sum(tensor.numel() for tensor in trained),
        "data": plan.data.name,
        "transform": plan.data.transform.name,
        **{name: made_by(resolved[group]) for group, name in swept.GROUPS.items()},
        **{name: value_of(resolved, key) for key, name in swept.SETTINGS.items()},
        **{re.sub(r"\W+", "_", one.name.lower()): getattr(one, "strength", True) for one in held},
    }
    known = {name: value for name, value in found.items() if value is not None}
    return known | given_by_sweep(folder, known)


def made_by(group: Mapping[str, Any]) -> str:
    """The name of what a group makes, without its module."""
    return str(group.get("_target_", "")).removesuffix(".create").rsplit(".", 1)[-1]


def value_of(resolved: Mapping[str, Any], key: str) -> Any:
    """The setting with this dotted name; None where it is not there, or off."""
    value: Any = resolved
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return None if isinstance(value, float) and not math.isfinite(value) else value


def given_by_sweep(folder: Path, known: Mapping[str, Any]) -> dict[str, str]:
    """What the job in `folder` was given of what is swept, by the last part of its name; by all of it where that is taken."""
    keys = [key for key in os.environ.get(SWEPT_VARIABLE, "").split(",") if key]
    overrides = swept.overrides_of(folder)
    found: dict[str, str] = {}
    for key in keys:
        if key not in overrides or key in swept.SETTINGS or key in OTHERWISE:
            continue
        if key in swept.GROUPS:
            found[swept.GROUPS[key]] = overrides[key]
        else:
            last = key.replace("/", ".").rsplit(".", 1)[-1]
            found[key.replace("/", ".") if last in known or last in found else last] = overrides[key]
    return found
