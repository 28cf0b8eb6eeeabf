"""What all estimators share: a machine that is fitted to arrays, asked, saved and judged."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from ebm_pipeline.data.transforms import Identity, Transform
from ebm_pipeline.evaluation.card import Likelihood, LikelihoodCard
from ebm_pipeline.evaluation.classification import label_log_probabilities
from ebm_pipeline.evaluation.diagnostics import Diagnostics
from ebm_pipeline.evaluation.equilibrium import equilibrate, shown_r_hat
from ebm_pipeline.evaluation.likelihood import unnormalized_each
from ebm_pipeline.evaluation.verdict import Criteria, Verdict
from ebm_pipeline.models.inference import MeanField, up_and_down
from ebm_pipeline.models.labels import image_layer
from ebm_pipeline.models.machine import BoltzmannMachine
from ebm_pipeline.models.storage import SavedModel, save_model
from ebm_pipeline.runs.assess import Assessment, Material, Settings, assess
from ebm_pipeline.runs.configuration import build
from ebm_pipeline.runs.estimators.arrays import image_shape, like, plain
from ebm_pipeline.runs.estimators.fitting import Fitted, fit, fit_tracked, in_python_words
from ebm_pipeline.runs.estimators.settings import composed
from ebm_pipeline.runs.estimators.states import numbers_of, states_of
from ebm_pipeline.sampling import inpaint
from ebm_pipeline.sampling.denoising import restored
from ebm_pipeline.support.errors import UserError, check_number, check_whole
from ebm_pipeline.support.progress import Stages

MOST_R_HAT = 1.1  # between chains from data and from noise: above it, samples come with a warning
LEAST_CHAINS = 4


@contextmanager
def value_errors() -> Iterator[None]:
    """A user's mistake as the exception that scientific Python knows for it."""
    try:
        yield
    except UserError as error:
        raise ValueError(str(error)) from error


def _knows_labels(estimator: BoltzmannEstimator) -> bool:
    if not hasattr(estimator, "classes_"):
        raise AttributeError("this machine models no labels: fit(X, y) with the labels y, then predict")
    return True


