"""What each command says of itself: `--help`, and the nearest right name for a wrong one. Reads conf/ as text, so it is quick."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Command:
    """A command in a sentence, with two examples of what one types after its name."""

    sentence: str
    examples: tuple[str, str]


COMMANDS = {
    "train": Command(
        "trains one model, or with sweep=... or lists of values (-m) several, and compares them.",
        ("data=mnist model=dbm training.epochs=40", "-m model=rbm,rbm_l1 optimizer.lr=0.02,0.05"),
    ),
    "evaluate": Command(
        "measures a finished run, or weights of another program: verdict, likelihood card, samples against data, report.html.",
        ("run=outputs/runs/2026-11-26_10-00-00_rbm", "model=weights.npz data=digits part=validation"),
    ),
    "sample": Command(
        "asks a trained model: fantasy particles, inpainting, denoising, features, labels; HDF5 and a picture.",
        ("run=outputs/runs/2026-11-26_10-00-00_rbm", "run=model.h5 task=inpainting task.mask=box"),
    ),
    "compare": Command(
        "compares runs: a table and figures; a sweep stands for its runs.",
        ("runs=[1f3a,77b0]", "runs=[outputs/sweeps/2026-11-26_10-00-00]"),
    ),
    "data": Command(
        "prepares a data set as HDF5, checks all of it and says what it holds.",
        ("data=mnist", "data=hdf5 data.path=images.h5"),
    ),
    "serve": Command(
        "answers for a trained model over HTTP, after it has checked what it is given: docs/tracking.md.",
        ("run=outputs/runs/2026-11-26_10-00-00_rbm/mlflow_model", "run=models:/digits@best port=5002"),
    ),
    "sync": Command(
        "sends to the MLflow store what runs could not send while it was down.",
        ("", "run=outputs/runs/2026-11-26_10-00-00_rbm"),
    ),
    "ui": Command(
        "opens MLflow's pages of the runs, on this computer: docs/tracking.md.",
        ("", "port=5002"),
    ),
}


def overview() -> str:
    """All commands, a line each."""
    lines = [f"  {f'ebm-{name}':<14}{command.sentence}" for name, command in COMMANDS.items()]
    return "\n".join(
        ["ebm_pipeline: energy-based models of the Boltzmann family.", "", *lines, "", "COMMAND --help says more."]
    )


def help_text(name: str, conf: Path) -> str:
    """What `ebm-NAME --help` prints."""
    command = COMMANDS[name]
    text = (conf / f"{name}.yaml").read_text(encoding="utf-8")
    parts = [f"ebm-{name} {command.sentence}", f"usage: ebm-{name} [GROUP=CHOICE ...] [OPTION=VALUE ...]"]
    lines = [_group(group, chosen, conf) for group, chosen, _ in groups(text, conf)]
    if lines:
        parts.append("\n".join(["groups and their choices:", *lines]))
    parts.append("\n".join(["options and their defaults:", *_options(text)]))
    parts.append("\n".join(["examples:", *(f"  ebm-{name} {example}".rstrip() for example in command.examples)]))
    parts.append(
        f"ebm-{name} --cfg job shows the whole configuration, --hydra-help what Hydra adds, --version the version."
    )
    return "\n\n".join(parts)


def groups(text: str, conf: Path) -> Iterator[tuple[str, str | None, str]]:
    """(group, default choice, where its options stand) of a command, groups within groups after them."""
    for entry in yaml.safe_load(text).get("defaults", ()):
        if not isinstance(entry, Mapping):
            continue
        for name, chosen in entry.items():
            group, _, package = str(name).removeprefix("optional ").partition("@")
            if group.startswith("override ") or "${" in str(chosen) or not (conf / group).is_dir():
                continue
            yield group, chosen, package or group.replace("/", ".")
            for inner in _groups_within(group, conf):
                yield f"{group}/{inner}", None, f"{group}.{inner}"


def _group(group: str, chosen: str | None, conf: Path) -> str:
    known = choices(group, conf)
    return f"  {group:<16}{', '.join(f'[{name}]' if name == chosen else name for name in known)}"


def choices(group: str, conf: Path) -> list[str]:
    """What a group can be set to, files in a folder that is no group included (experiment=table/rbm16)."""
    folder, own = conf / group, _groups_within(group, conf)
    files = (path.relative_to(folder).with_suffix("") for path in folder.rglob("*.yaml"))
    return sorted((path.as_posix() for path in files if path.parts[0] not in own), key=lambda name: ("/" in name, name))


def _groups_within(group: str, conf: Path) -> list[str]:
    """Folders of a group that are groups, as its choices choose of them in their defaults."""
    texts = [path.read_text(encoding="utf-8") for path in (conf / group).glob("*.yaml")]
    folders = sorted(path.name for path in (conf / group).glob("*") if path.is_dir())  # none of a group of Hydra's own
    return [name for name in folders if any(re.search(rf"^ *- {name}:", text, re.M) for text in texts)]


def _options(text: str) -> list[str]:
    """The options as the file has them, with its comments: all between the defaults and Hydra's own part."""
    body = re.sub(r"^defaults:\n(?:[ -].*\n)*", "", text, flags=re.M).split("\nhydra:")[0]
    lines = [line for line in body.splitlines() if not line.startswith("#") and "_target_" not in line]
    return [f"  {line}".rstrip() for line in lines[next((i for i, line in enumerate(lines) if line), 0) :]]


# ---------------------------------------------------------------------------------------------- the nearest right name


def nearest(wrong: str, known: list[str]) -> str:
    """Such as `did you mean training.epochs?`; empty where nothing is near.

    >>> nearest("training.epoch", ["training.epochs", "data.path"])
    'did you mean training.epochs?'
    """
    found = difflib.get_close_matches(wrong, known, n=1, cutoff=0.6)
    return f"did you mean {found[0]}?" if found else ""


def mended(message: str, name: str, conf: Path) -> str:
    """A message of Hydra about a wrong name, in one sentence with the nearest right one; others as they are."""
    if wrong := re.match(r"Could not override '([^']+)'", message):
        names = list(_names(name, conf))
        return f"there is no option {wrong[1]}: {nearest(wrong[1], names) or f'see ebm-{name} --help'}"
    if wrong := re.search(r"Could not find '([^']+)/([^'/]+)'", message):
        known = choices(wrong[1], conf)
        if not known:  # a group of Hydra's own
            return message
        near = nearest(wrong[2], known)
        return f"{wrong[1]} has no choice {wrong[2]}: {f'{near} ' if near else ''}It has {', '.join(known)}"
    if "missing EQUAL" in message and (wrong := re.search(r"parsing override '([^']+)'", message)):
        return f"{wrong[1]!r} is no setting: write OPTION=VALUE, such as seed=3; see ebm-{name} --help"
    return message


def _names(name: str, conf: Path) -> Iterator[str]:
    """What one can set in a command: its groups, its own options, and those of its groups."""
    text = (conf / f"{name}.yaml").read_text(encoding="utf-8")
    yield from _dotted(yaml.safe_load(text))
    for group, _, package in groups(text, conf):
        yield group
        for path in sorted((conf / group).glob("*.yaml")):
            own = path.read_text(encoding="utf-8")
            prefix = "" if "@package _global_" in own else f"{package}."
            yield from (prefix + key for key in _dotted(yaml.safe_load(own)))


def _dotted(node: Any, prefix: str = "") -> Iterator[str]:
    for key, value in node.items() if isinstance(node, Mapping) else ():
        if key in ("defaults", "hydra") or str(key).startswith("_"):
            continue
        yield f"{prefix}{key}"
        yield from _dotted(value, f"{prefix}{key}.")
