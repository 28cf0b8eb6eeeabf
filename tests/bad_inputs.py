"""Bad configurations, made from the good ones: every choice of every group, every leaf, by the kind of its value.

A value of another kind than the leaf's (a text for a number, a list for a scalar, a key that nothing reads, a `_target_`
that is none) is wrong whatever the leaf means. A value of the leaf's own kind (-1, 0, 10^12, null, an empty text or list) is
wrong for some leaves and right for others; the rule by which the legal ones drop out is `test_bad_inputs.is_legal`.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands import TINY, composed
from omegaconf import DictConfig, OmegaConf

from ebm_pipeline.cli import config_folder

CONF = Path(config_folder())
NAN, INF, HUGE = float("nan"), float("inf"), 10**12
OTHER_KIND: dict[type, tuple[Any, ...]] = {
    bool: ("perhaps", 2, [True], {"a": 1}),
    int: ("many", 2.5, True, [1], {"a": 1}, NAN, INF),
    float: ("many", True, [0.5], {"a": 1}, NAN, INF),
    str: (3, 2.5, True, ["x"], {"a": 1}),
    list: (3, "x", True, {"a": 1}),
    dict: (3, "x", [1]),
    type(None): (["x"], {"a": 1}),
}
OWN_KIND: dict[type, tuple[Any, ...]] = {
    bool: (None,),
    int: (-1, 0, HUGE, None),
    float: (-1.0, 0.0, 1e300, None),
    str: ("nothing", "", "/nowhere/at/all", None),
    list: ([], ["nothing"], [NAN], None),
    dict: ({}, None),
    type(None): (),
}
TARGETS = ("nothing.Here", "ebm_pipeline.Nothing", "os.getcwd", "collections.OrderedDict", "", 3, None)
# Compositions in which each choice of each group comes once; what does not go together is in none.
CHOICES = {
    "model": "rbm rbm_l1 rbm_l1_proximal dbm hopfield grbm ising rbm_potts rbm_rectified rbm_mixed".split(),
    "objective": "pcd cd pcd pcd tap".split(),
    "sampler": "gibbs gibbs tempering".split(),
    "optimizer": "sgd momentum adam".split(),
    "scheduler": "linear constant exponential step power_law".split(),
    "initialization": "normal glorot_normal".split(),
    "evaluation": "default full".split(),
    "data": "bars_and_stripes digits".split(),
    "data/transform": "threshold stochastic".split(),
}
BROUGHT = {
    "grbm": ("dequantise", "standardize", "scale", "none"),
    "ising": ("spin",),
}  # transforms that go with a model


@dataclass(frozen=True, eq=False)
class Case:
    """A good configuration, and what is changed in it."""

    command: str
    overrides: tuple[str, ...]
    key: str
    value: Any
    own_kind: bool

    def __str__(self) -> str:
        return f"{self.command} {' '.join(self.overrides)}: {self.key}={self.value!r}"

    def config(self, **places: Path) -> DictConfig:
        """The bad configuration; `places` are what the overrides name in braces."""
        given = tuple(override.format(**places) for override in self.overrides)
        config = _composed(self.command, given).copy()
        OmegaConf.set_struct(config, False)
        OmegaConf.update(config, self.key, self.value, merge=False, force_add=True)
        return config


@functools.cache
def _composed(command: str, overrides: tuple[str, ...]) -> DictConfig:
    return composed(*(TINY if command == "train" else ()), *overrides, name=command)


def compositions() -> Iterator[tuple[str, tuple[str, ...]]]:
    """(command, overrides) that together hold every choice of every group."""
    for index in range(max(map(len, CHOICES.values()))):
        chosen = {group: names[index % len(names)] for group, names in CHOICES.items()}
        model = chosen["model"]
        if model in BROUGHT or chosen["objective"] == "tap" and model not in ("hopfield", "rbm"):
            chosen |= {"objective": "pcd"}
        for transform in BROUGHT.get(model, (chosen["data/transform"],)):
            chosen["data/transform"] = transform
            yield "train", tuple(f"{group}={name}" for group, name in chosen.items())
    yield "train", ("data=hdf5", "data.path={file}")
    yield "evaluate", ("run={run}", "output_root={outputs}")
    for task in ("fantasies", "inpainting", "denoising", "features"):
        yield "sample", (f"task={task}", "run={run}", "output_root={outputs}", "count=4")
    yield "compare", ("runs=[{run}]", "output_root={outputs}")
    yield "data", ("data=bars_and_stripes",)
    yield "sync", ()


def cases() -> list[Case]:
    """All of them; a node that several compositions share is changed in the first alone."""
    found: list[Case] = []
    seen: set[str] = set()
    for command, overrides in compositions():
        given = tuple(override.format(**dict.fromkeys(("file", "run", "outputs"), "x")) for override in overrides)
        config = OmegaConf.to_container(_composed(command, given), resolve=True)
        for key, value, owner in _nodes(config):
            mark = f"{command} {key} {owner}"
            if key and mark not in seen:
                seen.add(mark)
                found += [Case(command, overrides, key, bad, own) for bad, own in _bad_values(key, value)]
            if isinstance(value, dict) and f"{mark} +" not in seen:
                seen.add(f"{mark} +")
                unknown = f"{key}.no_such_option" if key else "no_such_option"
                if "_target_" in value or key in ("", "training", "tracking"):  # elsewhere keys are names to choose
                    found.append(Case(command, overrides, unknown, 1, own_kind=False))
    return found


def _nodes(config: Any, key: str = "", owner: str = "") -> Iterator[tuple[str, Any, str]]:
    """(dotted key, value, `_target_` that it is given to) of every node and leaf; what is in a list of numbers is no leaf."""
    yield key, config, owner
    if isinstance(config, dict):
        for name, value in config.items():
            yield from _nodes(value, f"{key}.{name}" if key else str(name), str(config.get("_target_", owner)))
    elif isinstance(config, list) and any(isinstance(value, dict) for value in config):
        for index, value in enumerate(config):
            yield from _nodes(value, f"{key}.{index}", owner)


def _bad_values(key: str, value: Any) -> Iterator[tuple[Any, bool]]:
    """(value, whether it is of the leaf's own kind) for one node or leaf."""
    name = key.rsplit(".", 1)[-1]
    if name == "_target_":
        yield from ((target, False) for target in TARGETS)
    elif (
        name != "_partial_" and name != "_convert_" and key not in ("run", "runs", "output_root")
    ):  # not values of ours
        yield from ((bad, False) for bad in OTHER_KIND[type(value)])
        yield from ((bad, True) for bad in OWN_KIND[type(value)])


def spread(found: list[Case], count: int) -> list[Case]:
    """`count` of the cases, evenly spread over their order."""
    return list(itertools.islice(found, 0, None, max(1, len(found) // count)))[:count]
