"""model.h5 comes back as it went, is readable with h5py alone, and is written whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from helpers import MACHINES, joint_states, naive_energy, normal, random_machine

from ebm_pipeline.models.layers import LAYERS
from ebm_pipeline.models.machine import BoltzmannMachine
from ebm_pipeline.models.storage import SavedModel, load_model, save_model
from ebm_pipeline.support.errors import UserError

Case = tuple[tuple[str, ...], tuple[int, ...]]
CONFIG = "model:\n  name: RBM\nseed: 137\n"
BINARY: Case = (("bernoulli", "bernoulli", "bernoulli"), (4, 3, 2))


def model(case: Case = BINARY, offsets: float = 0.0, seed: int = 1) -> SavedModel:
    """A float32 machine, as training leaves it."""
    machine = random_machine(*case, seed=seed, offsets=offsets).map(torch.Tensor.float)
    units = case[1][0]
    return SavedModel(machine, torch.linspace(0.1, 0.9, units), (1, units), CONFIG)


def saved(folder: Path, case: Case = BINARY, offsets: float = 0.0) -> Path:
    path = folder / "model.h5"
    save_model(path, model(case, offsets))
    return path


def loop_energy(file: h5py.File, states: list[np.ndarray[Any, np.dtype[Any]]]) -> np.ndarray[Any, np.dtype[Any]]:
    """The formula of docs/commands.md on the file as it is: E = -sum_l b_l.x_l - sum_l x_l W_l x_{l+1}, + x^2 / (2 variance)."""
    energy = np.zeros(len(states[0]))
    for index, x in enumerate(states):
        group = file[f"layers/{index}"]
        energy -= x @ group["bias"][:].astype(np.float64)
        start = 0
        for part in group.get("parts", {"0": group}).values():
            own = x[:, start : start + part.attrs["units"]]
            start += part.attrs["units"]
            if "variance" in part:
                energy += (own**2 / (2 * part["variance"][:].astype(np.float64))).sum(1)
    for index in range(len(states) - 1):
        weights = file[f"weights/{index}"][:].astype(np.float64)
        energy -= np.einsum("si,ij,sj->s", states[index], weights, states[index + 1])
    return energy


# ---------------------------------------------------------------------------------------------- round trip


def test_every_kind_of_layer_is_tested() -> None:
    assert {kind for kinds, _ in MACHINES for kind in kinds} == set(LAYERS)


@pytest.mark.parametrize("case", MACHINES)
def test_a_machine_comes_back_bit_for_bit(case: Case, tmp_path: Path) -> None:
    given = model(case)
    save_model(tmp_path / "model.h5", given)
    found = load_model(tmp_path / "model.h5")
    torch.testing.assert_close(found.machine.named_tensors(), given.machine.named_tensors(), rtol=0, atol=0)
    assert [layer.kind for layer in found.machine.layers] == list(case[0])
    assert all(tensor.dtype == torch.float32 for tensor in found.machine.named_tensors().values())
    assert torch.equal(found.data_mean, given.data_mean)
    assert (found.image_shape, found.config) == (given.image_shape, CONFIG)


@pytest.mark.parametrize("case", MACHINES)
@pytest.mark.parametrize("offsets", [0.5, 5.0])
def test_folded_offsets_keep_all_differences_of_energy(
    case: Case, offsets: float, tmp_path: Path, generator: torch.Generator
) -> None:
    given = model(case, offsets)
    assert given.machine.offsets
    save_model(tmp_path / "model.h5", given)
    found = load_model(tmp_path / "model.h5").machine
    assert found.offsets == ()
    states = tuple(normal(generator, 7, units) for units in case[1])
    before = naive_energy(given.machine.map(torch.Tensor.double), states)
    after = naive_energy(found.map(torch.Tensor.double), states)
    torch.testing.assert_close(after - after[0], before - before[0], rtol=1e-4, atol=1e-4)  # float32 biases


@pytest.mark.parametrize("case", MACHINES)
@pytest.mark.parametrize("offsets", [0.0, 2.0])
def test_h5py_alone_gives_the_energy(case: Case, offsets: float, tmp_path: Path, generator: torch.Generator) -> None:
    given = model(case, offsets)
    save_model(tmp_path / "model.h5", given)
    states = tuple(normal(generator, 7, units) for units in case[1])
    expected = naive_energy(given.machine.map(torch.Tensor.double), states).numpy()
    with h5py.File(tmp_path / "model.h5") as file:
        found = loop_energy(file, [state.numpy() for state in states])
    np.testing.assert_allclose(found - found[0], expected - expected[0], rtol=1e-4, atol=1e-4)
    if not offsets:
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_the_distribution_of_a_binary_file_is_that_of_the_machine(tmp_path: Path) -> None:
    given = model(offsets=1.0)
    save_model(tmp_path / "model.h5", given)
    states = joint_states(given.machine)
    with h5py.File(tmp_path / "model.h5") as file:
        energy = torch.from_numpy(loop_energy(file, [state.numpy() for state in states]))
    expected = torch.softmax(-naive_energy(given.machine.map(torch.Tensor.double), states), 0)
    torch.testing.assert_close(torch.softmax(-energy, 0), expected, rtol=1e-4, atol=1e-8)


def test_the_file_says_what_it_is(tmp_path: Path) -> None:
    path = saved(tmp_path, (("gaussian", "bernoulli", "bernoulli"), (2, 3, 3)))
    with h5py.File(path) as file:
        assert file.attrs["format"].decode() == "ebm_pipeline model 1"
        assert file.attrs["config"].decode() == CONFIG
        assert tuple(file.attrs["image_shape"]) == (1, 2)
        assert set(file) == {"weights", "layers", "data_mean"}
        assert {name: matrix.shape for name, matrix in file["weights"].items()} == {"0": (2, 3), "1": (3, 3)}
        layers = [
            (group.attrs["kind"].decode(), int(group.attrs["units"]), set(group)) for group in file["layers"].values()
        ]
    assert layers == [("gaussian", 2, {"bias", "variance"}), ("bernoulli", 3, {"bias"}), ("bernoulli", 3, {"bias"})]


def test_a_machine_of_many_layers_keeps_their_order(tmp_path: Path) -> None:
    """Names sorted as text would put layer 10 before layer 2."""
    sizes = tuple(range(1, 13))
    path = saved(tmp_path, (("bernoulli",) * 12, sizes))
    assert tuple(layer.units for layer in load_model(path).machine.layers) == sizes


def test_parameters_that_need_gradients_are_saved(tmp_path: Path) -> None:
    given = model()
    live = replace(given, machine=given.machine.map(lambda tensor: tensor.clone().requires_grad_()))
    save_model(tmp_path / "deep" / "folder" / "model.h5", live)
    found = load_model(tmp_path / "deep" / "folder" / "model.h5").machine
    assert torch.equal(found.weights[0], given.machine.weights[0])
    assert not found.weights[0].requires_grad


# ---------------------------------------------------------------------------------------------- whole or not at all


class Broken(BoltzmannMachine):
    """Fails when half of it is written."""

    def folded(self) -> BoltzmannMachine:
        return self

    def named_tensors(self) -> dict[str, Any]:
        return {"weights/0": self.weights[0], "weights/1": "no tensor"}


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = saved(tmp_path)
    before = path.read_bytes()
    broken = Broken(model().machine.layers, model().machine.weights)
    with pytest.raises(AttributeError):
        save_model(path, replace(model(), machine=broken))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="file"):
        save_model(tmp_path / "file" / "model.h5", model())


def test_writing_again_replaces_the_file(tmp_path: Path) -> None:
    path = saved(tmp_path)
    save_model(path, model((("bernoulli", "bernoulli"), (5, 2)), seed=2))
    assert [layer.units for layer in load_model(path).machine.layers] == [5, 2]
    assert list(tmp_path.iterdir()) == [path]


# ---------------------------------------------------------------------------------------------- damaged files


def changed(change: Callable[[h5py.File], None]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            change(file)

    return apply


def replaced(key: str, array: Any) -> Callable[[Path], None]:
    def change(file: h5py.File) -> None:
        del file[key]
        file[key] = array

    return changed(change)


def without(key: str) -> Callable[[Path], None]:
    return changed(lambda file: file.__delitem__(key))


def without_attribute(key: str, name: str) -> Callable[[Path], None]:
    return changed(lambda file: file[key].attrs.__delitem__(name))


def with_attribute(key: str, name: str, value: Any) -> Callable[[Path], None]:
    return changed(lambda file: file[key].attrs.__setitem__(name, value))


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


DAMAGES: list[tuple[Callable[[Path], Any], str]] = [
    (Path.unlink, "no model file at"),
    (lambda path: path.write_bytes(b""), "damaged or no model file"),
    (lambda path: path.write_text("hello"), "damaged or no model file"),
    (cut, "damaged or no model file"),
    (without_attribute("/", "format"), "no model file"),
    (with_attribute("/", "format", "something else"), "no model file"),
    (with_attribute("/", "format", "ebm_pipeline model 2"), "ebm_pipeline model 1"),
    (without_attribute("/", "config"), "damaged or no model file"),
    (without_attribute("/", "image_shape"), "damaged or no model file"),
    (with_attribute("/", "image_shape", (2, 2, 1)), "damaged or no model file"),
    (without("weights/1"), "damaged or no model file"),
    (without("weights"), "damaged or no model file"),
    (without("layers/1"), "damaged or no model file"),
    (without("layers/0/bias"), "damaged or no model file"),
    (without("layers"), "damaged or no model file"),
    (without("data_mean"), "damaged or no model file"),
    (without_attribute("layers/1", "kind"), "damaged or no model file"),
    (with_attribute("layers/1", "kind", "poisson"), "layer 1 is of kind 'poisson'; known: bernoulli, ising"),
    (with_attribute("layers/1", "kind", "gaussian"), "damaged or no model file"),
    (with_attribute("layers/1", "kind", 7), "model.h5"),
    (replaced("weights/0", np.full((4, 3), np.nan, dtype=np.float32)), "weights/0 holds values that are not finite"),
    (replaced("layers/1/bias", np.full(3, np.inf, dtype=np.float32)), "layers/1/bias holds values that are not finite"),
    (replaced("weights/0", np.zeros((3, 4), dtype=np.float32)), r"weights/0 join 4 to 3 units"),
    (replaced("weights/0", np.zeros(12, dtype=np.float32)), r"weights/0 join 4 to 3 units"),
    (replaced("layers/2/bias", np.zeros(5, dtype=np.float32)), r"weights/1 join 3 to 5 units"),
    (replaced("layers/0/bias", np.float32(1.0)), "model.h5"),
    (replaced("weights/0", np.array(["a", "b"], dtype="S1")), "damaged or no model file"),
    (replaced("data_mean", np.zeros(9, dtype=np.float32)), "data_mean"),
    (with_attribute("/", "image_shape", (3, 3)), "image_shape"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_a_damaged_file_is_one_message_that_names_it(
    damage: Callable[[Path], Any], message: str, tmp_path: Path
) -> None:
    path = saved(tmp_path)
    damage(path)
    with pytest.raises(UserError, match=message) as caught:
        load_model(path)
    assert "model.h5" in str(caught.value)


def test_a_variance_that_is_not_positive_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, (("gaussian", "bernoulli"), (3, 4)))
    replaced("layers/0/variance", np.array([1.0, -1.0, 1.0], dtype=np.float32))(path)
    with pytest.raises(UserError, match="variance"):
        load_model(path)


def test_a_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model file at"):
        load_model(tmp_path)
