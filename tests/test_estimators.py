"""The Python interface: scikit-learn's own checks, what goes in and comes out, and that nothing else is changed by a fit."""

from __future__ import annotations

import logging
import os
import pickle
import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from joblib.externals.loky import get_reusable_executor
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import estimator_checks_generator

import ebm_pipeline as ebm
from ebm_pipeline.cli import config_folder
from ebm_pipeline.runs.estimators.base import BoltzmannEstimator

QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 20, "chains": 10, "verbose": False}
PATTERNS = np.repeat(np.array([[0, 0, 1, 1, 0, 1], [1, 1, 0, 0, 1, 0]], dtype=np.float32), 60, axis=0)


class Binarised(ebm.RBM):
    """An RBM of 0 and 1 that are made of the real numbers which scikit-learn's checks draw, row by row."""

    def _numbers(self, rows: Any) -> Any:
        return (np.floor(7.3 * rows) % 2).astype(np.float32)


ESTIMATORS = {
    "RBM on bits": Binarised(hidden=3, **QUICK),
    "Gaussian units": ebm.RBM(hidden=3, visible="gaussian", learning_rate=1e-4, **QUICK),
    "RBM": ebm.RBM(hidden=3, **QUICK),
    "Hopfield": ebm.Hopfield(hidden=3, **QUICK),
    "DBM": ebm.DBM(hidden=(3, 2), pretraining=0, **QUICK),
    "GaussianRBM": ebm.GaussianRBM(hidden=3, **QUICK),
}
IN_FULL = ("RBM on bits", "Gaussian units")  # the others are `make test-slow`
# Checks that estimators of 0 and 1 cannot pass: they draw real numbers, which those refuse with the model that would fit.
REAL_DATA = "its data are real numbers, no states of Bernoulli units"
OF_BITS = ("RBM", "Hopfield", "DBM")
REFUSED = """
check_dict_unchanged
check_dont_overwrite_parameters
check_dtype_object
check_estimators_dtypes
check_estimators_fit_returns_self
check_estimators_nan_inf
check_estimators_overwrite_params
check_estimators_pickle
check_f_contiguous_array_estimator
check_fit2d_1feature
check_fit2d_predict1d
check_fit_check_is_fitted
check_fit_idempotent
check_fit_score_takes_y
check_methods_sample_order_invariance
check_methods_subset_invariance
check_n_features_in
check_n_features_in_after_fitting
check_pipeline_consistency
check_positive_only_tag_during_fit
check_readonly_memmap_input
check_transformer_data_not_an_array
check_transformer_general
check_transformer_preserve_dtypes
"""


def checks() -> Iterator[Any]:
    for name, estimator in ESTIMATORS.items():
        for made, check in estimator_checks_generator(estimator):
            function = getattr(check, "func", check)
            own = [] if name in IN_FULL else [pytest.mark.slow]
            if name in OF_BITS and function.__name__ in REFUSED.split():
                own.append(pytest.mark.xfail(reason=REAL_DATA, raises=(ValueError, AssertionError), strict=True))
            yield pytest.param(made, check, id=f"{name}-{function.__name__}", marks=own)


@pytest.mark.parametrize(("estimator", "check"), list(checks()))
def test_scikit_learns_checks(estimator: BoltzmannEstimator, check: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(estimator)


# ---------------------------------------------------------------------------------------------- in and out


def test_numpy_gives_numpy_and_torch_gives_torch() -> None:
    rbm = ebm.RBM(hidden=3, **QUICK).fit(PATTERNS)
    for method in (rbm.transform, rbm.reconstruct, rbm.denoise, rbm.free_energy):
        here, there = method(PATTERNS), method(torch.from_numpy(PATTERNS))
        assert isinstance(here, np.ndarray)
        assert isinstance(there, torch.Tensor)
        np.testing.assert_array_equal(here, there.numpy())
    assert rbm.transform(PATTERNS).shape == (120, 3)
    assert rbm.reconstruct(PATTERNS).shape == (120, 6)
    assert set(np.unique(rbm.denoise(PATTERNS))) <= {0, 1}


def test_images_are_rows_and_keep_their_shape_in_the_saved_model(tmp_path: Path) -> None:
    images = PATTERNS.reshape(-1, 2, 3)
    rbm = ebm.RBM(hidden=3, **QUICK).fit(images[..., None])
    assert rbm.model_.image_shape == (2, 3)
    np.testing.assert_array_equal(rbm.transform(images), rbm.transform(PATTERNS))
    again = ebm.load(rbm.save(tmp_path / "model.h5"))
    assert isinstance(again, ebm.RBM)
    np.testing.assert_array_equal(again.transform(images), rbm.transform(PATTERNS))
    assert again.score(PATTERNS) == pytest.approx(rbm.score(PATTERNS), abs=1e-6)


def test_a_wrong_shape_says_expected_and_given() -> None:
    rbm = ebm.RBM(hidden=3, **QUICK).fit(PATTERNS)
    with pytest.raises(ValueError, match="X has 5 features, but RBM is expecting 6 features"):
        rbm.transform(PATTERNS[:, :5])
    with pytest.raises(ValueError, match=r"mask must have 6 pixels.*\(4,\)"):
        rbm.inpaint(PATTERNS, [True] * 4)


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (ebm.RBM(visible="bernouli"), "visible must be one of 'bernoulli', 'ising'.* got 'bernouli'"),
        (ebm.RBM(penalty="l3"), "penalty must be one of 'l1', 'l2'; got 'l3'"),
        (ebm.Hopfield(penalty="l3"), "penalty must be one of"),
        (ebm.RBM(objective="sgd"), "objective must be one of"),
        (ebm.RBM(visible="potts"), "give categories"),
        (ebm.RBM(visible="potts", categories=1), "categories"),
        (ebm.DBM(hidden=(5,)), "at least two hidden layers"),
        (ebm.RBM(hidden=0), "units of a layer"),
        (ebm.RBM(epochs=0), "training.epochs"),
    ],
)
def test_a_wrong_parameter_is_one_message_at_fit(estimator: BoltzmannEstimator, message: str) -> None:
    estimator.verbose = False
    with pytest.raises(ValueError, match=message):
        estimator.fit(PATTERNS)


