"""Every file is written whole or not at all: stopped in the middle of each writer, the old one stands, and nothing else."""

from __future__ import annotations

import ast
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from kills import CONTEXT
from matplotlib.figure import Figure

import ebm_pipeline
from ebm_pipeline import plots
from ebm_pipeline.data.sources import BarsAndStripes
from ebm_pipeline.data.stored import write
from ebm_pipeline.models.layers import Bernoulli
from ebm_pipeline.models.machine import BoltzmannMachine
from ebm_pipeline.models.storage import SavedModel, save_model
from ebm_pipeline.runs.compare import _write_csv
from ebm_pipeline.runs.phases import write_arrays
from ebm_pipeline.runs.serve import save_served
from ebm_pipeline.runs.train import write_history
from ebm_pipeline.support.errors import UserError
from ebm_pipeline.support.files import partial_name, remove_partial, write_text
from ebm_pipeline.tracking.journal import Journal
from ebm_pipeline.tracking.records import write_run_file
from ebm_pipeline.training.checkpoints import LAST, WholeCheckpoints


def saved(value: float) -> SavedModel:
    layers = (Bernoulli(torch.full((64,), value)), Bernoulli(torch.zeros(32)))
    machine = BoltzmannMachine(layers, (torch.full((64, 32), value),))
    return SavedModel(machine, torch.full((64,), 0.5), (8, 8), "mean_field: {tolerance: 0.001, max_steps: 10}\n")


def figure(value: float) -> Figure:
    drawn = Figure()
    drawn.subplots().plot([0.0, value, 1.0])
    return drawn


def checkpoint(path: Path, value: float) -> None:
    WholeCheckpoints().save_checkpoint({"state_dict": {"weights": torch.full((1000,), value)}}, path)


def arrays(path: Path, value: float) -> None:
    data: Any = SimpleNamespace(image_shape=(8, 8), name="digits", digest="0")
    write_arrays(path, {"fantasies": torch.full((9, 64), value)}, {"fantasies": "9 chains"}, data)


def served(path: Path, value: float) -> None:
    model = path.with_name("model.h5")
    if not model.exists():  # which is written before
        save_model(model, saved(value))
    save_served(path, model, torch.zeros(2, 64), "0" * 32, saved(value).visible)


def history(path: Path, value: float) -> None:
    record: Any = SimpleNamespace(history={"error": (list(range(99)), [value] * 99)})
    write_history(path, record)


def data_file(path: Path, value: float) -> None:
    images = np.full((10, 64), int(value), dtype=np.uint8)
    write(path, "mine", (8, 8), {"train/images": images, "test/images": images})


WRITERS: dict[str, Callable[[Path, float], object]] = {
    "config.yaml": lambda path, value: write_text(path, f"value: {value}\n" * 100),
    "run.json": lambda path, value: write_run_file(path.parent, f"{value}" * 10, "sqlite:///mlflow.db", "0" * 16),
    "model.h5": lambda path, value: save_model(path, saved(value)),
    "pictures.h5": arrays,
    "data.h5": data_file,
    "bars_and_stripes.h5": lambda path, value: BarsAndStripes(copies=int(value))(path),
    "metrics.csv": history,
    "comparison.csv": lambda path, value: _write_csv(path, {"model": [str(value)] * 99}),
    "picture.png": lambda path, value: plots.save(figure(value), path),
    "picture.svg": lambda path, value: plots.save(figure(value), path.with_suffix(".png"), plots.Files("svg")),
    LAST: checkpoint,
    "mlflow_model": served,
}


def content(path: Path) -> dict[str, bytes]:
    """Of a file, or of all in a folder, by name; empty where there is none."""
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    return {str(file.relative_to(path.parent)): file.read_bytes() for file in files if file.is_file()}


def size(path: Path) -> int:
    """Bytes of a file, or of the largest in a folder."""
    return max(map(len, content(path).values()))


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """No file can grow beyond `size` bytes, as on a disk that fills up."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def write_until(name: str, path: Path, value: float, size: int) -> None:
    """What the child does: the kernel kills it at the first byte beyond."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    WRITERS[name](path, value)


