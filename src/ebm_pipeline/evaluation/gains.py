"""What a model gains over independent units fitted to the data, and how much less of it held-out data have.

Nats are compared without knowing log Z where it drops out: in the difference of two parts of the data it does, and forward AIS
overestimates log Z by more than t nats with a probability of at most exp(-t), whatever its effective sample size (Markov's
inequality), so that log Z is at least its estimate less CERTAIN nats even where the card is not determined.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ebm_pipeline.evaluation.card import LikelihoodCard
from ebm_pipeline.evaluation.likelihood import independent_each, independent_units, standard_error, unnormalized_each
from ebm_pipeline.models.inference import MeanField
from ebm_pipeline.models.machine import BoltzmannMachine

CERTAIN = 5.0  # nats; exp(-5) is below 1 %


@dataclass(frozen=True)
class Gap:
    """Nats per image gained over independent units: training less held-out data, its standard error, and the most to be gained.

    `most` is None for data that are not binary: their log-likelihood has no upper end.
    """

    nats: float
    std_error: float
    most: float | None


def gap(machine: BoltzmannMachine, training: Tensor, held_out: Tensor, mean_field: MeanField) -> Gap:
    """Of images (count, units) of the two parts; log Z drops out. For deeper machines by the variational bound."""
    means, errors, alone = [], [], []
    with torch.inference_mode():
        units = independent_units(machine.layers[0], training)
        for images in (training, held_out):
            independent = independent_each(units, images)
            gained = unnormalized_each(machine, images, mean_field) - independent
            means.append(float(gained.mean()))
            errors.append(standard_error(gained))
            alone.append(float(independent.mean()))
    binary = bool(((training == 0) | (training == 1)).all())
    return Gap(means[0] - means[1], math.hypot(*errors), -alone[0] if binary else None)


def training_part(card: LikelihoodCard) -> str:
    """The part that is judged for divergence: the training data where they were measured."""
    return "train" if "train" in card.images else next(iter(card.images))


def held_out_part(card: LikelihoodCard) -> str | None:
    return next((part for part in card.images if part != "train"), None) if "train" in card.images else None


def most_gain(card: LikelihoodCard, part: str) -> float:
    """The most nats per image that a part can have gained over independent units, given the estimates of log Z."""
    log_partition = card.log_partition.low if card.forward is None else card.forward.value - CERTAIN
    if card.determined:
        log_partition = card.log_partition.low
    loose = 0.0 if card.tightness is None else card.tightness.nats
    return card.unnormalized[part] + loose - log_partition - card.independent[part]


def card_gap(card: LikelihoodCard, held_out: str) -> Gap:
    gained = {part: card.unnormalized[part] - card.independent[part] for part in ("train", held_out)}
    errors = card.image_errors or {}
    return Gap(
        gained["train"] - gained[held_out],
        math.hypot(errors.get("train", 0.0), errors.get(held_out, 0.0)),
        most_gain(card, "train"),
    )
