"""Killed at many moments and continued with resume=auto, a run leaves what an uninterrupted one leaves, bit by bit."""

from __future__ import annotations

import errno
import functools
import re
import resource
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import PLAIN, TINY, composed, own_run, run_command
from kills import assert_identical, kill_self, killed, left_by, patched, run_count
from torch import Tensor

from ebm_pipeline import cli
from ebm_pipeline.runs import resume, train
from ebm_pipeline.runs.configuration import tracking_uri
from ebm_pipeline.support.errors import UserError
from ebm_pipeline.tracking import records
from ebm_pipeline.training.checkpoints import BEFORE, BEST, LAST, damage_of, newest
from ebm_pipeline.training.module import BoltzmannTraining
from ebm_pipeline.training.objectives import PersistentContrastiveDivergence

STEP = "ebm_pipeline.training.module.BoltzmannTraining.update"
SAVE = "ebm_pipeline.training.checkpoints.WholeCheckpoints.save_checkpoint"
BATCHES, EPOCHS = 6, 3
SETTINGS = {
    "rbm": (
        *PLAIN,
        "model=rbm",
        f"training.epochs={EPOCHS}",
        "optimizer=adam",
        "evaluation.every_epochs=2",
        "training.averaging=0.5",
    ),
    "trajectory": (
        *PLAIN,
        "model=rbm",
        f"training.epochs={EPOCHS}",
        "sampler=trajectory",
        "sampler.every=0",
        "sampler.acceptance=0.99",
        "sampler.steps=4",
        "sampler.rungs=5",
        "sampler.chains=3",
        "optimizer.lr=0.5",
        "scheduler=constant",
    ),
    "dbm": (*PLAIN, "model=dbm", f"training.epochs={EPOCHS}", "model.pretraining.epochs=2"),
    "models": (*TINY, "model=rbm", "training.epochs=1", "training.averaging=0.5", "tracking.system_metrics=false"),
    "ddp": (*PLAIN, "model=dbm", "model.pretraining.epochs=1", "trainer=ddp", "trainer.accelerator=cpu"),
}
PHASE = 2 * BATCHES  # updates of a phase of pretraining
MOMENTS = [
    # a checkpoint is written, but not in its place; the epoch's metrics and pictures are in the store
    ("rbm", "os.fsync", 10),
    ("trajectory", STEP, BATCHES + 3),  # the ladder grows; it is full later, and one rung is given up for another
    ("dbm", STEP, PHASE + BATCHES + 3),  # in pretraining, the second RBM, in the middle of an epoch
]
# Updates: of the first epoch, which has no checkpoint before it, the first and last of one, in the middle of one.
MORE_MOMENTS = [
    *[("rbm", STEP, step) for step in (1, 4, BATCHES, BATCHES + 1, 2 * BATCHES + 3, BATCHES * EPOCHS)],
    *[("rbm", "os.fsync", number) for number in (3, 5, 7, 8, 9, 11, 12)],
    *[("rbm", SAVE, number) for number in (1, EPOCHS)],
    *[
        ("rbm", f"ebm_pipeline.runs.{name}", 1)
        for name in ("train.save_model", "phases.write_arrays", "train.write_history", "train.report")
    ],
    *[("rbm", f"ebm_pipeline.tracking.tracker.Tracker.{name}", 3) for name in ("log_metrics", "log_image")],
    ("rbm", "ebm_pipeline.tracking.tracker.Tracker.finish", 1),
    *[("trajectory", STEP, step) for step in (1, 2, 5, BATCHES + 1, 2 * BATCHES, 2 * BATCHES + 3, BATCHES * EPOCHS)],
    *[("trajectory", SAVE, number) for number in (1, EPOCHS)],
    ("trajectory", "ebm_pipeline.runs.train.save_ladder", 1),
    *[("dbm", STEP, step) for step in (3, PHASE, PHASE + 1)],
    *[("dbm", STEP, 2 * PHASE + step) for step in (1, BATCHES + 3, BATCHES * EPOCHS)],
    ("dbm", "ebm_pipeline.training.pretraining.compose", 1),
    *[("dbm", f"ebm_pipeline.runs.{name}.save_model", 1) for name in ("phases", "train")],
    *[
        ("models", f"mlflow.tracking.MlflowClient.{name}", number)  # of the best model, the last one, the result
        for name in ("log_model_artifacts", "finalize_logged_model", "log_outputs")
        for number in (1, 2, 3)
    ],
    ("models", "ebm_pipeline.tracking.tracker.Tracker.log_numbers_of", 7),  # of the assessment
    *[("ddp", STEP, step) for step in (BATCHES + 3, 2 * BATCHES + 3)],  # in the first process: the other ends with it
]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all: a fresh one costs seconds."""
    return tmp_path_factory.getbasetemp() / "outputs"


@pytest.fixture(scope="module")
def uninterrupted(outputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    @functools.cache
    def left(choice: str) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp(choice)
        train.train(composed(*SETTINGS[choice], output_root=outputs), folder)
        return left_by(folder, outputs)

    return left


def resumed(choice: str, outputs: Path, folder: Path, *overrides: str) -> dict[str, float]:
    return train.train(composed(*SETTINGS[choice], *overrides, "resume=auto", output_root=outputs), folder)


def check(
    moment: tuple[str, str, int], outputs: Path, folder: Path, uninterrupted: Callable[[str], dict[str, Any]]
) -> None:
    choice, target, number = moment
    expected = uninterrupted(choice)
    killed(SETTINGS[choice], outputs, folder, target, number)
    run = records.read_run_file(folder)
    resumed(choice, outputs, folder)
    left = left_by(folder, outputs)
    left["params"] = expected["params"]  # equal by the digest of the configuration
    assert_identical(left, expected)
    if "run_id" in run:  # else it was killed while it claimed one
        assert records.read_run_file(folder) == run
    assert run_count(folder, outputs) == 1
    assert not list(folder.rglob("*.partial"))


@pytest.mark.parametrize("moment", MOMENTS, ids=str)
def test_a_killed_run_is_continued_exactly(
    moment: tuple[str, str, int], outputs: Path, tmp_path: Path, uninterrupted: Callable[[str], dict[str, Any]]
) -> None:
    check(moment, outputs, tmp_path, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("moment", MORE_MOMENTS, ids=str)
def test_at_more_moments(
    moment: tuple[str, str, int], outputs: Path, tmp_path: Path, uninterrupted: Callable[[str], dict[str, Any]]
) -> None:
    check(moment, outputs, tmp_path, uninterrupted)


# ---------------------------------------------------------------------------------------------- what stops a run


class Stop(BaseException):
    """Ends a run in this process at once, as a signal does."""


def stop() -> None:
    raise Stop


def stop_in_the_third_epoch(outputs: Path, folder: Path) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        patched(monkeypatch, STEP, 2 * BATCHES + 3, stop)
        with pytest.raises(Stop):
            train.train(composed(*SETTINGS["rbm"], output_root=outputs), folder)
    assert own_run(folder).status == "KILLED"


@pytest.fixture(scope="module")
def stopped_once(outputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an RBM's run that stopped."""
    folder = tmp_path_factory.mktemp("stopped")
    stop_in_the_third_epoch(outputs, folder)
    return folder


