"""Images and labels as one machine: classification and images of a class against enumeration, and every command on such a run."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import h5py
import mlflow.pyfunc
import numpy as np
import pytest
import torch
from commands import TINY, composed, run_command
from helpers import assert_mean_close, joint_probabilities, joint_states, layer_states, normal, random_layer
from mlflow.exceptions import MlflowException
from omegaconf import OmegaConf
from torch import Tensor

from ebm_pipeline import cli, plots
from ebm_pipeline.data.hdf5 import get_text
from ebm_pipeline.data.visible import VisibleUnits
from ebm_pipeline.evaluation.classification import label_log_probabilities, wrong_labels
from ebm_pipeline.evaluation.metrics import MonitoredImages, flip_pixels, monitor
from ebm_pipeline.models.inference import MeanField, up_and_down
from ebm_pipeline.models.labels import fits, given_label, image_layer
from ebm_pipeline.models.layers import Bernoulli, LearnedGaussian, Mixed, Potts
from ebm_pipeline.models.machine import BoltzmannMachine, assemble
from ebm_pipeline.models.storage import SavedModel, load_model, save_model
from ebm_pipeline.runs.serving.machine import ServedMachine
from ebm_pipeline.runs.train import train
from ebm_pipeline.support.errors import UserError
from ebm_pipeline.tasks import Classification, Conditional, Fantasies, Features, Inpainting

VISIBLE = VisibleUnits(4, 3)
CONVERGED = MeanField(1e-10, 1000)
IMAGES = layer_states(Bernoulli.create(4))  # all 16
DEEP = (2, 1)
DEPTHS = [(3,), DEEP]


def labelled_machine(hidden: tuple[int, ...] = (3,), weights: float = 0.6, seed: int = 1) -> BoltzmannMachine:
    """4 pixels, a label of 3 classes, layers of binary hidden units; float64."""
    generator = torch.Generator().manual_seed(seed)
    parts = {"image": random_layer("bernoulli", 4, generator), "label": Potts(normal(generator, 3), 3)}
    layers = [Mixed.create(parts), *(random_layer("bernoulli", units, generator) for units in hidden)]
    sizes = [layer.units for layer in layers]
    return assemble(layers, [weights * normal(generator, *pair) for pair in itertools.pairwise(sizes)])


def saved_model() -> SavedModel:
    machine = labelled_machine().map(Tensor.float)
    return SavedModel(machine, torch.tensor([0.4] * 4 + [1 / 3] * 3), (2, 2), "")


def label_probabilities(machine: BoltzmannMachine) -> Tensor:
    """p(label | image) of all images, by enumeration: (16, classes)."""
    (states, *_), probabilities = joint_probabilities(machine)
    joint = torch.stack([probabilities[(states == row).all(1)].sum() for row in layer_states(machine.layers[0])])
    joint = joint.view(16, 3)  # the label changes fastest
    return joint / joint.sum(1, keepdim=True)


# ---------------------------------------------------------------------------------------------- exact


def test_visible_units_are_pixels_and_then_the_label() -> None:
    labels = torch.arange(16) % 3
    states = VISIBLE.join(IMAGES, labels)
    assert states.shape == (16, VISIBLE.units) == (16, 7)
    assert torch.equal(VISIBLE.images(states), IMAGES)
    assert torch.equal(VISIBLE.labels(states), labels)
    assert torch.equal(VISIBLE.join(IMAGES, 2), VISIBLE.join(IMAGES, torch.full((16,), 2)))
    assert VISIBLE.is_pixel.tolist() == [True] * 4 + [False] * 3
    assert VisibleUnits.of((2, 2), 7) == VISIBLE
    assert torch.equal(VisibleUnits(4).images(IMAGES), IMAGES)
    assert VisibleUnits(4).label_units(IMAGES).shape == (16, 0)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_label_of_an_rbm_is_exact(seed: int) -> None:
    machine = labelled_machine(seed=seed)
    found = label_log_probabilities(machine, VISIBLE, IMAGES, CONVERGED)
    torch.testing.assert_close(found.exp(), label_probabilities(machine))
    # a label that is given is not read
    assert torch.equal(label_log_probabilities(machine, VISIBLE, VISIBLE.join(IMAGES, 1), CONVERGED), found)


def test_the_label_of_a_deep_machine_is_that_of_the_bound() -> None:
    """Exact where the upper layer is cut off; with couplings as far off as the gaps of the bounds differ."""
    machine = labelled_machine(DEEP)
    cut = machine.with_tensors({"weights/1": torch.zeros(2, 1, dtype=torch.float64)})
    found = label_log_probabilities(cut, VISIBLE, IMAGES, CONVERGED).exp()
    torch.testing.assert_close(found, label_probabilities(cut))
    weak = labelled_machine(DEEP, weights=0.2)
    found = label_log_probabilities(weak, VISIBLE, IMAGES, CONVERGED)
    assert (found - label_probabilities(weak).log()).abs().max() < 0.01


@pytest.mark.parametrize("hidden", DEPTHS)
def test_given_a_label_the_energy_differs_by_a_constant(hidden: tuple[int, ...]) -> None:
    machine = labelled_machine(hidden)
    for label in range(3):
        part = given_label(machine, VISIBLE, label)
        images, *above = joint_states(part)
        whole = machine.energy((VISIBLE.join(images, label), *above))
        bias = machine.layers[0].bias[4 + label]
        torch.testing.assert_close(whole + bias, part.energy((images, *above)))


@pytest.mark.parametrize("hidden", DEPTHS)
def test_features_sum_the_label_out(hidden: tuple[int, ...]) -> None:
    machine = labelled_machine(hidden, weights=0.2 if len(hidden) > 1 else 0.6)
    model = SavedModel(machine, torch.zeros(7), (2, 2), "")
    features = Features(CONVERGED)(model, VISIBLE.join(IMAGES, 0), 1).arrays["layer_1"]
    (states, above, *_), probabilities = joint_probabilities(machine)
    exact = []
    for image in IMAGES:
        fitting = probabilities * (VISIBLE.images(states) == image).all(1)
        exact.append(fitting @ above / fitting.sum())
    torch.testing.assert_close(features, torch.stack(exact), rtol=0, atol=1e-2 if len(hidden) > 1 else 1e-9)


def test_the_layer_of_the_pixels() -> None:
    generator = torch.Generator().manual_seed(1)
    parts = [random_layer(kind, units, generator) for kind, units in (("bernoulli", 2), ("learned_gaussian", 2))]
    label = Potts(normal(generator, 3), 3)
    layer = Mixed.create(dict(zip("abc", (*parts, label), strict=True)))
    pixels = image_layer(layer, VISIBLE)
    x = normal(generator, 5, 4)
    torch.testing.assert_close(pixels.energy(x), parts[0].energy(x[:, :2]) + parts[1].energy(x[:, 2:]))
    assert isinstance(image_layer(Mixed.create({"a": parts[1], "b": label}), VisibleUnits(2, 3)), LearnedGaussian)
    assert image_layer(layer, VisibleUnits(7)) is layer


@pytest.mark.parametrize(
    ("layer", "visible", "good"),
    [
        (labelled_machine().layers[0], VISIBLE, True),
        (Bernoulli.create(7), VisibleUnits(7), True),
        (Bernoulli.create(7), VISIBLE, False),  # units of a label that are no one-hot site
        (Potts.create(7, 7), VisibleUnits(0, 7), False),
        (Mixed.create({"a": Bernoulli.create(3), "b": Potts.create(4, 2)}), VisibleUnits(3, 4), False),  # two sites
        (labelled_machine().layers[0], VisibleUnits(5, 2), False),
        (labelled_machine().layers[0], VisibleUnits(4), False),
    ],
)
def test_which_layers_hold_a_label(layer: Bernoulli, visible: VisibleUnits, good: bool) -> None:
    assert fits(layer, visible) is good


# ---------------------------------------------------------------------------------------------- samples


def test_samples_given_a_label_have_the_conditional_means() -> None:
    model = saved_model()
    data = VISIBLE.join(IMAGES, torch.arange(16) % 2).float()  # none of class 2: its chains start from all images
    answer = Conditional(labels=[0, 2], samples=2000, sweeps=30)(model, data, 1)
    (states, *_), probabilities = joint_probabilities(model.machine.map(Tensor.double))
    for label in (0, 2):
        fitting = probabilities * states[:, 4 + label]
        exact = fitting @ VISIBLE.images(states) / fitting.sum()
        assert_mean_close(answer.arrays[f"class_{label}"].double(), exact)
        assert_mean_close(answer.arrays[f"class_{label}_means"].double(), exact)
        assert f"label {label} held" in answer.made[f"class_{label}"]
        assert answer.metrics[f"r_hat_of_class_{label}"] < 1.1
    assert answer.shown == ("class_0", "class_2")
    assert f"at most {max(answer.metrics.values()):.3f}" in answer.how


def test_inpainting_hides_the_label_too() -> None:
    """The pixels below have the means given those above alone; the label that the data have changes nothing."""
    model = saved_model()
    image = torch.tensor([1.0, 0.0, 0.0, 1.0])
    ask = Inpainting(mask="lower_half", sweeps=30, chains=1)
    one, other = (ask(model, VISIBLE.join(image.repeat(3000, 1), label), 1) for label in (0, 2))
    assert torch.equal(one.arrays["inpainted"], other.arrays["inpainted"])
    assert one.metrics == other.metrics
    (states, *_), probabilities = joint_probabilities(model.machine.map(Tensor.double))
    fitting = probabilities * (states[:, :2] == image[:2]).all(1)
    exact = fitting @ states / fitting.sum()
    assert_mean_close(one.arrays["inpainted"][:, 2:].double(), exact[2:4])
    assert_mean_close(one.arrays["inpainted_labels"].double(), exact[4:])
    assert "2 pixels and the label hidden" in one.made["inpainted"]


def test_fantasies_come_with_the_label_that_was_drawn() -> None:
    fantasies = Fantasies(sweeps=20)(saved_model(), VISIBLE.join(IMAGES, 0).float(), 1)
    assert fantasies.arrays["fantasies"].shape == (16, 4)
    assert torch.equal(fantasies.arrays["fantasies_labels"].sum(1), torch.ones(16))


# ---------------------------------------------------------------------------------------------- metrics


def test_monitored_figures_judge_pixels_and_labels_apart() -> None:
    machine = labelled_machine()
    clean = VISIBLE.join(IMAGES, torch.arange(16) % 3)
    noisy = flip_pixels(clean, 0.3, 6, VISIBLE)
    assert torch.equal(VISIBLE.label_units(noisy), VISIBLE.label_units(clean))
    assert torch.equal(VISIBLE.images(noisy), flip_pixels(IMAGES, 0.3, 6))  # the noise of a model without labels
    metrics = monitor(machine, MonitoredImages(clean, clean, noisy, 3), CONVERGED)
    mean, mode = up_and_down(machine, noisy)
    assert metrics["validation/denoising_error"] == pytest.approx(float((mean - clean)[:, :4].square().mean().sqrt()))
    assert metrics["validation/denoising_wrong_pixels"] == pytest.approx(float((mode != clean)[:, :4].double().mean()))
    probabilities = label_probabilities(machine)
    assert metrics["validation/classification_error"] == wrong_labels(probabilities.log(), torch.arange(16) % 3)
    assert "validation/pseudo_likelihood" not in metrics


def test_classification_counts_what_is_wrong() -> None:
    model = saved_model()
    probabilities = label_probabilities(model.machine.map(Tensor.double))
    labels = torch.tensor([0] * 10 + [1] * 6)
    answer = Classification(CONVERGED)(model, VISIBLE.join(IMAGES, labels).float(), 1)
    torch.testing.assert_close(answer.arrays["probabilities"].double(), probabilities, rtol=1e-4, atol=1e-5)
    predicted = probabilities.argmax(1)
    assert torch.equal(answer.arrays["predicted"], predicted)
    error = float((predicted != labels).double().mean())
    assert answer.metrics["classification_error"] == error
    assert answer.metrics["classification_error_std_error"] == pytest.approx((error * (1 - error) / 16) ** 0.5)
    by_hand = -probabilities.log()[torch.arange(16), labels].mean()
    assert answer.metrics["cross_entropy_nats"] == pytest.approx(float(by_hand), rel=1e-4)
    assert answer.confusion is not None
    assert answer.confusion.sum(1).tolist() == [10, 6, 0]
    assert int(answer.confusion.diagonal().sum()) == round(16 * (1 - error))


def test_a_confusion_matrix_shows_its_numbers() -> None:
    axes = plots.confusion_matrix([[7, 1], [0, 9]], "title", "subtitle").axes[0]
    assert [text.get_text() for text in axes.texts] == ["7", "1", "0", "9"]
    assert axes.get_ylabel() == "label of the data"
    many = plots.confusion_matrix(np.eye(plots.MOST_NUMBERED + 1), "title").axes[0]
    assert not many.texts


# ---------------------------------------------------------------------------------------------- a run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labels") / "run"
    train(composed(*TINY, "model=rbm_labels", "optimizer.lr=0.2", output_root=folder.parent), folder)
    return folder


def test_a_run_shows_images_and_keeps_labels(run: Path) -> None:
    config = OmegaConf.load(run / "config.yaml")
    assert (config.data.labels, config.data.classes, config.data.units) == (True, 2, 16)
    saved = load_model(run / "model.h5")
    assert saved.visible == VisibleUnits(16, 2)
    assert saved.data_mean[16:].tolist() == pytest.approx(
        [16 / 30, 14 / 30], abs=0.05
    )  # bars and stripes, less validation
    columns = (run / "metrics.csv").read_text().splitlines()[0].split(",")
    assert "validation/classification_error" in columns
    with h5py.File(run / "pictures.h5") as file:
        assert all(file[name].shape == (8, 16) for name in file)
        assert "label is given" in get_text(file["denoised"], "made")
    assert {path.name for path in (run / "pictures").glob("*_final.png")} >= {
        f"{name}_final.png" for name in ("weights_1", "reconstructions", "fantasies", "denoising")
    }


def asked(run: Path, task: str, *overrides: str) -> Path:
    """What `ebm-sample` wrote."""
    folder = run.parent / task
    done = run_command(
        cli.sample, f"run={run}", f"task={task}", f"hydra.run.dir={folder}", *overrides, output_root=run.parent
    )
    assert done.code == 0, done.err
    assert (folder / f"{task}.png").read_bytes().startswith(b"\x89PNG")
    return folder / f"{task}.h5"


def test_the_command_classifies(run: Path) -> None:
    with h5py.File(asked(run, "classification")) as file:
        assert file["probabilities"].shape == (30, 2)  # all of the test part
        np.testing.assert_allclose(file["probabilities"][:].sum(1), 1, rtol=1e-5)
        np.testing.assert_array_equal(file["predicted"][:], file["probabilities"][:].argmax(1))
        assert sorted(set(file["labels"][:])) == [0, 1]
        assert "exact" in get_text(file["probabilities"], "made")


def test_the_command_samples_a_class(run: Path) -> None:
    with h5py.File(asked(run, "conditional", "task.labels=[1]", "task.sweeps=20", "task.samples=6")) as file:
        assert file["class_1"].shape == file["class_1_means"].shape == (6, 16)
        assert "class_0" not in file
        assert "label 1 held" in get_text(file["class_1"], "made")


@pytest.mark.parametrize(
    ("task", "array"),
    [("fantasies", "fantasies"), ("denoising", "denoised"), ("inpainting", "inpainted"), ("features", "data")],
)
def test_the_other_tasks_keep_pixels_and_labels_apart(run: Path, task: str, array: str) -> None:
    sweeps = ["task.sweeps=20"] if task in ("fantasies", "inpainting") else []
    with h5py.File(asked(run, task, "count=8", *sweeps)) as file:
        assert (file[array].shape, file[f"{array}_labels"].shape) == ((8, 16), (8, 2))


def test_evaluation_says_that_the_likelihood_is_of_both(run: Path) -> None:
    done = run_command(
        cli.evaluate, f"run={run}", f"hydra.run.dir={run.parent / 'evaluation'}", "diagnostics.sweeps=20",
        "diagnostics.chains=20", "threads=1", output_root=run.parent,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "image and label jointly" in done.out
    found = json.loads((run.parent / "evaluation" / "evaluation.json").read_text())
    assert 0 <= found["test/classification_error"] <= 1
    assert found["test/log_likelihood_low"] < 0
    report = (run / "report.html").read_text()
    assert "image and label jointly" in report


def test_it_is_served_with_classify(run: Path) -> None:
    served = mlflow.pyfunc.load_model(str(run / "mlflow_model"))
    images = (torch.arange(3 * 16).reshape(3, 16) % 5 < 2).float()
    saved = load_model(run / "model.h5")
    expected = label_log_probabilities(saved.machine, saved.visible, images, CONVERGED).exp()
    for given in (images, saved.visible.join(images, 1)):
        answer = served.predict(given.numpy(), params={"task": "classify"})
        np.testing.assert_allclose(answer, expected.numpy(), rtol=1e-5)
    assert served.predict(saved.visible.join(images, 0).numpy()).shape == (3, 18)
    with pytest.raises(MlflowException, match=r"\(images, 18\), one row each, the last 2 columns for the label"):
        served.predict(images.numpy())


# ---------------------------------------------------------------------------------------------- mistakes


def test_a_model_without_labels_says_so() -> None:
    plain = SavedModel(labelled_machine().map(Tensor.float), torch.zeros(7), (1, 7), "")
    for task in (Classification(CONVERGED), Conditional()):
        with pytest.raises(UserError, match="knows no labels"):
            task(plain, torch.zeros(4, 7), 1)
    config = "mean_field: {tolerance: 0.01, max_steps: 5}"
    with pytest.raises(UserError, match="knows no labels"):
        ServedMachine(SavedModel(plain.machine, plain.data_mean, (1, 7), config)).answer(
            np.zeros((4, 7)), {"task": "classify"}
        )


@pytest.mark.parametrize(
    ("labels", "message"),
    [([3], "each of task.labels must be a whole number, from 0 to 2; got 3"), ([-1], "got -1"), (["1"], "got '1'")],
)
def test_a_label_that_there_is_not(labels: list[int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Conditional(labels=labels)(saved_model(), VISIBLE.join(IMAGES, 0).float(), 1)


@pytest.mark.parametrize("labels", [3, [], "3,8"])
def test_labels_are_a_list(labels: list[int]) -> None:
    with pytest.raises(UserError, match=r"task\.labels is a list of classes"):
        Conditional(labels=labels)


def test_a_file_whose_label_is_no_site_is_refused(tmp_path: Path) -> None:
    layers = [Bernoulli.create(7), Bernoulli.create(2)]
    machine = assemble(layers, [torch.zeros(7, 2)])
    save_model(tmp_path / "model.h5", SavedModel(machine, torch.zeros(7), (2, 2), ""))
    with pytest.raises(UserError, match=r"image_shape \(2, 2\) does not fit 7 visible units"):
        load_model(tmp_path / "model.h5")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("model=rbm", "data.labels=true"), "the data have 18 columns, the model has 16 visible units"),
        (("model=rbm_labels", "data.labels=false"), "the data have 16 columns, the model has 18 visible units"),
        (("model=rbm", "data.labels=true", "model.layers.visible.units=18"), "its last part a Potts layer of one site"),
        (("model=rbm_labels", "data.classes=1"), "data.classes"),
        (("model=rbm_labels", "data.labels=yes please"), "data.labels must be true or false"),
    ],
)
def test_model_and_data_must_agree_about_labels(overrides: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        train(composed(*TINY, *overrides, output_root=tmp_path), tmp_path / "run")
