"""What a file of another person may name, and what the user's own word adds.

A run's configuration is read as data: plain YAML without aliases, interpolations and tags. Of it only the data set and the mean
field are ever made, and they may name just what conf/ of this package names for them; addresses likewise. Modules of the user
are imported where he names them himself, by trust=[module] or EBM_TRUST, never because a file does.
"""

from __future__ import annotations

import functools
import importlib
import os
import re
import site
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ebm_pipeline.support.conf import config_folder
from ebm_pipeline.support.errors import UserError

VARIABLE = "EBM_TRUST"  # modules, separated by commas
MADE = ("data", "mean_field")  # the parts of a run's configuration that are ever made into objects
DEEPEST, MOST_NODES = 40, 20_000  # of a configuration
KEYS = ("_target_", "_partial_", "_convert_")  # of those that mean something to Hydra


class PlainLoader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML of plain values: an alias could name itself, or grow without end."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("an alias (*name), which no configuration of a run has")
        return super().compose_node(parent, index)


def plain_yaml(text: str) -> dict[str, Any]:
    """The mapping that a YAML text holds; raises UserError for anything else."""
    try:
        if max(text.count(bracket) for bracket in "[{") > MOST_NODES:
            raise yaml.YAMLError("too many brackets")
        found = yaml.load(text, PlainLoader)
        nodes = sum(1 for _ in _nodes(found))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError((str(error) or type(error).__name__).splitlines()[0]) from error
    if not isinstance(found, dict) or not found or nodes > MOST_NODES:
        raise UserError("no mapping of settings")
    return found


def _nodes(node: Any, depth: int = 0) -> Iterator[Any]:
    if depth > DEEPEST:
        raise ValueError(f"settings nested more than {DEEPEST} deep")
    yield node
    for value in node.values() if isinstance(node, Mapping) else node if isinstance(node, list) else ():
        yield from _nodes(value, depth + 1)


@functools.cache
def _of_the_package() -> tuple[frozenset[str], frozenset[str]]:
    """(names to call, addresses) of the data sets, transforms and the mean field in conf/."""
    files = [*(config_folder() / "data").rglob("*.yaml"), config_folder() / "train.yaml"]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    targets = frozenset(re.findall(r"_target_: *([\w.]+)", text))
    return targets, frozenset(re.findall(r"\w+://[^\s'\",\]]+", text))


def check_made(config: Mapping[str, Any], where: str, trusted: Sequence[str]) -> None:
    """Raise UserError where a part of a configuration that is made into objects names what no stranger may name."""
    for part in MADE:
        for node in _nodes(config.get(part)):
            if isinstance(node, Mapping):
                _check_node(node, where, trusted)
            elif isinstance(node, str):
                _check_text(node, where)


def _check_node(node: Mapping[str, Any], where: str, trusted: Sequence[str]) -> None:
    target = node.get("_target_", "")
    targets, _ = _of_the_package()
    known = target == "" or (isinstance(target, str) and (target in targets or target.split(".")[0] in trusted))
    if known:
        _check_keys(node, where)
        return
    name = target.split(".")[0] if isinstance(target, str) else "..."
    raise UserError(
        f"{where} names {target!r} as _target_, which is none of this package's data sets and transforms: nothing else is called "
        f"because a file names it. If that module is yours, say so: trust=[{name}], or {VARIABLE}={name}"
    )


def _check_keys(node: Mapping[str, Any], where: str) -> None:
    odd = [key for key in node if not isinstance(key, str) or (key.startswith("_") and key not in KEYS)]
    if odd:
        raise UserError(
            f"{where} has {odd[0]!r}, which no configuration of a run has: take another copy, or train again"
        )


def _check_text(text: str, where: str) -> None:
    if "${" in text:
        raise UserError(f"{where} holds {text[:80]!r}: a run's configuration holds values, no references: train again")
    _, addresses = _of_the_package()
    if "://" in text and not any(text.startswith(known.rstrip("/")) for known in addresses):
        raise UserError(
            f"{where} names the address {text[:80]!r}: data are downloaded from the places in conf/data alone"
        )


def check_path(config: Mapping[str, Any], where: Path, output_root: Path) -> None:
    """Raise UserError where a file that lies outside of the user's own output folder names data outside of his folders.

    They are the output folder, the one that he stands in, EBM_DATA_DIR, and that of the file.
    """
    path = str(config.get("data", {}).get("path", ""))
    given = os.environ.get("EBM_DATA_DIR")
    known = [
        folder.absolute().resolve() for folder in (output_root, Path(), where.parent, *([Path(given)] if given else []))
    ]
    place = Path(path.split(".h5:")[0].split(".npz:")[0]).absolute().resolve()
    own = where.absolute().resolve().is_relative_to(known[0])
    if path and not own and not any(place.is_relative_to(folder) for folder in known):
        raise UserError(
            f"{where} names data at {path}, outside of your folders ({', '.join(map(str, known))}): if that is right, set "
            f"EBM_DATA_DIR={place.parent}"
        )


# ---------------------------------------------------------------------------------------------- the user's word


def trusted_modules(given: Sequence[str] | None) -> list[str]:
    """Import the modules that the user names, by `trust` or EBM_TRUST, from the folder he stands in too; returns their names."""
    names = [*(given or ()), *(name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip())]
    if names:
        see_own_modules()
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            raise UserError(f"trust names modules, such as mymodule or mypackage.layers; got {name!r}")
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if not f"{name}.".startswith(f"{error.name}."):
                raise  # a fault in the module itself
            raise UserError(
                f"there is no module {name}, which trust names: start the command in the folder that holds it"
            ) from error
    return [name.split(".")[0] for name in names]


def see_own_modules() -> None:
    """Modules in the folder where the user stands can be imported, after all that are installed."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def in_own_code(error: BaseException) -> bool:
    """Whether an exception was raised by a module of the user: neither of this package, nor installed, nor Python's own."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return False
    file = Path(trace.tb_frame.f_code.co_filename)
    python = sysconfig.get_paths()
    places = [str(Path(__file__).parents[1]), python["stdlib"], python["purelib"], *site.getsitepackages()]
    return file.is_file() and not any(file.resolve().is_relative_to(Path(place).resolve()) for place in places)
