"""Greedy layerwise pretraining of a DBM of any depth (Salakhutdinov & Hinton 2009).

The first RBM is trained with doubled bottom-up input, the last with doubled top-down input (see `arrangement`), those
between as plain RBMs whose weights are halved on composition. Each trains on the hidden means of the one below. A layer
that two RBMs share takes the mean of its two biases. Optimizer and schedule start anew for each.

Or the machine grows: its first RBM alone is trained, as it is, and the machine begins as that RBM (`models.growth`): the layers
above keep their small random weights, and biases make up for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ebm_pipeline.evaluation.metrics import MonitoredImages
from ebm_pipeline.models.growth import grown
from ebm_pipeline.models.machine import BoltzmannMachine, assemble
from ebm_pipeline.support.errors import UserError, check_number, check_whole
from ebm_pipeline.training.arrangement import Arrangement
from ebm_pipeline.training.module import BoltzmannTraining, Encoder
from ebm_pipeline.training.penalties import Penalty
from ebm_pipeline.training.recipe import Recipe


@dataclass(frozen=True)
class Pretraining:
    """`epochs` per RBM at the recipe's learning rate; joint training then runs at `joint_learning_rate` times that.

    grow: the first RBM alone, as it is.
    """

    epochs: int
    joint_learning_rate: float = 1.0
    grow: bool = False

    def __post_init__(self) -> None:
        check_whole("model.pretraining.epochs", self.epochs, 1)
        check_number("model.pretraining.joint_learning_rate", self.joint_learning_rate, open_low=True)


def arrangement_of(index: int, count: int) -> Arrangement:
    """How RBM `index` of `count` is trained."""
    if index == 0:
        return Arrangement.MIRRORED_VISIBLE
    return Arrangement.MIRRORED_HIDDEN if index == count - 1 else Arrangement.PLAIN


def check_depth(machine: BoltzmannMachine) -> None:
    """Raise UserError unless layerwise pretraining is for machines of this depth."""
    if machine.depth < 3:
        raise UserError("layerwise pretraining needs a model of at least two hidden layers; use model.pretraining=null")


def pretrain(
    machine: BoltzmannMachine,
    recipe: Recipe,
    visible_mean: Tensor,
    monitored: MonitoredImages,
    training_means: Callable[[Encoder], Tensor],
    fit: Callable[[BoltzmannTraining, int], BoltzmannMachine],
) -> BoltzmannMachine:
    """The composed machine.

    fit(module, index) trains the module of RBM `index` and returns its machine; training_means(encode) is the mean over
    the training images, brought up by `encode`, of the layer that is the next RBM's visible one.
    """
    check_depth(machine)
    count = machine.depth - 1
    trained: list[BoltzmannMachine] = []
    encode: Encoder | None = None
    for index in range(count):
        visible = machine.layers[index]
        if encode is not None:
            visible_mean = training_means(encode)
            visible = visible.with_tensors(bias=visible.bias_for_mean(visible_mean))
        rbm = assemble((visible, machine.layers[index + 1]), (machine.weights[index],))
        images = monitored if encode is None else _encoded(monitored, encode)
        arrangement = arrangement_of(index, count)
        module = BoltzmannTraining(rbm, recipe_for(recipe, index), visible_mean, images, arrangement, encode)
        trained.append(fit(module, index))
        encode = _encoder(trained)
    return compose(machine, trained)


def recipe_for(recipe: Recipe, index: int) -> Recipe:
    """The DBM's recipe for its RBM `index`: what names parameters by that RBM's own names, a seed, no average."""
    own = {f"weights/{index}": "weights/0"} | {f"layers/{index + offset}": f"layers/{offset}" for offset in (0, 1)}

    def renamed_names(names: Sequence[str]) -> list[str]:
        parts = [name.split("/", 2) for name in names]  # weights/0, or layers/0 and the name within the layer
        return ["/".join((own[f"{kind}/{at}"], *rest)) for kind, at, *rest in parts if f"{kind}/{at}" in own]

    def renamed(penalty: Penalty) -> Penalty:
        return penalty.renamed(renamed_names(penalty.parameters))

    return replace(
        recipe,
        penalties=[renamed(penalty) for penalty in recipe.penalties],
        constraints=[
            replace(constraint, parameters=renamed_names(constraint.parameters)) for constraint in recipe.constraints
        ],
        fixed=renamed_names(recipe.fixed),
        rates={own: rate for name, rate in recipe.rates.items() for own in renamed_names([name])},
        seed=recipe.seed + index + 1,
        average_from=None,
    )


def _encoder(trained: Sequence[BoltzmannMachine]) -> Encoder:
    """Means of the top layer of the RBMs trained so far, given images: the first with its input doubled."""
    rbms = list(trained)

    def encode(images: Tensor) -> Tensor:
        state = images
        for index, rbm in enumerate(rbms):
            rbm = rbm.map(lambda tensor: tensor.to(images.device))
            inputs = rbm.inputs((state.to(rbm.weights[0].dtype), None), 1)
            state = rbm.layers[1].mean(2 * inputs if index == 0 else inputs)
        return state

    return encode


def _encoded(monitored: MonitoredImages, encode: Encoder) -> MonitoredImages:
    with torch.no_grad():
        return MonitoredImages(encode(monitored.validation), encode(monitored.training), encode(monitored.noisy))


def compose(machine: BoltzmannMachine, rbms: Sequence[BoltzmannMachine]) -> BoltzmannMachine:
    """The DBM made of RBMs that were trained one on the other; `machine` gives what is not trained."""
    count = len(rbms)
    tensors: dict[str, Tensor] = {}
    for index, rbm in enumerate(rbms):
        plain = arrangement_of(index, count) is Arrangement.PLAIN
        tensors[f"weights/{index}"] = 0.5 * rbm.weights[0] if plain else rbm.weights[0].clone()
    for index in range(count + 1):
        own = [rbm.layers[index - position] for position, rbm in enumerate(rbms) if index - position in (0, 1)]
        for name in machine.layers[index].named_tensors():
            values = [layer.named_tensors()[name] for layer in own]
            tensors[f"layers/{index}/{name}"] = torch.stack(values).mean(0)
    return machine.with_tensors(tensors)


def grow(
    machine: BoltzmannMachine,
    recipe: Recipe,
    visible_mean: Tensor,
    monitored: MonitoredImages,
    fit: Callable[[BoltzmannTraining, int], BoltzmannMachine],
) -> BoltzmannMachine:
    """The machine that begins as an RBM that `fit` has trained (see `pretrain`)."""
    check_depth(machine)
    rbm = assemble(machine.layers[:2], machine.weights[:1])
    trained = fit(BoltzmannTraining(rbm, recipe_for(recipe, 0), visible_mean, monitored), 0).folded()
    return grown(trained, machine, monitored.training, recipe.mean_field)
