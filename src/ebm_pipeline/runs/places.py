"""Where the data of a run are now: a configuration names places of the time when the run began."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from ebm_pipeline.data.reading import split_key

ROOT = "<output_root>"
SCHEMES = ("", "sqlite:///")  # that stand before a path


def from_the_root(settings: Any, root: str) -> Any:
    """Settings in which paths below the output folder `root` are named from there: so they are the same when it was moved."""
    if isinstance(settings, Mapping):
        return {key: from_the_root(value, root) for key, value in settings.items()}
    if isinstance(settings, list):
        return [from_the_root(value, root) for value in settings]
    below = _below(settings, root) if isinstance(settings, str) else None
    return settings if below is None else f"{below[0]}{ROOT}/{below[1]}"


def _below(text: str, root: str) -> tuple[str, str] | None:
    """(scheme, path from `root`) of a path or address below the folder `root`."""
    for scheme in SCHEMES:
        for prefix in dict.fromkeys((root.rstrip("/"), os.path.abspath(root))):
            if prefix and text.startswith(f"{scheme}{prefix}/"):
                return scheme, text.removeprefix(f"{scheme}{prefix}").lstrip("/")
    return None


def with_data_now(own: DictConfig, folder: Path, output_root: Path) -> DictConfig:
    """The configuration of the run in `folder`, whose data, where they are gone from below its output folder, are looked for
    below the folders above it and below `output_root`.
    """
    path, root = own.data.get("path"), own.get("output_root")
    if not isinstance(path, str) or not isinstance(root, str) or is_there(path):
        return own
    below = _below(path, root)
    if below is None:
        return own
    places = [*folder.absolute().parents, *folder.resolve().parents, output_root]
    found = next((str(place / below[1]) for place in places if is_there(str(place / below[1]))), None)
    if found is None and not Path(root).is_dir():
        found = str(output_root / below[1])  # where it is made, if it is a data set that can be
    if found is not None:
        own.data.path = found
    return own


def is_there(path: str) -> bool:
    """Whether the file or folder that data.path names exists."""
    return split_key(path)[0].exists()
