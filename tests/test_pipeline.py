"""Whole runs of every model, in this process, on 4 x 4 bars and stripes and one shared store."""

from __future__ import annotations

import csv
import functools
import json
import re
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from commands import ALL_TRACKED, PLAIN, composed, run_command
from mlflow.tracking import MlflowClient
from omegaconf import OmegaConf
from test_report import page_of

from ebm_pipeline import cli
from ebm_pipeline.data.hdf5 import get_text
from ebm_pipeline.models.storage import load_model
from ebm_pipeline.runs import evaluate, train
from ebm_pipeline.runs.configuration import plain, tracking_uri
from ebm_pipeline.support import names
from ebm_pipeline.support.errors import DivergedError, UserError
from ebm_pipeline.tracking import records
from ebm_pipeline.tracking.records import RunRecord
from ebm_pipeline.training.module import BoltzmannTraining

CHOICES = {
    "hopfield": ("model=hopfield",),
    "rbm": ("model=rbm",),
    "rbm_l1": ("model=rbm_l1",),
    "dbm": ("model=dbm",),
    "grbm": ("model=grbm",),
    "ising": ("model=ising",),
    "cd": ("model=rbm", "objective=cd", *ALL_TRACKED),
}
PARAMETERS = {  # those that training changes: 16 pixels, 8 units in each hidden layer
    "hopfield": 16 * 8 + 16,
    "rbm": 16 * 8 + 16 + 8,
    "rbm_l1": 16 * 8 + 16 + 8,
    "dbm": 16 * 8 + 8 * 8 + 16 + 8 + 8,
    "grbm": 16 * 8 + 16 + 8 + 16,
    "ising": 16 * 8 + 16 + 8,
    "cd": 16 * 8 + 16 + 8,
}
SYSTEM_METRICS = 4  # of a run on a machine without GPU; the runs here have none
PICTURES = ("reconstructions", "denoising", "fantasies", "weights_1")
MODEL_NAMES = {
    "hopfield": "Hopfield",
    "rbm_l1": "RBM (L1)",
    "dbm": "DBM",
    "grbm": "Gaussian RBM",
    "ising": "RBM (Ising)",
}
Run = tuple[str, Path, dict[str, float]]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all: a fresh one costs seconds."""
    return tmp_path_factory.getbasetemp() / "outputs"


def trained(choice: str, outputs: Path, folder: Path, *overrides: str) -> dict[str, float]:
    return train.train(composed(*PLAIN, *CHOICES[choice], *overrides, output_root=outputs), folder)


@pytest.fixture(scope="module")
def finished(outputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    """finished(choice) is (choice, folder, last metrics) of a run, made when it is first asked for."""

    @functools.cache
    def train(choice: str) -> Run:
        folder = tmp_path_factory.mktemp(choice)
        return choice, folder, trained(choice, outputs, folder, *drawn_on_the_way(choice))

    return train


@pytest.fixture(
    params=[pytest.param(name, marks=pytest.mark.slow if name in ("ising", "cd") else ()) for name in CHOICES]
)
def run(request: pytest.FixtureRequest, finished: Callable[[str], Run]) -> Run:
    return finished(request.param)


def drawn_on_the_way(choice: str) -> tuple[str, ...]:
    return ("evaluation.every_epochs=1",) if choice in ("rbm", "dbm") else ()


def record_of(outputs: Path, folder: Path) -> RunRecord:
    return records.find_run(f"sqlite:///{outputs / 'mlflow.db'}", str(folder))


def weights_of(path: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[:]}) if isinstance(item, h5py.Dataset) else None)
    return found


def test_the_folder_holds_what_a_run_leaves(run: Run) -> None:
    choice, folder, _ = run
    for name in ("model.h5", "config.yaml", "metrics.csv", "run.json", "pictures.h5", "checkpoints/last.ckpt"):
        assert (folder / name).stat().st_size > 0, name
    labels = {"data_examples", "learning_curves_final"}
    keys = [*PICTURES, *{"dbm": ["weights_2"], "grbm": ["deviations"]}.get(choice, [])]
    labels |= {
        f"{key}_{label}" for key in keys for label in ["0000", *(["0001"] if drawn_on_the_way(choice) else []), "final"]
    }
    assert {path.stem for path in (folder / "pictures").glob("*.png")} == labels
    assert not list(folder.rglob("*partial*"))
    phases = ["pretraining_1", "pretraining_2"] if choice == "dbm" else []
    assert sorted(path.name for path in (folder / "checkpoints").iterdir() if path.is_dir()) == phases
    assert (folder / "pretrained.h5").exists() == (choice == "dbm")


def test_the_saved_config_is_whole_and_trains_again(run: Run, outputs: Path) -> None:
    choice, folder, _ = run
    own = OmegaConf.load(folder / "config.yaml")
    expected = composed(*PLAIN, *CHOICES[choice], *drawn_on_the_way(choice), output_root=outputs)
    assert OmegaConf.to_container(own) == plain(expected)
    assert load_model(folder / "model.h5").config == (folder / "config.yaml").read_text()


def test_the_report_says_that_nothing_was_evaluated_yet(finished: Callable[[str], Run], outputs: Path) -> None:
    _, folder, _ = finished("cd")
    page = page_of(folder)
    assert page.headings[0] == "RBM"
    assert "not evaluated" in page.words
    assert "ebm-evaluate" in page.words
    assert len(page.references) >= 4
    assert record_of(outputs, folder).tags["ebm.verdict"] == "not evaluated"


def test_metrics_csv_has_a_row_per_epoch(run: Run) -> None:
    choice, folder, last = run
    with open(folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["time/epoch"]) for row in rows] == [0, 1, 2]
    for name in ("validation/reconstruction_error", "validation/denoising_error", "weights/norm", "weights/sparsity"):
        assert all(np.isfinite(float(row[name])) for row in rows), name
        assert float(rows[-1][name]) == last[name]
    assert ("validation/pseudo_likelihood" in rows[0]) == (choice not in ("dbm", "grbm", "ising"))
    assert ("validation/bound_gap" in rows[0]) == (choice == "dbm")
    assert ("validation/free_energy_gap" in rows[0]) == (choice != "dbm")
    assert all(float(row["time/seconds_per_epoch"]) > 0 for row in rows[1:])


def test_the_store_holds_parameters_metrics_and_files(run: Run, outputs: Path) -> None:
    choice, folder, last = run
    record = record_of(outputs, folder)
    assert (record.status, record.name) == ("FINISHED", MODEL_NAMES.get(choice, "RBM"))
    assert record.output_dir == folder
    assert record.params["epochs"] == "2"
    assert record.params["hidden"] == ("8-8" if choice == "dbm" else "8")
    assert record.parameters == int(record.params["parameters"]) == PARAMETERS[choice]
    assert record.metrics["time/total_seconds"] > 0
    assert record.metrics["validation/reconstruction_error"] == pytest.approx(last["validation/reconstruction_error"])
    uri = json.loads((folder / "run.json").read_text())["tracking_uri"]
    batches = 6  # 570 of the 600 training images, in batches of 100
    steps, values = records.metric_history(uri, record.run_id, "validation/reconstruction_error")
    assert steps == [0, batches, 2 * batches]
    assert values[-1] == pytest.approx(last["validation/reconstruction_error"])
    epochs = set(zip(*records.metric_history(uri, record.run_id, "time/epoch"), strict=True))
    assert epochs == {(0, 0), (batches, 1), (2 * batches, 2)}
    client = MlflowClient(uri)
    files = {entry.path for entry in client.list_artifacts(record.run_id)}
    assert {"model.h5", "config.yaml", "pictures.h5", "images"} <= files
    series = [entry.path for entry in client.list_artifacts(record.run_id, "images")]
    for key in (*PICTURES, "data", "learning_curves"):
        for step in (0, 2 * batches):
            assert any(re.search(f"/pictures~{key}[%+]step[%+]{step}[%+]", path) for path in series), (key, step)
    inputs = client.get_run(record.run_id).inputs
    assert inputs is not None
    (dataset,) = inputs.dataset_inputs
    assert dataset.dataset.name == "bars_and_stripes"
    if choice == "dbm":
        assert "pretraining_2/validation_reconstruction_error" in record.metrics
        assert "pretrained.h5" in files


def test_the_pictures_arrays_are_images_and_say_how_they_were_drawn(run: Run) -> None:
    choice, folder, _ = run
    with h5py.File(folder / "pictures.h5") as file:
        arrays = {name: file[name][:] for name in file}
        made = {name: get_text(file[name], "made", "") for name in file}
        assert tuple(file.attrs["image_shape"]) == (4, 4)
    assert set(arrays) == {"data", "reconstructions", "noisy", "denoised", "fantasies"}
    assert all(array.shape == (8, 16) and np.isfinite(array).all() for array in arrays.values())
    assert made["fantasies"] == (
        "start: independent pixels at the data mean; 5 Gibbs sweeps; conditional means of the last sweep"
    )
    assert "conditional modes" in made["reconstructions"]
    assert "15% of the pixels flipped" in made["denoised"]
    if choice not in ("grbm", "ising"):
        assert all(set(np.unique(arrays[name])) <= {0, 1} for name in arrays if name != "fantasies")
        assert 0 <= arrays["fantasies"].min() <= arrays["fantasies"].max() <= 1
        assert 0 < (arrays["noisy"] != arrays["data"]).mean() < 0.4


def test_the_saved_models_are_those_in_the_checkpoint(run: Run) -> None:
    _, folder, _ = run
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    for file, prefix in (("model.h5", "averaged.module"), ("model_last.h5", "tensors")):
        saved = load_model(folder / file)
        for name, tensor in saved.machine.named_tensors().items():
            (held,) = [value for key, value in checkpoint["state_dict"].items() if key == f"{prefix}.{name}"]
            torch.testing.assert_close(tensor, held, rtol=0, atol=0)
    assert saved.image_shape == (4, 4)
    assert checkpoint["global_step"] == 12


def test_what_a_model_fixes_or_starts_with_is_kept(run: Run) -> None:
    choice, folder, _ = run
    tensors = load_model(folder / "model.h5").machine.named_tensors()
    if choice == "hopfield":
        assert not tensors["layers/1/bias"].any()
        assert (tensors["layers/1/variance"] == 1).all()
    elif choice == "grbm":
        variance = tensors["layers/0/variance"]
        assert (variance >= tensors["layers/0/variance_floor"]).all()
        assert (tensors["layers/0/variance_floor"] == 1e-4).all()
        assert variance.unique().numel() == 16  # each has been learned
    else:
        assert tensors["layers/1/bias"].any()
    assert tensors["weights/0"].std() > 0


def test_all_numbers_of_a_run_are_in_the_glossary_and_few_are_in_the_store(run: Run, outputs: Path) -> None:
    choice, folder, last = run
    record = record_of(outputs, folder)
    files = ["metrics.csv", *(f"metrics_pretraining_{index}.csv" for index in (1, 2) if choice == "dbm")]
    logged = {name for file in files for name in (folder / file).read_text().splitlines()[0].split(",")}
    logged |= {*json.loads((folder / "metrics.json").read_text()), *last}
    assert {name for name in logged if names.found(name) is None} == set()
    own = {name for name in record.metrics if not name.startswith(names.SYSTEM)}
    assert {name for name in own if names.found(name) is None} == (
        {f"pretraining_{index}/validation_reconstruction_error" for index in (1, 2)} if choice == "dbm" else set()
    )
    assert len({names.label(name) for name in logged | own}) == len(logged | own)
    assert len(record.params) <= 20
    assert not [value for value in record.params.values() if "/" in value or "[" in value or "ebm_pipeline" in value]
    assert all(name.startswith(("ebm.", "mlflow.")) and value for name, value in record.tags.items())
    assert record.tags[records.NOTE_TAG].startswith("**not evaluated**: ")
    assert str(folder) in record.tags[records.NOTE_TAG]


def test_a_finished_run_is_evaluated_from_its_own_files(run: Run, outputs: Path, tmp_path: Path) -> None:
    choice, folder, last = run
    config = composed(f"run={folder}", "part=validation", "seed=137", "threads=1", name="evaluate", output_root=outputs)
    config.likelihood.temperatures, config.likelihood.chains, config.likelihood.sweeps = 100, 100, 50
    metrics = evaluate.evaluate(config, config.run, tmp_path)
    for name in ("validation/reconstruction_error", "validation/denoising_error", "weights/norm"):
        assert metrics[name] == pytest.approx(last[name], rel=1e-4), name
    name = "variational_bound" if choice == "dbm" else "log_likelihood"
    name = f"validation/{name}"
    least = -40 if choice == "grbm" else -30  # its variances start far below those of these few, binary pixels
    assert least < metrics[f"{name}_low"] <= metrics[f"{name}_high"] < 0
    card = json.loads((tmp_path / "likelihood.json").read_text())
    assert card[f"{name.removeprefix('validation/')}_nats_per_image"]["validation"]["low"] == metrics[f"{name}_low"]
    assert json.loads((tmp_path / "evaluation.json").read_text())["part"] == "validation"
    stored = record_of(outputs, folder).metrics
    assert stored[f"{name}_low"] == metrics[f"{name}_low"]
    numbers = json.loads((tmp_path / "evaluation.json").read_text())
    assert {name for name in numbers if names.found(name) is None} == {"run", "part", "weights"}
    assert len({names.label(name) for name in numbers}) == len(numbers)
    verdict = json.loads((tmp_path / "verdict.json").read_text())
    assert record_of(outputs, folder).tags["ebm.verdict"] == verdict["name"] != "not evaluated"
    record = record_of(outputs, folder)
    tags = [name for name in record.tags if not name.startswith("mlflow.")]
    logged = [name for name in record.metrics if not name.startswith("system/")]  # which come with the time a run takes
    assert len(record.params) + len(logged) + len(tags) + SYSTEM_METRICS <= 60
    assert record.tags[records.NOTE_TAG].startswith(f"**{verdict['name']}**: ")
    assert "nats per image**" in record.tags[records.NOTE_TAG] or "not determined**" in record.tags[records.NOTE_TAG]
    page = page_of(folder)  # renewed
    assert verdict["reason"] in page.words
    assert len(page.references) >= 5 + 4  # diagnostics, and what training drew
    assert json.loads((tmp_path / "evaluation.json").read_text())["validation/independent_log_likelihood"] != 0


def test_the_model_is_the_average_and_the_last_weights_stand_beside_it(outputs: Path, tmp_path: Path) -> None:
    folder, without = tmp_path / "run", tmp_path / "without"
    last = trained("rbm", outputs, folder, "training.averaging=0.5")
    metrics = trained("rbm", outputs, without, "training.averaging=null")
    files = [weights_of(folder / name) for name in (records.LAST_FILE, "model.h5")]
    plain = weights_of(without / "model.h5")
    for name, array in plain.items():
        np.testing.assert_array_equal(files[0][name], array, err_msg=name)
    assert not np.array_equal(files[1]["weights/0"], plain["weights/0"])
    record = record_of(outputs, folder)
    errors = {}
    for weights in ("result", "last"):
        overrides = (f"run={folder}", "part=validation", f"weights={weights}", "seed=137", "threads=1")
        config = composed(*overrides, name="evaluate", output_root=outputs)
        config.likelihood = config.diagnostics = None
        errors[weights] = evaluate.evaluate(config, config.run, tmp_path / "evaluation")["validation/denoising_error"]
    assert errors["result"] == pytest.approx(last["validation/denoising_error"], rel=1e-6)
    assert errors["last"] == pytest.approx(metrics["validation/denoising_error"], rel=1e-6)
    assert errors["last"] != pytest.approx(errors["result"], rel=1e-5)
    after = record_of(outputs, folder)
    assert after.metrics["last/validation/denoising_error"] == pytest.approx(errors["last"])
    assert after.tags["ebm.verdict"] == record.tags["ebm.verdict"]
    for reference, weights, message in (
        (without, "last", r"without training\.averaging: its model\.h5 has the last weights"),
        (folder, "mean", "weights must be one of result, last; got 'mean'"),
    ):
        config = composed(f"run={reference}", f"weights={weights}", name="evaluate", output_root=outputs)
        with pytest.raises(UserError, match=message):
            evaluate.evaluate(config, config.run, tmp_path / "evaluation")


# ---------------------------------------------------------------------------------------------- seeds, objectives


@pytest.mark.parametrize("choice", ["rbm", "dbm"])
def test_the_same_seed_gives_the_same_model(
    choice: str, finished: Callable[[str], Run], outputs: Path, tmp_path: Path
) -> None:
    """Also where one of the two draws pictures on the way: they have a generator of their own."""
    trained(choice, outputs, tmp_path)
    one, two = weights_of(finished(choice)[1] / "model.h5"), weights_of(tmp_path / "model.h5")
    assert set(one) == set(two)
    for name, array in one.items():
        np.testing.assert_array_equal(two[name], array, err_msg=name)


def test_another_seed_gives_another_model(finished: Callable[[str], Run], outputs: Path, tmp_path: Path) -> None:
    trained("rbm", outputs, tmp_path, "seed=6")
    one, two = weights_of(finished("rbm")[1] / "model.h5"), weights_of(tmp_path / "model.h5")
    assert not np.array_equal(one["weights/0"], two["weights/0"])
    assert 0.5 < one["weights/0"].std() / two["weights/0"].std() < 2


def test_the_objective_and_the_penalty_of_the_yaml_reach_the_training(finished: Callable[[str], Run]) -> None:
    weights = {
        choice: load_model(finished(choice)[1] / "model.h5").machine.weights[0] for choice in ("rbm", "cd", "rbm_l1")
    }
    assert not torch.equal(weights["cd"], weights["rbm"])
    change = (weights["rbm_l1"] - weights["rbm"]) * weights["rbm"].sign()
    assert float(change.mean()) < 0  # smaller weights, by no more than the penalty itself can move them
    assert float(change.abs().median()) < 12 * 0.05 * 1e-3


def test_a_run_that_fails_is_marked_failed(outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(module: BoltzmannTraining, batch: torch.Tensor, batch_index: int) -> None:
        raise UserError("the disk is full")

    monkeypatch.setattr(BoltzmannTraining, "training_step", step)
    with pytest.raises(UserError, match="the disk is full"):
        trained("hopfield", outputs, tmp_path)
    assert record_of(outputs, tmp_path).status == "FAILED"
    assert not (tmp_path / "model.h5").exists()


def test_a_training_that_stops_because_it_diverges_has_its_verdict(
    outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(module: BoltzmannTraining, batch: torch.Tensor, batch_index: int) -> None:
        raise DivergedError("training diverged: lower optimizer.lr")

    monkeypatch.setattr(BoltzmannTraining, "training_step", step)
    with pytest.raises(UserError, match="training diverged"):
        trained("rbm", outputs, tmp_path)
    record = record_of(outputs, tmp_path)
    assert (record.status, record.tags["ebm.verdict"]) == ("FAILED", "diverged")
    assert "lower optimizer.lr" in record.tags["ebm.verdict.reason"]


def test_a_training_that_ends_with_figures_that_are_not_finite_is_diverged(outputs: Path, tmp_path: Path) -> None:
    trained("rbm", outputs, tmp_path, "optimizer.lr=1e38")
    assert record_of(outputs, tmp_path).tags["ebm.verdict"] == "diverged"
    assert "not finite" in page_of(tmp_path).words


# ---------------------------------------------------------------------------------------------- a sweep


def test_one_failed_job_leaves_the_sweep_failed_and_the_others_finished(outputs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    ended = run_command(
        cli.train, "-m", *PLAIN, "training.products=bfloat16", "model=hopfield,rbm", f"hydra.sweep.dir={folder}",
        output_root=outputs,
    )  # fmt: skip
    assert ended.code == 1
    assert "binary units only" in ended.err
    assert "Traceback" not in ended.err
    uri = tracking_uri(composed(output_root=outputs))
    parent = records.find_run(uri, str(folder))
    assert parent.status == "FAILED"
    runs = {run.name: run for run in records.children(uri, parent.run_id)}
    assert {name: run.status for name, run in runs.items()} == {"RBM": "FINISHED"}
    assert "0_hopfield: failed, no run was begun" in ended.out
    assert (folder / "1_rbm" / "model.h5").is_file()
    assert not (folder / "0_hopfield" / "model.h5").exists()
    with open(folder / "comparison.csv", newline="") as file:
        assert [row["model"] for row in csv.DictReader(file)] == ["RBM"]


def test_a_sweep_that_cannot_start_is_one_message(outputs: Path, tmp_path: Path) -> None:
    ended = run_command(
        cli.train, "-m", *PLAIN, "model=rbm", "tracking.uri=http://127.0.0.1:9", f"hydra.sweep.dir={tmp_path}",
        output_root=outputs,
    )  # fmt: skip
    assert ended.code == 1
    assert ended.err.count("does not answer") == 1
    assert "Traceback" not in ended.err


# ---------------------------------------------------------------------------------------------- what the store has


def test_the_store_says_what_the_run_was_made_with(finished: Callable[[str], Run], outputs: Path) -> None:
    record = record_of(outputs, finished("cd")[1])
    assert {"ebm.hardware", "ebm.versions", "ebm.verdict", "ebm.output_dir"} <= set(record.tags)
    assert record.params["seed"] == "137"
    assert record.metrics["system/system_memory_usage_megabytes"] > 0
    files = {
        entry.path
        for folder in (None, "checkpoints")
        for entry in MlflowClient(f"sqlite:///{outputs / 'mlflow.db'}").list_artifacts(record.run_id, folder)
    }
    assert files >= {
        "config.yaml", "packages.txt", "model.h5", "pictures.h5", "images", "checkpoints/best.ckpt", "checkpoints/last.ckpt",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tracking.log_model=maybe", "log_model must be true or false"),
        ("tracking.system_metrics=1", "system_metrics must be true or false"),
        ("tracking.register_as=a/b", "register_as is a model's name"),
        ("tracking.register_as=name@", "register_as is a model's name"),
        ("tracking.register_as=a@b@c", "register_as is a model's name"),
    ],
)
def test_wrong_tracking_is_told_before_the_training(override: str, message: str, outputs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        trained("rbm", outputs, tmp_path / "run", override)
    assert not (tmp_path / "run").exists()


def test_without_system_metrics_and_model_there_are_none(finished: Callable[[str], Run], outputs: Path) -> None:
    folder = finished("rbm")[1]
    assert not [name for name in record_of(outputs, folder).metrics if name.startswith("system/")]
    assert not (folder / "mlflow_model").exists()