@pytest.fixture
def stopped(stopped_once: Path, tmp_path: Path) -> Path:
    """A copy of it, for tests that do not go on with it: in the store it is one run."""
    return shutil.copytree(stopped_once, tmp_path / "run")


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    weights = torch.load(path, weights_only=True)["state_dict"]["tensors.weights/0"]
    content[content.index(weights.numpy().tobytes())] ^= 1  # what lies between the tensors has no checksum
    path.write_bytes(content)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    outputs: Path, tmp_path: Path, uninterrupted: Callable[[str], dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    stop_in_the_third_epoch(outputs, tmp_path)
    flip_a_bit(tmp_path / "checkpoints" / LAST)
    resumed("rbm", outputs, tmp_path)
    assert f"{LAST} is damaged" in caplog.text
    left = left_by(tmp_path, outputs)
    left["params"] = uninterrupted("rbm")["params"]
    assert_identical(left, uninterrupted("rbm"))


def test_damage_is_seen_and_none_of_it_ends_in_an_error(stopped: Path) -> None:
    folder = stopped / "checkpoints"
    epochs = {name: torch.load(folder / name, weights_only=True)["epoch"] for name in (LAST, BEFORE)}
    assert epochs == {LAST: 1, BEFORE: 0}
    sound = (folder / LAST).read_bytes()
    assert newest(folder) == folder / LAST
    for content in (b"", sound[:1000], sound[:-10], b"no checkpoint", sound[:2000] + bytes(8) + sound[2008:]):
        (folder / LAST).write_bytes(content)
        assert damage_of(folder / LAST) is not None
        assert newest(folder) == folder / BEFORE
    for name in (BEFORE, BEST):
        (folder / name).write_bytes(sound[:1000])
    assert newest(folder) is None


def test_other_settings_are_refused_with_both_values(stopped: Path, outputs: Path) -> None:
    with pytest.raises(UserError, match=r"training\.chains: 10 there, 20 here"):
        resumed("rbm", outputs, stopped, "training.chains=20")
    with pytest.raises(
        UserError, match=r"hidden_units: 8 there, 9 here; model\.layers\.hidden\.units: 8 there, 9 here"
    ):
        resumed("rbm", outputs, stopped, "hidden_units=9")
    with pytest.raises(UserError, match="resume must be auto"):
        train.train(composed(*SETTINGS["rbm"], "resume=yes", output_root=outputs), stopped)


def test_a_store_named_by_an_empty_variable_is_none_that_is_named(
    outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    stop_in_the_third_epoch(outputs, tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    resumed("rbm", outputs, tmp_path)
    assert own_run(tmp_path).status == "FINISHED"


def test_a_checkpoint_of_other_sizes_is_refused_with_both(stopped: Path, outputs: Path) -> None:
    """Also where the configuration does not tell."""
    path = stopped / "checkpoints" / LAST
    saved = torch.load(path, weights_only=True)
    saved["state_dict"]["chain_0"] = torch.cat([saved["state_dict"]["chain_0"]] * 2)
    torch.save(saved, path)
    with pytest.raises(UserError, match=r"chain_0 \(20, 16\) there, \(10, 16\) here"):
        resumed("rbm", outputs, stopped)


def test_a_run_that_is_at_work_is_left_alone(stopped: Path, outputs: Path) -> None:
    with resume.locked(stopped), pytest.raises(UserError, match="another process is at work"):
        resumed("rbm", outputs, stopped)


def test_a_run_killed_before_its_id_is_noted_is_found_again(
    outputs: Path, tmp_path: Path, uninterrupted: Callable[[str], dict[str, Any]]
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        patched(monkeypatch, "ebm_pipeline.tracking.tracker.write_run_file", 1, stop)
        with pytest.raises(Stop):
            train.train(composed(*SETTINGS["rbm"], output_root=outputs), tmp_path)
    assert run_count(tmp_path, outputs) == 1
    resumed("rbm", outputs, tmp_path)
    assert run_count(tmp_path, outputs) == 1
    left = left_by(tmp_path, outputs)
    left["params"] = uninterrupted("rbm")["params"]
    assert_identical(left, uninterrupted("rbm"))


def test_a_run_that_never_began_leaves_no_folder(outputs: Path, tmp_path: Path) -> None:
    folder, occupied = tmp_path / "run", tmp_path / "occupied"
    occupied.mkdir()
    (occupied / "mine.txt").write_text("mine")
    for override in ("training.chains=0", "training=3", "+nothing=1", "resume=yes"):
        for place in (folder, occupied):
            (place / ".hydra").mkdir(parents=True)  # what Hydra leaves before the run
            (place / "cli.log").touch()
            with pytest.raises(UserError, match=override.split("=")[0].strip("+")):
                train.train(composed(*SETTINGS["rbm"], override, output_root=outputs), place)
        assert not folder.exists()
        shutil.rmtree(occupied / ".hydra")
    assert (occupied / "mine.txt").read_text() == "mine"


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


def with_room_for(store: Path, count: int) -> None:
    """Empty pages in the store: so many pages more can be written before the file has to grow."""
    with closing(sqlite3.connect(store)) as connection:
        connection.execute("VACUUM")
        connection.execute("CREATE TABLE room (bytes BLOB)")
        connection.execute("INSERT INTO room VALUES (zeroblob(?))", (4096 * count,))
        connection.execute("DROP TABLE room")
        connection.commit()


@pytest.mark.slow
@pytest.mark.parametrize("room", [0, 5, 30, 100])
@pytest.mark.parametrize("size", [4_000, 15_000, 40_000, 150_000, 300_000])
def test_a_disk_that_is_really_full_loses_nothing(
    size: int, room: int, outputs: Path, tmp_path: Path, uninterrupted: Callable[[str], dict[str, Any]]
) -> None:
    """What cannot grow first: the store at once, or in mid-run; checkpoints, the journal, pictures, the report.

    A store that cannot start, or a file of the run itself, is one message; a store that fails in mid-run stops no run.
    """
    expected = uninterrupted("rbm")
    with_room_for(outputs / "mlflow.db", room)
    with files_up_to(size):
        try:
            train.train(composed(*SETTINGS["rbm"], output_root=outputs), tmp_path)
        except UserError as error:
            assert "free some space" in str(error)  # noqa: PT017
    resumed("rbm", outputs, tmp_path)
    left = left_by(tmp_path, outputs)
    left["params"] = expected["params"]
    assert_identical(left, expected)


def test_a_full_disk_is_one_message_and_loses_nothing(
    outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: Callable[[str], dict[str, Any]]
) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    expected = uninterrupted("rbm")
    patched(monkeypatch, "os.fsync", 10, full)  # after the pictures of step 0
    with pytest.raises(UserError, match=r"cannot write .*No space left"):
        train.train(composed(*SETTINGS["rbm"], output_root=outputs), tmp_path)
    assert own_run(tmp_path).status == "FAILED"
    assert newest(tmp_path / "checkpoints") is not None
    resumed("rbm", outputs, tmp_path)
    left = left_by(tmp_path, outputs)
    left["params"] = expected["params"]
    assert_identical(left, expected)


def test_a_gradient_that_is_not_finite_stops_at_its_step(
    outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = PersistentContrastiveDivergence.__call__
    calls = 0

    def broken(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        learning = objective(*arguments)
        if calls == 1 + BATCHES + 3:  # the first is the rehearsal
            learning.gradient["layers/1/bias"][0] = float("nan")
        return learning

    monkeypatch.setattr(PersistentContrastiveDivergence, "__call__", broken)
    with pytest.raises(UserError, match=rf"diverged.*step {BATCHES + 2} .*lower optimizer.lr"):
        train.train(composed(*SETTINGS["rbm"], output_root=outputs), tmp_path)
    assert own_run(tmp_path).status == "FAILED"
    path = newest(tmp_path / "checkpoints")
    assert path is not None
    assert torch.load(path, weights_only=True)["global_step"] == BATCHES


def test_an_epoch_that_leaves_a_weight_not_finite_is_not_saved(
    outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the last step of an epoch breaks would be seen by its gradient's check only in the next epoch."""
    step = BoltzmannTraining.update

    @functools.wraps(step)
    def broken(self: BoltzmannTraining, batch: Tensor) -> None:
        step(self, batch)
        if self.global_step == 2 * BATCHES:
            self.tensors["weights/0"].data[0, 0] = float("inf")

    monkeypatch.setattr(BoltzmannTraining, "update", broken)
    with pytest.raises(UserError, match=rf"tensors.weights/0 not finite after step {2 * BATCHES} "):
        train.train(composed(*SETTINGS["rbm"], output_root=outputs), tmp_path)
    path = newest(tmp_path / "checkpoints")
    assert path is not None
    assert torch.load(path, weights_only=True)["global_step"] == BATCHES


# ---------------------------------------------------------------------------------------------- the command


@pytest.fixture
def default_handlers() -> Any:
    """A test runner in the background may ignore SIGINT, which the command would respect."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("default_handlers")
def test_ctrl_c_and_sigterm_end_a_run_in_order(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = (*SETTINGS["rbm"], "seed=2")
    with monkeypatch.context() as patch:
        patched(patch, STEP, BATCHES + 3, lambda: kill_self(signal.SIGINT))
        ended = run_command(cli.train, *words, output_root=outputs)
    assert ended.code == 128 + signal.SIGINT
    assert "stopped by SIGINT" in ended.err
    assert re.search(r"ebm .*seed=2 resume=auto", ended.err)
    assert "Traceback" not in ended.err
    folders = set((outputs / "runs").iterdir())
    (folder,) = (path for path in folders if own_run(path).params["seed"] == "2")
    assert own_run(folder).status == "KILLED"

    with monkeypatch.context() as patch:
        patched(patch, STEP, BATCHES + 3, lambda: kill_self(signal.SIGTERM))  # in the third epoch
        ended = run_command(cli.train, *words, "resume=auto", output_root=outputs)
    assert (ended.code, set((outputs / "runs").iterdir())) == (128 + signal.SIGTERM, folders)
    assert "stopped by SIGTERM" in ended.err
    assert own_run(folder).status == "KILLED"

    ended = run_command(cli.train, *words, "resume=auto", output_root=outputs)
    assert (ended.code, set((outputs / "runs").iterdir())) == (0, folders)
    assert "going on with the run" in ended.out + ended.err
    record = own_run(folder)
    assert (record.status, record.metrics["time/epoch"]) == ("FINISHED", EPOCHS)

    ended = run_command(cli.train, *words, "resume=auto", output_root=outputs)
    assert (ended.code, set((outputs / "runs").iterdir())) == (0, folders)
    assert "nothing left to do" in ended.out + ended.err


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ('{"weights/norm": 1.5, "name": "x", "test": true}', {"weights/norm": 1.5}),
        *(("{", {}), ("[1]", {}), ("[" * 99_999, {}), (None, {})),
    ],
    ids=["whole", "cut", "a list", "deep", "missing"],
)
def test_damaged_numbers_of_a_finished_run_are_left_out(
    text: str | None, known: dict[str, float], tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / records.METRICS_FILE).write_text(text)
    assert records.read_metrics(tmp_path) == known


@pytest.mark.slow
def test_a_sweep_runs_only_what_is_missing(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("-m", *PLAIN, "model=rbm", "sampler.steps=1,2,3", "tracking.experiment=interrupted")
    with monkeypatch.context() as patch:
        patched(patch, STEP, 3 * BATCHES + 3, lambda: kill_self(signal.SIGTERM))  # the second job, its second epoch
        ended = run_command(cli.train, *words, output_root=outputs)
    assert ended.code == 128 + signal.SIGTERM
    (folder,) = (outputs / "sweeps").iterdir()
    uri = tracking_uri(composed(output_root=outputs))
    parent = records.find_run(uri, str(folder))
    before = {run.output_dir: run for run in records.children(uri, parent.run_id)}
    assert [parent.status, *(run.status for run in before.values())] == ["KILLED", "FINISHED", "KILLED"]

    steps = 0

    def count(self: BoltzmannTraining, batch: Tensor) -> None:
        nonlocal steps
        steps += 1
        original(self, batch)

    original = BoltzmannTraining.update
    monkeypatch.setattr(BoltzmannTraining, "update", functools.wraps(original)(count))
    ended = run_command(cli.train, *words, "resume=auto", output_root=outputs)
    assert ended.code == 0
    assert steps == BATCHES + 2 * BATCHES  # the second job's second epoch, the third job
    assert list((outputs / "sweeps").iterdir()) == [folder]
    after = {run.output_dir: run for run in records.children(uri, parent.run_id)}
    assert records.find_run(uri, str(folder)).run_id == parent.run_id
    assert [records.find_run(uri, str(folder)).status, *(run.status for run in after.values())] == ["FINISHED"] * 4
    assert {key: run.run_id for key, run in before.items()}.items() <= {
        key: run.run_id for key, run in after.items()
    }.items()
    assert (folder / "comparison.csv").read_text().count("\n") == 4
