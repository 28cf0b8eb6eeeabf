"""The rooms: imports point one way. A module may import only from rooms on floors below its own, and inside its room."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import ebm_pipeline

PACKAGE = Path(ebm_pipeline.__file__).parent
# Floors, the ground first. Rooms of one floor do not know each other.
FLOORS = [
    ("support",),
    ("data", "plots", "tracking"),
    ("models",),
    ("sampling",),
    ("evaluation",),
    ("training", "tasks"),
    ("runs",),
    ("cli",),
    ("__main__",),
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
# Inside a room: files on floors likewise.
INSIDE = {
    "data": [
        ("hdf5", "contained", "parts", "visible", "moments"),
        ("values", "stored"),
        ("reading", "transforms"),
        ("batches", "information", "sources", "fitted"),
        ("dataset", "describe"),
    ],
    "models": [
        ("numerics",),
        ("layers",),
        ("machine",),
        ("initialization", "inference", "labels"),
        ("growth",),
        ("storage", "foreign"),
    ],
    "tracking": [
        ("address", "deadline", "environment", "journal", "provenance"),
        ("database", "moved"),
        ("store",),
        ("logged_models",),
        ("calls", "pages", "whose"),
        ("records",),
        ("tracker",),
        ("system_metrics", "afterwards", "unsent"),
    ],
    "training": [
        ("processes", "objectives"),
        ("arrangement", "blocks", "centring", "constraints", "precision", "penalties", "schedules", "pictures", "checkpoints",
         "trajectory"),
        ("recipe",),
        ("module",),
        ("callbacks", "pretraining"),
        ("model",),
    ],
    "runs": [
        ("features", "folders", "help", "moved", "places", "report", "submitted", "trust"),
        ("configuration", "options", "serving", "swept"),
        ("beforehand", "description"),
        ("reference", "sweep_report"),
        ("assess", "compare", "covered", "resume", "data", "serve", "start", "sync", "ui"),
        ("present",),
        ("referee", "plan", "sample", "trials"),
        ("parameters",),
        ("search",),
        ("evaluate", "sweep"),
        ("phases",),
        ("models",),
        ("train",),
        ("estimators",),
    ],
}  # fmt: skip
MODULES = sorted(PACKAGE.rglob("*.py"))
MOST_AT_THE_ROOT = {"__init__.py", "__main__.py", "cli.py"}


def imports(path: Path) -> set[str]:
    """Absolute names of all modules that a file imports, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}, line {node.lineno}: a relative import"
            assert node.module is not None
            # `from ebm_pipeline.runs import plan` names a module, `from ebm_pipeline.runs.plan import Plan` does not
            own = {f"{node.module}.{alias.name}" for alias in node.names if module_file(f"{node.module}.{alias.name}")}
            found |= own or {node.module}
    return found


def module_file(name: str) -> Path | None:
    """The file or folder of a module of this package; None where there is none."""
    path = PACKAGE.joinpath(*name.split(".")[1:])
    if name.split(".")[0] != "ebm_pipeline":
        return None
    return path if path.is_dir() else path.with_suffix(".py") if path.with_suffix(".py").is_file() else None


def room(path: Path) -> str:
    """The name in FLOORS that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def own_imports(path: Path) -> set[str]:
    """Rooms that a file imports from, its own left out."""
    return {name.split(".")[1] for name in imports(path) if name.startswith("ebm_pipeline.")} - {room(path)}


def label(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def test_every_file_is_in_a_room() -> None:
    assert {path.name for path in PACKAGE.glob("*.py")} == MOST_AT_THE_ROOT
    assert {room(path) for path in MODULES} - {"__init__"} == set(FLOOR)


@pytest.mark.parametrize(
    "path", [path for path in MODULES if path.parent != PACKAGE or path.name == "cli.py"], ids=label
)
def test_imports_point_one_way(path: Path) -> None:
    later = {name for name in own_imports(path) if FLOOR[name] >= FLOOR[room(path)]}
    assert not later, f"{label(path)} imports from {sorted(later)}, on no floor below its own"


@pytest.mark.parametrize("name", INSIDE)
def test_a_room_is_ordered_inside(name: str) -> None:
    floor = {file: floor for floor, files in enumerate(INSIDE[name]) for file in files}
    assert {path.stem for path in (PACKAGE / name).iterdir() if path.stem[:2] != "__"} == set(floor)
    for path in (PACKAGE / name).rglob("*.py"):
        own = path.relative_to(PACKAGE / name).parts[0].removesuffix(".py")
        inner = {found.split(".")[2] for found in imports(path) if found.startswith(f"ebm_pipeline.{name}.")} - {own}
        later = {found for found in inner if own in floor and floor[found] >= floor[own]}
        assert not later, f"{label(path)} imports {sorted(later)}, which do not stand before it"


def test_only_tracking_and_the_served_model_import_mlflow() -> None:
    users = {label(path) for path in MODULES if any(name.split(".")[0] == "mlflow" for name in imports(path))}
    assert {user for user in users if not user.startswith("tracking/")} == {"runs/serve.py"}


def test_the_core_does_not_know_lightning_hydra_or_matplotlib() -> None:
    outside = {"pytorch_lightning", "hydra", "omegaconf", "matplotlib", "mlflow", "h5py"}
    core = [
        path for path in MODULES if room(path) in ("models", "sampling", "evaluation") or "objectives" in path.parts
    ]
    for path in core:
        known = outside - ({"h5py"} if path.name in ("storage.py", "foreign.py") else set())  # what holds a machine
        assert not {name.split(".")[0] for name in imports(path)} & known, label(path)


def test_a_command_starts_without_torch() -> None:
    """cli imports the heavy modules inside its functions: a wrong override is told at once."""
    tree = ast.parse((PACKAGE / "cli.py").read_text(encoding="utf-8"))
    top = [ast.unparse(node) for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    own = [line for line in top if "ebm_pipeline" in line]
    assert own == [
        "from ebm_pipeline import __version__",
        "from ebm_pipeline.support import conf, elapsed, importing",
        "from ebm_pipeline.support.errors import UserError, within_memory",
        "from ebm_pipeline.support.interruption import Interrupted, ending_with_parent, interruptible",
        "from ebm_pipeline.support.launched import launched",
        "from ebm_pipeline.support.terminal import set_up_terminal",
        "from ebm_pipeline.tracking.environment import set_up_mlflow",
    ]


# ---------------------------------------------------------------------------------------------- sizes


MOST_LINES_OF_A_FILE = 400
MOST_LINES_OF_A_FUNCTION = 60


def functions(text: str) -> dict[str, int]:
    """Lines of each function of a file, by its name and first line."""
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    return {f"{node.name}, line {node.lineno}": (node.end_lineno or node.lineno) - node.lineno + 1 for node in nodes}


@pytest.mark.parametrize("path", MODULES, ids=label)
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= MOST_LINES_OF_A_FILE
    assert not {name: length for name, length in functions(text).items() if length > MOST_LINES_OF_A_FUNCTION}


def test_most_functions_are_very_short() -> None:
    """Half of them have at most 6 lines, nine in ten at most 20."""
    lengths = sorted(length for path in MODULES for length in functions(path.read_text(encoding="utf-8")).values())
    assert lengths[len(lengths) // 2] <= 6
    assert lengths[len(lengths) * 9 // 10] <= 20
