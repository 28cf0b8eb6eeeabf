"""Names that things had in earlier versions: configurations of runs made then are read with the names of today."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MOVED = {  # beginnings of a dotted name, the longer ones first where two fit
    "ebm_pipeline.inference.": "ebm_pipeline.models.inference.",
    "ebm_pipeline.initialization.": "ebm_pipeline.models.initialization.",
    "ebm_pipeline.layers.": "ebm_pipeline.models.layers.",
    "ebm_pipeline.objectives.": "ebm_pipeline.training.objectives.",
    "ebm_pipeline.samplers.": "ebm_pipeline.sampling.",
    "ebm_pipeline.sweeps.": "ebm_pipeline.runs.sweep.",
}

NO_OPTIONS = {
    "ebm_pipeline.data.load": ("hidden_units",)
}  # which a `_target_` took in earlier versions, and nothing reads


def current_name(name: str) -> str:
    """Today's name of what an earlier version called `name`; others as they are.

    >>> current_name("ebm_pipeline.layers.Bernoulli.create")
    'ebm_pipeline.models.layers.Bernoulli.create'
    """
    for old, new in MOVED.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def with_current_names(config: Any) -> Any:
    """Plain containers in which every `_target_` has today's name, without options that it no longer has."""
    if isinstance(config, Mapping):
        left_out = NO_OPTIONS.get(str(config.get("_target_")), ())
        return {
            key: current_name(value) if key == "_target_" and isinstance(value, str) else with_current_names(value)
            for key, value in config.items()
            if key not in left_out
        }
    if isinstance(config, list):
        return [with_current_names(value) for value in config]
    return config
