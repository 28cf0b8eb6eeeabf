"""A run is its settings and its data: what is refused, what is said, and what is found again where it is now."""

from __future__ import annotations

import contextlib
import ctypes
import json
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from commands import PLAIN, composed, own_run, run_command
from hydra.core import utils as hydra_utils
from kills import CONTEXT, assert_identical, left_by, patched, run_count
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST
from mlflow.tracking import MlflowClient
from mlflow.tracking._tracking_service.utils import _artifact_repos_cache as artifact_repositories
from PIL import Image
from test_resume import Stop, stop

from ebm_pipeline import cli
from ebm_pipeline.data.parts import Images
from ebm_pipeline.data.stored import write
from ebm_pipeline.runs import train
from ebm_pipeline.runs.folders import own_folder
from ebm_pipeline.support.errors import UserError
from ebm_pipeline.tracking import moved, records
from ebm_pipeline.tracking.journal import Journal
from ebm_pipeline.tracking.provenance import differing, versions
from ebm_pipeline.tracking.tracker import Tracker
from ebm_pipeline.training.checkpoints import WholeCheckpoints

STEP = "ebm_pipeline.training.module.BoltzmannTraining.update"
BATCHES = 6
RBM = (*PLAIN, "model=rbm", "training.epochs=2", "evaluation.every_epochs=1", "training.averaging=0.5")
SWEEP = ("-m", *PLAIN, "model=rbm", "sampler.steps=1,2")
DATA_FILE = "bars_and_stripes_4.h5"
EVALUATED = ("likelihood=null", "diagnostics=null")


