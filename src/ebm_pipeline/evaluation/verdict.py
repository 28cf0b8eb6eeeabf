"""The verdict on a run: one line that says whether its numbers can be believed, and if not which number decided.

In this order, the first that holds:

    diverged                    a number that is not finite
    not a model of these data   a likelihood that no distribution over such images can have, or fewer nats on the training data
                                than independent units fitted to them
    out of equilibrium          chains from data and from noise do not agree; or they agree far from the data, though short chains
                                come near them, which is how a machine fails whose training chains do not follow it (Decelle,
                                Furtlehner & Seoane 2021)
    likelihood not determined   the likelihood card says so
    untrained                   no more nats than independent units: the numbers are right, but there is no model of the data
    samples unlike the data     means or covariances of equilibrium samples are far from those of the training data
    overfitting                 too large a share of the nats gained over independent units is lost on held-out data
    samples unlike the data     the samples are farther from held-out data than those of independent units
    a layer without use         a hidden layer says the same of every image, or one thing of them where they vary in many ways
    too few images              the images leave open whether twice that share is lost
    trustworthy                 none of these

Samples decide where they are in equilibrium: independent draws of an enumerated machine, or last states of chains each of which
mixes. Chains that stay where they started have the modes' weights from their starts: they decide nothing, which is said, and the
means by the weights of forward AIS are judged in their place.

Beside the name stands, whatever it is, which layer above the first is unused (without it the bound of the images falls by next to
nothing) or collapsed (all of its units say the same).

Without card and diagnosis only what needs no samples is looked at, and "not evaluated" says what is missing. A verdict rests on
the sweeps and temperatures that were made: modes that no chain has found stay unseen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields

from ebm_pipeline.evaluation.card import ERRORS, LikelihoodCard
from ebm_pipeline.evaluation.depth import of_deep_layers, without_use
from ebm_pipeline.evaluation.diagnostics import Diagnosis
from ebm_pipeline.evaluation.equilibrium import above, shown_r_hat
from ebm_pipeline.evaluation.gains import Gap, card_gap, held_out_part, most_gain, training_part
from ebm_pipeline.evaluation.inside import HiddenLayer
from ebm_pipeline.support.errors import check_number

DIVERGED = "diverged"
OUT_OF_EQUILIBRIUM = "out of equilibrium"
NOT_DETERMINED = "likelihood not determined"
UNTRAINED = "untrained"
NOT_A_MODEL = "not a model of these data"
UNLIKE = "samples unlike the data"
WITHOUT_USE = "a layer without use"
TOO_FEW = "too few images"
OVERFITTING = "overfitting"
TRUSTWORTHY = "trustworthy"
NOT_EVALUATED = "not evaluated"
ROUNDING = 1e-3  # nats, and share, by which float32 may lift a likelihood over its bound
SURE = 3.0  # errors by chance beyond which two samples differ


Ground = tuple[str, str]  # name of a verdict and its reason


@dataclass(frozen=True)
class Verdict:
    """Its name, the number that decided with its threshold and the setting to change, and what to know beside it."""

    name: str
    reason: str
    beside: str = ""

    def __str__(self) -> str:
        return f"verdict: {self.name}: {self.reason}" + (f" ({self.beside})" if self.beside else "")

    def as_dict(self) -> dict[str, str]:
        return asdict(self)

    def tags(self) -> dict[str, str]:
        """Tags for MLflow."""
        return {"ebm.verdict": self.name, "ebm.verdict.reason": self.reason}


@dataclass(frozen=True)
class Criteria:
    """The thresholds. Calling it judges a run by what is known of it."""

    most_r_hat: float  # between chains from data and from noise
    most_deviation: float  # of the means of equilibrium samples from those of training data, in standard deviations
    most_loss: float  # nats per unit below independent units, on training data
    least_gain: float  # nats per unit over independent units, on training data
    most_overfitting: float  # share of the gain on training data that is lost on held-out data
    most_covariance_deviation: float  # of equilibrium samples, over the size of the data's covariances
    most_chain_r_hat: float  # of single chains, up to which their last states are samples
    most_idle: float  # share of the units of a layer that are dead or saturated
    least_spread: float  # of what a layer says of different images (`inside.HiddenLayer`)
    least_use: float  # of a layer above the first, as a share of that of the first; below: said beside the name
    least_participation: float  # of the units' means of such a layer; likewise

    def __post_init__(self) -> None:
        for field in fields(self):
            check_number(f"verdict.{field.name}", getattr(self, field.name), open_low=True)

    def __call__(
        self,
        metrics: Mapping[str, float],
        pixels: int,
        card: LikelihoodCard | None,
        diagnosis: Diagnosis | None,
        gap: Gap | None = None,
        layers: Sequence[HiddenLayer] = (),
    ) -> Verdict:
        """Judge by monitored `metrics`, by card and diagnosis of one machine, or without them by the `gap`; layers: its hidden
        ones, where there is no diagnosis.
        """
        name, reason = self._decided(metrics, pixels, card, diagnosis, gap)
        mixing = [] if diagnosis is None else [diagnosis.mixing]
        layers = layers if diagnosis is None else diagnosis.layers
        deep = of_deep_layers(layers, self.least_use, self.least_participation)
        return Verdict(name, reason, "; ".join([*mixing, *(said for layer, said in deep if layer not in reason)]))

    def _decided(
        self,
        metrics: Mapping[str, float],
        pixels: int,
        card: LikelihoodCard | None,
        diagnosis: Diagnosis | None,
        gap: Gap | None,
    ) -> Ground:
        for ground in self._grounds(metrics, pixels, card, diagnosis, gap):
            if ground is not None:
                return ground
        missing = _missing(card, diagnosis)
        if card is None or diagnosis is None or missing:
            return NOT_EVALUATED, missing
        return TRUSTWORTHY, self._in_favour(card, diagnosis)

    def _grounds(
        self,
        metrics: Mapping[str, float],
        pixels: int,
        card: LikelihoodCard | None,
        diagnosis: Diagnosis | None,
        gap: Gap | None,
    ) -> Iterator[Ground | None]:
        """What may speak against a run, the gravest first; each None where it does not."""
        if card is not None:
            yield self._no_information(card)
        yield self._not_finite(dict(metrics) | (diagnosis.metrics if diagnosis else {}))
        if card is not None:
            yield self._impossible(card) or self._worse_than_independent(card, pixels)
        if diagnosis is not None:
            yield self._families(card, diagnosis) or self._drift(diagnosis)
        if card is not None:
            yield self._not_determined(card) or self._untrained(card, pixels)
        if diagnosis is not None:
            yield self._moments(diagnosis)
        if card is not None:
            yield self._overfitting(card)
        elif gap is not None:
            yield self._gap(gap)
        if diagnosis is not None:
            yield self._distance(diagnosis) or self._without_use(diagnosis)
        if card is not None and diagnosis is not None:
            yield self._weighted_means(card, diagnosis)
        if card is not None:
            yield self._too_few(card)

    def _not_finite(self, metrics: Mapping[str, float]) -> Ground | None:
        for name, value in metrics.items():
            if not math.isfinite(value):
                return DIVERGED, f"{name} is {value}, which is not finite: lower optimizer.lr"
        return None

    def _no_information(self, card: LikelihoodCard) -> Ground | None:
        if card.varies:
            return None
        return (
            NOT_A_MODEL,
            "the training images are all the same, there is nothing to model: give other data or another data/transform",
        )

    def _impossible(self, card: LikelihoodCard) -> Ground | None:
        """A likelihood above that of the images' own distribution, which no other can pass."""
        for part, interval in card.intervals.items():
            highest = (card.highest or {}).get(part)
            if highest is not None and interval.low > highest + ROUNDING * (1 + abs(highest)):
                return NOT_A_MODEL, (
                    f"{part}: {interval.low:.2f} nats per image or more, where no distribution over such images can have more "
                    f"than {highest:.2f}: the images are no states of the visible layer (set another data/transform or model), "
                    "or log Z is wrong (raise likelihood.temperatures)"
                )
        return None

    def _worse_than_independent(self, card: LikelihoodCard, pixels: int) -> Ground | None:
        part = training_part(card)
        loss = -most_gain(card, part) - ERRORS * (card.image_errors or {}).get(part, 0.0)
        most = self.most_loss * pixels
        if loss <= most:
            return None
        return NOT_A_MODEL, (
            f"{part}: at least {loss:.1f} nats per image fewer than independent units fitted to the data, above {most:.2g} "
            f"({self.most_loss:g} per unit): lower optimizer.lr, raise training.epochs or sampler.steps, or take a model "
            "whose visible units fit the data"
        )

    def _families(self, card: LikelihoodCard | None, diagnosis: Diagnosis) -> Ground | None:
        """Of the longer of the two runs of chains that there are."""
        r_hat, metric, sweeps, setting = (
            diagnosis.samples_r_hat, "the metrics watched", diagnosis.sweeps, "diagnostics.sweeps",
        )  # fmt: skip
        if card is not None and card.r_hat and card.settings and card.settings["sweeps"] > sweeps:
            metric, r_hat = max(card.r_hat.items(), key=lambda item: item[1])
            sweeps, setting = card.settings["sweeps"], "likelihood.sweeps"
        if r_hat <= self.most_r_hat:
            return None
        return OUT_OF_EQUILIBRIUM, (
            f"R-hat of {metric.replace('_', ' ')} between chains from data and from noise is {shown_r_hat(r_hat, 2)} after "
            f"{sweeps:,} sweeps{above(r_hat, self.most_r_hat)}: raise {setting}, and if that does not help train with more "
            "sampler.steps"
        )

    def _drift(self, diagnosis: Diagnosis) -> Ground | None:
        """Short chains near the data, long ones far: by the exact means of the model, where they are known."""
        last = max((way[-1] for way in diagnosis.approach.values()), key=lambda point: point.deviation)
        far, when = last.deviation, f"samples after {last.sweeps:,} sweeps lie"
        if diagnosis.exact:
            far, when = diagnosis.of_a_part("samples_mean_deviation"), "the model's means lie (exactly)"
        nearest = min(
            (point for way in diagnosis.approach.values() for point in way), key=lambda point: point.deviation
        )
        if far <= self.most_deviation or nearest.deviation > far / 2:
            return None
        return OUT_OF_EQUILIBRIUM, (
            f"{when} {far:.2f} standard deviations from the means of the training data, above {self.most_deviation:g}, though "
            f"samples after {nearest.sweeps:,} sweep{'s' * (nearest.sweeps != 1)} only {nearest.deviation:.2f}: the chains of "
            "the training do not follow the model: raise sampler.steps or lower optimizer.lr"
        )

    def _not_determined(self, card: LikelihoodCard) -> Ground | None:
        return (NOT_DETERMINED, card.reasons[0]) if card.reasons else None

    def _untrained(self, card: LikelihoodCard, pixels: int) -> Ground | None:
        part = training_part(card)
        most, least = most_gain(card, part), self.least_gain * pixels
        if most >= least:
            return None
        return UNTRAINED, (
            f"{part}: {most:.2f} nats per image over independent units, below {least:.2g} ({self.least_gain:g} per unit): "
            "the machine has learned nothing: raise training.epochs or optimizer.lr"
        )

    def _moments(self, diagnosis: Diagnosis) -> Ground | None:
        """Of samples in equilibrium: means and covariances against those of the training data."""
        if not self.in_equilibrium(diagnosis):
            return None
        exact = "exactly" if diagnosis.exact else "by samples"
        for name, most in (
            ("mean", self.most_deviation),
            ("covariance", self.most_covariance_deviation),
        ):
            found = diagnosis.of_a_part(f"samples_{name}_deviation")
            if found > most:
                measure = "standard deviations" if name == "mean" else "of their size"
                how = exact if name == "mean" else "by samples"
                return UNLIKE, (
                    f"in equilibrium the {name}s of the model lie ({how}) {found:.2f} {measure} from those of the training data, "
                    f"above {most:g}: raise sampler.steps or training.chains, lower optimizer.lr, or raise training.epochs"
                )
        return None

    def _weighted_means(self, card: LikelihoodCard, diagnosis: Diagnosis) -> Ground | None:
        """Where chains do not mix: the means by the weights of AIS, which know how much weight each mode has."""
        if self.in_equilibrium(diagnosis) or card.weighted_deviation is None:
            return None
        found, chance = card.weighted_deviation
        if found <= self.most_deviation + ERRORS * chance:
            return None
        return UNLIKE, (
            f"by the weights of AIS the means of the model lie {found:.2f} standard deviations from those of the training data, "
            f"above {self.most_deviation:g} + {ERRORS * chance:.2f} (chance), though single chains do not mix: raise "
            "sampler.steps, or take sampler=tempering"
        )

    def _distance(self, diagnosis: Diagnosis) -> Ground | None:
        """Samples in equilibrium that are farther from the first part of the data than those of independent units."""
        part = _first_part(diagnosis)
        if part is None or not self.in_equilibrium(diagnosis):
            return None
        metrics = diagnosis.metrics
        own, error = metrics[f"{part}/samples_energy_distance"], metrics[f"{part}/samples_energy_distance_error"]
        alone, other_error = (metrics[f"{part}/independent_energy_distance{end}"] for end in ("", "_error"))
        if own <= SURE * error or own - alone <= SURE * math.hypot(error, other_error):
            return None
        return UNLIKE, (
            f"the energy distance of samples to {part} data is {own:.3g} +- {error:.1g}, that of independent units only "
            f"{alone:.3g}: the model has learned less than the means: raise sampler.steps, lower optimizer.lr"
        )

    def _without_use(self, diagnosis: Diagnosis) -> Ground | None:
        found = (without_use(layer, self.most_idle, self.least_spread) for layer in diagnosis.layers)
        reason = next((said for said in found if said is not None), None)
        return None if reason is None else (WITHOUT_USE, reason)

    def in_equilibrium(self, diagnosis: Diagnosis) -> bool:
        """Whether samples can decide: they are exact, or the last states of chains that mix."""
        return diagnosis.exact or diagnosis.chains_r_hat <= self.most_chain_r_hat

    def _overfitting(self, card: LikelihoodCard) -> Ground | None:
        """Before the distance to held-out data, which grows with it."""
        held_out = held_out_part(card)
        return None if held_out is None else self._gap(card_gap(card, held_out), held_out)

    def _too_few(self, card: LikelihoodCard) -> Ground | None:
        """Whether overfitting cannot be excluded: the loss with its errors may be twice what is allowed."""
        held_out = held_out_part(card)
        if held_out is None:
            return None
        found = card_gap(card, held_out)
        assert found.most is not None
        if found.nats + ERRORS * found.std_error <= 2 * self.most_overfitting * found.most:
            return None
        return TOO_FEW, (
            f"training images gain {found.nats:.2f} +- {found.std_error:.2f} nats more over independent units than {held_out} "
            f"images, of {found.most:.2f}: {card.images['train']} and {card.images[held_out]} images cannot tell whether less "
            f"than {2 * self.most_overfitting:.0%} are lost: give more images of either part, or fewer hidden units"
        )

    def _gap(self, found: Gap, held_out: str = "validation") -> Ground | None:
        """Overfitting, where the gap is beyond its errors and too large a share of the most that can have been gained."""
        if found.most is None or found.most <= 0 or found.nats <= ERRORS * found.std_error:
            return None
        share = found.nats / found.most
        if share <= self.most_overfitting:
            return None
        return OVERFITTING, (
            f"training images gain {found.nats:.2f} +- {found.std_error:.2f} nats more over independent units than {held_out} "
            f"images, {share:.0%} of what they gain or more, above {self.most_overfitting:.0%}: take more data, fewer hidden "
            "units, fewer training.epochs or a penalty (model=rbm_l1)"
        )

    def _in_favour(self, card: LikelihoodCard, diagnosis: Diagnosis) -> str:
        held_out = held_out_part(card)
        assert held_out is not None
        lost = card_gap(card, held_out)
        assert lost.most is not None
        share = max(lost.nats, 0) / lost.most
        return (
            f"{self._samples(card, diagnosis, held_out)}; {card.quantity.replace('_', ' ')}, {held_out}: "
            f"{card.intervals[held_out]} nats; chains from data and from noise agree (R-hat "
            f"{shown_r_hat(diagnosis.samples_r_hat)} after {diagnosis.sweeps:,} sweeps); "
            f"{share:.0%} of the gain on training data lost on held-out data"
        )

    def _samples(self, card: LikelihoodCard, diagnosis: Diagnosis, part: str) -> str:
        """How good the samples are, where they can say it."""
        if not self.in_equilibrium(diagnosis):
            r_hat = diagnosis.chains_r_hat
            return (
                f"single chains do not mix (R-hat {shown_r_hat(r_hat, 2)}{above(r_hat, self.most_chain_r_hat)}), so "
                f"that samples say nothing of the weights of modes and decide nothing{_by_weights(card)}"
            )
        means = diagnosis.of_a_part("samples_mean_deviation")
        return (
            f"{diagnosis.told_from(part)}; their means lie {means:.2f} standard deviations from the data's"
            f"{' (exactly)' if diagnosis.exact else ''}"
        )


def _first_part(diagnosis: Diagnosis) -> str | None:
    """The part of the data that samples are compared with first: held-out data."""
    end = "/samples_energy_distance"
    return next((name.removesuffix(end) for name in diagnosis.metrics if name.endswith(end)), None)


def _by_weights(card: LikelihoodCard) -> str:
    """The means that the weights of AIS give, where they stand in for those of samples."""
    if card.weighted_deviation is None:
        return ""
    found, chance = card.weighted_deviation
    return f"; by the weights of AIS the means lie {found:.2f} standard deviations from the data's ({chance:.2f} by chance)"


def _missing(card: LikelihoodCard | None, diagnosis: Diagnosis | None) -> str:
    """What a verdict lacks."""
    if card is None and diagnosis is None:
        return "run ebm-evaluate, or train with evaluation=full"
    if card is None or diagnosis is None:
        lacking = "the likelihood card (likelihood=null)" if card is None else "the diagnostics (diagnostics=null)"
        return f"{lacking} was left out: run ebm-evaluate without that"
    if held_out_part(card) is None:
        return "only training data were looked at: run ebm-evaluate with part=test or part=validation"
    return ""
