"""Runs that begin as the model of another: from its folder, its id or a model.h5, killed and gone on with, and refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import pytest
import torch
from commands import PLAIN, composed, own_run, run_command
from kills import assert_identical, killed, left_by

from ebm_pipeline import cli
from ebm_pipeline.models.storage import load_model
from ebm_pipeline.runs import train
from ebm_pipeline.runs.start import FILE, find_start
from ebm_pipeline.tracking import records

RBM = (*PLAIN, "model=rbm", "hidden_units=12")
DBM = (*PLAIN, "model=dbm", "model.layers.hidden_1.units=14", "model.layers.hidden_2.units=6", "model.penalties=[]")
STEP = "ebm_pipeline.training.module.BoltzmannTraining.update"


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all: a fresh one costs seconds."""
    return tmp_path_factory.getbasetemp() / "outputs"


@pytest.fixture(scope="module")
def rbm(outputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rbm")
    train.train(composed(*RBM, output_root=outputs), folder)
    return folder


def begun(reference: object, *words: str) -> tuple[str, ...]:
    return (*words, "initialization=run", f"initialization.run='{reference}'")


def weights(path: Path) -> list[torch.Tensor]:
    return list(load_model(path).machine.weights)


@pytest.mark.slow
def test_a_chain_of_runs_each_with_a_link_to_the_one_before(outputs: Path, rbm: Path, tmp_path: Path) -> None:
    """The RBM, by its folder; a wider and deeper machine, by the id of the first; gone on with when the first is gone."""
    first, copied = records.read_run_file(rbm)["run_id"], tmp_path / "copied"
    shutil.copytree(rbm, copied)
    settings, folder = begun(copied, *DBM), tmp_path / "killed"
    killed(settings, outputs, folder, STEP, 9)  # in the second epoch
    shutil.rmtree(copied)
    train.train(composed(*settings, "resume=auto", output_root=outputs), folder)
    shutil.copytree(rbm, copied)
    whole = tmp_path / "whole"
    train.train(composed(*settings, output_root=outputs), whole)
    assert_identical(left_by(folder, outputs), left_by(whole, outputs))

    for tensor, other in zip(weights(whole / FILE), weights(rbm / "model.h5"), strict=True):
        assert torch.equal(tensor, other)
    assert sorted(path.name for path in (whole / "checkpoints").iterdir() if path.is_dir()) == []  # no pretraining
    run = own_run(folder)
    assert run.tags["ebm.started_from"] == first
    assert f"Begins as the run [{first}](#/runs/{first})" in run.tags[records.NOTE_TAG]
    assert "layer 2 (6 units)" in run.tags[records.NOTE_TAG]  # it has learned for two epochs: unused
    assert "validation/hidden_2_use" in run.metrics
    kept = records.read_metrics(folder)
    assert {f"validation/hidden_2_{name}" for name in ("spread", "participation", "use")} <= kept.keys()

    second = tmp_path / "second"
    train.train(composed(*begun(run.run_id, *DBM, "seed=3"), output_root=outputs), second)
    assert own_run(second).tags["ebm.started_from"] == run.run_id


def test_a_run_begins_as_a_file_alone(outputs: Path, rbm: Path, tmp_path: Path) -> None:
    """An equal machine that learns nothing is that machine; the terminal says what it begins as."""
    path = tmp_path / "other.h5"
    shutil.copy(rbm / "model.h5", path)
    words = begun(path, *RBM, "optimizer.lr=0", "training.averaging=null", f"hydra.run.dir={tmp_path / 'equal'}")
    ended = run_command(cli.train, *words, output_root=outputs)
    assert ended.code == 0, ended.err
    said = ended.out + ended.err
    assert "RBM begins as other.h5 (" in said
    assert "), 16 bernoulli - 12 bernoulli; nothing is new, and the distribution is the same" in said
    found = load_model(tmp_path / "equal" / "model.h5").machine.named_tensors()
    for name, tensor in load_model(path).machine.named_tensors().items():
        assert torch.equal(found[name], tensor), name
    run = own_run(tmp_path / "equal")
    assert run.tags["ebm.started_from"].startswith("other.h5 (")
    assert "Begins as `other.h5 (" in run.tags[records.NOTE_TAG]
    kept = find_start("", "the file may be gone", tmp_path / "equal")  # as resume=auto asks for it
    assert kept.origin == run.tags["ebm.started_from"]
    assert torch.equal(kept.saved.machine.weights[0], load_model(path).machine.weights[0])


def damaged(path: Path) -> Path:
    with h5py.File(path, "r+") as file:
        file["weights/0"][0, 0] += 1.0
    return path


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("initialization=run",), "initialization.run=FOLDER of a run, its id, or a model.h5"),
        (("initialization=run", "initialization.run=7"), "initialization.run"),
        (("initialization=run", "initialization.run=nowhere"), "initialization.run=nowhere: 'nowhere' is no run: give"),
        (("initialization=run", "initialization.run=no.h5"), "initialization.run=no.h5: no model file at no.h5"),
        (("HERE", "initialization.std=-1"), "initialization.std must be a number, at least 0; got -1"),
        (
            ("HERE", "hidden_units=11"),
            "layers 16 bernoulli - 12 bernoulli, the model 16 bernoulli - 11 bernoulli; layer 1 has 12",
        ),
        (("HERE", "model=ising"), "16 bernoulli - 12 bernoulli, the model 16 ising - 12 ising; the visible layer has"),
        (
            ("HERE", "model=rbm_rectified"),
            "layer 1 has 12 bernoulli there, 12 rectified_gaussian here: units of another kind",
        ),
        (
            ("HERE", "data=digits", "data.validation_fraction=0.1"),
            "the visible layer has 16 bernoulli there, 64 bernoulli here",
        ),
        (("HERE", "model=rbm_labels"), "16 bernoulli there, 18 mixed"),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else "",
)
def test_what_cannot_be_begun_as_is_one_message(
    words: tuple[str, ...], said: str, outputs: Path, rbm: Path, tmp_path: Path
) -> None:
    here = begun(rbm)
    given = [one for word in words for one in (here if word == "HERE" else (word,))]
    folder = tmp_path / "run"
    ended = run_command(cli.train, *RBM, *given, f"hydra.run.dir={folder}", output_root=outputs)
    assert ended.code == 1
    assert ended.err.startswith("error: "), ended.err
    assert ended.err.strip().count("\n") == 0
    assert said in ended.err
    assert not (folder / "run.json").exists()


def test_a_damaged_file_is_refused(outputs: Path, rbm: Path, tmp_path: Path) -> None:
    path = damaged(Path(shutil.copy(rbm / "model.h5", tmp_path / "model.h5")))
    ended = run_command(cli.train, *RBM, *begun(path), output_root=outputs)
    assert ended.code == 1
    assert f"initialization.run={path}: {path}" in ended.err
