"""What is measured of a trained machine at the end of a training and by `ebm-evaluate`: card, diagnosis, verdict."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace

from omegaconf import DictConfig
from torch import Tensor

from ebm_pipeline.data import DataSet
from ebm_pipeline.evaluation import trajectory
from ebm_pipeline.evaluation.card import Likelihood, LikelihoodCard
from ebm_pipeline.evaluation.diagnostics import Diagnosis, Diagnostics
from ebm_pipeline.evaluation.equilibrium import check_size
from ebm_pipeline.evaluation.gains import gap
from ebm_pipeline.evaluation.inside import hidden_layers, layer_metrics
from ebm_pipeline.evaluation.lacking import of_the_pictures
from ebm_pipeline.evaluation.metrics import flip_pixels
from ebm_pipeline.evaluation.verdict import Criteria, Verdict
from ebm_pipeline.models.inference import MeanField
from ebm_pipeline.models.labels import image_layer
from ebm_pipeline.models.layers import Layer
from ebm_pipeline.models.machine import BoltzmannMachine
from ebm_pipeline.models.storage import SavedModel
from ebm_pipeline.runs.configuration import (
    build,
)
from ebm_pipeline.support.errors import UserError, check_memory
from ebm_pipeline.support.progress import Stages, progress_bar

log = logging.getLogger(__name__)

MOST_TRAINING_IMAGES = 10_000  # of the training part that a likelihood is computed on
MOST_LAYER_IMAGES = 500  # by which hidden layers are judged without diagnostics, which have as many
LEAST_IMAGES = 4  # of a part that samples are compared with
SAID_SECONDS = 60  # of a card
TEMPERATURE_BYTES = 64  # in the schedules and paths of the runs


@dataclass(frozen=True)
class Settings:
    """How a run is assessed; likelihood and diagnostics are None where they are left out."""

    likelihood: Likelihood | None
    diagnostics: Diagnostics | None
    criteria: Criteria

    @classmethod
    def of(cls, config: DictConfig) -> Settings:
        """From the groups of a composed configuration."""
        return cls(
            build(config.likelihood, "likelihood", Likelihood | None),
            build(config.diagnostics, "diagnostics", Diagnostics | None),
            build(config.verdict, "verdict", Criteria),
        )

    def check_images(self, data: DataSet, part: str) -> None:
        """Raise UserError if a part has too few images for what is asked."""
        for name in (part, "train"):
            if self.diagnostics is not None and data.count(name) < LEAST_IMAGES:
                raise UserError(
                    f"the diagnostics compare samples with at least {LEAST_IMAGES} {name} images; {data.path} gives "
                    f"{data.count(name)}: give more images or a larger data.validation_fraction, or diagnostics=null"
                )

    @property
    def wants_ladder(self) -> bool:
        """Whether the card has log Z along the history of a run that has kept one."""
        return self.likelihood is not None and self.likelihood.trajectory_sweeps > 0

    def check_size(self, machine: BoltzmannMachine, rungs: int = 0) -> None:
        """Raise UserError if what is asked of this machine, with so many rungs below it, would need more memory than there is."""
        units = sum(layer.units for layer in machine.layers)
        if self.likelihood is not None:
            check_size("likelihood", self.likelihood.chains, self.likelihood.sweeps, units)
            count = self.likelihood.temperatures
            check_memory(f"likelihood.temperatures={count} temperatures", TEMPERATURE_BYTES * count)
            if rungs:
                trajectory.check_size(self.likelihood.trajectory_chains, self.likelihood.trajectory_sweeps, rungs)
        if self.diagnostics is not None:
            check_size("diagnostics", self.diagnostics.chains, self.diagnostics.sweeps, units)


@dataclass(frozen=True, eq=False)
class Assessment:
    """What was found of a run, on a held-out part and on training data."""

    card: LikelihoodCard | None
    diagnosis: Diagnosis | None
    verdict: Verdict
    layers: Mapping[str, float] = field(default_factory=dict)  # numbers of hidden layers, where there is no diagnosis
    lacking: tuple[str, ...] = ()  # metrics and pictures that the model cannot have, each with the reason

    @property
    def metrics(self) -> dict[str, float]:
        """All numbers, by name."""
        seen = self.diagnosis.metrics if self.diagnosis else dict(self.layers)
        return seen | (self.card.metrics() if self.card else {})

    def __str__(self) -> str:
        lines = []
        if self.diagnosis is not None:
            lines.append(f"samples: {self.diagnosis.drawn}")
            lines += [f"{name} {value:.5g}" for name, value in self.diagnosis.metrics.items()]
        if self.card is not None:
            lines += str(self.card).splitlines()
        return "\n".join((*lines, str(self.verdict)))


@dataclass(frozen=True, eq=False)
class Material:
    """The images that an assessment rests on: `parts` (count, units) by name, the training part last.

    training: images that independent units are fitted to; quantity: of the likelihood, by the transform; to_grey: what a
    picture shows of images.
    """

    parts: dict[str, Tensor]
    training: Tensor
    quantity: str
    to_grey: Callable[[Tensor], Tensor] = lambda images: images

    @classmethod
    def of(cls, data: DataSet, part: str) -> Material:
        """`part` of a data set, and its training part."""
        training = data.images("train", MOST_TRAINING_IMAGES)
        parts = {} if part == "train" else {part: data.images(part)}
        return cls(parts | {"train": training}, training, data.quantity, data.transform.to_grey)


def assess(
    settings: Settings,
    saved: SavedModel,
    material: Material,
    monitored: Mapping[str, float],
    mean_field: MeanField,
    seed: int,
) -> Assessment:
    """Card, diagnosis and verdict of a model on its material; `monitored`: its numbers so far."""
    parts = material.parts
    diagnosis = None
    if settings.diagnostics is not None:
        with progress_bar("samples", settings.diagnostics.sweeps, "sweep") as progress:
            diagnosis = settings.diagnostics(saved.machine, parts, mean_field, seed, progress)
        shown = {start: {n: material.to_grey(x) for n, x in way.items()} for start, way in diagnosis.images.items()}
        diagnosis = replace(diagnosis, images=shown)
    card = None
    if settings.likelihood is not None:
        card = measure_likelihood(settings.likelihood, saved, material, mean_field, seed)
    apart = None
    if card is None and len(parts) > 1:
        apart = gap(saved.machine, parts["train"], next(iter(parts.values())), mean_field)
    part, images = next(iter(parts.items()))
    layers = []
    if diagnosis is None and saved.machine.depth > 2:
        layers = hidden_layers(saved.machine, images[:MOST_LAYER_IMAGES], mean_field)
    verdict = settings.criteria(monitored, saved.machine.layers[0].units, card, diagnosis, apart, layers)
    lacking = of_the_pictures(saved.machine, saved.image_shape)
    return Assessment(card, diagnosis, verdict, layer_metrics(layers, part) if layers else {}, lacking)


def check_states(layer: Layer, data: DataSet) -> None:
    """Raise UserError unless every image of every part is a state of the visible layer, after its transform."""
    pixels = image_layer(layer, data.visible)
    for part in data.parts():
        what = f"the {part} images of {data.path}, after data/transform={data.transform.name},"
        for block in data.blocks(part):
            pixels.check_data(block, what)


def noisy_images(data: DataSet, images: Tensor, flips: float, seed: int) -> Tensor:
    """Images (count, units) of `data` with a fraction of their pixels flipped, also where units are no pixels."""
    if data.transform.units_are_pixels:
        return flip_pixels(images, flips, seed, data.visible)
    return data.transform.with_pixels_changed(images, lambda pixels: flip_pixels(pixels, flips, seed))


def measure_likelihood(
    likelihood: Likelihood, saved: SavedModel, material: Material, mean_field: MeanField, seed: int
) -> LikelihoodCard:
    """The card of a model on its material, with a progress bar for each stage; a great cost is said before."""
    cost = likelihood.cost(saved.machine)
    if cost is not None and cost.seconds > SAID_SECONDS:
        log.info(f"likelihood card: {cost}; likelihood.temperatures and likelihood.chains set it")
    with closing(Stages("step")) as stage:
        return likelihood(
            saved.machine,
            saved.data_mean,
            material.parts,
            material.training,
            material.quantity,
            mean_field,
            seed,
            stage,
            saved.ladder,
        )
