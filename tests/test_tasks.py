"""What is asked of a trained model: inpainting against enumeration, masks, answers, and the command."""

from __future__ import annotations

import math
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from commands import PLAIN, composed, run_command
from helpers import assert_mean_close, joint_probabilities, random_machine
from omegaconf import OmegaConf
from torch import Tensor

from ebm_pipeline import cli
from ebm_pipeline.models.inference import MeanField
from ebm_pipeline.models.layers import Bernoulli
from ebm_pipeline.models.machine import assemble
from ebm_pipeline.models.storage import SavedModel, save_model
from ebm_pipeline.runs.train import train
from ebm_pipeline.sampling import anneal, inpaint, start_at_mean
from ebm_pipeline.support.errors import UserError
from ebm_pipeline.tasks import Denoising, Fantasies, Features, Inpainting
from ebm_pipeline.tasks.inpainting import MASKS, hidden_pixels


def saved(*units: int) -> SavedModel:
    machine = random_machine(("bernoulli",) * len(units), units, seed=5).map(Tensor.float)
    return SavedModel(machine, torch.full((units[0],), 0.4), (2, units[0] // 2), "")


def images(count: int, units: int) -> Tensor:
    return (torch.rand(count, units, generator=torch.Generator().manual_seed(1)) < 0.5).float()


@pytest.mark.parametrize("units", [(6, 4), (6, 4, 3)])
def test_inpainted_means_are_the_exact_conditional_ones(units: tuple[int, ...]) -> None:
    machine = random_machine(("bernoulli",) * len(units), units, seed=5)
    given = images(1, 6)[0].double()
    known = torch.tensor([True, True, True, False, False, False])
    states, probabilities = joint_probabilities(machine)
    fitting = probabilities * (states[0][:, known] == given[known]).all(1)
    exact = fitting @ states[0] / fitting.sum()
    several = given.repeat(400, 1)  # independent chains
    mean = torch.full((6,), 0.5, dtype=torch.float64)
    sample, means = inpaint(machine, several, known, mean, 40, torch.Generator().manual_seed(2))
    assert torch.equal(sample[:, known], several[:, known])
    assert torch.equal(means[:, known], several[:, known])
    assert_mean_close(means[:, ~known], exact[~known])
    assert_mean_close(sample[:, ~known], exact[~known])


def test_tempered_fantasies_have_the_weights_of_far_modes() -> None:
    """Units that are all off or all on, 0.8 to 0.2: Gibbs chains stay where they start, half of them in each."""
    coupling, size = 6.0, 6
    weights = torch.full((size, 2), coupling)
    bias = torch.full((size,), -coupling + math.log(0.25) / size)
    hidden = torch.full((2,), -coupling * size / 2)
    machine = assemble([Bernoulli(bias), Bernoulli(hidden)], [weights])
    states, probabilities = joint_probabilities(machine.map(Tensor.double))
    exact = float(probabilities @ (states[0].mean(1) > 0.5).double())
    assert exact == pytest.approx(0.2, abs=0.02)
    model = SavedModel(machine, torch.full((size,), 0.2), (2, 3), "")
    given = torch.zeros(600, size)
    given[:300] = 1.0
    shares = [
        float(
            (Fantasies(sweeps=200, replicas=replicas)(model, given, 1).arrays["fantasies"].mean(1) > 0.5).float().mean()
        )
        for replicas in (None, 8)
    ]
    assert shares[0] > exact + 0.1
    assert shares[1] == pytest.approx(exact, abs=5 * (exact * (1 - exact) / 600) ** 0.5)


def test_hidden_values_are_not_read() -> None:
    model, known = saved(6, 4), torch.arange(6) < 3
    one, other = images(5, 6), images(5, 6)
    other[:, 3:] = 1 - other[:, 3:]
    answers = [
        inpaint(model.machine, given, known, model.data_mean, 5, torch.Generator().manual_seed(3))
        for given in (one, other)
    ]
    assert torch.equal(answers[0][0], answers[1][0])
    assert torch.equal(answers[0][1], answers[1][1])


def test_annealing_ends_at_the_machine_itself() -> None:
    machine = random_machine(("bernoulli", "bernoulli"), (6, 4), seed=5)
    mean = torch.full((6,), 0.5, dtype=torch.float64)
    generator = torch.Generator().manual_seed(4)
    start = start_at_mean(machine, 4000, mean, generator)
    chains = anneal(machine, machine.independent(mean), start, 60, 0.2, generator)
    states, probabilities = joint_probabilities(machine)
    assert_mean_close(chains[0], probabilities @ states[0])


@pytest.mark.parametrize("mask", MASKS)
def test_a_mask_hides_what_its_name_says(mask: str) -> None:
    hidden = hidden_pixels(mask, 0.25, (8, 4), 7).view(8, 4)
    rows, columns = hidden.any(1), hidden.any(0)
    expected = {
        "lower_half": ([4, 5, 6, 7], [0, 1, 2, 3]), "upper_half": ([0, 1, 2, 3], [0, 1, 2, 3]),
        "left_half": (list(range(8)), [0, 1]), "right_half": (list(range(8)), [2, 3]), "box": ([2, 3, 4, 5], [1, 2]),
    }  # fmt: skip
    if mask == "random":
        assert int(hidden.sum()) == 8
        assert not torch.equal(hidden, hidden_pixels(mask, 0.25, (8, 4), 8).view(8, 4))
    else:
        assert (rows.nonzero().flatten().tolist(), columns.nonzero().flatten().tolist()) == expected[mask]
        assert int(hidden.sum()) == int(rows.sum() * columns.sum())


def test_a_mask_from_a_file_and_what_is_none(tmp_path: Path) -> None:
    good = np.eye(4, dtype=bool)
    np.save(tmp_path / "good.npy", good)
    assert hidden_pixels(str(tmp_path / "good.npy"), 0.5, (4, 4), 1).view(4, 4).numpy().tolist() == good.tolist()
    np.save(tmp_path / "wide.npy", np.ones((4, 5), dtype=bool))
    np.save(tmp_path / "all.npy", np.ones((4, 4), dtype=bool))
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "torn.npy").write_bytes(b"\x93NUMPY")
    for name, message in (
        ("wide.npy", r"shape \(4, 4\)"), ("all.npy", "hides 16 of 16"), ("objects.npy", "damaged"), ("torn.npy", "damaged"),
        ("none.npy", "task.mask is one of"), ("lower", "task.mask is one of"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            hidden_pixels(name if "." not in name else str(tmp_path / name), 0.5, (4, 4), 1)


def test_too_few_images_for_fantasies_say_what_to_ask_for() -> None:
    machine = random_machine(("bernoulli", "bernoulli"), (3, 2), seed=1).map(Tensor.float)
    saved = SavedModel(machine, torch.full((3,), 0.5), (1, 3), "")
    with pytest.raises(
        UserError, match=r"a chain for each image, .* 4 at least; got 3: set part=train or task\.start_beta=0\.5"
    ):
        Fantasies(sweeps=20)(saved, torch.zeros(3, 3), 0)
    assert Fantasies(sweeps=20, start_beta=0.5)(saved, torch.zeros(3, 3), 0).arrays["fantasies"].shape == (3, 3)


def test_fantasies_say_which_number_of_sweeps_is_enough() -> None:
    easy = Fantasies(sweeps=40, doublings=3)(saved(6, 4, 3), images(2000, 6), 1)
    assert list(easy.tried) == [40]
    assert "at most 1.01, which asks for no more sweeps" in easy.made["fantasies"]
    frozen = SavedModel(
        assemble([Bernoulli(torch.full((6,), -10.0)), Bernoulli(torch.tensor([-60.0]))], [torch.full((6, 1), 20.0)]),
        torch.full((6,), 0.5),
        (2, 3),
        "",
    )
    hard = Fantasies(sweeps=40, doublings=2)(frozen, torch.ones(20, 6), 1)
    assert list(hard.tried) == [40, 80, 160]
    assert hard.metrics["sampler/sweeps"] == 160
    assert "160 Gibbs sweeps" in hard.made["fantasies"]
    assert "so 160 sweeps are not enough: raise task.doublings" in hard.made["fantasies"]


def test_answers_hold_what_they_say() -> None:
    model, given = saved(6, 4, 3), images(20, 6)
    fantasies = Fantasies(sweeps=40)(model, given, 1)
    assert fantasies.arrays["fantasies"].shape == (20, 6)
    assert f"{fantasies.metrics['sampler/r_hat']:.3f}" in fantasies.made["fantasies"]
    annealed = Fantasies(sweeps=40, start_beta=0.5)(model, given, 1)
    assert "not checked" in annealed.made["fantasies"]
    assert not annealed.metrics
    tempered = Fantasies(sweeps=40, replicas=3)(model, given, 1)
    assert tempered.arrays["fantasies"].shape == (20, 6)
    assert "parallel tempering with 3 replicas (swap rates " in tempered.made["fantasies"]
    swaps = {"sampler/swap_rate_1", "sampler/swap_rate_2", "sampler/round_trips"}
    assert {"sampler/r_hat", "sampler/sweeps"} | swaps == set(tempered.metrics)
    assert tempered.metrics["sampler/round_trips"] > 1
    with pytest.raises(UserError, match="set one of them"):
        Fantasies(replicas=3, start_beta=0.5)
    with pytest.raises(UserError, match=r"task.doublings must be a whole number, from 0 to 10; got -1"):
        Fantasies(doublings=-1)
    with pytest.raises(UserError, match=r"task.sweeps times 2 to the power of task.doublings"):
        Fantasies(sweeps=10**9, doublings=1)
    inpainted = Inpainting(mask="left_half", sweeps=20, chains=3)(model, given, 1)
    left = hidden_pixels("left_half", 0.5, (2, 3), 1)
    assert torch.equal(inpainted.arrays["inpainted"][:, ~left], given[:, ~left])
    by_hand = (inpainted.arrays["inpainted_means"] - given)[:, left].square().mean().sqrt()
    assert inpainted.metrics["error_of_inpainted"] == pytest.approx(float(by_hand))
    denoised = Denoising(flips=0.0)(model, given, 1)
    assert torch.equal(denoised.arrays["noisy"], given)
    assert denoised.metrics["error_of_noisy"] == 0
    features = Features(MeanField(1e-6, 200))(model, given, 1)
    assert {name: tensor.shape[1] for name, tensor in features.arrays.items()} == {
        "data": 6,
        "layer_1": 4,
        "layer_2": 3,
    }
    for name in ("fantasies", "inpainted", "denoised", "layer_1"):
        assert any(answer.made.get(name) for answer in (fantasies, inpainted, denoised, features))


def test_the_command_asks_a_run_and_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(composed(*PLAIN, output_root=tmp_path), folder)
    for reference, task in ((folder, "inpainting"), (folder / "model.h5", "features")):
        done = run_command(cli.sample, f"run={reference}", f"task={task}", "count=12", output_root=tmp_path)
        assert done.code == 0, done.err
        (written,) = (tmp_path / "samples").glob(f"*_{task}/{task}.h5")
        assert written.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
        with h5py.File(written) as file:
            assert file["data"].shape == (12, 16)
            assert len(file["labels"]) == 12
            assert all(file[name].attrs["made"] for name in file if name != "labels")
    wrong = run_command(cli.sample, f"run={tmp_path / 'none.h5'}", "task=denoising", output_root=tmp_path)
    assert wrong.code == 1
    assert "no model file at" in wrong.err


@pytest.mark.parametrize("task", ["inpainting", "denoising"])
def test_mixed_pixels_are_not_changed_one_by_one(task: str, tmp_path: Path) -> None:
    config = OmegaConf.to_yaml(composed(*PLAIN, "data/transform=decorrelate", output_root=tmp_path), resolve=True)
    machine = random_machine(("gaussian", "bernoulli"), (16, 4), seed=5).map(Tensor.float)
    path = tmp_path / "model.h5"
    save_model(path, SavedModel(machine, torch.zeros(16), (4, 4), config))
    done = run_command(cli.sample, f"run={path}", f"task={task}", output_root=tmp_path)
    assert done.code == 1
    assert f"task={task} changes single pixels, and the units of the transform 'decorrelate'" in done.err
    done = run_command(cli.sample, f"run={path}", "task=features", "count=12", output_root=tmp_path)
    assert done.code == 0, done.err
    (written,) = (tmp_path / "samples").glob("*_features/features.h5")
    with h5py.File(written) as file:
        grey = file["data"][:]
        assert file["layer_1"].shape == (12, 4)
    assert np.abs(grey - np.round(grey)).max() <= 1 / 32 + 1e-4  # bars and stripes, with the noise


def test_a_model_from_a_stranger_runs_no_code(tmp_path: Path) -> None:
    model = saved(6, 4)
    path, trace = tmp_path / "model.h5", tmp_path / "trace"
    config = f"data: {{_target_: os.system, command: touch {trace}}}"
    save_model(path, SavedModel(model.machine, model.data_mean, model.image_shape, config))
    done = run_command(cli.sample, f"run={path}", "task=denoising", output_root=tmp_path)
    assert done.code == 1
    assert "'os.system' as _target_" in done.err
    assert not trace.exists()
