"""Bad configurations and files, generated: each ends in one message; none in a traceback, a hang or silent training."""

from __future__ import annotations

import gzip
import json
import math
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

import bad_inputs
import h5py
import numpy as np
import pytest
import torch
import uvicorn
from bad_inputs import Case
from commands import PLAIN, composed, start

from ebm_pipeline import cli, plots
from ebm_pipeline.data import load
from ebm_pipeline.data.sources import FILES, BarsAndStripes, Idx
from ebm_pipeline.data.transforms import Threshold
from ebm_pipeline.models.storage import load_model
from ebm_pipeline.runs import compare, evaluate, sample, serve, train, ui
from ebm_pipeline.support.errors import DivergedError, UserError
from ebm_pipeline.tasks.inpainting import hidden_pixels
from ebm_pipeline.tracking import records, tracker
from ebm_pipeline.training.checkpoints import LAST, newest

SECONDS = 20  # that a bad input may take to be refused
QUICK = 30  # cases in `make test`
MANY = 600  # in `make test-slow`
PARTS = 4  # tests that share them
TRAINED = 3  # of the accepted values of a part, whether they are legal

Record = Callable[[str, dict[str, int]], None]


class Accepted(BaseException):
    """Everything was found good: the work would begin now."""


def accept(*arguments: Any, **options: Any) -> Any:
    raise Accepted


@pytest.fixture
def record(record_property: Callable[[str, object], None]) -> Record:
    """Counts that the end of the session sums up and prints."""
    return record_property


@contextmanager
def time_limit() -> Iterator[None]:
    """Raises TimeoutError in the midst of what takes too long."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"no answer within {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a relative path leads to."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A store, the folder of a finished run, and somebody's own data."""
    root = tmp_path_factory.mktemp("bad")
    run, file = root / "run", root / "own.h5"
    train.train(composed(*PLAIN, output_root=root / "outputs"), run)
    with h5py.File(file, "w") as images:
        images["train/images"] = np.random.default_rng(0).integers(0, 2, (60, 16)).astype(np.uint8) * 255
    return {"outputs": root / "outputs", "run": run, "file": file}


def work(case: Case, places: dict[str, Path], folder: Path) -> Any:
    """What the case's command does."""
    config = case.config(**places)
    if case.command in ("train", "data"):
        config.output_root = str(places["outputs"])
    run = str(places["run"])
    match case.command:
        case "train":
            return train.train(config, folder)
        case "evaluate":
            return evaluate.evaluate(config, run, folder)
        case "sample":
            return sample.ask(config, run, folder)
        case "compare":
            return compare.compare_runs(config, [run], folder)
        case "serve":
            return serve.serve(config, run)
        case command:
            return {"data": cli._data, "sync": cli._sync, "ui": cli._ui}[command](config)


def answer(case: Case, places: dict[str, Path], folder: Path) -> str | None:
    """The message that the case gets; None where it was accepted, so that the work would begin."""
    with (
        mock.patch.object(tracker.Tracker, "start", accept), mock.patch.object(evaluate, "monitor", accept),
        mock.patch.object(sample, "progress_bar", accept), mock.patch.object(compare, "compare", accept),
        mock.patch.object(uvicorn.Server, "run", accept), mock.patch.object(ui, "pages", accept), time_limit(),
    ):  # fmt: skip
        try:
            work(case, places, folder)
        except UserError as error:
            return str(error)
        except Accepted:
            pass
    return None


def is_legal(case: Case, places: dict[str, Path], folder: Path) -> bool:
    """The rule: a value of its leaf's own kind that is accepted, with which the work comes to its end in finite metrics.

    A training that diverges says so: how large a learning rate may be cannot be known before.
    """
    try:
        metrics = work(case, places, folder)
    except DivergedError:
        return True
    return metrics is None or not isinstance(metrics, dict) or all(map(math.isfinite, metrics.values()))


def check_message(message: str, what: str) -> None:
    assert 20 < len(message) < 2000, what
    assert "Traceback" not in message, what


def refused(found: list[Case], places: dict[str, Path], folder: Path) -> tuple[int, list[Case]]:
    """How many were refused, and those of the leaf's own kind that were not; fails on any that ends otherwise."""
    count, accepted, failures = 0, [], []
    for number, case in enumerate(found):
        try:
            message = answer(case, places, folder / str(number))
        except Exception as error:
            failures.append(f"{case}: {type(error).__name__}: {error}")
            continue
        if message is not None:
            check_message(message, str(case))
            count += 1
        elif case.own_kind:
            accepted.append(case)
        else:
            failures.append(f"{case}: accepted")
    assert not failures, "\n".join(failures)
    return count, accepted


