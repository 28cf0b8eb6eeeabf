"""A saved model from Python: it takes numbers as its training data were, and gives them back; states where that is clear."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from helpers import random_machine

import ebm_pipeline as ebm
from ebm_pipeline.data import DataSet, load
from ebm_pipeline.data.fitted import KNOWN
from ebm_pipeline.data.transforms import (
    Decorrelate,
    Dequantise,
    Identity,
    OneHot,
    Scale,
    Spin,
    Standardize,
    Stochastic,
    Threshold,
    Transform,
)
from ebm_pipeline.models.inference import up_and_down
from ebm_pipeline.models.layers import Potts
from ebm_pipeline.models.storage import SavedModel, load_model, save_model
from ebm_pipeline.runs.estimators.base import BoltzmannEstimator
from ebm_pipeline.tracking import records

RNG = np.random.default_rng(0)
NUMBERS: dict[str, Any] = {
    "grey8": RNG.integers(0, 256, (60, 6)).astype(np.uint8),
    "unit": RNG.random((60, 6)),
    "spins": RNG.integers(0, 2, (60, 6)) * 2 - 1,
    "binary": RNG.integers(0, 2, (60, 6)),
    "categories": RNG.integers(0, 3, (60, 6)),
    "real": 500 + 20 * RNG.normal(size=(60, 6)) @ RNG.normal(size=(6, 6)),
}
CASES = [
    *[
        (kind, transform)
        for kind in ("grey8", "unit", "spins", "binary")
        for transform in (Threshold(), Spin(), Scale())
    ],
    *[(kind, transform) for kind in ("grey8", "unit") for transform in (Dequantise(), Standardize(), Decorrelate())],
    *[("real", transform) for transform in (Decorrelate(), Standardize(), Identity())],
    ("categories", OneHot()),
    ("unit", Stochastic()),
]
DISCRETE = (Threshold, Stochastic)


def data_of(kind: str, transform: Transform, folder: Path) -> DataSet:
    np.save(folder / "own.npy", NUMBERS[kind])
    return load(None, str(folder / "own.npy"), lambda path: None, transform, None, seed=3, values=kind)


def kept(data: DataSet, folder: Path) -> tuple[SavedModel, BoltzmannEstimator]:
    """A machine of no training on these data, and what `ebm.load` makes of its file."""
    layer = {"spin": "ising", "threshold": "bernoulli", "stochastic": "bernoulli", "one_hot": "potts"}
    machine = random_machine((layer.get(data.transform.name, "gaussian"), "bernoulli"), (data.units, 3), seed=2)
    if isinstance(data.transform, OneHot):
        machine = replace(machine, layers=(Potts(machine.layers[0].bias, 3), machine.layers[1]))
    model = SavedModel(machine.map(torch.Tensor.float), data.train_mean().float(), data.image_shape, "", data.transform)
    save_model(folder / "model.h5", model)
    return model, ebm.load(folder / "model.h5")


def hidden_means(model: SavedModel, states: torch.Tensor) -> torch.Tensor:
    return (model.machine.layers[1].bias + states @ model.machine.weights[0]).sigmoid()


@pytest.mark.parametrize(("kind", "transform"), CASES, ids=lambda value: getattr(value, "name", value))
def test_it_takes_numbers_as_the_data_were(kind: str, transform: Transform, tmp_path: Path) -> None:
    data = data_of(kind, transform, tmp_path)
    model, again = kept(data, tmp_path)
    numbers = NUMBERS[kind]
    states = data.transform.expected(torch.from_numpy(np.asarray(numbers, dtype=np.float32)))
    if not isinstance(transform, Stochastic):
        np.testing.assert_allclose(again.transform(numbers), hidden_means(model, states).numpy(), atol=2e-4)
    back = again.reconstruct(numbers)
    assert back.shape == numbers.shape
    if not isinstance(transform, (*DISCRETE, OneHot)):  # means of states, in the unit of the data
        means, _ = up_and_down(model.machine.map(torch.Tensor.double), states.double())
        here = data.transform.expected(torch.from_numpy(back).double())
        np.testing.assert_allclose(here.numpy(), means.numpy(), atol=2e-3 * (1 + float(means.abs().max())))
    if isinstance(transform, OneHot):
        assert set(np.unique(back)) <= {0, 1, 2}
    assert again.log_scale_ == pytest.approx(data.transform.log_scale)


@pytest.mark.parametrize("transform", [Threshold(), Spin(), Stochastic()], ids=lambda value: value.name)
def test_states_of_discrete_units_are_taken_as_such(transform: Transform, tmp_path: Path) -> None:
    """0 and 1 of a machine whose data were 0 to 255: the images that `load_data` gives, not black ones."""
    data = data_of("grey8", transform, tmp_path)
    model, again = kept(data, tmp_path)
    states = data.images("train")
    np.testing.assert_allclose(again.transform(states.numpy()), hidden_means(model, states).numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "transform", "factor", "expected"),
    [
        ("grey8", Threshold(), 1 / 255, "grey levels from 0 to 255, as the training data do; got values from 0"),
        ("grey8", Decorrelate(), 1 / 255, "grey levels from 0 to 255"),
        ("grey8", Scale(), -1, "grey levels from 0 to 255"),
        ("unit", Threshold(), 255, "grey levels from 0 to 1"),
        ("spins", Threshold(), 2, r"-1 and \+1"),
        ("binary", Threshold(), 2, "0 and 1"),
        ("categories", OneHot(), 2, "whole numbers from 0 to 2"),
    ],
    ids=lambda value: str(getattr(value, "name", value)),
)
def test_numbers_of_another_scale_are_refused(
    kind: str, transform: Transform, factor: float, expected: str, tmp_path: Path
) -> None:
    _, again = kept(data_of(kind, transform, tmp_path), tmp_path)
    with pytest.raises(ValueError, match=expected):
        again.transform(factor * NUMBERS[kind].astype(float))


def test_components_of_the_data_are_no_pixels_to_inpaint(tmp_path: Path) -> None:
    _, again = kept(data_of("real", Decorrelate(), tmp_path), tmp_path)
    with pytest.raises(ValueError, match="principal components"):
        again.inpaint(NUMBERS["real"], [True] + [False] * 5)


def test_every_transform_is_known_to_files() -> None:
    ours = {*Transform.__subclasses__(), *Threshold.__subclasses__(), *Dequantise.__subclasses__()}
    assert {kind for kind in ours if kind.__module__ == Transform.__module__} == set(KNOWN.values())


class Inverted(Threshold):
    """A user's own, which no file can say."""

    name = "threshold"


