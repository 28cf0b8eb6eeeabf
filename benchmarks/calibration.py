"""How often the verdict is right on machines of known truth: `python -m benchmarks.verdict calibrate [SEED]`.

Machines of every unit type and depth, small enough to be enumerated, half of them trained well, half spoilt in one of the ways of
SPOILT. Every second one is judged as if it could not be enumerated (AIS, samples of chains). What is true of each is computed
from its enumeration and from POPULATION further images of what its data come from, which the verdict does not see.

A machine deserves trust if all of this is true of it. The limits were set before any machine was judged; they lie 20 % beyond the
verdict's thresholds, so that what stands at a threshold counts against neither side:

(How the means of hidden layers are computed was mended on seed 1: sampled at first, exact since; the limits stayed.)

- it has more nats on its training images than independent units fitted to them, by 0.008 per unit;
- of that gain at most 30 % is lost on the population;
- its exact means lie at most 0.3 standard deviations from the population's, and its covariances 0.6 of their size;
- its hidden units say different things of different images, by the exact means of each given an image: in no layer do more
  than 95 % of the units vary by less than 0.01, and none spreads by less than 0.016;
- its images are states of its visible units, and its energies are finite.

*False "trustworthy"*: a verdict of that name on a machine that does not deserve it, or whose stated interval misses the exact
value by more than 0.05 nats, or that states a deviation of the means wrong by more than 0.1. *False alarm*: any other on
one that does.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from scipy.stats import beta
from torch import Tensor

from benchmarks.common import table
from ebm_pipeline.cli import config_folder
from ebm_pipeline.evaluation.card import Likelihood, LikelihoodCard
from ebm_pipeline.evaluation.diagnostics import Diagnosis, Diagnostics
from ebm_pipeline.evaluation.enumeration import enumerate_machine, exact_log_partition, joint_states
from ebm_pipeline.evaluation.inside import CONSTANT_SPREAD
from ebm_pipeline.evaluation.likelihood import independent_each, independent_units, unnormalized_each
from ebm_pipeline.evaluation.two_sample import covariance_deviation, mean_deviation
from ebm_pipeline.evaluation.verdict import TRUSTWORTHY, Criteria, Verdict
from ebm_pipeline.models.inference import MeanField
from ebm_pipeline.models.initialization import initialize
from ebm_pipeline.models.layers import (
    Bernoulli,
    Gaussian,
    Ising,
    Layer,
    LearnedGaussian,
    Mixed,
    Potts,
    RectifiedGaussian,
)
from ebm_pipeline.models.machine import ODD, BoltzmannMachine, assemble
from ebm_pipeline.runs.configuration import build
from ebm_pipeline.sampling import Gibbs, start_at_mean
from ebm_pipeline.support.errors import UserError
from ebm_pipeline.training.objectives import ContrastiveDivergence, PersistentContrastiveDivergence

TRAINING, HELD_OUT, POPULATION = 1000, 500, 5000
STEPS = 1000
PROCESSES = 2
REFUSED, FAILED = "refused", "an internal error"
LEAST_GAIN, MOST_LOST, MOST_DEVIATION, MOST_COVARIANCE, MOST_IDLE, LEAST_SPREAD = 0.008, 0.3, 0.3, 0.6, 0.95, 0.016
MISSED_NATS, MISSED_DEVIATION = 0.05, 0.1


# ------------------------------------------------------------------------------------------------- data and machines


@dataclass(frozen=True)
class Shape:
    """A kind of machine: its layers, what its images are made of, and the rate of its training."""

    layers: Callable[[], list[Layer]]
    values: str
    rate: float


SHAPES = {
    "Bernoulli-Bernoulli": Shape(lambda: [Bernoulli.create(10), Bernoulli.create(6)], "binary", 0.1),
    "Ising-Bernoulli": Shape(lambda: [Ising.create(9), Bernoulli.create(6)], "spins", 0.05),
    "Potts-Bernoulli": Shape(lambda: [Potts.create(12, 3), Bernoulli.create(6)], "categories", 0.1),
    "Gaussian-Bernoulli": Shape(lambda: [Gaussian.create(8, 0.5), Bernoulli.create(6)], "real", 0.02),
    "learned Gaussian-Bernoulli": Shape(lambda: [LearnedGaussian.create(8), Bernoulli.create(6)], "real", 0.02),
    "rectified Gaussian-Bernoulli": Shape(
        lambda: [RectifiedGaussian.create(8, 0.4), Bernoulli.create(6)], "positive", 0.05
    ),
    "Bernoulli-Gaussian": Shape(lambda: [Bernoulli.create(10), Gaussian.create(4)], "binary", 0.05),
    "Bernoulli-rectified Gaussian": Shape(lambda: [Bernoulli.create(10), RectifiedGaussian.create(4)], "binary", 0.05),
    "Bernoulli-Ising": Shape(lambda: [Bernoulli.create(10), Ising.create(6)], "binary", 0.05),
    "Bernoulli-Potts": Shape(lambda: [Bernoulli.create(10), Potts.create(6, 3)], "binary", 0.1),
    "Bernoulli-mixed": Shape(
        lambda: [Bernoulli.create(10), Mixed.create({"0": Bernoulli.create(3), "1": Ising.create(2)})], "binary", 0.05
    ),
    "Bernoulli, 3 layers": Shape(lambda: [Bernoulli.create(units) for units in (10, 6, 4)], "binary", 0.1),
    "Bernoulli, 4 layers": Shape(lambda: [Bernoulli.create(units) for units in (8, 6, 4, 3)], "binary", 0.2),
    "Gaussian, 3 layers": Shape(
        lambda: [Gaussian.create(8, 0.5), Bernoulli.create(6), Bernoulli.create(4)], "real", 0.02
    ),
}


def images_of(values: str, units: int, generator: torch.Generator) -> Callable[[int], Tensor]:
    """A source of images (count, units): a few prototypes, each unit of which is changed at random."""
    prototypes = int(torch.randint(2, 5, (), generator=generator))
    weights = 0.3 + torch.rand(prototypes, generator=generator)
    sites = units // 3 if values == "categories" else units
    states = 3 if values == "categories" else 2
    centres = torch.randint(states, (prototypes, sites), generator=generator)
    changed = 0.08 + 0.2 * float(torch.rand((), generator=generator))
    means = 1.2 * torch.randn(prototypes, units, generator=generator)

    def draw(count: int) -> Tensor:
        which = torch.multinomial(weights, count, replacement=True, generator=generator)
        if values in ("real", "positive"):
            real = means[which] + 0.7 * torch.randn(count, units, generator=generator)
            return real if values == "real" else real.clamp_min(0) + 0.3 * torch.rand(count, units, generator=generator)
        noise = torch.randint(states, (count, sites), generator=generator)
        image = torch.where(torch.rand(count, sites, generator=generator) < changed, noise, centres[which])
        if values == "categories":
            return torch.nn.functional.one_hot(image, 3).flatten(1).float()
        return image.float() if values == "binary" else 2 * image.float() - 1

    return draw


def learned(
    layers: list[Layer], images: Tensor, steps: int, rate: float, generator: torch.Generator, *,
    persistent: bool = True, falling: bool = True,
) -> BoltzmannMachine:  # fmt: skip
    """A machine after so many updates of PCD-5 (or CD-1) in batches of 100; variances that are learned stay above 0.05."""
    mean = images.mean(0)
    machine = initialize(
        layers,
        lambda low, high, g, x: (0.1 if len(layers) < 4 else 0.5) * torch.randn(low, high, generator=g),
        mean,
        generator,
    )
    rule = PersistentContrastiveDivergence if persistent else ContrastiveDivergence
    objective = rule(Gibbs(5 if persistent else 1), MeanField())
    hidden = (None,) * (machine.depth - 1)
    chains: Any = objective.init(machine, start_at_mean(machine, 100, mean, generator), (mean, *hidden))
    for step in range(steps):
        batch = images[torch.randint(len(images), (100,), generator=generator)]
        learning = objective(machine, (batch, *hidden), chains, generator)
        chains = learning.chains
        factor = rate * (1 - step / steps if falling else 1)
        tensors = machine.named_tensors()
        tensors = {name: tensors[name] - factor * slope for name, slope in learning.gradient.items()}
        machine = machine.with_tensors(
            {name: value.clamp_min(0.05) if name.endswith("variance") else value for name, value in tensors.items()}
        )
    return machine


@dataclass(frozen=True, eq=False)
class Known:
    """A machine, the images it is judged on, and further ones of what these come from."""

    machine: BoltzmannMachine
    training: Tensor
    held_out: Tensor
    population: Tensor


def well(shape: Shape, generator: torch.Generator) -> Known:
    """A machine trained as it should be."""
    layers = shape.layers()
    draw = images_of(shape.values, layers[0].units, generator)
    images = draw(TRAINING)
    machine = learned(layers, images, STEPS, shape.rate, generator)
    return Known(machine, images, draw(HELD_OUT), draw(POPULATION))


def too_short(shape: Shape, generator: torch.Generator) -> Known:
    """Three updates."""
    layers = shape.layers()
    draw = images_of(shape.values, layers[0].units, generator)
    images = draw(TRAINING)
    machine = learned(layers, images, 3, shape.rate / 3, generator)
    return Known(machine, images, draw(HELD_OUT), draw(POPULATION))


def too_long(shape: Shape, generator: torch.Generator) -> Known:
    """Many updates on few images."""
    layers = shape.layers()
    draw = images_of(shape.values, layers[0].units, generator)
    images = draw(20)
    machine = learned(layers, images, 2 * STEPS, 2 * shape.rate, generator)
    return Known(machine, images, draw(HELD_OUT), draw(POPULATION))


def bad_sampler(shape: Shape, generator: torch.Generator) -> Known:
    """A rate that the chains cannot follow, up to the last update; or CD-1 at that rate."""
    layers = shape.layers()
    draw = images_of(shape.values, layers[0].units, generator)
    images = draw(TRAINING)
    persistent = bool(torch.rand((), generator=generator) < 0.5)
    real = shape.values in ("real", "positive")
    machine = learned(
        layers, images, 500, (4 if real else 15) * shape.rate, generator, persistent=persistent, falling=False
    )
    return Known(machine, images, draw(HELD_OUT), draw(POPULATION))


def other_data(shape: Shape, generator: torch.Generator) -> Known:
    """Judged on images of another source; or on images in another scale, spins for bits among them."""
    trained = well(shape, generator)
    draw = images_of(shape.values, trained.training.shape[1], generator)
    if torch.rand((), generator=generator) < 0.5:
        return replace(trained, training=draw(TRAINING), held_out=draw(HELD_OUT), population=draw(POPULATION))
    sets = (trained.training, trained.held_out, trained.population)
    training, held_out, population = (2 * images - 1 if shape.values == "binary" else 4 * images for images in sets)
    return Known(trained.machine, training, held_out, population)


def broken_weights(shape: Shape, generator: torch.Generator) -> Known:
    """Rows of the first weights in another order, their signs turned, too large, noisy, or gone in the last layer."""
    trained = well(shape, generator)
    weights = list(trained.machine.weights)
    way = int(torch.randint(5, (), generator=generator))
    if way == 0:
        weights[0] = weights[0][torch.randperm(len(weights[0]), generator=generator)]
    elif way == 1:
        weights[0] = -weights[0]
    elif way == 2:
        weights[0] = (1.3 if trained.machine.layers[0].sites() is None else 2.5) * weights[0]
    elif way == 3:
        weights[0] = weights[0] + weights[0].std() * torch.randn(weights[0].shape, generator=generator)
    else:
        weights[-1] = torch.zeros_like(weights[-1])
    return replace(trained, machine=assemble(trained.machine.layers, weights))


SPOILT = (too_short, too_long, bad_sampler, other_data, broken_weights)


# ------------------------------------------------------------------------------------------------------------- truth


@dataclass(frozen=True)
class Truth:
    """What is true of a machine; `faults` are the reasons why it deserves no trust."""

    held_out: float  # exact nats per image (of the variational bound for deep machines)
    deviation: float  # of its exact means from those of its training images
    faults: tuple[str, ...]


def truth(known: Known, generator: torch.Generator) -> Truth:
    """By enumeration; see the module's text."""
    machine, mean_field = known.machine.map(Tensor.double), MeanField()
    sets = {name: getattr(known, name).double() for name in ("training", "held_out", "population")}
    try:
        machine.layers[0].check_data(known.training)
        enumerated = enumerate_machine(machine)
    except UserError as error:
        return Truth(torch.nan, torch.nan, (str(error)[:40],))
    log_partition = exact_log_partition(machine)
    alone = independent_units(machine.layers[0], sets["training"])
    nats = {name: float(unnormalized_each(machine, x, mean_field).mean()) - log_partition for name, x in sets.items()}
    gain = {name: nats[name] - float(independent_each(alone, images).mean()) for name, images in sets.items()}
    samples = enumerated.sample(POPULATION, generator)[0]
    mean = enumerated.visible_mean[None]
    population = sets["population"]
    far = covariance_deviation(samples, population, population)
    found = {
        "no gain": gain["training"] < LEAST_GAIN * machine.layers[0].units,
        "overfitted": gain["training"] - gain["population"] > MOST_LOST * max(gain["training"], 0),
        "means": mean_deviation(mean, population) > MOST_DEVIATION,
        "covariances": far > MOST_COVARIANCE,
        "layer": _useless(machine, population[:500]),
    }
    return Truth(
        nats["held_out"], mean_deviation(mean, sets["training"]), tuple(name for name, holds in found.items() if holds)
    )


