"""Imports point one way: a module may import only from ranks before its own."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import ebm_pipeline

PACKAGE = Path(ebm_pipeline.__file__).parent
# Names of one rank do not know each other. A package (a folder) is one name.
RANKS = [
    ("errors", "numerics", "interruption", "provenance", "visible"),
    ("files", "signatures"),
    ("journal",),
    ("layers", "data", "plots", "tracking"),
    ("machine", "system_metrics"),
    ("initialization", "inference", "labels"),
    ("samplers",),
    ("objectives",),
    ("evaluation",),
    ("training",),
    ("storage", "configuration", "report"),
    ("tasks", "swept"),
    ("comparison", "assessment", "resuming", "serving"),
    ("planning", "sweeps", "answering"),
    ("phases",),
    ("pipeline",),
    ("cli",),
]
RANK = {name: rank for rank, names in enumerate(RANKS) for name in names}
SHAPES_ONLY = ("data", "plots", "tracking")  # know files and the journal alone: plain arrays and shapes go in and out
# Within training: what the module is made of, the module, what is built on it.
TRAINING_RANKS = [
    ("processes",),
    (
        "arrangement",
        "blocks",
        "centring",
        "constraints",
        "precision",
        "penalties",
        "schedules",
        "pictures",
        "checkpoints",
    ),
    ("module",),
    ("callbacks", "pretraining"),
    ("model",),
]
MODULES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Absolute names of all modules that a file imports, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}, line {node.lineno}: a relative import"
            assert node.module is not None
            # `from ebm_pipeline import tracking` names a module, `from ebm_pipeline.tracking import Tracker` does not
            own = {f"ebm_pipeline.{alias.name}" for alias in node.names} if node.module == "ebm_pipeline" else set()
            found |= own or {node.module}
    return found


def part(path: Path) -> str:
    """The name in RANKS that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def own_imports(path: Path) -> set[str]:
    """Names in RANKS that a file imports, its own left out."""
    return {name.split(".")[1] for name in imports(path) if name.startswith("ebm_pipeline.")} - {part(path)}


def label(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def test_every_module_has_one_rank() -> None:
    names = [name for names in RANKS for name in names]
    assert len(names) == len(set(names))
    assert {part(path) for path in MODULES} - {"__init__"} == set(names)
    assert imports(PACKAGE / "__init__.py") == set()


@pytest.mark.parametrize("path", [path for path in MODULES if path != PACKAGE / "__init__.py"], ids=label)
def test_imports_point_one_way(path: Path) -> None:
    later = {name for name in own_imports(path) if RANK[name] >= RANK[part(path)]}
    assert not later, f"{label(path)} imports {sorted(later)}, which do not stand before it"


@pytest.mark.parametrize("path", [path for path in MODULES if part(path) in SHAPES_ONLY], ids=label)
def test_data_plots_and_tracking_know_no_models(path: Path) -> None:
    assert own_imports(path) <= {"errors", "files", "journal", "visible"}


def test_only_tracking_and_serving_import_mlflow() -> None:
    users = {label(path) for path in MODULES if any(name.split(".")[0] == "mlflow" for name in imports(path))}
    assert users == {"tracking.py", "system_metrics.py", "serving.py"}


def test_only_pipelines_and_callbacks_use_tracking() -> None:
    users = {label(path) for path in MODULES if "tracking" in own_imports(path)}
    assert users <= {
        "configuration.py", "comparison.py", "planning.py", "phases.py", "pipeline.py", "sweeps.py", "assessment.py",
        "answering.py", "cli.py", "resuming.py", "system_metrics.py", "swept.py", "training/callbacks.py",
    }  # fmt: skip


def test_the_core_does_not_know_lightning_hydra_or_matplotlib() -> None:
    core = {name for names in RANKS[: RANK["training"]] for name in names} - {*SHAPES_ONLY, "system_metrics"}
    outside = {"pytorch_lightning", "hydra", "omegaconf", "matplotlib", "mlflow", "h5py"}
    for path in MODULES:
        if part(path) in core:
            assert not {name.split(".")[0] for name in imports(path)} & outside, label(path)


def test_training_is_ordered_inside() -> None:
    rank = {name: rank for rank, names in enumerate(TRAINING_RANKS) for name in names}
    files = [path for path in MODULES if part(path) == "training" and path.stem != "__init__"]
    assert {path.stem for path in files} == set(rank)
    for path in files:
        inner = {name.split(".")[2] for name in imports(path) if name.startswith("ebm_pipeline.training.")}
        later = {name for name in inner if rank[name] >= rank[path.stem]}
        assert not later, f"{label(path)} imports {sorted(later)}, which do not stand before it"


def test_a_command_starts_without_torch() -> None:
    """cli imports the heavy modules inside its functions: a wrong override is told at once."""
    tree = ast.parse((PACKAGE / "cli.py").read_text(encoding="utf-8"))
    top = [ast.unparse(node) for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    own = [line for line in top if "ebm_pipeline" in line]
    assert own == [
        "from ebm_pipeline.errors import UserError, within_memory",
        "from ebm_pipeline.interruption import Interrupted, ending_with_parent, interruptible",
    ]
