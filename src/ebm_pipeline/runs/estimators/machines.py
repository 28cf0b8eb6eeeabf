"""The machines by name: RBM, Hopfield network, Gaussian RBM, deep Boltzmann machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from ebm_pipeline.runs.estimators.base import BoltzmannEstimator
from ebm_pipeline.support.errors import UserError

LAYERS = "ebm_pipeline.models.layers"
TRAINING = "ebm_pipeline.training"
VISIBLE = {"bernoulli": "Bernoulli", "ising": "Ising", "gaussian": "Gaussian", "potts": "Potts"}
PENALTIES = {"l1": "L1", "l2": "L2"}
OBJECTIVES = ("pcd", "cd", "tap")


class _Trained(BoltzmannEstimator):
    """What all of them are trained with; None stands for the default of conf/."""

    hidden: Any
    epochs: int
    learning_rate: float | None
    batch_size: int
    k: int
    chains: int | None
    objective: str
    threads: int | None

    @property
    def transform_choice(self) -> str | None:
        """How numbers become states of the units, of conf/data/transform; None leaves that to the model."""
        return "none"

    def _overrides(self) -> list[str]:
        transform = [f"data/transform={self.transform_choice}"] if self.transform_choice else []
        return [f"objective={self.objective}", "sampler=gibbs", *transform]

    def _values(self) -> dict[str, Any]:
        given = {"optimizer.lr": self.learning_rate, "training.chains": self.chains, "sampler.steps": self.k}
        return {
            "hidden_units": self.hidden, "training.epochs": self.epochs, "data.batch_size": self.batch_size,
            "threads": self.threads, **{key: value for key, value in given.items() if value is not None},
        }  # fmt: skip


class RBM(_Trained):
    """Restricted Boltzmann machine, p(v) = sum_h exp(b v + c h + v W h) / Z, trained by (persistent) contrastive divergence.

    Parameters: `hidden` Bernoulli units; `visible` units, "bernoulli" (0, 1), "ising" (-1, 1), "potts" (categories 0 to
    `categories` - 1) or "gaussian" (reals of variance 1); `penalty` "l1" or "l2" of this `strength` on the weights; `epochs` over
    images in batches of `batch_size`; `learning_rate` (falls linearly to 0), `k` Gibbs sweeps an update, persistent `chains`,
    `objective` "pcd", "cd" or "tap" (None: the defaults of conf/); `seed`; `threads` of torch (more pay for large machines only,
    None: as they are); `verbose`: progress; `track`: a run of `ebm-train` with its folder and its record in MLflow, which
    always shows progress.

    Methods raise ValueError for arrays of another shape than that of the images it was fitted to, or for values that are no
    states of the units.

    Source: Hinton 2002 (doi:10.1162/089976602760128018), Tieleman 2008 (doi:10.1145/1390156.1390290), Mehta et al. 2019
    (arXiv:1803.08823), section XVI.

    >>> import numpy as np, ebm_pipeline as ebm
    >>> images = np.repeat([[0, 0, 1, 1], [1, 1, 0, 0]], 50, axis=0)
    >>> rbm = ebm.RBM(hidden=2, epochs=200, learning_rate=0.2, verbose=False).fit(images)
    >>> rbm.transform(images).shape, rbm.sample(8).shape
    ((100, 2), (8, 4))
    >>> -np.log(16) < rbm.score(images) <= 0
    True
    """

    base: ClassVar[tuple[str, ...]] = ("model=rbm",)

    @property
    def transform_choice(self) -> str | None:
        """Categories become one unit each."""
        return "one_hot" if self.visible == "potts" else "none"

    def __init__(
        self,
        hidden: int = 200,
        *,
        visible: str = "bernoulli",
        categories: int | None = None,
        penalty: str | None = None,
        strength: float = 0.001,
        epochs: int = 20,
        learning_rate: float | None = None,
        batch_size: int = 100,
        k: int = 1,
        chains: int | None = None,
        objective: str = "pcd",
        seed: int = 137,
        threads: int | None = 1,
        verbose: bool = True,
        track: bool = False,
    ) -> None:
        self.hidden = hidden
        self.visible = visible
        self.categories = categories
        self.penalty = penalty
        self.strength = strength
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.k = k
        self.chains = chains
        self.objective = objective
        self.seed = seed
        self.threads = threads
        self.verbose = verbose
        self.track = track

    def _values(self) -> dict[str, Any]:
        _choice("visible", self.visible, VISIBLE)
        _choice("objective", self.objective, OBJECTIVES)
        layer: dict[str, Any] = {"_target_": f"{LAYERS}.{VISIBLE[self.visible]}.create", "units": "${data.units}"}
        if self.visible == "potts":
            layer["categories"] = self._categories
        found = super()._values() | {"model.layers.visible": layer}
        if self.visible == "potts":
            found |= {"data.values": "categories", "data.categories": self._categories}
        if self.visible == "gaussian":
            found["data.values"] = "real"
        return found | _penalties(self.penalty, self.strength)

    @property
    def _categories(self) -> int:
        if self.categories is None:
            raise UserError('visible="potts" needs the number of categories: give categories=...')
        return self.categories


class Hopfield(_Trained):
    """Hopfield network, E(v) = -1/2 |W^T v|^2 - b v: an RBM whose hidden units are Gaussian of mean 0 and variance 1.

    Parameters as those of `RBM`; `penalty` None is that of conf/recipe, "l2" of 0.05 with a rate of 0.003: at a higher rate,
    or with a weaker one, the weights may run away from the chains where images are few.

    Methods raise ValueError as those of `RBM` do.

    Source: Hopfield 1982 (doi:10.1073/pnas.79.8.2554), Mehta et al. 2019 (arXiv:1803.08823), section XVI.

    >>> import numpy as np, ebm_pipeline as ebm
    >>> patterns = np.repeat([[0, 1, 0, 1], [1, 1, 0, 0]], 50, axis=0)
    >>> network = ebm.Hopfield(hidden=2, epochs=5, verbose=False).fit(patterns)
    >>> network.denoise(patterns).shape
    (100, 4)
    """

    base: ClassVar[tuple[str, ...]] = ("model=hopfield",)

    def __init__(
        self,
        hidden: int = 200,
        *,
        penalty: str | None = None,
        strength: float = 0.01,
        epochs: int = 20,
        learning_rate: float | None = None,
        batch_size: int = 100,
        k: int = 1,
        chains: int | None = None,
        objective: str = "pcd",
        seed: int = 137,
        threads: int | None = 1,
        verbose: bool = True,
        track: bool = False,
    ) -> None:
        self.hidden = hidden
        self.penalty = penalty
        self.strength = strength
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.k = k
        self.chains = chains
        self.objective = objective
        self.seed = seed
        self.threads = threads
        self.verbose = verbose
        self.track = track

    def _values(self) -> dict[str, Any]:
        return super()._values() | _penalties(self.penalty, self.strength)


class GaussianRBM(Hopfield):
    """RBM of real numbers in any unit: Gaussian visible units of learned variance, along the principal components of the data.

    Labels are not modelled. `score` and `likelihood` are of those units: `log_scale_` nats above the density of the numbers
    themselves.

    Parameters as those of `RBM`. Source: Cho, Ilin & Raiko 2011 (doi:10.1007/978-3-642-21735-7_2). Methods raise ValueError as
    those of `RBM` do.

    >>> import numpy as np, ebm_pipeline as ebm
    >>> points = np.random.default_rng(0).normal(size=(200, 3))
    >>> ebm.GaussianRBM(hidden=4, epochs=5, verbose=False).fit(points).transform(points).shape
    (200, 4)
    """

    base: ClassVar[tuple[str, ...]] = ("model=grbm",)
    models_labels: ClassVar[bool] = False  # units along principal components are no pixels with a label beside them

    @property
    def transform_choice(self) -> str | None:
        """The model's own: numbers in a unit of their own, along their principal components."""
        return None

    def _values(self) -> dict[str, Any]:
        return super()._values() | {"data.values": "real"}