def _useless(machine: BoltzmannMachine, images: Tensor) -> bool:
    """Whether a hidden layer says the same of all images, by its exact posterior means."""
    for layer, means in zip(machine.layers[1:], _posterior_means(machine, images), strict=True):
        sites = layer.sites()
        width = 1.0 if sites is None else float(sites[0].amax() - sites[0].amin())
        spread = means.std(0) / width
        idle = float((spread < CONSTANT_SPREAD).double().mean())
        if idle > MOST_IDLE or float(spread.square().mean().sqrt()) < LEAST_SPREAD:
            return True
    return False


def _posterior_means(machine: BoltzmannMachine, images: Tensor) -> list[Tensor]:
    """Exact means (images, units) of each hidden layer given the images, of deeper machines by all states of layer 2."""
    if machine.depth == 2:
        return [machine.layers[1].mean(machine.inputs((images, None), 1))]
    sites = machine.layers[2].sites()
    assert sites is not None
    states = torch.cat(list(joint_states(sites)))
    given = [images[:, None].expand(-1, len(states), -1), None, states.expand(len(images), -1, -1)]
    partial = (*given, *(None,) * (machine.depth - 3))
    shares = torch.softmax(-machine.free_energy(partial), 1)
    means = machine.mean(partial, ODD)[1:]
    return [torch.einsum("is,isu->iu", shares, layer) for layer in means]