def test_a_sample_of_bad_configurations_is_refused(places: dict[str, Path], tmp_path: Path) -> None:
    found = bad_inputs.spread([case for case in bad_inputs.cases(bad_inputs.FEW) if not case.own_kind], QUICK)
    assert refused(found, places, tmp_path) == (QUICK, [])


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_many_bad_configurations_are_refused(
    part: int, places: dict[str, Path], tmp_path: Path, record: Record
) -> None:
    found = bad_inputs.spread(bad_inputs.cases(bad_inputs.compositions()), MANY)[part::PARTS]
    count, accepted = refused(found, places, tmp_path)
    assert count >= 200 / PARTS
    for number, case in enumerate(bad_inputs.spread(accepted, TRAINED)):
        assert is_legal(case, places, tmp_path / f"legal_{number}"), str(case)
    record("bad configurations", {"tried": len(found), "clear messages": count, "legal": len(accepted)})


# ---------------------------------------------------------------------------------------------- files


def h5_data(places: dict[str, Path], folder: Path) -> tuple[Path, Callable[[], Any]]:
    path = folder / "data.h5"
    BarsAndStripes(4, 2)(path)

    def read() -> Any:
        data = load("bars", str(path), accept, Threshold(), None, seed=1)
        return data.images("train"), data.images("test"), data.labels("train"), data.image_shape

    return path, read


def own_h5(places: dict[str, Path], folder: Path) -> tuple[Path, Callable[[], Any]]:
    path = folder / "own.h5"
    path.write_bytes(places["file"].read_bytes())

    def read() -> (
        Any
    ):  # nobody can see that a pixel of somebody's own file was changed: its shape is all there is to compare
        data = load("own", str(path), accept, Threshold(), None, seed=1)
        return data.images("train").shape

    return path, read


def idx(places: dict[str, Path], folder: Path) -> tuple[Path, Callable[[], Any]]:
    import hashlib

    sums, rng = [], np.random.default_rng(3)
    (folder / "toy").mkdir()
    for name in FILES.values():
        shape = (12, 3, 2) if "idx3" in name else (12,)
        header = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)
        packed = gzip.compress(header + rng.integers(0, 256, shape).astype(np.uint8).tobytes(), mtime=0)
        (folder / "toy" / name).write_bytes(packed)
        sums.append(hashlib.md5(packed, usedforsecurity=False).hexdigest())

    def read() -> Any:
        made = folder / "made.h5"
        made.unlink(missing_ok=True)
        with mock.patch.dict("os.environ", EBM_DATA_DIR=str(folder)):
            data = load("toy", str(made), Idx("toy", "http://127.0.0.1:9/", sums), Threshold(), 6, seed=1)
        return data.images("train"), data.images("test")

    return folder / "toy" / FILES["train/images"], read


def checkpoint(places: dict[str, Path], folder: Path) -> tuple[Path, Callable[[], Any]]:
    path = folder / LAST
    path.write_bytes((places["run"] / "checkpoints" / LAST).read_bytes())

    def read() -> Any:
        if newest(folder) is None:
            raise UserError("passed over with a warning: the one before is taken")
        return torch.load(path, weights_only=True)["state_dict"]

    return path, read


def model(places: dict[str, Path], folder: Path) -> tuple[Path, Callable[[], Any]]:
    path = folder / "model.h5"
    path.write_bytes((places["run"] / "model.h5").read_bytes())

    def read() -> Any:
        saved = load_model(path)
        return saved.machine.named_tensors(), saved.data_mean, saved.image_shape, list(saved.config.encode())

    return path, read


def pictures(places: dict[str, Path], folder: Path) -> tuple[Path, Callable[[], Any]]:
    """As `ebm-compare` reads it; what would be drawn is compared."""
    path = folder / "pictures.h5"
    path.write_bytes((places["run"] / "pictures.h5").read_bytes())
    record = records.RunRecord("0" * 32, "RBM", "FINISHED", None, folder)

    def read() -> Any:
        with mock.patch.object(plots, "comparison", lambda rows, shape, title, how: (rows, shape, list(how.encode()))):
            return compare.comparison_figures(compare.read_pictures({"run": record}))

    return path, read


def mask(places: dict[str, Path], folder: Path) -> tuple[Path, Callable[[], Any]]:
    path = folder / "mask.npy"
    np.save(path, np.eye(4, dtype=bool))
    return path, lambda: hidden_pixels(str(path), 0.5, (4, 4), 1).shape  # any of the values is a mask