def test_a_transform_of_a_user_is_not_said_as_one_of_ours(tmp_path: Path) -> None:
    model, _ = kept(data_of("unit", Threshold(), tmp_path), tmp_path)
    save_model(tmp_path / "own.h5", replace(model, transform=Inverted()))
    assert load_model(tmp_path / "own.h5").transform is None
    assert load_model(tmp_path / "model.h5").transform is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda group: group.attrs.modify("name", np.bytes_("os.system")),
            "transform is 'os.system'; known: threshold",
        ),
        (lambda group: group.attrs.modify("values", np.bytes_("grey")), "values 'grey'"),
        (lambda group: group.attrs.__setitem__("values_high", np.nan), "values 'real'"),
        (lambda group: group.attrs.__setitem__("values_categories", 10**9), "1000000000 categories"),
        (lambda group: group["unit"].__setitem__(0, 0.0), "unit must be above 0"),
        (lambda group: group["mean"].__setitem__(0, np.inf), "mean must be finite"),
        (lambda group: group.__delitem__("mean"), "damaged"),
        (lambda group: (group.__delitem__("mean"), group.__setitem__("mean", np.zeros(3))), r"shape \(6,\)"),
    ],
)
def test_a_changed_transform_is_one_message(change: Any, message: str, tmp_path: Path) -> None:
    kept(data_of("real", Decorrelate(), tmp_path), tmp_path)
    with h5py.File(tmp_path / "model.h5", "r+") as file:
        change(file["transform"])
    with pytest.raises(ValueError, match=message):
        ebm.load(tmp_path / "model.h5")


def test_a_tracked_fit_is_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EBM_OUTPUT_DIR", str(tmp_path))
    settings: dict[str, Any] = {"hidden": 3, "epochs": 2, "verbose": False}
    tracked = ebm.GaussianRBM(**settings, track=True).fit(NUMBERS["real"])
    plain = ebm.GaussianRBM(**settings).fit(NUMBERS["real"])
    assert plain.run_folder_ is None
    np.testing.assert_array_equal(tracked.components_, plain.components_)
    np.testing.assert_allclose(tracked.transform(NUMBERS["real"]), plain.transform(NUMBERS["real"]), rtol=1e-6)
    epochs, errors = tracked.history_["validation/reconstruction_error"]
    assert (epochs[1:], errors[1:]) == plain.history_["validation/reconstruction_error"]  # the run has the epoch 0 too
    folder = tracked.run_folder_
    assert folder is not None
    assert (folder / "report.html").is_file()
    run = records.find_run(f"sqlite:///{tmp_path / 'mlflow.db'}", records.run_of(folder)["run_id"])
    assert run.status == "FINISHED"
    np.testing.assert_array_equal(ebm.load(folder).transform(NUMBERS["real"]), tracked.transform(NUMBERS["real"]))
