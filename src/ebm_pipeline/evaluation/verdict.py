"""The verdict on a run: one line that says whether its figures can be believed, and if not which figure decided.

In this order, the first that holds:

    diverged                   a figure that is not finite, or far fewer nats on the training data than independent pixels
    out of equilibrium         chains from data and from noise do not agree; or they agree far from the data, though short chains
                               come near them, which is how a machine fails whose training chains do not follow it (Decelle,
                               Furtlehner & Seoane 2021)
    likelihood not determined  the likelihood card says so
    untrained                  no more nats than independent pixels: the figures are right, but there is no model of the data
    overfitting                too large a share of the nats gained over independent pixels is lost on held-out data
    trustworthy                none of these

Nats are compared without knowing log Z where it drops out: in the difference of two parts of the data it does, and forward AIS
overestimates log Z by more than t nats with a probability of at most exp(-t), whatever its effective sample size (Markov's
inequality), so that log Z is at least its estimate less CERTAIN nats even where the card is not determined.

Without card and diagnosis only what needs no samples is looked at, and "not evaluated" says what is missing. A verdict rests on
the sweeps and temperatures that were made: modes that no chain has found stay unseen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from ebm_pipeline.errors import check_number
from ebm_pipeline.evaluation.card import ERRORS, LikelihoodCard, standard_error
from ebm_pipeline.evaluation.diagnostics import Checkpoint, Diagnosis
from ebm_pipeline.evaluation.likelihood import independent_each, unnormalized_each
from ebm_pipeline.inference import MeanField
from ebm_pipeline.machine import BoltzmannMachine

DIVERGED = "diverged"
OUT_OF_EQUILIBRIUM = "out of equilibrium"
NOT_DETERMINED = "likelihood not determined"
UNTRAINED = "untrained"
OVERFITTING = "overfitting"
TRUSTWORTHY = "trustworthy"
NOT_EVALUATED = "not evaluated"
CERTAIN = 5.0  # nats; exp(-5) is below 1 %


@dataclass(frozen=True)
class Verdict:
    """Its name, the figure that decided with its threshold and the setting to change, and what to know beside it."""

    name: str
    reason: str
    beside: str = ""

    def __str__(self) -> str:
        return f"verdict: {self.name}: {self.reason}" + (f" ({self.beside})" if self.beside else "")

    def as_dict(self) -> dict[str, str]:
        return asdict(self)

    def tags(self) -> dict[str, str]:
        """Tags for MLflow."""
        return {"verdict": self.name, "verdict.reason": self.reason, "verdict.beside": self.beside}


@dataclass(frozen=True)
class Gap:
    """Nats per image gained over independent pixels: training less held-out data, its standard error, and the most to be gained.

    `most` is None for data that are not binary: their log-likelihood has no upper end.
    """

    nats: float
    std_error: float
    most: float | None


def gap(machine: BoltzmannMachine, data_mean: Tensor, training: Tensor, held_out: Tensor, mean_field: MeanField) -> Gap:
    """Of images (count, units) of the two parts; log Z drops out. For deeper machines by the variational bound."""
    means, errors, alone = [], [], []
    with torch.inference_mode():
        for images in (training, held_out):
            independent = independent_each(machine, data_mean, images)
            gained = unnormalized_each(machine, images, mean_field) - independent
            means.append(float(gained.mean()))
            errors.append(standard_error(gained))
            alone.append(float(independent.mean()))
    binary = bool(((training == 0) | (training == 1)).all())
    return Gap(means[0] - means[1], math.hypot(*errors), -alone[0] if binary else None)


@dataclass(frozen=True)
class Criteria:
    """The thresholds. Calling it judges a run by what is known of it."""

    most_r_hat: float  # between chains from data and from noise
    most_deviation: float  # of the means of long-run samples from those of training data, in standard deviations
    most_loss: float  # nats per pixel below independent pixels, on training data
    least_gain: float  # nats per pixel over independent pixels, on training data
    most_overfitting: float  # share of the gain on training data that is lost on held-out data

    def __post_init__(self) -> None:
        for name in ("most_r_hat", "most_deviation", "most_loss", "least_gain", "most_overfitting"):
            check_number(f"verdict.{name}", getattr(self, name), open_low=True)

    def __call__(
        self,
        figures: Mapping[str, float],
        pixels: int,
        card: LikelihoodCard | None,
        diagnosis: Diagnosis | None,
        gap: Gap | None = None,
    ) -> Verdict:
        """Judge by monitored `figures`, by card and diagnosis of one machine, or without them by the `gap`."""
        found = self._not_finite(dict(figures) | (diagnosis.figures if diagnosis else {}))
        if card is not None:
            found = found or self._worse_than_independent(card, pixels)
        if diagnosis is not None:
            found = found or self._families(card, diagnosis) or self._drift(diagnosis)
        if card is not None:
            found = found or self._not_determined(card) or self._untrained(card, pixels) or self._overfitting(card)
        elif gap is not None:
            found = found or self._gap(gap)
        beside = "" if diagnosis is None else _mixing(diagnosis)
        if found is not None:
            return Verdict(*found, beside)
        missing = _missing(card, diagnosis)
        if card is None or missing:
            return Verdict(NOT_EVALUATED, missing, beside)
        return Verdict(TRUSTWORTHY, self._in_favour(card, diagnosis), beside)

    def _not_finite(self, figures: Mapping[str, float]) -> tuple[str, str] | None:
        for name, value in figures.items():
            if not math.isfinite(value):
                return DIVERGED, f"{name.replace('_', ' ')} is {value}, which is not finite: lower optimizer.lr"
        return None

    def _worse_than_independent(self, card: LikelihoodCard, pixels: int) -> tuple[str, str] | None:
        part = _training(card)
        loss, most = -_most_gain(card, part), self.most_loss * pixels
        if loss > most:
            return DIVERGED, (
                f"{part}: at least {loss:.1f} nats per image worse than independent pixels, above {most:.2g} "
                f"({self.most_loss:g} per pixel): lower optimizer.lr"
            )
        return None

    def _families(self, card: LikelihoodCard | None, diagnosis: Diagnosis) -> tuple[str, str] | None:
        """Of the longer of the two runs of chains that there are."""
        r_hat, figure, sweeps, setting = (
            diagnosis.figures["samples_r_hat"], "the figures watched", diagnosis.sweeps, "diagnostics.sweeps",
        )  # fmt: skip
        if card is not None and card.r_hat and card.settings and card.settings["sweeps"] > sweeps:
            figure, r_hat = max(card.r_hat.items(), key=lambda item: item[1])
            sweeps, setting = card.settings["sweeps"], "likelihood.sweeps"
        if r_hat <= self.most_r_hat:
            return None
        return OUT_OF_EQUILIBRIUM, (
            f"R-hat of {figure.replace('_', ' ')} between chains from data and from noise is {r_hat:.2f} after {sweeps:,} "
            f"sweeps, above {self.most_r_hat:g}: raise {setting}, and if that does not help train with more sampler.steps"
        )

    def _drift(self, diagnosis: Diagnosis) -> tuple[str, str] | None:
        last = max((way[-1] for way in diagnosis.approach.values()), key=lambda point: point.deviation)
        if last.deviation <= self.most_deviation:
            return None
        nearest = _nearest(diagnosis)
        if nearest.deviation > last.deviation / 2:
            return None
        return OUT_OF_EQUILIBRIUM, (
            f"samples after {last.sweeps:,} sweeps lie {last.deviation:.2f} standard deviations from the means of the training "
            f"data, above {self.most_deviation:g}, though after {nearest.sweeps:,} only {nearest.deviation:.2f}: the chains of "
            "the training do not follow the model: raise sampler.steps or lower optimizer.lr"
        )

    def _not_determined(self, card: LikelihoodCard) -> tuple[str, str] | None:
        return (NOT_DETERMINED, card.reasons[0]) if card.reasons else None

    def _untrained(self, card: LikelihoodCard, pixels: int) -> tuple[str, str] | None:
        part = _training(card)
        most, least = _most_gain(card, part), self.least_gain * pixels
        if most >= least:
            return None
        return UNTRAINED, (
            f"{part}: {most:.2f} nats per image over independent pixels, below {least:.2g} ({self.least_gain:g} per pixel): "
            "the machine has learned nothing: raise training.epochs or optimizer.lr"
        )

    def _overfitting(self, card: LikelihoodCard) -> tuple[str, str] | None:
        held_out = _held_out(card)
        if held_out is None:
            return None
        found = _card_gap(card, held_out)
        assert found.most is not None
        return self._gap(found, held_out)

    def _gap(self, found: Gap, held_out: str = "validation") -> tuple[str, str] | None:
        """Overfitting, where the gap less its errors is too large a share of the most that can have been gained."""
        if found.most is None or found.most <= 0:
            return None
        share = (found.nats - ERRORS * found.std_error) / found.most
        if share <= self.most_overfitting:
            return None
        return OVERFITTING, (
            f"training images gain {found.nats:.2f} +- {found.std_error:.2f} nats more over independent pixels than {held_out} "
            f"images, at least {share:.0%} of what they gain, above {self.most_overfitting:.0%}: take more data, fewer hidden "
            "units, fewer training.epochs or a penalty (model=rbm_l1)"
        )

    def _in_favour(self, card: LikelihoodCard, diagnosis: Diagnosis | None) -> str:
        assert diagnosis is not None
        held_out = _held_out(card)
        assert held_out is not None
        lost = _card_gap(card, held_out)
        assert lost.most is not None
        share = max(lost.nats, 0) / lost.most
        worst = max(way[-1].deviation for way in diagnosis.approach.values())
        return (
            f"{card.quantity.replace('_', ' ')}, {held_out}: {card.intervals[held_out]} nats; chains from data and from noise "
            f"agree (R-hat {diagnosis.figures['samples_r_hat']:.3f} after {diagnosis.sweeps:,} sweeps), {worst:.2f} standard "
            f"deviations from the data's means; {share:.0%} of the gain on training data lost on held-out data"
        )


def _training(card: LikelihoodCard) -> str:
    """The part that is judged for divergence: the training data where they were measured."""
    return "train" if "train" in card.images else next(iter(card.images))


def _held_out(card: LikelihoodCard) -> str | None:
    return next((part for part in card.images if part != "train"), None) if "train" in card.images else None


def _most_gain(card: LikelihoodCard, part: str) -> float:
    """The most nats per image that a part can have gained over independent pixels, given the estimates of log Z."""
    log_partition = card.log_partition.low if card.forward is None else card.forward.value - CERTAIN
    if card.determined:
        log_partition = card.log_partition.low
    loose = 0.0 if card.tightness is None else card.tightness.nats
    return card.unnormalized[part] + loose - log_partition - card.independent[part]


def _card_gap(card: LikelihoodCard, held_out: str) -> Gap:
    gained = {part: card.unnormalized[part] - card.independent[part] for part in ("train", held_out)}
    errors = card.image_errors or {}
    return Gap(
        gained["train"] - gained[held_out],
        math.hypot(errors.get("train", 0.0), errors.get(held_out, 0.0)),
        _most_gain(card, "train"),
    )


def _nearest(diagnosis: Diagnosis) -> Checkpoint:
    return min((point for way in diagnosis.approach.values() for point in way), key=lambda point: point.deviation)


def _mixing(diagnosis: Diagnosis) -> str:
    """How single chains move: what says nothing against a likelihood, but much of samples of one chain."""
    r_hat, time = diagnosis.figures["chains_r_hat"], diagnosis.figures["energy_autocorrelation_sweeps"]
    return (
        f"single chains: R-hat {r_hat:.2f} within {diagnosis.sweeps:,} sweeps, autocorrelation time of the free energy "
        f"{time:.0f} sweeps"
    )


def _missing(card: LikelihoodCard | None, diagnosis: Diagnosis | None) -> str:
    """What a verdict lacks."""
    if card is None and diagnosis is None:
        return "run ebm-evaluate, or train with evaluation=full"
    if card is None or diagnosis is None:
        lacking = "the likelihood card (likelihood=null)" if card is None else "the diagnostics (diagnostics=null)"
        return f"{lacking} was left out: run ebm-evaluate without that"
    if _held_out(card) is None:
        return "only training data were looked at: run ebm-evaluate with part=test or part=validation"
    return ""