@pytest.fixture(scope="module", params=WRITERS)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that each writer wrote, in a folder of its own."""
    path = tmp_path_factory.mktemp("written") / str(request.param)
    WRITERS[path.name](path, 1)
    return path


@pytest.fixture
def old(written: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(written.parent, tmp_path / "run")
    return tmp_path / "run" / written.name


def test_a_full_disk_is_one_message_and_leaves_the_old_file(old: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = content(old)
    for limit in (0, size(old) // 2, size(old) - 1):
        with files_up_to(limit), pytest.raises(UserError, match="cannot write"):
            WRITERS[old.name](old, 2)
        assert content(old) == before
        assert not list(old.parent.glob("*.partial*"))
    assert "Exception ignored" not in capfd.readouterr().err


def test_a_kill_leaves_the_old_file_and_the_next_writer_cleans_up(old: Path) -> None:
    before = content(old)
    child = CONTEXT.Process(target=write_until, args=(old.name, old, 2, size(old) // 2))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGXFSZ
    assert content(old) == before
    assert list(old.parent.glob("*.partial*"))
    WRITERS[old.name](old, 2)
    assert content(old).keys() == before.keys()
    assert content(old) != before
    assert not list(old.parent.glob("*.partial*"))


def test_what_others_are_writing_stays(tmp_path: Path) -> None:
    """Processes of this machine that are alive, and those of others, whose numbers say nothing here."""
    path = tmp_path / "config.yaml"
    mine, other = partial_name(path), tmp_path / "config.yaml.00000000.1.0.partial"
    for partial in (mine, other):
        partial.touch()
    write_text(path, "new")
    assert mine.exists()
    assert other.exists()
    remove_partial(tmp_path)  # in a run's folder, whose lock is held
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_the_checkpoint_before_serves_where_the_last_was_not_put_in_its_place(tmp_path: Path) -> None:
    checkpoint(tmp_path / LAST, 1)
    with files_up_to(1000), pytest.raises(UserError):
        checkpoint(tmp_path / LAST, 2)
    assert torch.load(tmp_path / LAST, weights_only=True)["state_dict"]["weights"][0] == 1


# ---------------------------------------------------------------------------------------------- the journal


def test_a_journal_that_was_cut_off_anywhere_loses_its_last_call_at_most(tmp_path: Path) -> None:
    calls = [{"call": "metrics", "values": [["ä", number]]} for number in range(3)]
    journal = Journal(tmp_path / "whole")
    for call in calls:
        journal.append(call)
    whole = journal.path.read_bytes()
    for length in range(len(whole)):
        cut = Journal(tmp_path / "cut")
        cut.path.parent.mkdir(parents=True, exist_ok=True)
        cut.path.write_bytes(whole[:length])
        there = [
            call
            for number, call in enumerate(calls)
            if len(b"".join(whole.splitlines(True)[: number + 1])) - 1 <= length
        ]
        cut.append({"call": "later"})
        sent: list[Any] = []
        cut.send(sent.append, 60.0)
        assert sent == [*there, {"call": "later"}]


def test_files_of_a_journal_do_not_take_the_names_of_others(tmp_path: Path) -> None:
    """As when the process was killed while it removed them, and the journal was gone first."""
    journal = Journal(tmp_path)
    for _ in range(3):
        journal.new_place().mkdir()
    (tmp_path / "unsent" / "files" / "000000").rmdir()
    assert journal.new_place().name == "000003"


# ---------------------------------------------------------------------------------------------- who writes at all

PACKAGE = Path(ebm_pipeline.__file__).parent
IN_PLACE = {  # (file, call): why it may write to another name than `partial`
    ("data/hdf5.py", "h5py.File(output, 'w', libver=FILE_FORMAT)"): "the output is a file of the name `partial`",
    ("support/terminal.py", "open(os.devnull, 'w', encoding='utf-8')"): "no file",
    ("runs/resume.py", "open(folder / 'lock', 'w')"): "holds nothing",
    ("runs/resume.py", "open(folder / 'lock', 'rb+')"): "holds nothing",
    ("runs/trials.py", "open(self.path.with_suffix('.lock'), 'w')"): "holds nothing",
    ("runs/trials.py", "open(path, 'rb+')"): "Optuna adds lines to it, and one that was cut off is taken away",
    ("tracking/database.py", "open(path.with_suffix('.lock'), 'w')"): "holds nothing",
    ("tracking/journal.py", "open(self.path, 'ab+')"): "lines are added, and one that is cut off is passed over",
    ("tracking/journal.py", "shutil.copy2(path, kept / path.name)"): "a line names it afterwards",
    ("tracking/journal.py", "shutil.copytree(path, kept / path.name)"): "a line names it afterwards",
    ("runs/serve.py", "shutil.copyfile(model, place)"): "in a folder of the name `partial`",
    ("tracking/calls.py", "shutil.copyfile(call['file'], whole)"): "a temporary folder",
    ("tracking/calls.py", "thumbnail.save(small, method=0)"): "a temporary folder",
    ("training/checkpoints.py", "torch.save(checkpoint, buffer)"): "memory",
    (
        "runs/sweep_report/page.py",
        "Image.fromarray(plots.to_rgb(figure)).save(file, format='png', dpi=(figure.dpi,) * 2)",
    ): "memory",
}
WRITING_METHODS = {
    "write_text",
    "write_bytes",
    "save",
    "savez",
    "savefig",
    "to_csv",
    "tofile",
    "copy",
    "copy2",
    "copyfile",
    "copytree",
}


def writes(call: ast.Call) -> bool:
    """Whether a call writes to a file, as far as its name and its arguments tell."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    modes = [argument.value for argument in [*call.args[1:2], *(word.value for word in call.keywords if word.arg == "mode")]
             if isinstance(argument, ast.Constant)]  # fmt: skip
    if name in ("open", "File"):
        return any(isinstance(mode, str) and set(mode) & set("wax+") for mode in modes)
    own = isinstance(call.func, ast.Name) or ast.unparse(call.func).startswith(("plots.", "self."))
    copied = name.startswith("copy") and not ast.unparse(call.func).startswith(
        "shutil."
    )  # of a tensor, a configuration
    return name in WRITING_METHODS and not own and not copied


def test_whoever_writes_a_file_writes_under_another_name() -> None:
    found = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and writes(node):
                targets = [node.args[0]] if node.args else []
                if isinstance(node.func, ast.Attribute):
                    targets.append(node.func.value)
                if "partial" not in {ast.unparse(target) for target in targets}:
                    found.add((path.relative_to(PACKAGE).as_posix(), ast.unparse(node)))
    assert found == set(IN_PLACE)