@pytest.mark.parametrize(
    ("estimator", "rows"),
    [
        (ebm.RBM(hidden=3, visible="ising", **QUICK), 2 * PATTERNS - 1),
        (ebm.RBM(hidden=3, visible="potts", categories=3, **QUICK), np.arange(120)[:, None] % 3 + 0 * PATTERNS),
        (ebm.RBM(hidden=3, penalty="l1", strength=0.01, **QUICK), PATTERNS),
        (ebm.Hopfield(hidden=3, penalty="l2", strength=0.05, **QUICK), PATTERNS),
        (ebm.RBM(hidden=3, objective="cd", **QUICK), PATTERNS),
        (ebm.RBM(hidden=3, objective="tap", **QUICK), PATTERNS),
        (ebm.DBM(hidden=(4, 3, 2), pretraining=0, **QUICK), PATTERNS),
        (ebm.DBM(hidden=(4, 3), pretraining=1, **QUICK), PATTERNS),
        (ebm.GaussianRBM(hidden=3, **QUICK), np.random.default_rng(0).normal(size=(120, 6))),
    ],
    ids=lambda value: str(value)[:40].replace("\n", ""),
)
def test_every_machine_answers_in_the_values_of_its_data(estimator: BoltzmannEstimator, rows: Any) -> None:
    estimator.fit(rows)
    drawn = estimator.sample(5, sweeps=30)
    assert drawn.shape == (5, 6)
    assert "30 Gibbs sweeps" in estimator.samples_made_
    if not isinstance(estimator, ebm.GaussianRBM):
        assert set(np.unique(drawn)) <= set(np.unique(rows))
        assert set(np.unique(estimator.denoise(rows))) <= set(np.unique(rows))
    assert estimator.reconstruct(rows).shape == rows.shape
    assert np.isfinite(estimator.free_energy(rows)).all()


# ---------------------------------------------------------------------------------------------- statistics


def test_what_is_learned_is_right() -> None:
    """Two patterns: samples are them, pixels that are hidden come back, the likelihood is near log(1/2)."""
    rbm = ebm.RBM(hidden=4, epochs=100, learning_rate=0.1, batch_size=10, verbose=False).fit(PATTERNS)
    drawn = rbm.sample(200, sweeps=200)
    right = (drawn[:, None] == PATTERNS[[0, -1]]).all(2).any(1)
    assert right.mean() > 0.8
    hidden = np.array([True, True, False, False, False, False])
    guess = rbm.inpaint(np.where(hidden, 0, PATTERNS), hidden, sweeps=50)
    assert ((guess > 0.5) == PATTERNS).all()
    assert -1.2 < rbm.score(PATTERNS) <= np.log(0.5) + 0.01
    assert rbm.likelihood(PATTERNS).method.startswith("exact")
    assert rbm.verdict_.name in str(rbm.verdict_)


def test_noisy_images_are_restored_by_their_posterior() -> None:
    """Each pixel is the likelier one of all 2^6 images weighted by p(image) p(noisy | image), wherever that is clear."""
    rbm = ebm.RBM(hidden=3, epochs=40, learning_rate=0.1, batch_size=10, verbose=False).fit(PATTERNS)
    images = np.array(list(np.ndindex(*6 * (2,))), dtype=np.float32)
    flips, log_weights = 0.3, -rbm.free_energy(images)
    differing = (images[:, None] != images).sum(2)  # (noisy, image)
    posterior = np.exp(log_weights - log_weights.max()) * flips**differing * (1 - flips) ** (6 - differing)
    means = posterior @ images / posterior.sum(1, keepdims=True)
    clear = np.abs(means - 0.5) > 0.1
    found = rbm.denoise(images, flips=flips, sweeps=1000)
    assert clear.mean() > 0.7
    assert (found[clear] == (means[clear] > 0.5)).all()
    assert (found != images).mean() > 0.1
    np.testing.assert_array_equal(rbm.denoise(images, flips=0.0), images)
    with pytest.raises(ValueError, match="flips must be a number, at least 0 and at most 1; got 15"):
        rbm.denoise(images, flips=15)


