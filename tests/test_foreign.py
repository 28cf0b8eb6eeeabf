"""Weights of other programs: read as data, by the names of their arrays, and judged by `ebm-evaluate model=FILE data=...`."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from commands import run_command
from numpy.typing import NDArray
from sklearn.neural_network import BernoulliRBM

from ebm_pipeline import cli
from ebm_pipeline.models.foreign import read_foreign
from ebm_pipeline.support.errors import UserError

RNG = np.random.default_rng(3)
WEIGHTS, VISIBLE, HIDDEN = RNG.normal(size=(64, 5)), RNG.normal(size=64), RNG.normal(size=5)
QUICK = (
    "threads=1", "likelihood.temperatures=50", "likelihood.chains=20", "likelihood.sweeps=20", "diagnostics.chains=20",
    "diagnostics.sweeps=20",
)  # fmt: skip


def free_energy(images: NDArray[Any]) -> NDArray[Any]:
    """-log sum_h exp(-E) by NumPy alone."""
    energies: NDArray[Any] = -images @ VISIBLE - np.logaddexp(0, images @ WEIGHTS + HIDDEN).sum(1)
    return energies


def written(folder: Path, layout: str) -> Path:
    path = folder / f"weights.{'h5' if layout.startswith(('rbms', 'hdf5')) else 'npz'}"
    if layout == "plain":
        np.savez(path, weights=WEIGHTS, visible_bias=VISIBLE, hidden_bias=HIDDEN)
    elif layout == "scikit-learn":
        np.savez(path, components_=WEIGHTS.T, intercept_visible_=VISIBLE, intercept_hidden_=HIDDEN)
    else:
        with h5py.File(path, "w") as file:
            if layout == "hdf5":
                file["weights"], file["visible_bias"], file["hidden_bias"] = WEIGHTS, VISIBLE, HIDDEN
                return path
            file["model_type"] = "BBRBM"
            file["parallel_chains"] = np.zeros((4, 64))
            for update, factor in ((9, 0.0), (100, 1.0), (20, 0.0)):  # the last is that of the largest number
                group = file.create_group(f"update_{update}")
                group = group.create_group("params") if layout == "rbms" else group
                for name, array in (("weight_matrix", WEIGHTS), ("vbias", VISIBLE), ("hbias", HIDDEN)):
                    group[name] = factor * array
    return path


@pytest.mark.parametrize("layout", ["plain", "scikit-learn", "hdf5", "rbms", "rbms of before"])
def test_every_layout_is_the_machine_that_its_arrays_say(layout: str, tmp_path: Path) -> None:
    machine = read_foreign(written(tmp_path, layout))
    images = (RNG.random((20, 64)) < 0.5).astype(np.float32)
    found = machine.free_energy((torch.from_numpy(images), None)).numpy()
    np.testing.assert_allclose(found, free_energy(images), rtol=1e-4)


def test_a_fitted_machine_of_scikit_learn_has_its_own_free_energy(tmp_path: Path) -> None:
    images = (RNG.random((200, 12)) < 0.3).astype(float)
    rbm = BernoulliRBM(n_components=4, n_iter=3, random_state=0).fit(images)
    names = ("components_", "intercept_hidden_", "intercept_visible_")
    np.savez(tmp_path / "rbm.npz", **{name: getattr(rbm, name) for name in names})
    found = read_foreign(tmp_path / "rbm.npz").free_energy((torch.from_numpy(images).float(), None)).numpy()
    np.testing.assert_allclose(found, rbm._free_energy(images), rtol=1e-5, atol=1e-5)  # float32


class Bomb:
    """An object whose unpickling would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def test_nothing_in_a_file_is_called(tmp_path: Path) -> None:
    mark, path = tmp_path / "called", tmp_path / "weights.npz"
    np.savez(path, weights=np.array([[Bomb(mark)]], dtype=object), visible_bias=VISIBLE, hidden_bias=HIDDEN)
    with pytest.raises(UserError, match="no weights that can be read"):
        read_foreign(path)
    plain = tmp_path / "weights.pkl"
    plain.write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(UserError, match="weights \\(visible x hidden\\)"):
        read_foreign(plain)
    assert not mark.exists()


def test_links_to_other_files_are_not_followed(tmp_path: Path) -> None:
    inside = written(tmp_path, "hdf5")
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["weights"] = h5py.ExternalLink(str(inside), "weights")
        file["visible_bias"], file["hidden_bias"] = VISIBLE, HIDDEN
    with pytest.raises(UserError, match="weights is a link to elsewhere"):
        read_foreign(tmp_path / "link.h5")
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        layout = h5py.VirtualLayout((64, 5), "f8")
        layout[:] = h5py.VirtualSource(str(inside), "weights", shape=(64, 5))
        file.create_virtual_dataset("weights", layout)
        file["visible_bias"], file["hidden_bias"] = VISIBLE, HIDDEN
    with pytest.raises(UserError, match="no array of this file itself"):
        read_foreign(tmp_path / "virtual.h5")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"weights": WEIGHTS, "visible_bias": VISIBLE}, "expected the arrays .*got visible_bias, weights"),
        ({"weights": WEIGHTS.T, "visible_bias": VISIBLE, "hidden_bias": HIDDEN}, "joins 5 visible to 64 hidden"),
        (
            {"weights": WEIGHTS * np.nan, "visible_bias": VISIBLE, "hidden_bias": HIDDEN},
            "weights holds values .* not finite",
        ),
        ({"weights": VISIBLE, "visible_bias": VISIBLE, "hidden_bias": HIDDEN}, r"real numbers of the shape .*\(64,\)"),
        ({"weights": WEIGHTS.astype(str), "visible_bias": VISIBLE, "hidden_bias": HIDDEN}, "real numbers"),
    ],
)
def test_what_is_no_machine_is_one_message(arrays: dict[str, NDArray[Any]], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "weights.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=message):
        read_foreign(tmp_path / "weights.npz")


def test_another_type_of_rbms_is_refused_by_its_name(tmp_path: Path) -> None:
    path = written(tmp_path, "rbms")
    with h5py.File(path, "a") as file:
        del file["model_type"]
        file["model_type"] = "PBRBM"
    with pytest.raises(UserError, match=r"BBRBM is read.*PBRBM"):
        read_foreign(path)


def test_the_command_judges_weights_of_others(tmp_path: Path) -> None:
    path = written(tmp_path, "scikit-learn")
    outcome = run_command(cli.evaluate, f"model={path}", "data=digits", "part=validation", *QUICK, output_root=tmp_path)
    assert outcome.code == 0, outcome.err
    verdict = json.loads(next(tmp_path.glob("evaluations/*/verdict.json")).read_text())
    assert verdict["name"] == "not a model of these data"  # random weights
    card = json.loads(next(tmp_path.glob("evaluations/*/likelihood.json")).read_text())
    assert card["method"] == "exact"
    said = outcome.out + outcome.err
    assert "weights.npz, validation part of digits" in said
    assert "verdict: not a model of these data" in said


def test_the_command_asks_for_the_data_and_checks_them(tmp_path: Path) -> None:
    path = written(tmp_path, "plain")
    asked = run_command(cli.evaluate, f"model={path}", *QUICK, output_root=tmp_path)
    assert asked.code == 1
    assert "say which data they are a model of" in asked.err
    wrong = run_command(cli.evaluate, f"model={path}", "data=bars_and_stripes", *QUICK, output_root=tmp_path)
    assert wrong.code == 1
    assert "64 visible units" in wrong.err
