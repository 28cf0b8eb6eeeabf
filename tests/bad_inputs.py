"""Bad configurations, made from the good ones: every choice of every group, every leaf, by the kind of its value.

A value of another kind than the leaf's (a text for a number, a list for a scalar, a key that nothing reads, a `_target_`
that is none) is wrong whatever the leaf means. A value of the leaf's own kind (-1, 0, 10^12, null, an empty text or list) is
wrong for some leaves and right for others; the rule by which the legal ones drop out is `test_bad_inputs.is_legal`.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterable, Iterator
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
    int: ("many", True, [1], {"a": 1}, NAN, INF),
    float: ("many", True, [0.5], {"a": 1}, NAN, INF),
    str: (3, 2.5, True, ["x"], {"a": 1}),
    list: (3, "x", True, {"a": 1}),
    dict: (3, "x", [1]),
    type(None): (["x"], {"a": 1}),
}
OWN_KIND: dict[type, tuple[Any, ...]] = {
    bool: (None,),
    int: (-1, 0, 2.5, HUGE, None),
    float: (-1.0, 0.0, 1e300, None),
    str: ("nothing", "", "/proc/nowhere/at/all", None),
    list: ([], ["nothing"], [NAN], None),
    dict: ({}, None),
    type(None): (),
}
TARGETS = ("nothing.Here", "ebm_pipeline.Nothing", "os.getcwd", "collections.OrderedDict", "", 3, None)
# Compositions in which each choice of each group comes once; what does not go together is in none.
CHOICES = {
    "model": [
        "rbm",
        "rbm_l1",
        "rbm_l1_proximal",
        "dbm",
        "hopfield",
        "grbm",
        "ising",
        "rbm_potts",
        "rbm_rectified",
        "rbm_mixed",
    ],
    "objective": ["pcd", "cd", "pcd", "pcd", "tap"],
    "sampler": ["gibbs", "gibbs", "tempering"],
    "optimizer": ["sgd", "momentum", "adam"],
    "scheduler": ["linear", "constant", "exponential", "step", "power_law"],
    "initialization": ["normal", "glorot_normal"],
    "evaluation": ["default", "full"],
    "data": ["bars_and_stripes", "digits"],
    "data/transform": ["threshold", "stochastic"],
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
        if model in BROUGHT or (chosen["objective"] == "tap" and model not in ("hopfield", "rbm")):
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
    yield "serve", ("run={run}", "output_root={outputs}")
    yield "ui", ("output_root={outputs}",)


FEW = (  # for a quick test
    ("train", ("model=rbm_l1", "optimizer=momentum", "scheduler=step")),
    ("train", ("model=dbm", "data=digits", "evaluation=full")),
    ("evaluate", ("run={run}", "output_root={outputs}")),
    ("sample", ("task=inpainting", "run={run}", "output_root={outputs}")),
    ("data", ("data=bars_and_stripes",)),
)


def cases(given_compositions: Iterable[tuple[str, tuple[str, ...]]]) -> list[Case]:
    """Those of these compositions; a node that several share is changed in the first alone."""
    found: list[Case] = []
    seen: set[str] = set()
    for command, overrides in given_compositions:
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
    return [found[number * len(found) // count] for number in range(min(count, len(found)))]


def damages(sound: bytes, truncations: int, flips: int, seed: int = 5) -> Iterator[tuple[str, bytes]]:
    """(what was done, content) of a file: nothing left, something else, cut off, one bit flipped, a stretch of zeros."""
    chance = random.Random(seed)
    yield "empty", b""
    yield "text", b"this is something else\n"
    yield "a picture", b"\x89PNG\r\n\x1a\n" + bytes(200)
    yield "zeros", bytes(len(sound))
    for cut in sorted(chance.sample(range(1, len(sound)), truncations)):
        yield f"cut off after {cut} of {len(sound)} bytes", sound[:cut]
    for place in sorted(chance.sample(range(len(sound)), flips)):
        bit = chance.randrange(8)
        changed = bytearray(sound)
        changed[place] ^= 1 << bit
        yield f"bit {bit} of byte {place} flipped", bytes(changed)
    start = len(sound) // 3
    yield "a third overwritten with zeros", sound[:start] + bytes(start) + sound[2 * start :]