def test_labels_are_learned_and_named() -> None:
    names = np.repeat(["ink", "paper"], 60)
    rbm = ebm.RBM(hidden=6, epochs=100, learning_rate=0.2, batch_size=20, verbose=False).fit(PATTERNS, names)
    assert list(rbm.classes_) == ["ink", "paper"]
    assert (rbm.predict(PATTERNS) == names).all()
    np.testing.assert_allclose(rbm.predict_proba(PATTERNS).sum(1), 1, rtol=1e-5)
    assert rbm.sample(4, sweeps=30).shape == (4, 6)
    with pytest.raises(AttributeError, match="predict"):
        ebm.RBM(hidden=3, **QUICK).fit(PATTERNS).predict(PATTERNS)


def test_it_is_a_step_of_a_pipeline_and_is_cloned_and_pickled() -> None:
    labels = np.repeat([0, 1], 60)
    pipeline = make_pipeline(ebm.RBM(hidden=4, **QUICK), LogisticRegression())
    assert pipeline.fit(PATTERNS, labels).score(PATTERNS, labels) > 0.9
    rbm = ebm.RBM(hidden=4, **QUICK).fit(PATTERNS)
    again = clone(rbm)
    assert not hasattr(again, "model_")
    kept = pickle.loads(pickle.dumps(rbm))
    np.testing.assert_array_equal(kept.transform(PATTERNS), rbm.transform(PATTERNS))
    np.testing.assert_array_equal(again.fit(PATTERNS).components_, rbm.components_)  # the same seed: bit by bit


@pytest.mark.slow
def test_it_is_cross_validated_in_processes_of_joblib() -> None:
    labels = np.repeat([0, 1], 60)
    pipeline = make_pipeline(ebm.RBM(hidden=4, **QUICK), LogisticRegression())
    assert cross_val_score(pipeline, PATTERNS, labels, cv=2, n_jobs=2).mean() > 0.9
    get_reusable_executor().shutdown(wait=True)  # its processes would wait for more work beside the tests that follow


# ---------------------------------------------------------------------------------------------- what a fit leaves alone


def test_a_fit_changes_nothing_of_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(2)
    before = state()
    ebm.RBM(hidden=3, threads=1, **QUICK).fit(PATTERNS)
    assert state() == before
    assert not list(tmp_path.iterdir())


def state() -> dict[str, Any]:
    return {
        "torch": torch.random.get_rng_state().tolist(),
        "numpy": str(np.random.get_state()),  # noqa: NPY002
        "python": random.getstate(),
        "threads": torch.get_num_threads(),
        "precision": torch.get_float32_matmul_precision(),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "levels": {name: logging.getLogger(name).level for name in ("", "pytorch_lightning", "mlflow")},
        "filters": list(warnings.filters),
        "hydra": GlobalHydra.instance().hydra,
    }


def test_a_fit_works_within_a_hydra_application() -> None:
    with initialize_config_dir(config_folder(), version_base="1.3"):
        held = GlobalHydra.instance().hydra
        ebm.RBM(hidden=3, **QUICK).fit(PATTERNS)
        assert GlobalHydra.instance().hydra is held
        assert compose("train").seed == 137


def test_progress_is_shown_or_not(capsys: pytest.CaptureFixture[str]) -> None:
    ebm.RBM(hidden=3, **QUICK).fit(PATTERNS)
    assert capsys.readouterr() == ("", "")
    ebm.RBM(hidden=3, **{**QUICK, "verbose": True}).fit(PATTERNS)
    assert "epoch 2/2" in capsys.readouterr().err


def test_a_run_from_python_is_one_of_ebm_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EBM_OUTPUT_DIR", str(tmp_path))
    run = ebm.train("experiment=smoke", "model=rbm", "seed=3")
    assert (run.folder / "report.html").is_file()
    assert run.metrics["validation/pseudo_likelihood"] < 0
    assert run.verdict.name == "not evaluated"
    assert repr(run.model.machine_).startswith("BoltzmannMachine(")
    assert ebm.load(run.run_id[:8]).machine_.layers[0].units == run.model.n_features_in_
    with pytest.raises(ValueError, match="no_such_option"):
        ebm.train("+no_such_option=1")


def test_all_names_are_there_with_a_docstring_that_says_what_it_raises_and_shows_an_example() -> None:
    assert len(ebm.__all__) == 13
    for name in ebm.__all__:
        assert getattr(ebm, name).__doc__
    with pytest.raises(AttributeError, match="it has DBM, RBM"):
        ebm.Rbm  # noqa: B018