class BoltzmannEstimator(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A machine with scikit-learn's conventions; `RBM`, `Hopfield`, `GaussianRBM` and `DBM` say which.

    Rows are images (n, units), or (n, height, width); NumPy in, NumPy out, torch in, torch out. What a method does not take
    raises ValueError: expected and given shape, or the values that the units have.
    """

    base: ClassVar[tuple[str, ...]] = ()  # overrides that every machine of the class has
    models_labels: ClassVar[bool] = True  # False: y is taken and not used, as scikit-learn's transformers do
    model_: SavedModel
    seed: int
    verbose: bool
    track: bool

    # ---------------------------------------------------------------- fitting

    def _overrides(self) -> list[str]:
        """Choices of groups, in Hydra's grammar."""
        raise NotImplementedError

    def _values(self) -> dict[str, Any]:
        """Values by dotted name."""
        raise NotImplementedError

    def fit(self, X: ArrayLike | Tensor, y: ArrayLike | None = None) -> Self:  # noqa: N803
        """Train on images X; with labels y (n,) the machine is one of images and labels, and `predict` names the label.

        The same training as `ebm-train`'s, without MLflow and with no file left behind; with track=True it is such a run, whose
        folder is `run_folder_`. Raises ValueError for data that are no
        states of the units, with the model that would fit.
        """
        rows = validate_data(self, plain(X), dtype=np.float32, ensure_min_samples=2)
        y = y if self.models_labels else None
        codes = None if y is None else self._label_codes(y, len(rows))
        if y is None and hasattr(self, "classes_"):
            del self.classes_
        with value_errors():
            shape = image_shape(X, rows.shape[1])
            arrays = {"train/images": self._numbers(rows)} | ({} if codes is None else {"train/labels": codes})
            values = {"seed": self.seed, **self._values(), **({"data.labels": True} if codes is not None else {})}
            values["data.validation_fraction"] = max(0.05, 1.5 / len(rows))
            overrides, values = [*self.base, *self._overrides()], self._labelled(values)
            if self.track:
                self._keep(fit_tracked(arrays, shape, overrides, values))
            else:
                self._keep(fit(arrays, shape, overrides, values, self.verbose))
        return self

    def _label_codes(self, y: ArrayLike, count: int) -> Any:
        labels = np.asarray(y.cpu() if isinstance(y, Tensor) else y)
        if labels.shape != (count,):
            raise ValueError(f"y must hold one label for each of {count} images; got the shape {labels.shape}")
        check_classification_targets(labels)
        self.classes_, codes = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y must hold at least 2 classes; got 1 class, {self.classes_[0]!r}")
        return codes.astype(np.int64)

    def _labelled(self, values: dict[str, Any]) -> dict[str, Any]:
        """The values, with a visible layer of image and label where labels are modelled."""
        if not values.get("data.labels"):
            return values
        part = values.pop("model.layers.visible", None) or {
            "_target_": "ebm_pipeline.models.layers.Bernoulli.create",
            "units": "${data.units}",
        }
        label = {
            "_target_": "ebm_pipeline.models.layers.Potts.create",
            "units": "${data.classes}",
            "categories": "${data.classes}",
        }
        mixed = {"_target_": "ebm_pipeline.models.layers.Mixed.create", "parts": {"image": part, "label": label}}
        return values | {"model.layers.visible": mixed}

    def _keep(self, fitted: Fitted) -> None:
        self.model_ = fitted.model
        self.history_ = fitted.history
        self.n_iter_ = len(fitted.history.get("time/seconds_per_epoch", ((), ()))[0])
        self._parts, self._quantity = fitted.parts, fitted.quantity
        self.run_folder_ = fitted.run
        self._assessed: Assessment | None = None

    # ---------------------------------------------------------------- what it is

    @property
    def machine_(self) -> BoltzmannMachine:
        """The machine itself: energies, conditionals, named tensors."""
        check_is_fitted(self, "model_")
        return self.model_.machine

    @property
    def components_(self) -> Any:
        """Weights between the visible and the first hidden layer, one row (units,) per hidden unit, as NumPy."""
        return self.machine_.weights[0].mT.cpu().numpy()

    @property
    def log_scale_(self) -> float:
        """Nats by which a log-density of the units is above that of the numbers that were given; 0 for discrete units."""
        check_is_fitted(self, "model_")
        return self._transform.log_scale

    @property
    def _n_features_out(self) -> int:
        return int(self.machine_.layers[-1].units)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "model_")

    # ---------------------------------------------------------------- asking

    def _numbers(self, rows: Any) -> Any:
        """The rows (n, features) as they go into the training."""
        return rows

    def _to_units(self, rows: Any) -> Tensor:
        """States (n, units) of rows (n, features)."""
        return states_of(torch.from_numpy(np.ascontiguousarray(self._numbers(rows))), self._transform, self.seed)

    def _from_units(self, states: Tensor) -> Tensor:
        """Numbers, as the user gave them, of states."""
        return numbers_of(states, self._transform)

    @property
    def _transform(self) -> Transform:
        """What makes states of numbers: none for a model of before, whose file does not say it."""
        return self.model_.transform or Identity()

    def _states(self, X: ArrayLike | Tensor) -> Tensor:  # noqa: N803
        """Checked states (n, units) of the visible layer, of labels not known zeros."""
        check_is_fitted(self, "model_")
        rows = validate_data(self, plain(X), dtype=np.float32, reset=False)
        with value_errors():
            states = self._to_units(rows)
            visible = self.model_.visible
            if visible.classes:
                states = visible.join(states, 0)
            with in_python_words():
                image_layer(self.machine_.layers[0], visible).check_data(visible.images(states), "X")
        return states

    def _in_double(self, X: ArrayLike | Tensor) -> tuple[BoltzmannMachine, Tensor]:  # noqa: N803
        """Machine and states (n, units) in float64: what is said of a row does then not hang on the rows beside it."""
        states = self._states(X).double()
        return self.machine_.map(Tensor.double), states

    @property
    def _mean_field(self) -> MeanField:
        return MeanField(0.01, 25)

    def transform(self, X: ArrayLike | Tensor) -> Any:  # noqa: N803
        """Means of the last hidden layer given the images, (n, hidden units): exact for one hidden layer, else by mean field."""
        machine, states = self._in_double(X)
        visible = self.model_.visible
        if visible.classes:  # the label is not given: its units send nothing
            states = torch.cat((visible.images(states), states.new_zeros(len(states), visible.classes)), 1)
        given = (states, *(None,) * (machine.depth - 1))
        return like(self._mean_field(machine, given).means[-1].float(), X)

    def reconstruct(self, X: ArrayLike | Tensor) -> Any:  # noqa: N803
        """Images (n, units) after one pass up through all layers and down again: conditional means of the last step."""
        means, _ = up_and_down(*self._in_double(X))
        return like(self._from_units(self.model_.visible.images(means.float())), X)

    def denoise(self, X: ArrayLike | Tensor, flips: float = 0.15, sweeps: int = 100) -> Any:  # noqa: N803
        """Images (n, units) behind noisy ones, of whose pixels each was flipped with probability `flips`: states, not means.

        The likelier state of each pixel given the noisy image, by `sweeps` Gibbs sweeps (Geman & Geman 1984,
        doi:10.1109/TPAMI.1984.4767596), drawn by the estimator's seed. sweeps=0, or visible units of more than two states: one
        pass up and down by most probable states, to which `flips` says nothing.
        """
        with value_errors():
            check_number("flips", flips, 0, 1)
            check_whole("sweeps", sweeps, 0)
        _, guesses = restored(*self._in_double(X), flips, sweeps, self.seed)
        return like(self._from_units(self.model_.visible.images(guesses.float())), X)

    def inpaint(self, X: ArrayLike | Tensor, mask: ArrayLike | Tensor, sweeps: int = 500, chains: int = 10) -> Any:  # noqa: N803
        """Images whose pixels under `mask` are means given the others: (n, units).

        mask (units,) or (height, width), true where a pixel is not known; what `X` holds there is not read. Gibbs sampling of the
        unknown pixels, exact but for mixing; the mean is over `chains` chains and the second half of `sweeps` sweeps.
        """
        states = self._states(X)
        hidden = torch.as_tensor(plain(mask) if np.ndim(mask) != 2 else np.asarray(mask)).reshape(-1).bool()
        if self._transform.mixes_pixels:
            raise ValueError(
                "inpainting needs units that are pixels; those of this machine are principal components of the data: "
                'for real numbers take ebm.RBM(visible="gaussian")'
            )
        if len(hidden) != self.n_features_in_:
            raise ValueError(f"mask must have {self.n_features_in_} pixels, as X has; got the shape {np.shape(mask)}")
        visible = self.model_.visible
        per_pixel = visible.pixels // self.n_features_in_  # units of a category
        known = ~torch.cat((hidden.repeat_interleave(per_pixel), torch.ones(visible.classes, dtype=torch.bool)))
        generator = torch.Generator().manual_seed(self.seed)
        _, means = inpaint(self.machine_, states.repeat(chains, 1), known, self.model_.data_mean, sweeps, generator)
        return like(self._from_units(visible.images(means.unflatten(0, (chains, -1)).mean(0))), X)

    def free_energy(self, X: ArrayLike | Tensor) -> Any:  # noqa: N803
        """F of each image, (n,): -log p up to log Z; with more than one hidden layer by the variational bound, so F or above."""
        machine, states = self._in_double(X)
        return like(-unnormalized_each(machine.folded(), states, self._mean_field), X)

    def sample(self, count: int = 1, sweeps: int = 1000, seed: int | None = None) -> Any:
        """Fantasy particles (count, units), NumPy: Gibbs sampling, half of the chains from training images, half from noise.

        `samples_made_` says how they were drawn; a warning says where the two starts can still be told apart (R-hat).
        """
        machine, generator = self.machine_, torch.Generator().manual_seed(self.seed if seed is None else seed)
        chains = max(count, LEAST_CHAINS)
        start = self._parts["train"] if hasattr(self, "_parts") else self._noise(chains, generator)
        with value_errors(), torch.inference_mode():
            drawn = equilibrate(machine, start, chains, sweeps, generator)
        self.samples_made_ = (
            f"{sweeps} Gibbs sweeps, half of the chains from data, half from noise; R-hat {shown_r_hat(drawn.worst)}"
        )
        if drawn.worst > MOST_R_HAT:
            warnings.warn(
                f"the samples depend on where their chains started (R-hat {shown_r_hat(drawn.worst, 2)} after {sweeps} sweeps): "
                "raise sweeps",
                stacklevel=2,
            )
        return self._from_units(self.model_.visible.images(drawn.states[0][:count])).numpy()

    def _noise(self, count: int, generator: torch.Generator) -> Tensor:
        layer = self.machine_.independent(self.model_.data_mean).layers[0]
        return layer.sample(torch.zeros(count, layer.units), generator)

    @available_if(_knows_labels)  # type: ignore[untyped-decorator]
    def predict_proba(self, X: ArrayLike | Tensor) -> Any:  # noqa: N803
        """p(label | image), (n, classes) in the order of `classes_`: from free energies, exact for one hidden layer."""
        machine, states = self._in_double(X)
        found = label_log_probabilities(machine, self.model_.visible, states, self._mean_field)
        return like(found.exp(), X)

    @available_if(_knows_labels)  # type: ignore[untyped-decorator]
    def predict(self, X: ArrayLike | Tensor) -> Any:  # noqa: N803
        """The most probable label of each image, (n,)."""
        return self.classes_[np.asarray(self.predict_proba(plain(X))).argmax(1)]

    # ---------------------------------------------------------------- judging

    def likelihood(self, X: ArrayLike | Tensor, **settings: Any) -> LikelihoodCard:  # noqa: N803
        """The likelihood card of images X: exact by enumeration, an interval from forward and reverse AIS, or "not determined".

        settings: `temperatures`, `chains`, `sweeps`, ... as in conf/card; the default takes minutes for hundreds of hidden units.
        """
        states = self._states(X)
        with value_errors(), closing(Stages("step")) as stage:
            likelihood: Likelihood = build(_evaluation(likelihood=settings).likelihood, "likelihood")
            training = self._parts["train"] if hasattr(self, "_parts") else states
            return likelihood(
                self.machine_, self.model_.data_mean, {"given": states, "train": training}, training, self._data_quantity,
                self._mean_field, self.seed, stage,
            )  # fmt: skip

    @property
    def _data_quantity(self) -> str:
        return getattr(self, "_quantity", "as given")

    def score(self, X: ArrayLike | Tensor, y: object = None) -> float:  # noqa: N803
        """Mean log-likelihood of images in nats: the middle of the card's interval; NaN, with a warning, where it has none."""
        card = self.likelihood(X)
        if not card.determined:
            warnings.warn(f"the likelihood is not determined: {'; '.join(card.reasons)}", stacklevel=2)
            return math.nan
        interval = card.intervals["given"]
        return (interval.low + interval.high) / 2

    def assess(self, **settings: Mapping[str, Any]) -> Assessment:
        """Card, diagnostics and verdict on the images that fit held out; `likelihood={...}`, `diagnostics={...}` as in conf/."""
        check_is_fitted(self, "model_")
        if not hasattr(self, "_parts"):
            raise ValueError(
                "a verdict rests on training images, which a saved model does not hold: fit, or use ebm-evaluate"
            )
        config = _evaluation(**settings)
        with value_errors():
            criteria: Criteria = build(config.verdict, "verdict")
            diagnostics: Diagnostics = build(config.diagnostics, "diagnostics")
            own = Settings(build(config.likelihood, "likelihood"), diagnostics, criteria)
            material = Material(self._parts, self._parts["train"], self._data_quantity)
            last = {name: values[-1] for name, (_, values) in self.history_.items()}
            self._assessed = assess(own, self.model_, material, last, self._mean_field, self.seed)
        return self._assessed

    @property
    def verdict_(self) -> Verdict:
        """Whether the numbers and samples of this machine can be believed, and why; calls `assess` where it was not called."""
        if self._assessed is None:
            self.assess()
        assert self._assessed is not None
        return self._assessed.verdict

    # ---------------------------------------------------------------- keeping

    def save(self, path: str | Path) -> Path:
        """Write model.h5, which `load` reads, and which can be read without this package; returns its path."""
        check_is_fitted(self, "model_")
        with value_errors():
            save_model(Path(path), self.model_)
        return Path(path)


def _evaluation(**settings: Mapping[str, Any]) -> Any:
    """The groups of `ebm-evaluate`, with these values."""
    values = {f"{group}.{name}": value for group, own in settings.items() for name, value in own.items()}
    return composed([], values, "evaluate")
