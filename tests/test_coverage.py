"""Classes of samples and their nearest training images: against brute force, against enumeration, and in the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import PLAIN, composed, run_command
from helpers import all_states, joint_probabilities
from PIL import Image
from scipy.stats import chi2_contingency
from torch import Tensor

from ebm_pipeline import cli
from ebm_pipeline.evaluation import classes
from ebm_pipeline.evaluation.chi_square import homogeneity
from ebm_pipeline.evaluation.classes import train_classifier
from ebm_pipeline.evaluation.coverage import coverage
from ebm_pipeline.models.layers import Bernoulli
from ebm_pipeline.models.machine import assemble
from ebm_pipeline.models.storage import SavedModel, save_model
from ebm_pipeline.runs.estimators.datasets import load_data
from ebm_pipeline.runs.train import train
from ebm_pipeline.tasks import Fantasies


def test_the_nearest_training_image_and_its_distance_are_those_of_brute_force() -> None:
    generator = torch.Generator().manual_seed(3)
    images, samples = torch.rand(50, 7, generator=generator), torch.rand(9, 7, generator=generator)
    labels = torch.arange(50) % 3
    found = coverage({"noise": samples}, images, labels, images[:10], labels[:10])
    distances = (samples[:, None] - images).square().mean(-1).sqrt()
    assert found.nearest["noise"].tolist() == distances.argmin(1).tolist()
    np.testing.assert_allclose(found.distance["noise"], distances.min(1).values.numpy(), rtol=1e-5)


@pytest.mark.parametrize(
    ("first", "second"), [((30, 20, 10), (25, 30, 5)), ((90, 10), (400, 600)), ((5, 0, 7), (3, 0, 9))]
)
def test_the_comparison_of_shares_is_that_of_scipy(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    found = homogeneity(np.array(first), np.array(second))
    table = np.array([first, second])
    expected = chi2_contingency(table[:, table.sum(0) > 0], correction=False)
    assert found.degrees == expected.dof
    np.testing.assert_allclose(
        (found.statistic, found.p, found.least_expected),
        (expected.statistic, expected.pvalue, expected.expected_freq.min()),
    )


def test_what_cannot_be_compared_agrees() -> None:
    for first, second in ([5, 0], [9, 0]), ([0, 0], [3, 4]):
        assert homogeneity(np.array(first), np.array(second)).agree
    assert "rough: 2.0 expected" in str(homogeneity(np.array([1, 3]), np.array([3, 1])))
    assert not homogeneity(np.array([10, 90]), np.array([90, 10])).agree


def test_shares_that_are_the_same_seldom_differ() -> None:
    """Of 2,000 pairs of samples with the same shares 1 percent have p below 0.01."""
    draws = np.random.default_rng(1).multinomial(500, [0.5, 0.2, 0.2, 0.1], size=(2000, 2))
    differ = np.mean([not homogeneity(first, second).agree for first, second in draws])
    assert abs(differ - 0.01) < 4 * np.sqrt(0.01 * 0.99 / 2000)


def test_the_network_tells_digits_and_is_the_same_again() -> None:
    digits = load_data("digits")
    assert digits.test is not None
    assert digits.train_labels is not None
    assert digits.test_labels is not None
    images, test = (torch.from_numpy(part).flatten(1) for part in (digits.train, digits.test))
    first, second = (train_classifier(images, torch.from_numpy(digits.train_labels), seed=3) for _ in range(2))
    given = first(test)
    assert given.tolist() == second(test).tolist()
    sure = given >= 0
    assert sure.mean() > 0.95
    assert (given[sure] != digits.test_labels[sure]).mean() < 0.06


def test_training_of_the_network_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classes, "PIXELS", 8000)  # five passes over 100 images of 16 pixels
    images = torch.eye(4).repeat_interleave(100, 0).repeat(1, 4)
    classifier = train_classifier(images, torch.arange(4).repeat_interleave(100), seed=0)
    assert (classifier.images, classifier.network.n_iter_) == (100, 5)
    assert classifier.classes == (0, 1, 2, 3)  # of all images, in their order


def test_shares_are_those_of_the_model() -> None:
    """Classes by how many of six units are on, of chains that go between them, against the weights that enumeration gives."""
    machine = assemble([Bernoulli(torch.full((6,), -0.9)), Bernoulli(torch.tensor([-4.5]))], [torch.full((6, 1), 1.5)])
    states, probabilities = joint_probabilities(machine.map(Tensor.double))
    images = all_states(6).float().repeat(10, 1)
    labels = torch.bucketize(images.sum(1), torch.tensor([2.5, 3.5]))
    answer = Fantasies(sweeps=300)(SavedModel(machine, images.mean(0), (2, 3), ""), images[:600], 1)
    found = coverage(answer.families, images, labels, images, labels)
    assert (found.error, found.unsure_held_out, found.unsure("data"), found.unsure("noise")) == (0, 0, 0, 0)
    classes = torch.bucketize(states[0].sum(1).float(), torch.tensor([2.5, 3.5]))
    exact = np.array([float(probabilities[classes == label].sum()) for label in range(3)])
    for start in ("data", "noise"):
        assert (abs(found.shares(start) - exact) < 4 * np.sqrt(exact * (1 - exact) / 600)).all()
    assert "600 samples, chains from noise" in str(found)
    assert "classes of the two starts agree: chi-square" in str(found)
    starts = found.starts()
    assert starts is not None
    assert found.metrics("noise")["sampler/classes_p_value"] == starts.p >= 0.01
    assert "sampler/nearest_training_image" not in found.metrics("noise")  # held-out images are training images here


def test_a_network_that_does_not_tell_classes_gives_no_shares() -> None:
    generator = torch.Generator().manual_seed(5)
    images, held_out = (torch.rand(count, 7, generator=generator) for count in (60, 40))
    labels, others = torch.arange(60) % 2, torch.arange(40) % 2  # which the images say nothing of
    found = coverage({"noise": held_out}, images, labels, held_out, others)
    assert found.error > 0.1
    assert "the shares say little" in str(found)
    assert found.metrics("noise").keys() == {"sampler/unsure_samples", "sampler/nearest_training_image"}


def test_labels_may_be_any_numbers_and_errors_are_of_samples_that_have_a_class() -> None:
    images = torch.eye(4).repeat_interleave(5, 0)
    labels = torch.tensor(
        [7, 7, -1, -1, 1990, *[7] * 5, *[1990] * 5, *[-1] * 5]
    )  # what is like the first five is unsure
    found = coverage({"noise": torch.eye(4)[[0, 1, 1, 2]]}, images, labels, images[5:], labels[5:])
    assert "percent (-1 7 1990): training images 35.0 35.0 30.0" in str(found)
    assert (found.error, found.unsure("noise")) == (0, 0.25)
    np.testing.assert_allclose(found.shares("noise"), [0, 2 / 3, 1 / 3])
    assert found.starts() is None
    np.testing.assert_allclose(found.error_of("noise"), np.sqrt(np.array([0, 2 / 9, 2 / 9]) / 3))


def test_samples_that_repeat_training_images_are_seen() -> None:
    generator = torch.Generator().manual_seed(3)
    images, held_out = (torch.rand(count, 7, generator=generator) for count in (50, 20))
    labels = torch.arange(50) % 2
    copied = coverage({"noise": images[:5]}, images, labels, held_out, labels[:20]).metrics("noise")
    fresh = coverage({"noise": torch.rand(30, 7, generator=generator)}, images, labels, held_out, labels[:20])
    assert copied["sampler/nearest_training_image"] == pytest.approx(0, abs=1e-5)
    assert fresh.metrics("noise")["sampler/nearest_training_image"] == pytest.approx(1, abs=0.3)


def test_samples_of_which_none_has_a_class_are_not_said_to_agree() -> None:
    """Three classes of images that are all the same: the network gives each a third."""
    images, labels = torch.ones(30, 4), torch.arange(30) % 3
    found = coverage({"data": images[:5], "noise": images[:5]}, images, labels, images, labels)
    said = str(found)
    assert "classes of the two starts: not compared, as no sample has a class" in said
    assert "agree" not in said
    assert "p = " not in said
    assert "share of wrong ones not known" in said
    assert set(found.metrics("noise")) == {"sampler/unsure_samples"}
    numbers = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert numbers["noise_against_data"] is numbers["classifier"]["wrong_held_out"] is None
    assert numbers["samples"]["data"]["against_training_images"] is None


def test_numbers_of_chains_that_do_not_move_are_json(tmp_path: Path) -> None:
    """All units on, where chains from data start, and all off, where those from noise go: R-hat is not defined, and JSON knows
    no Infinity.
    """
    layers = [Bernoulli(torch.full((16,), -500.0)), Bernoulli(torch.tensor([-15_500.0]))]
    machine = assemble(layers, [torch.full((16, 1), 1000.0)])
    save_model(tmp_path / "model.h5", SavedModel(machine, torch.ones(16), (4, 4), "{}"))
    words = [
        f"run={tmp_path / 'model.h5'}",
        "task.sweeps=20",
        "task.doublings=1",
        f"hydra.run.dir={tmp_path / 'asked'}",
    ]
    run_command(cli.sample, *words, output_root=tmp_path)
    text = (tmp_path / "asked" / "fantasies.json").read_text()
    assert "Infinity" not in text
    assert json.loads(text)["r_hat_by_sweeps"]["40"] == "not defined (no chain moves, though they stand apart)"


def test_fantasies_of_labelled_data_are_told_by_class(tmp_path: Path) -> None:
    train(composed(*PLAIN, "data=digits", output_root=tmp_path), tmp_path / "run")
    words = [f"run={tmp_path / 'run'}", "task.sweeps=20", "count=60", f"hydra.run.dir={tmp_path / 'asked'}"]
    said = run_command(cli.sample, *words, output_root=tmp_path).out
    assert "60 samples, chains from noise: " in said
    assert "sampler/least class share 0" in said
    assert "% wrong and" in said
    assert "classes of the two starts " in said
    numbers = json.loads((tmp_path / "asked" / "fantasies.json").read_text())
    assert f"sampler/least class share {numbers['metrics']['sampler/least_class_share']:.4g}" in said
    noise = numbers["coverage"]["samples"]["noise"]
    assert sum(noise["counts"]) == round(60 * (1 - noise["unsure"]))
    assert [*numbers["r_hat_by_sweeps"]][:2] in (["20"], ["20", "40"])
    assert numbers["coverage"]["classes"] == list(range(10))
    for name in ("fantasies_classes", "fantasies_nearest"):
        with Image.open(tmp_path / "asked" / f"{name}.png") as picture:
            assert np.asarray(picture.convert("L")).std() > 5
    words = [
        f"run={tmp_path / 'run'}",
        "task.start_beta=0.5",
        "task.sweeps=20",
        f"hydra.run.dir={tmp_path / 'annealed'}",
    ]
    assert (
        "nearest" not in run_command(cli.sample, *words, output_root=tmp_path).out
    )  # chains of one start, not in equilibrium