def of_a_run(name: str) -> Callable[[dict[str, Path], Path], tuple[Path, Callable[[], Any]]]:
    """A file in a run's folder, as `ebm-evaluate` reads it; texts that were edited are legal."""

    def make(places: dict[str, Path], folder: Path) -> tuple[Path, Callable[[], Any]]:
        for own in ("run.json", "config.yaml", "model.h5", "pictures.h5"):
            (folder / own).write_bytes((places["run"] / own).read_bytes())
        known = json.loads((folder / "run.json").read_text())
        record = records.RunRecord(known["run_id"], "RBM", "FINISHED", None, folder)
        config = composed("run=x", "threads=1", output_root=places["outputs"], name="evaluate")

        def read() -> Any:
            found = mock.patch.object(records, "find_model", return_value=record)
            with found, mock.patch.object(evaluate, "monitor", accept):
                try:
                    if name == "run.json":
                        records.run_of(folder)
                    else:
                        evaluate.evaluate(config.copy(), str(folder), folder)
                except Accepted:
                    pass

        return folder / name, read

    return make


KINDS: dict[str, Callable[[dict[str, Path], Path], tuple[Path, Callable[[], Any]]]] = {
    "data written here": h5_data, "data of others": own_h5, "IDX": idx, "checkpoint": checkpoint, "model.h5": model,
    "pictures.h5": pictures, "mask": mask, **{name: of_a_run(name) for name in ("run.json", "config.yaml")},
}  # fmt: skip


def check_damages(kind: str, places: dict[str, Path], folder: Path, truncations: int, flips: int) -> tuple[int, int]:
    """(damages tried, of which refused); what is not refused was read as if nothing had happened."""
    path, read = KINDS[kind](places, folder)
    expected, sound = read(), path.read_bytes()
    messages = 0
    damages = list(bad_inputs.damages(sound, truncations, flips))
    for what, content in damages:
        path.write_bytes(content)
        with time_limit():
            try:
                torch.testing.assert_close(read(), expected, rtol=0, atol=0, msg=f"{kind}, {what}: read otherwise")
            except UserError as error:
                check_message(str(error), f"{kind}, {what}")
                messages += 1
            except Exception as error:
                pytest.fail(f"{kind}, {what}: {type(error).__name__}: {error}")
    return len(damages), messages


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_one_message(kind: str, places: dict[str, Path], tmp_path: Path) -> None:
    tried, messages = check_damages(kind, places, tmp_path, truncations=2, flips=4)
    assert messages > tried / 3  # a flipped bit or a missing end may not matter, which is checked above


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_damages_of_every_kind_of_file(kind: str, places: dict[str, Path], tmp_path: Path, record: Record) -> None:
    tried, messages = check_damages(kind, places, tmp_path, truncations=10, flips=60)
    record("damaged files", {"tried": tried, "clear messages": messages, "read as what they held": tried - messages})


# ---------------------------------------------------------------------------------------------- by the command line

AS_TYPED = [
    ("ebm-train", ("training.epochs=many",), "training.epochs"),
    ("ebm-data", ("data=hdf5", "data.path=/nowhere.h5"), "/nowhere.h5"),
    ("ebm-train", ("model.layers.hidden.units=1000000000000",), "units"),
    ("ebm-train", ("training.chains=1000000000",), "GB"),
    ("ebm-train", ("+optimizer.momentun=0.9",), "momentun"),
    ("ebm-train", ("model._target_=os.getcwd",), "model"),
    ("ebm-train", ("training=3",), "training"),
    ("ebm-evaluate", ("run=nothing",), "is no run"),
    ("ebm-sample", ("run=nothing.h5",), "nothing.h5"),
    ("ebm-compare", ("runs=[nothing]",), "is no run"),
    ("ebm-sync", ("run=/nowhere",), "/nowhere"),
]


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [case if number < 1 else pytest.param(*case, marks=pytest.mark.slow) for number, case in enumerate(AS_TYPED)],
)
def test_a_bad_command_is_one_message_and_leaves_no_run(
    command: str,
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    record: Record,
) -> None:
    done = start(command, *arguments, folder=tmp_path, outputs=tmp_path / "outputs")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert len(done.stderr.splitlines()) < 20
    assert not list((tmp_path / "outputs").glob("runs/*"))
    record("bad command lines", {"tried": 1, "clear messages": 1})