class DBM(_Trained):
    """Deep Boltzmann machine: two or more hidden layers, layerwise pretraining, mean field in the data phase.

    hidden: units of each hidden layer, such as (200, 200); `pretraining` epochs for each RBM (None: as many as `epochs`, 0:
    none); the other parameters as those of `RBM`. Methods raise ValueError as those of `RBM` do.

    Source: Salakhutdinov & Hinton 2009 (proceedings.mlr.press/v5/salakhutdinov09a), Mehta et al. 2019 (arXiv:1803.08823),
    section XVI.

    >>> import numpy as np, ebm_pipeline as ebm
    >>> images = np.repeat([[0, 0, 1, 1], [1, 1, 0, 0]], 50, axis=0)
    >>> dbm = ebm.DBM(hidden=(3, 2), epochs=2, verbose=False).fit(images)
    >>> dbm.machine_
    BoltzmannMachine(4 bernoulli - 3 bernoulli - 2 bernoulli)
    """

    base: ClassVar[tuple[str, ...]] = ("model=dbm",)

    def __init__(
        self,
        hidden: Sequence[int] = (200, 200),
        *,
        pretraining: int | None = None,
        epochs: int = 20,
        learning_rate: float | None = None,
        batch_size: int = 100,
        k: int = 1,
        chains: int | None = None,
        objective: str = "pcd",
        seed: int = 137,
        threads: int | None = 1,
        verbose: bool = True,
        track: bool = False,
    ) -> None:
        self.hidden = hidden
        self.pretraining = pretraining
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.k = k
        self.chains = chains
        self.objective = objective
        self.seed = seed
        self.threads = threads
        self.verbose = verbose
        self.track = track

    def _values(self) -> dict[str, Any]:
        found = super()._values()
        sizes = found.pop("hidden_units")
        if isinstance(sizes, int) or len(sizes) < 2:
            raise UserError(
                f"hidden must hold the units of at least two hidden layers, such as (200, 200); got {sizes!r}"
            )
        layers = {"visible": {"_target_": f"{LAYERS}.Bernoulli.create", "units": "${data.units}"}}
        for index, size in enumerate(sizes, start=1):
            layers[f"hidden_{index}"] = {"_target_": f"{LAYERS}.Bernoulli.create", "units": size}
        weights = [f"weights/{index}" for index in range(len(sizes))]
        found |= {"model.layers": layers, "model.penalties.0.parameters": weights}
        if self.pretraining == 0:
            found["model.pretraining"] = None
        elif self.pretraining is not None:
            found["model.pretraining.epochs"] = self.pretraining
        return found


def _penalties(penalty: str | None, strength: float) -> dict[str, Any]:
    """That of the weights, by name; none leaves what the model has."""
    if penalty is None:
        return {}
    _choice("penalty", penalty, PENALTIES)
    target = f"{TRAINING}.{PENALTIES[penalty]}"
    return {"model.penalties": [{"_target_": target, "parameters": ["weights/0"], "strength": strength}]}


def _choice(name: str, value: object, known: Any) -> None:
    if value not in known:
        raise UserError(f"{name} must be one of {', '.join(map(repr, known))}; got {value!r}")