def slow(value: object) -> Any:
    return pytest.param(value, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("same") / "outputs"


@pytest.fixture(scope="module")
def finished(outputs: Path) -> Path:
    """The folder of a run, and what it is to be equal to."""
    folder = outputs / "runs" / "finished"
    train.train(composed(*RBM, output_root=outputs), folder)
    return folder


@pytest.fixture(scope="module")
def expected(finished: Path, outputs: Path) -> dict[str, Any]:
    return left_by(finished, outputs)


def stopped(outputs: Path, folder: Path, *words: str, at: int = BATCHES + 3) -> None:
    """A run that ends in its second epoch."""
    with pytest.MonkeyPatch.context() as patch:
        patched(patch, STEP, at, stop)
        with pytest.raises(Stop):
            train.train(composed(*words, output_root=outputs), folder)


@pytest.fixture(scope="module")
def stopped_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder with its store, of a run that stopped in its second epoch."""
    place = tmp_path_factory.mktemp("stopped") / "outputs"
    stopped(place, place / "runs" / "one", *RBM)
    return place


def as_if_made_at(place: Path, outputs: Path) -> Path:
    """A copy of an output folder in which all has the names that it would have if it had been made there."""
    shutil.copytree(outputs, place)
    artifact_repositories.clear()  # which MLflow keeps by the ids of runs, wherever they are
    for path in (*place.glob("runs/*/run.json"), *place.glob("runs/*/config.yaml")):
        path.write_text(path.read_text().replace(str(outputs), str(place)))
    with contextlib.closing(sqlite3.connect(place / "mlflow.db")) as database, database:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri"), ("tags", "value")):
            database.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (str(outputs), str(place)))
    return place


@pytest.fixture
def place(stopped_once: Path, tmp_path: Path) -> Path:
    """An output folder of this test alone, of a run `one` that stopped in its second epoch."""
    return as_if_made_at(tmp_path / "outputs", stopped_once)


@pytest.fixture
def place_finished(outputs: Path, finished: Path, tmp_path: Path) -> Path:
    """An output folder of this test alone, of a run `finished`."""
    return as_if_made_at(tmp_path / "outputs", outputs)


def assert_same(folder: Path, outputs: Path, expected: dict[str, Any]) -> None:
    """The run is the one that was never interrupted, bit by bit."""
    left = left_by(folder, outputs)
    left["params"] = expected["params"]  # they name its output folder
    assert_identical(left, expected)


def store(outputs: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{outputs / 'mlflow.db'}")


def logged_data(outputs: Path, run_id: str) -> list[str]:
    """The digests of the data sets of a run."""
    inputs = store(outputs).get_run(run_id).inputs
    return [] if inputs is None else [each.dataset.digest for each in inputs.dataset_inputs]


# ---------------------------------------------------------------------------------------------- data


def images(flipped: int = 0) -> np.ndarray[Any, Any]:
    drawn = (np.random.default_rng(1).random((240, 16)) < 0.5).astype(np.uint8)
    drawn[:flipped, 0] ^= 1
    return drawn


def as_pictures(path: Path, changed: bool) -> None:
    path.mkdir(exist_ok=True)
    for number, image in enumerate(images(int(changed))):
        Image.fromarray(image.reshape(4, 4) * 255).save(path / f"{number:03d}.png")


def as_hdf5(path: Path, changed: bool) -> None:
    write(path, "mine", (4, 4), {"train/images": images(int(changed))})


def as_hdf5_labels(path: Path, changed: bool) -> None:
    labels = np.arange(240) % 3
    labels[0] += changed
    write(path, "mine", (4, 4), {"train/images": images(), "train/labels": labels})


WRITTEN: dict[str, Callable[[Path, bool], None]] = {
    "own.npy": lambda path, changed: np.save(path, images(int(changed))),
    "own.h5": as_hdf5,
    "labels.h5": as_hdf5_labels,
    "pictures": as_pictures,
}


@pytest.mark.parametrize("name", ["own.npy", slow("own.h5"), "labels.h5", slow("pictures")])
def test_other_data_are_refused_with_both_digests(name: str, outputs: Path, tmp_path: Path) -> None:
    path, folder = tmp_path / name, tmp_path / "run"
    words = (*PLAIN, "model=rbm", "data=file", f"data.path={path}", "hidden_units=4", "data.batch_size=40")
    resumed = composed(*words, "resume=auto", output_root=outputs)
    WRITTEN[name](path, False)
    stopped(outputs, folder, *words, at=1)
    before = records.read_run_file(folder)
    assert logged_data(outputs, before["run_id"]) == [before["data"]]
    WRITTEN[name](path, True)
    with pytest.raises(
        UserError, match=f"digest {before['data']}, .*{name} now has [0-9a-f]{{16}}. Put those data back"
    ):
        train.train(resumed, folder)
    assert records.read_run_file(folder) == before
    WRITTEN[name](path, False)
    stopped(outputs, folder, *words, "resume=auto", at=1)  # it goes on


def test_other_data_are_refused_though_nothing_is_left_to_do(place_finished: Path) -> None:
    folder = place_finished / "runs" / "finished"
    write(place_finished / "data" / DATA_FILE, "bars_and_stripes", (4, 4), {"train/images": images()})
    known = records.read_run_file(folder)["data"]
    with pytest.raises(UserError, match=f"digest {known}, "):
        train.train(composed(*RBM, "resume=auto", output_root=place_finished), folder)
    ended = run_command(cli.evaluate, f"run={folder}", *EVALUATED, "part=validation", output_root=place_finished)
    assert ended.code == 0, ended.err
    assert f"the run was trained on other data: they had the digest {known}, " in ended.out


def test_a_finished_run_stays_finished_without_its_data(place_finished: Path, caplog: pytest.LogCaptureFixture) -> None:
    (place_finished / "data" / DATA_FILE).unlink()
    train.train(composed(*RBM, "resume=auto", output_root=place_finished), place_finished / "runs" / "finished")
    assert not (place_finished / "data" / DATA_FILE).exists()


def test_a_run_of_an_earlier_version_is_held_against_the_digest_of_the_store(place: Path) -> None:
    folder = place / "runs" / "one"
    known = json.loads((folder / "run.json").read_text())
    left = {name: known[name] for name in ("run_id", "tracking_uri", "config")}
    (folder / "run.json").write_text(json.dumps(left))
    write(place / "data" / DATA_FILE, "bars_and_stripes", (4, 4), {"train/images": images()})
    with pytest.raises(UserError, match=f"digest {known['data']}, "):
        train.train(composed(*RBM, "resume=auto", output_root=place), folder)


def test_a_made_data_set_that_was_made_anew_is_other_data(place: Path) -> None:
    write(place / "data" / DATA_FILE, "bars_and_stripes", (4, 4), {"train/images": images()})
    folder = place / "runs" / "one"
    known = records.read_run_file(folder)["data"]
    ended = run_command(cli.train, *RBM, "resume=auto", output_root=place)
    assert ended.code == 1
    assert ended.err.startswith(f"error: the run in {folder} was begun with other data: they had the digest {known}")
    assert ended.err.count("\n") == 1


def test_the_digest_is_made_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest, made = Images.digest, 0

    def counted(self: Images) -> str:
        nonlocal made
        made += 1
        return digest(self)

    monkeypatch.setattr(Images, "digest", counted)
    stopped(place, place / "runs" / "one", *RBM, "resume=auto", at=1)
    assert made == 1


# ---------------------------------------------------------------------------------------------- versions


def test_other_versions_are_said_in_one_warning(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = place / "runs" / "one"
    now = versions(Path(train.__file__).parent)
    others = now | {"torch": "9.9", "code": "abc"}
    monkeypatch.setattr(train, "versions", lambda folder: others)
    stopped(place, folder, *RBM, "resume=auto", at=1)
    (warning,) = (record.message for record in caplog.records if record.levelname == "WARNING")
    assert f"torch {now['torch']} then, 9.9 now" in warning
    assert "code " in warning
    assert "numpy" not in warning
    assert {f"version.{name}": now[name] for name in now}.items() <= records.read_run_file(folder).items()  # not others


def test_the_same_versions_are_not_said(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    stopped(place, place / "runs" / "one", *RBM, "resume=auto", at=1)
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == []


def test_versions_name_what_a_run_hangs_on() -> None:
    found = versions(Path(train.__file__).parent)
    assert found.keys() >= {"torch", "numpy", "h5py", "pytorch-lightning", "mlflow", "ebm_pipeline"}
    assert differing(found, found) == ""
    assert differing({"torch": "1", "code": "a"}, {"torch": "2"}) == "torch 1 then, 2 now"


# ---------------------------------------------------------------------------------------------- moved


@pytest.mark.slow
@pytest.mark.parametrize("how", ["renamed", "moved", "linked", "relative"])
def test_a_moved_run_is_gone_on_with_where_it_is(
    how: str, place: Path, tmp_path: Path, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = place / "runs" / "one"
    run_id = records.read_run_file(folder)["run_id"]
    now = {"renamed": place / "runs" / "two", "moved": tmp_path / "elsewhere" / "two"}.get(how, tmp_path / "two")
    now.parent.mkdir(exist_ok=True)
    if how == "linked":
        now.symlink_to(folder)
    else:
        shutil.move(folder, now)
    if how == "relative":
        monkeypatch.chdir(tmp_path)
    given = Path("two") if how == "relative" else now
    train.train(composed(*RBM, "resume=auto", output_root=place), given)
    assert_same(now, place, expected)
    assert records.read_run_file(now)["run_id"] == run_id
    if how != "linked":
        assert not folder.exists()
        assert run_count(now, place) == 1  # the store has learned where it is
        assert records.find_run(f"sqlite:///{place / 'mlflow.db'}", run_id[:8]).output_dir == now


def test_a_checkpoint_that_was_moved_knows_which_is_the_best(place: Path, tmp_path: Path) -> None:
    """Lightning forgets it where a checkpoint names another folder."""
    now = (place / "runs" / "one").rename(tmp_path / "two") / "checkpoints"
    saved = WholeCheckpoints().load_checkpoint(now / "last.ckpt")
    (best,) = (
        state for state in saved["callbacks"].values() if state.get("monitor") == "validation/reconstruction_error"
    )
    assert (best["dirpath"], best["best_model_path"]) == (str(now), str(now / "best.ckpt"))
    assert list(best["best_k_models"]) == [str(now / "best.ckpt")]
    assert best["best_model_score"] > 0


def test_a_moved_output_folder_is_gone_on_with_by_the_same_command(
    place: Path, tmp_path: Path, expected: dict[str, Any]
) -> None:
    now = tmp_path / "new place"
    shutil.move(place, now)
    ended = run_command(cli.train, *RBM, "resume=auto", output_root=now)
    assert ended.code == 0, ended.err
    assert "going on with the run" in ended.out
    assert not place.exists()
    assert_same(now / "runs" / "one", now, expected)
    run = own_run(now / "runs" / "one")
    assert run.uri == f"sqlite:///{now / 'mlflow.db'}"
    assert (now / "mlartifacts" / "ebm" / run.run_id / "artifacts" / "model.h5").is_file()
    with_its_id = run_command(cli.evaluate, f"run={run.run_id}", *EVALUATED, output_root=now)
    assert (with_its_id.code, place.exists()) == (0, False)


@pytest.mark.parametrize("again", [slow(False), True])
def test_a_moved_output_folder_is_evaluated_sampled_and_compared(
    again: bool, place_finished: Path, stopped_once: Path, tmp_path: Path
) -> None:
    now, before = tmp_path / "archive", []
    shutil.move(place_finished, now)
    artifact_repositories.clear()
    if again:
        as_if_made_at(place_finished, stopped_once)
        before = sorted(place_finished.rglob("*"))
    folder = now / "runs" / "finished"
    for command, words in (
        (cli.evaluate, (f"run={folder}", *EVALUATED)),
        (cli.sample, ("run=runs/finished", "task=denoising")),
        (cli.sample, ("run=runs/finished/model.h5", "task=denoising")),
        (cli.compare, ("runs=[runs/finished]",)),
    ):
        ended = run_command(command, *words, output_root=now)
        assert ended.code == 0, ended.err
    assert sorted(place_finished.rglob("*")) == before  # nothing is made there
    run = own_run(folder)
    assert "test/reconstruction_error" in run.metrics
    assert run.tags[records.OUTPUT_TAG] == str(folder)
    assert (now / "mlartifacts" / "ebm" / run.run_id / "artifacts" / "evaluation_test.txt").is_file()


def test_a_copy_of_a_store_keeps_its_places(outputs: Path, finished: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(outputs, copy)
    uri = f"sqlite:///{copy / 'mlflow.db'}"
    before = store(copy).search_experiments()
    moved.set_places_right(uri)
    assert [own.artifact_location for own in store(copy).search_experiments()] == [
        own.artifact_location for own in before
    ]


# ---------------------------------------------------------------------------------------------- a store that is gone


def delete_store(place: Path, run_id: str) -> None:
    (place / "mlflow.db").unlink()
    shutil.rmtree(place / "mlartifacts")


def delete_run(place: Path, run_id: str) -> None:
    store(place).delete_run(run_id)


def empty_store(place: Path, run_id: str) -> None:
    shutil.rmtree(place / "mlartifacts")
    (place / "mlflow.db").unlink()
    stopped(place, place / "runs" / "other", *RBM, "seed=3", at=1)


@pytest.mark.parametrize("lose", [delete_store, slow(delete_run), slow(empty_store)])
def test_a_run_that_the_store_has_lost_is_made_anew_in_it(
    lose: Callable[[Path, str], None],
    place: Path,
    expected: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = place / "runs" / "one"
    before = records.read_run_file(folder)["run_id"]
    lose(place, before)
    with pytest.raises(UserError, match=f"{before}.* any more: its training command with resume=auto"):
        own_run(folder)
    train.train(composed(*RBM, "resume=auto", output_root=place), folder)
    now = records.read_run_file(folder)["run_id"]
    assert now != before
    assert f"the run {before} is not in the MLflow store" in caplog.text
    assert f"as the new run {now}" in caplog.text
    assert_same(folder, place, expected)  # also the metrics and the pictures of the epoch before


@pytest.mark.slow
def test_a_finished_run_that_the_store_has_lost_is_logged_anew(
    place_finished: Path, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    delete_store(place_finished, "")
    monkeypatch.setattr("ebm_pipeline.training.module.BoltzmannTraining.update", None)  # nothing is trained
    ended = run_command(cli.train, *RBM, "resume=auto", output_root=place_finished)
    assert ended.code == 0, ended.err
    assert_same(place_finished / "runs" / "finished", place_finished, expected)


@pytest.mark.slow
def test_what_the_lost_store_had_not_taken_is_sent_to_the_new_run_once(place: Path, expected: dict[str, Any]) -> None:
    folder = place / "runs" / "one"
    delete_store(place, "")
    step, value = expected["store/validation/pseudo_likelihood"][1]
    Journal(folder).append({"call": "metrics", "values": [["validation/pseudo_likelihood", value, 1, step]]})
    Journal(folder).append({"call": "end", "status": "FAILED", "time": 1})
    train.train(composed(*RBM, "resume=auto", output_root=place), folder)
    assert_same(folder, place, expected)
    assert not (folder / "unsent").exists()


@pytest.mark.slow
def test_killed_while_the_new_run_is_made_keeps_the_checkpoints(place: Path, expected: dict[str, Any]) -> None:
    folder = place / "runs" / "one"
    delete_store(place, "")
    with pytest.MonkeyPatch.context() as patch:
        patched(patch, "ebm_pipeline.tracking.tracker.Tracker.start", 1, stop)
        with pytest.raises(Stop):
            train.train(composed(*RBM, "resume=auto", output_root=place), folder)
    assert "run_id" not in records.read_run_file(folder)
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    with pytest.MonkeyPatch.context() as patch:
        patched(patch, "ebm_pipeline.training.checkpoints.WholeCheckpoints.load_checkpoint", 1, count)
        train.train(composed(*RBM, "resume=auto", output_root=place), folder)
    assert steps == 1
    assert_same(folder, place, expected)


@pytest.fixture
def swept(tmp_path: Path) -> Path:
    """An output folder of a sweep that was stopped in its second job."""
    place = tmp_path / "outputs"
    with pytest.MonkeyPatch.context() as patch:
        patched(patch, STEP, 2 * BATCHES + BATCHES + 3, stop)
        with pytest.raises(Stop):
            run_command(cli.train, *SWEEP, output_root=place)
    return place


@pytest.mark.slow
@pytest.mark.parametrize("lost", [False, True])
def test_a_sweep_that_was_moved_or_lost_is_gone_on_with(lost: bool, swept: Path, tmp_path: Path) -> None:
    now = tmp_path / "new"
    shutil.move(swept, now)
    artifact_repositories.clear()
    (folder,) = (now / "sweeps").iterdir()
    before = records.read_run_file(folder)["run_id"]
    if lost:
        delete_store(now, "")
    ended = run_command(cli.train, *SWEEP, "resume=auto", output_root=now)
    assert ended.code == 0, ended.err
    assert list((now / "sweeps").iterdir()) == [folder]
    assert not swept.exists()
    parent = own_run(folder)
    assert (parent.run_id != before, "any more: going on with what" in ended.out) == (lost, lost)
    runs = records.children(parent.uri, parent.run_id, folder)
    assert [(run.status, run.output_dir) for run in runs] == [("FINISHED", folder / f"{n}_rbm") for n in (0, 1)]
    (folder / "comparison.csv").unlink()
    other = folder.rename(now / "sweeps" / "renamed")
    ended = run_command(cli.compare, f"runs=[{other}]", output_root=now)
    assert ended.code == 0, ended.err
    assert "2" in ended.out


@pytest.mark.slow
def test_the_jobs_of_a_sweep_are_held_against_their_data(swept: Path) -> None:
    write(swept / "data" / DATA_FILE, "bars_and_stripes", (4, 4), {"train/images": images()})
    ended = run_command(cli.train, *SWEEP, "resume=auto", output_root=swept)
    assert ended.code == 1
    assert ended.err.count("was begun with other data") >= 2  # that which has finished too


# ---------------------------------------------------------------------------------------------- folders


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_second_run_is_not_written_over_the_first(outputs: Path, finished: Path, place: Path) -> None:
    for root, folder in ((outputs, finished), (place, place / "runs" / "one")):
        before = content(folder)
        for words in ((f"hydra.run.dir={folder}", *RBM), ("-m", f"hydra.sweep.dir={folder}", *RBM)):
            ended = run_command(cli.train, *words, "seed=5", output_root=root)
            assert ended.code == 1
            assert ended.err.strip().splitlines() == [
                f"error: {folder} holds a run already (run.json), which is not written over: give another folder or none, or "
                "resume=auto to go on with it where it has not finished"
            ]
        with pytest.raises(UserError, match="holds a run already"):
            train.train(composed(*RBM, output_root=root), folder)
        after = content(folder)
        assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("name", ["model.h5", "checkpoints", "run.json"])
def test_a_folder_of_which_nothing_says_whose_run_it_holds_is_left_alone(
    name: str, outputs: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / name).mkdir() if name == "checkpoints" else (folder / name).write_text("damaged")
    for words in ((), ("resume=auto",)):
        with pytest.raises(UserError, match=rf"holds a run already \({name}\)"):
            train.train(composed(*RBM, *words, output_root=outputs), folder)
    assert (folder / name).exists()


def test_runs_that_log_the_same_data_at_once_do_not_stop_each_other(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow looks whether the store has a data set, then makes it: two runs may both find none."""
    run = own_run(place / "runs" / "one")
    log_inputs, calls = MlflowClient.log_inputs, 0

    def late(self: MlflowClient, *arguments: Any, **options: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            reason = "(sqlite3.IntegrityError) UNIQUE constraint failed: datasets.experiment_id, datasets.name"
            raise MlflowException(reason, error_code=BAD_REQUEST)
        log_inputs(self, *arguments, **options)

    monkeypatch.setattr(MlflowClient, "log_inputs", late)
    Tracker(run.uri, run.run_id, "", place / "runs" / "one").log_dataset("other", "0" * 16, "other.npy", {})
    assert (calls, len(logged_data(place, run.run_id))) == (2, 2)


class Stopped(datetime):
    """A clock that stands."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return cls(2026, 1, 2, 3, 4, 5)


def test_runs_of_the_same_second_get_a_folder_each(
    outputs: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`finished` is among them."""
    monkeypatch.setattr(hydra_utils, "datetime", Stopped)
    before = set((outputs / "runs").iterdir())
    for seed in (11, 12):
        with monkeypatch.context() as patch:
            patched(patch, STEP, 1, stop)
            with pytest.raises(Stop):
                run_command(cli.train, *RBM, f"seed={seed}", output_root=outputs)
    stamp = "2026-01-02_03-04-05"
    new = sorted(set((outputs / "runs").iterdir()) - before)
    assert [path.name for path in new] == [f"{stamp}_rbm", f"{stamp}_rbm_2"]
    assert [own_run(path).params["seed"] for path in new] == ["11", "12"]
    ended = run_command(cli.train, *RBM, "seed=13", "training.chains=0", output_root=outputs)
    assert ended.code == 1
    assert set((outputs / "runs").iterdir()) - before == set(new)  # what never began leaves none


def test_a_run_is_gone_on_with_in_the_second_in_which_it_began(
    outputs: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hydra_utils, "datetime", Stopped)
    before = set((outputs / "runs").iterdir())
    with monkeypatch.context() as patch:
        patched(patch, STEP, 1, stop)
        with pytest.raises(Stop):
            run_command(cli.train, *RBM, "seed=14", output_root=outputs)
    (folder,) = set((outputs / "runs").iterdir()) - before
    ended = run_command(cli.train, *RBM, "seed=14", "resume=auto", output_root=outputs)
    assert ended.code == 0, ended.err
    assert set((outputs / "runs").iterdir()) - before == {folder}
    assert own_run(folder).status == "FINISHED"


@pytest.mark.slow
def test_a_sweep_is_gone_on_with_in_the_second_in_which_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hydra_utils, "datetime", Stopped)
    words = ("-m", *RBM, "seed=14,15")
    with monkeypatch.context() as patch:
        patched(patch, STEP, 1, stop)
        with pytest.raises(Stop):
            run_command(cli.train, *words, output_root=tmp_path)
    ended = run_command(cli.train, *words, "resume=auto", output_root=tmp_path)
    assert ended.code == 0, ended.err
    (sweep,) = (tmp_path / "sweeps").iterdir()
    assert {own_run(path).status for path in sweep.iterdir() if path.is_dir()} == {"FINISHED"}


@pytest.mark.slow
def test_other_commands_of_the_same_second_get_a_folder_each(
    outputs: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hydra_utils, "datetime", Stopped)
    for command, words, name in (
        (cli.compare, (f"runs=[{finished}]",), "comparisons"),
        (cli.sample, (f"run={finished}", "task=denoising"), "samples"),
        (cli.evaluate, (f"run={finished}", *EVALUATED), "evaluations"),
    ):
        for number in (1, 2):
            ended = run_command(command, *words, output_root=outputs)
            assert ended.code == 0, ended.err
            assert len(list((outputs / name).glob("2026-01-02_03-04-05*"))) == number


def test_a_sweep_that_never_began_leaves_no_folder(tmp_path: Path) -> None:
    words = ("-m", *PLAIN, "model=rbm", "tracking.uri=http://127.0.0.1:9", f"output_root={tmp_path}")
    ended = run_command(cli.train, *words, output_root=tmp_path)
    assert ended.code == 1
    assert list((tmp_path / "sweeps").iterdir()) == []


def test_a_folder_is_made_by_one_alone(tmp_path: Path) -> None:
    made: list[Path] = []
    threads = [threading.Thread(target=lambda: made.append(own_folder(tmp_path / "a" / "run"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {path.name for path in made} == {"run", *(f"run_{number}" for number in range(2, 9))}


def train_at_once(outputs: Path, words: tuple[str, ...]) -> None:
    """What a child does: the command, as all others in one second."""
    setattr(hydra_utils, "datetime", Stopped)  # noqa: B010  it is no name that hydra gives away
    ended = run_command(cli.train, *words, output_root=outputs)
    print(ended.err)
    raise SystemExit(ended.code)


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("-m",)], ids=["runs", "sweeps"])
def test_three_at_once(words: tuple[str, ...], tmp_path: Path) -> None:
    arguments = (tmp_path, (*words, *PLAIN, "model=rbm"))
    children = [CONTEXT.Process(target=train_at_once, args=arguments) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 3
    folders = list((tmp_path / ("sweeps" if words else "runs")).iterdir())
    assert len(folders) == 3
    assert {own_run(folder).status for folder in folders} == {"FINISHED"}
    assert len(list(tmp_path.rglob("model.h5"))) >= 3


# ---------------------------------------------------------------------------------------------- read-only


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """The folder and all in it cannot be written, not even by root: its power over permissions is laid down for the time."""
    library, version = ctypes.CDLL(None, use_errno=True), 0x20080522
    header, sets = _Header(version, 0), (ctypes.c_uint32 * 6)()
    assert library.capget(ctypes.byref(header), sets) == 0
    held = sets[0]
    paths = [folder, *folder.rglob("*")]
    modes = {path: path.stat().st_mode for path in paths}
    for path in paths:
        path.chmod(modes[path] & ~0o222)
    try:
        sets[0] = held & ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        assert library.capset(ctypes.byref(header), sets) == 0
        yield
    finally:
        sets[0] = held
        assert library.capset(ctypes.byref(header), sets) == 0
        for path in paths:
            path.chmod(modes[path])


def test_a_finished_run_that_can_only_be_read(outputs: Path, finished: Path) -> None:
    before = content(finished)
    with read_only(finished):
        for words in ((f"hydra.run.dir={finished}", "resume=auto"), ("resume=auto",)):
            ended = run_command(cli.train, *RBM, *words, output_root=outputs)
            assert ended.code == 0, ended.err
            assert "nothing left to do" in ended.out
        ended = run_command(cli.evaluate, f"run={finished}", *EVALUATED, output_root=outputs)
        assert ended.code == 0, ended.err
        assert f"{finished} cannot be written: the report is in" in ended.out
        ended = run_command(cli.sample, f"run={finished}", "task=denoising", output_root=outputs)
        assert ended.code == 0, ended.err
    assert content(finished) == before


@pytest.mark.slow
def test_a_run_in_an_output_folder_that_can_only_be_read(outputs: Path, finished: Path, tmp_path: Path) -> None:
    with read_only(outputs):
        for command, words in (
            (cli.train, (f"hydra.run.dir={finished}", "resume=auto", *RBM)),
            (cli.evaluate, (f"run={finished}", *EVALUATED, f"hydra.run.dir={tmp_path}/evaluated")),
            (cli.sample, (f"run={finished}", "task=denoising", f"hydra.run.dir={tmp_path}/sampled")),
        ):
            ended = run_command(command, *words, f"output_root={outputs}", output_root=tmp_path)
            assert ended.code == 0, ended.err


def test_an_unfinished_run_that_can_only_be_read_is_one_message(place: Path) -> None:
    folder = place / "runs" / "one"
    with read_only(folder):
        ended = run_command(cli.train, *RBM, "resume=auto", output_root=place)
        assert ended.code == 1
        assert ended.err.startswith(f"error: cannot write to {folder}")
        ended = run_command(cli.train, *RBM, f"hydra.run.dir={folder / 'checkpoints'}", output_root=place)
        assert ended.code == 1
        assert ended.err.startswith("error: [Errno 13]")
        assert "Traceback" not in ended.err