# ------------------------------------------------------------------------------------------------------------ verdicts


@dataclass(frozen=True)
class Judge:
    """The settings of conf/ for machines so small: fewer temperatures, chains and sweeps; the thresholds as they are."""

    criteria: Criteria
    likelihood: Likelihood
    diagnostics: Diagnostics

    @classmethod
    def of_configuration(cls) -> Judge:
        with initialize_config_dir(config_folder(), version_base="1.3"):
            config = compose("evaluate", ["run=none"])
        likelihood: Likelihood = build(config.likelihood, "likelihood")
        diagnostics: Diagnostics = build(config.diagnostics, "diagnostics")
        return cls(
            build(config.verdict, "verdict"),
            replace(likelihood, temperatures=300, chains=200, sweeps=300),
            replace(diagnostics, chains=300, sweeps=300),
        )

    def __call__(
        self, known: Known, seed: int, *, enumerated: bool
    ) -> tuple[Verdict, LikelihoodCard | None, Diagnosis | None]:
        """The verdict, and what it rests on; a machine whose data are no states of it is refused."""
        try:
            for images in (known.training, known.held_out):
                known.machine.layers[0].check_data(images)
        except UserError as error:
            return Verdict(REFUSED, str(error)), None, None
        likelihood, diagnostics = self.likelihood, self.diagnostics
        if not enumerated:
            likelihood, diagnostics = replace(likelihood, exact_units=0), replace(diagnostics, exact_units=0)
        parts, mean_field = {"test": known.held_out, "train": known.training}, MeanField()
        try:
            diagnosis = diagnostics(known.machine, parts, mean_field, seed)
            card = likelihood(known.machine, known.training.mean(0), parts, known.training, "known", mean_field, seed)
        except UserError as error:  # energies that overflow
            return Verdict(REFUSED, str(error)), None, None
        return self.criteria({}, known.training.shape[1], card, diagnosis), card, diagnosis


