"""The one evaluator of all weights: the likelihood card, as `ebm-evaluate model=FILE data=mnist` measures it."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from benchmarks.common import SEED
from ebm_pipeline.data import DataSet
from ebm_pipeline.evaluation.ais import annealed_importance_sampling, base_of_data, even_steps
from ebm_pipeline.evaluation.card import Likelihood, LikelihoodCard
from ebm_pipeline.evaluation.likelihood import unnormalized
from ebm_pipeline.models.foreign import read_foreign
from ebm_pipeline.models.inference import MeanField
from ebm_pipeline.models.storage import SavedModel
from ebm_pipeline.runs.assess import Material, measure_likelihood
from ebm_pipeline.support.errors import UserError

PART = "test"
SCREENING, CHAINS = 300, 100  # temperatures and chains of the forward run that says which weights are worth a card
SLACK = 3.0  # nats by which it may be too low
CARD = Likelihood(
    temperatures=10_000, chains=100, base="data", placement="equal", sweeps=1000, most_width=1.0, least_ess=10,
    most_r_hat=1.2, doublings=1,
)  # fmt: skip


class Judge:
    """Log-likelihoods of files of weights; what was measured of a file is kept."""

    def __init__(self, data: DataSet) -> None:
        self.data = data
        self.material = Material.of(data, PART)
        self.found: dict[Path, float] = {}
        self.cards: dict[Path, LikelihoodCard] = {}

    def screened(self, path: Path) -> float:
        """Forward AIS alone, nats per test image; minus infinity where the weights are none."""
        if path not in self.found:
            try:
                machine, generator = read_foreign(path), torch.Generator().manual_seed(SEED)
            except UserError:  # not finite: the training has diverged
                return self.found.setdefault(path, -math.inf)
            base = base_of_data(machine, self.material.training, MeanField(), generator)
            with torch.inference_mode():
                estimate = annealed_importance_sampling(machine, base, even_steps(SCREENING), CHAINS, generator)
                nats = unnormalized(machine, self.material.parts[PART], MeanField()) - estimate.value
            self.found[path] = nats
        return self.found[path]

    def card(self, path: Path) -> LikelihoodCard:
        if path not in self.cards:
            machine = read_foreign(path)
            saved = SavedModel(machine, self.data.train_mean().float(), self.data.image_shape, "")
            self.cards[path] = measure_likelihood(CARD, saved, self.material, MeanField(), SEED)
        return self.cards[path]

    def reaches(self, path: Path, target: float) -> bool:
        """Whether the whole interval lies above a target."""
        if self.screened(path) < target - SLACK:
            return False
        card = self.card(path)
        return not card.reasons and card.intervals[PART].low >= target

    def interval(self, path: Path) -> str:
        """That of the card, or why there is none."""
        if self.screened(path) == -math.inf:
            return "diverged"
        card = self.card(path)
        return (
            f"not determined ({self.screened(path):.1f} by forward AIS alone)"
            if card.reasons
            else str(card.intervals[PART])
        )
