"""The command line: the study from an empty folder to its comparison, and what a wrong call says."""

from __future__ import annotations

import csv
import json
import re
import sys
from importlib.metadata import entry_points
from pathlib import Path

import h5py
import numpy as np
import pytest
from commands import TINY, composed, run_command, start
from hydra.core.global_hydra import GlobalHydra
from mlflow.tracking import MlflowClient
from study import NAMES, Study

from ebm_pipeline import cli
from ebm_pipeline.tracking import records

COMPARISON = ("reconstructions", "denoising", "fantasies", "weights", "learning_curves")
PNG = b"\x89PNG"


def table_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


# ---------------------------------------------------------------------------------------------- the study


@pytest.mark.slow
def test_the_study_compares_its_four_models(study: Study) -> None:
    rows = table_of(study.sweep / "comparison.csv")
    assert [row["model"] for row in rows] == NAMES
    for row in rows:
        assert 0 < float(row["reconstruction error, validation (RMS of pixels)"]) < 1
        assert 0 < float(row["denoising error, validation (RMS of pixels)"]) < 1
        assert float(row["training time (s)"]) > 0
        assert (row["pseudo-likelihood, validation (nats per image)"] == "-") == (row["model"] == "DBM")
    assert [int(row["parameters"]) for row in rows] == [144, 152, 152, 224]
    lines = (study.sweep / "comparison.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in lines] == ["model", "---", *NAMES]
    assert all(name in study.done.stdout for name in NAMES)
    for key in COMPARISON:
        assert (study.sweep / f"{key}.png").read_bytes().startswith(PNG)


@pytest.mark.slow
def test_nothing_is_written_outside_the_output_folder(study: Study) -> None:
    assert [path.name for path in study.folder.iterdir()] == ["outputs"]
    assert not [path for path in study.outputs.rglob("*") if "partial" in path.name]


@pytest.mark.slow
def test_the_study_is_a_parent_run_with_four_finished_children(study: Study) -> None:
    client = MlflowClient(study.uri)
    assert study.parent.status == "FINISHED"
    experiment = client.get_experiment_by_name("smoke")
    assert experiment is not None
    assert len(client.search_runs([experiment.experiment_id])) == 5
    assert [(run.name, run.status) for run in study.runs] == [(name, "FINISHED") for name in NAMES]
    files = {entry.path for entry in client.list_artifacts(study.parent.run_id, "comparison")}
    assert files >= {f"comparison/{key}.png" for key in COMPARISON} | {"comparison/comparison.csv"}
    for run in study.runs:
        assert run.params["data"] == "bars_and_stripes"
        assert {
            "validation/reconstruction_error",
            "validation/denoising_error",
            "weights/norm",
            "time/total_seconds",
        } <= set(run.metrics)
        assert {"model.h5", "config.yaml"} <= {entry.path for entry in client.list_artifacts(run.run_id)}
        images = [entry.path for entry in client.list_artifacts(run.run_id, "images")]
        # series with sliders, which rest at step 0: pictures before training, after the first epoch, and at the end
        for key, expected in {
            "fantasies": ["0", "12", "24"],
            "data": ["0", "24"],
            "learning_curves": ["0", "24"],
        }.items():
            found = map(re.compile(f"/pictures~{key}[%+]step[%+]([0-9]+).*png").search, images)
            assert sorted(match[1] for match in found if match) == expected, images
        inputs = client.get_run(run.run_id).inputs
        assert inputs is not None
        assert [used.dataset.name for used in inputs.dataset_inputs] == ["bars_and_stripes"]
        assert run.output_dir is not None
        assert run.output_dir.parent == study.sweep


@pytest.mark.slow
def test_the_study_prints_what_a_person_needs(study: Study) -> None:
    printed = study.done.stdout + study.done.stderr
    assert str(study.sweep) in printed
    assert study.uri in printed
    assert "RBM: epoch 2/2" in printed
    for noise in ("Traceback", "Warning", "deprecated", "alembic"):
        assert noise not in printed


# ---------------------------------------------------------------------------------------------- afterwards


@pytest.mark.slow
def test_evaluate_by_folder_and_by_the_beginning_of_an_id(study: Study) -> None:
    rbm = study.runs[1]
    prefix = rbm.run_id[:31]  # a short one can be a number to Hydra: see the next test
    for reference in (str(rbm.output_dir), prefix):
        ended = run_command(cli.evaluate, f"run={reference}", "threads=1", output_root=study.outputs)
        assert (ended.code, ended.err) == (0, "")
        assert "log-likelihood" in ended.out
        assert "log Z exact" in ended.out
        assert "independent pixels" in ended.out
    found = [json.loads(path.read_text()) for path in study.outputs.glob("evaluations/*/evaluation.json")]
    assert {row["run"] for row in found} == {rbm.run_id}
    assert found[0] == found[-1]
    assert found[0]["part"] == "test"
    assert -20 < found[0]["test/log_likelihood_low"] == found[0]["test/log_likelihood_high"] < 0
    metrics = records.find_run(study.uri, rbm.run_id).metrics
    assert metrics["test/log_likelihood_low"] == pytest.approx(found[0]["test/log_likelihood_low"])


@pytest.mark.slow
@pytest.mark.parametrize("reference", ["7e12", "1234", "0123"])
def test_a_reference_that_looks_like_a_number_is_taken_as_written(study: Study, reference: str) -> None:
    ended = run_command(cli.evaluate, f"run={reference}", output_root=study.outputs)
    assert ended.code == 1
    assert f"'{reference}' is no run" in ended.err


@pytest.mark.slow
def test_compare_takes_a_sweep_or_its_runs(study: Study) -> None:
    ended = run_command(cli.compare, f"runs=[{study.sweep}]", output_root=study.outputs)
    assert (ended.code, ended.err) == (0, "")
    (made,) = (path.parent for path in (study.outputs / "comparisons").glob("*/comparison.md"))
    then, now = table_of(study.sweep / "comparison.csv"), table_of(made / "comparison.csv")
    assert [{name: row[name] for name in then[0]} for row in now] == then  # an evaluation since may have added metrics
    assert {path.name for path in made.glob("*.png")} == {f"{key}.png" for key in COMPARISON}
    assert str(made) in ended.out
    two = [str(study.runs[index].output_dir) for index in (3, 0)]
    ended = run_command(
        cli.compare, f"runs=[{','.join(two)}]", f"hydra.run.dir={study.folder / 'outputs' / 'two'}",
        output_root=study.outputs,
    )  # fmt: skip
    assert (ended.code, ended.err) == (0, "")
    assert [row["model"] for row in table_of(study.outputs / "two" / "comparison.csv")] == ["DBM", "Hopfield"]


def test_data_describes_and_makes_a_shuffled_copy(tmp_path: Path) -> None:
    copies = [tmp_path / "one.h5", tmp_path / "two.h5"]
    for copy in copies:
        ended = run_command(
            cli.data, "data=bars_and_stripes", f"shuffled_copy={copy}", "seed=3", output_root=tmp_path / "outputs"
        )
        assert (ended.code, ended.err) == (0, "")
        assert "600 images of 16 pixels, uint8" in ended.out
        assert "4 x 4" in ended.out
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == ["data"]  # no log where it was called
    arrays = []
    for path in (tmp_path / "outputs" / "data" / "bars_and_stripes_4.h5", *copies):
        with h5py.File(path) as file:
            arrays.append({key: file[key][:] for key in ("train/images", "train/labels")})
    source, one, two = arrays
    label_of = {image.tobytes(): int(label) for image, label in zip(*source.values(), strict=True)}
    assert [label_of[image.tobytes()] for image in one["train/images"]] == one["train/labels"].tolist()
    assert not np.array_equal(one["train/images"], source["train/images"])
    assert sorted(image.tobytes() for image in one["train/images"]) == sorted(
        image.tobytes() for image in source["train/images"]
    )
    assert all(np.array_equal(one[key], two[key]) for key in one)


# ---------------------------------------------------------------------------------------------- mistakes


def test_every_command_is_installed() -> None:
    scripts = {script.name: script.load() for script in entry_points(group="console_scripts") if "ebm" in script.name}
    assert scripts == {
        "ebm-train": cli.train, "ebm-evaluate": cli.evaluate, "ebm-sample": cli.sample, "ebm-compare": cli.compare,
        "ebm-data": cli.data, "ebm-serve": cli.serve, "ebm-sync": cli.sync, "ebm-ui": cli.ui,
    }  # fmt: skip


def test_a_mistake_in_a_real_process(tmp_path: Path) -> None:
    done = start("ebm-train", "model=nothing", folder=tmp_path, outputs=tmp_path / "outputs")
    assert done.returncode == 1
    assert done.stderr.startswith("error: model has no choice nothing")
    assert "rbm_l1" in done.stderr  # the options there are
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=nothing"], "model has no choice nothing"),
        (["+model.n_hiden=3"], "n_hiden"),
        (["training.epochs=-1"], "training.epochs"),
        (["optimizer.lr=abc"], "lr"),
        (["data=hdf5", "data.path=/nowhere.h5"], "/nowhere.h5"),
        (["data=hdf5"], "data.path"),
        (["training.epoch=3"], "epoch"),
        (["training.epochs=${nothing}"], "nothing"),
        (["training.epochs=[1"], "'[1'"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_a_wrong_training_is_one_message(overrides: list[str], message: str, tmp_path: Path) -> None:
    ended = run_command(cli.train, *TINY, *overrides, output_root=tmp_path)
    assert ended.code in (1, 2)  # 2: a wrong flag, from argparse
    assert message in ended.err
    assert ended.err.count("error:") == 1
    assert "Traceback" not in ended.err + ended.out
    assert len(ended.err.splitlines()) < 25  # with the choices of a group


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "run"),
        (["run=nothing"], "'nothing' is no run"),
        (["run=nothing", "+prat=test"], "prat"),
        (["run=nothing", "likelihoods=null"], "likelihoods"),
        (["run={study}", "part=all"], "train, validation, test"),
        (["run={study}", "part=validation", "likelihood.chains=1"], "chains"),
        (["run={study}", "likelihood.temperatures=many"], "temperatures"),
        (["run={sweep}"], "model.h5"),
    ],
)
def test_a_wrong_evaluation_is_one_message(study: Study, overrides: list[str], message: str) -> None:
    places = {"study": study.runs[0].output_dir, "sweep": study.sweep}
    ended = run_command(
        cli.evaluate, "threads=1", *(override.format(**places) for override in overrides), output_root=study.outputs
    )
    assert ended.code == 1
    assert message in ended.err
    assert ended.err.count("error:") == 1
    assert "Traceback" not in ended.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "runs"),
        (["runs=[]"], "nothing to compare"),
        (["runs=[nothing]"], "'nothing' is no run"),
        (["runs=nothing"], "'nothing' is no run"),
        (["runs=[nothing]", "+run=1"], "unknown option run"),
    ],
)
def test_a_wrong_comparison_is_one_message(study: Study, overrides: list[str], message: str) -> None:
    ended = run_command(cli.compare, *overrides, output_root=study.outputs)
    assert ended.code == 1
    assert message in ended.err
    assert ended.err.count("error:") == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data=nothing"], "data has no choice nothing"),
        (["data=hdf5", "data.path=/nowhere.h5"], "/nowhere.h5"),
        (["data=bars_and_stripes", "shuffled_copy={file}"], "cannot take the place"),
        (["data=bars_and_stripes", "+shuffle=1"], "unknown option shuffle"),
    ],
)
def test_a_wrong_call_for_data_is_one_message(overrides: list[str], message: str, tmp_path: Path) -> None:
    own = tmp_path / "data" / "bars_and_stripes_4.h5"
    ended = run_command(cli.data, *(override.format(file=own) for override in overrides), output_root=tmp_path)
    assert ended.code == 1
    assert message in ended.err
    assert ended.err.count("error:") == 1


def test_help_names_the_groups(tmp_path: Path) -> None:
    ended = run_command(cli.train, "--help", output_root=tmp_path)
    assert ended.code == 0
    assert all(f"  {group} " in ended.out for group in ("data", "model", "objective", "optimizer", "experiment"))


def test_an_empty_output_folder_is_as_if_none_were_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EBM_OUTPUT_DIR", "")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ebm-data", "data=bars_and_stripes"])
    GlobalHydra.instance().clear()
    cli.data()
    assert list((tmp_path / "outputs" / "data").glob("*.h5"))


def test_the_default_output_folder_is_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EBM_OUTPUT_DIR", raising=False)
    assert composed().output_root == "outputs"
