"""The folder of an MLflow model, checked as data: MLflow itself imports whatever module its MLmodel names.

A folder passes if its MLmodel has just the keys and values that `save_served` leaves, if no file but those is in it, and if its
requirements are those of this package. What is read of it then is model.h5 alone, arrays and kinds.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ebm_pipeline.runs.trust import plain_yaml
from ebm_pipeline.support.errors import UserError

MLMODEL = "MLmodel"
MODEL = "data/model.h5"
ENVIRONMENTS = {"conda": "conda.yaml", "virtualenv": "python_env.yaml"}
EXAMPLE = {
    "artifact_path": "input_example.json", "serving_input_path": "serving_input_example.json", "type": "ndarray"
}  # fmt: skip
REQUIREMENTS = ("ebm_pipeline", "torch", "numpy", "h5py", "mlflow")
LOADERS = ("ebm_pipeline.runs.serve", "ebm_pipeline.serving")  # the second in folders of earlier versions
FILES = {
    MLMODEL, MODEL, "conda.yaml", "python_env.yaml", "requirements.txt", "input_example.json", "serving_input_example.json",
    "registered_model_meta",  # MLflow writes it beside a model of its registry
}  # fmt: skip
MOST_BYTES = 200_000  # of a file that is read as text
PINNED = re.compile(rf"({'|'.join(REQUIREMENTS)})==[\w.+!]+")
INTERPRETER = re.compile(r"(python|pip|setuptools|wheel)([=<>]{1,2}[\w.]+)?")
WORD = re.compile(r"[\w.:+ -]{0,200}")
ANY = object()  # a short text of letters, a whole number, or null
TEXTS = object()  # a mapping of texts
KEYS: dict[str, Any] = {
    "artifact_path": ANY,
    "flavors": {
        "python_function": {
            "code": None,
            "data": MODEL,
            "env": ENVIRONMENTS,
            "loader_module": LOADERS,
            "python_version": ANY,
            "streamable": False,
        }
    },
    "is_signature_from_type_hint": False,
    "mlflow_version": ANY,
    "model_id": ANY,
    "model_size_bytes": ANY,
    "model_uuid": ANY,
    "prompts": None,
    "run_id": ANY,
    "saved_input_example_info": EXAMPLE,
    "signature": TEXTS,
    "type_hint_from_example": False,
    "utc_time_created": ANY,
}
NEEDED = ("flavors.python_function.loader_module", "flavors.python_function.data")


def is_mlflow_model(folder: Path) -> bool:
    """Whether a folder says that it is an MLflow model."""
    return (folder / MLMODEL).is_file() or (folder / MLMODEL).is_symlink()


def checked_model(folder: Path) -> Path:
    """The model.h5 of an MLflow model that this package wrote; raises UserError for any other, of which nothing is called."""
    try:
        _check_files(folder)
        found = dict(_leaves(_yaml(folder / MLMODEL), KEYS))
        for name in NEEDED:
            if name not in found:
                raise UserError(f"{MLMODEL} has no {name}")
        _check_requirements(folder)
    except UserError as error:
        raise UserError(
            f"{folder} is no MLflow model as this package writes it ({error}), and MLflow would run what it names: nothing of it "
            f"was loaded. Its arrays alone are safe to read: give its model.h5, {folder / MODEL}"
        ) from error
    return folder / MODEL


def _check_files(folder: Path) -> None:
    names = set()
    for path in folder.rglob("*"):
        name, mode = path.relative_to(folder).as_posix(), path.lstat().st_mode
        if stat.S_ISDIR(mode) and name == "data":
            continue
        if name not in FILES or not stat.S_ISREG(mode):
            raise UserError(f"{name[:80]!r} is {'no plain file' if name in FILES else 'none of its files'}")
        names.add(name)
    if MODEL not in names:
        raise UserError(f"it has no {MODEL}")


def _text(path: Path) -> str:
    if path.stat().st_size > MOST_BYTES:
        raise UserError(f"{path.name} has more than {MOST_BYTES:,} bytes")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{path.name} cannot be read: {error}") from error


def _yaml(path: Path) -> dict[str, Any]:
    try:
        return plain_yaml(_text(path))
    except UserError as error:
        raise UserError(f"{path.name}: {error}") from error


def _check_requirements(folder: Path) -> None:
    """Raise UserError unless an environment that is made by this folder would hold this package and what it rests on."""
    named: list[tuple[str, Any]] = []
    if (folder / "requirements.txt").exists():
        named += [("requirements.txt", line) for line in _text(folder / "requirements.txt").split("\n") if line]
    for name in ("conda.yaml", "python_env.yaml"):
        if (folder / name).exists():
            named += [(name, one) for one in _requirements(_yaml(folder / name), name)]
    for name, one in named:
        if not isinstance(one, str) or not (PINNED.fullmatch(one) or INTERPRETER.fullmatch(one)):
            raise UserError(f"{name} asks for {str(one)[:80]!r}")


def _requirements(content: dict[str, Any], name: str) -> Iterator[Any]:
    """What a description of an environment asks for."""
    known = {"channels": ["conda-forge"], "name": "mlflow-env"} if name == "conda.yaml" else {}
    for key, value in content.items():
        if key == "python" and name == "python_env.yaml":
            yield f"python={value}"
        elif key in ("dependencies", "build_dependencies") and isinstance(value, list):
            for one in value:
                further = one["pip"] if isinstance(one, dict) and one.keys() == {"pip"} else [one]
                yield from (
                    (x for x in further if x != "-r requirements.txt") if isinstance(further, list) else [further]
                )
        elif key not in known or value != known[key]:
            raise UserError(f"{name} has {str(key)[:40]}={str(value)[:80]!r}")


def _leaves(given: Any, known: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of all leaves; raises UserError at the first that `known` has not."""
    if isinstance(known, Mapping):
        if not isinstance(given, Mapping):
            raise UserError(f"{MLMODEL} has {where}={str(given)[:80]!r}")
        for key, value in given.items():
            name = f"{where}.{key}" if where else str(key)
            if key not in known:
                raise UserError(f"{MLMODEL} has {name[:80]!r}")
            yield from _leaves(value, known[key], name)
        return
    if not _fits(given, known):
        raise UserError(f"{MLMODEL} has {where}={str(given)[:80]!r}")
    yield where, given


def _fits(given: Any, known: Any) -> bool:
    if known is TEXTS:
        return isinstance(given, Mapping) and all(isinstance(text, str) for pair in given.items() for text in pair)
    if known is ANY:
        return given is None or type(given) in (int, float) or (isinstance(given, str) and bool(WORD.fullmatch(given)))
    if isinstance(known, tuple):
        return given in known
    return type(given) is type(known) and given == known