@dataclass(frozen=True)
class Case:
    """One machine: how it was made, what is true of it, what was said, and what of that was wrong."""

    shape: str
    making: str
    enumerated: bool
    truth: Truth
    verdict: Verdict
    wrong: tuple[str, ...]

    @property
    def deserves(self) -> bool:
        return not self.truth.faults

    @property
    def falsely_trusted(self) -> bool:
        return self.verdict.name == TRUSTWORTHY and (not self.deserves or bool(self.wrong))

    @property
    def false_alarm(self) -> bool:
        return self.verdict.name != TRUSTWORTHY and self.deserves


def judged(number: int, seed: int, judge: Judge) -> Case:
    """The machine of this number: even ones are trained well, odd ones spoilt."""
    names = list(SHAPES)
    name = names[(number // 2) % len(names)]
    make = well if number % 2 == 0 else SPOILT[(number // 2) % len(SPOILT)]
    generator = torch.Generator().manual_seed(1_000_003 * seed + number)
    known = make(SHAPES[name], generator)
    enumerated = (number // 4) % 2 == 0
    try:
        verdict, card, diagnosis = judge(known, seed + number, enumerated=enumerated)
    except Exception as error:  # a fault of the package: it has a column of its own, and the others are still judged
        verdict, card, diagnosis = Verdict(FAILED, repr(error)), None, None
    facts = truth(known, generator)
    wrong = []
    if verdict.name == TRUSTWORTHY:
        assert card is not None
        assert diagnosis is not None
        interval = card.intervals["test"]
        if not interval.low - MISSED_NATS <= facts.held_out <= interval.high + MISSED_NATS:
            wrong.append(f"interval {interval} misses {facts.held_out:.2f}")
        stated = diagnosis.of_a_part("samples_mean_deviation")
        if judge.criteria.in_equilibrium(diagnosis) and abs(stated - facts.deviation) > MISSED_DEVIATION:
            wrong.append(f"deviation {stated:.2f} for {facts.deviation:.2f}")
    return Case(name, make.__name__.replace("_", " "), enumerated, facts, verdict, tuple(wrong))


def interval(count: int, total: int) -> tuple[float, float]:
    """95 % interval of a rate (Clopper & Pearson 1934)."""
    low = 0.0 if count == 0 else float(beta.ppf(0.025, count, total - count + 1))
    high = 1.0 if count == total else float(beta.ppf(0.975, count + 1, total - count))
    return low, high


def calibrate(seed: int, count: int) -> list[Case]:
    """Judge `count` machines and print the confusion table and the rates."""
    cases, started = [], time.perf_counter()
    one = partial(judged, seed=seed, judge=Judge.of_configuration())
    with ProcessPoolExecutor(PROCESSES, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        for number, case in enumerate(pool.map(one, range(count))):
            cases.append(case)
            if case.falsely_trusted or case.false_alarm or case.verdict.name == FAILED:
                print(f"{number}: {case}", file=sys.stderr, flush=True)
    print(f"seed {seed}, {count} machines, {(time.perf_counter() - started) / count:.2f} s each\n")
    _confusion(cases)
    for name, cases_of, wrong in (
        ("false trustworthy, of all machines", cases, [case for case in cases if case.falsely_trusted]),
        ("false alarms, of those that deserve trust", [case for case in cases if case.deserves],
         [case for case in cases if case.false_alarm]),
    ):  # fmt: skip
        low, high = interval(len(wrong), len(cases_of))
        print(
            f"{name}: {len(wrong)} of {len(cases_of)}, {len(wrong) / len(cases_of):.1%} (95 %: {low:.1%} to {high:.1%})"
        )
    print()
    return cases


def _confusion(cases: list[Case]) -> None:
    """Verdicts by how a machine was made, and by whether it deserves trust."""
    makings = list(dict.fromkeys(case.making for case in cases))
    verdicts = Counter(case.verdict.name for case in cases)
    rows = []
    for making in makings:
        for deserves in (True, False):
            own = [case for case in cases if case.making == making and case.deserves == deserves]
            if own:
                said = Counter(case.verdict.name for case in own)
                rows.append((making, "yes" if deserves else "no", *(str(said[name] or "") for name in verdicts)))
    table(("made", "deserves trust", *verdicts), rows)
