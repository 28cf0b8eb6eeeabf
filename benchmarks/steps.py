"""Updates of a machine outside of a run, to be timed, and the matrix products that they need."""

from __future__ import annotations

import logging
from functools import partial
from itertools import pairwise

import pytorch_lightning as pl
import torch
from torch import Tensor

from benchmarks.common import SEED
from ebm_pipeline.evaluation.metrics import MonitoredImages
from ebm_pipeline.models.inference import MeanField
from ebm_pipeline.models.layers import Bernoulli
from ebm_pipeline.models.machine import assemble
from ebm_pipeline.sampling import Gibbs, Sampler
from ebm_pipeline.training.module import BoltzmannTraining
from ebm_pipeline.training.objectives import PersistentContrastiveDivergence
from ebm_pipeline.training.recipe import Recipe

BATCH, ON, LEARNING = (
    100,
    0.13,
    0.05,
)  # images of a batch; share of their pixels that are on, as in MNIST; learning rate
STEPS_TOLERANCE, MOST_STEPS = 0.01, 25  # of mean field, as conf/train.yaml has them

logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)


class Step:
    """The updates of the default recipe (PCD, centring, SGD) of a Bernoulli machine of these units, on random images."""

    def __init__(
        self,
        units: tuple[int, ...],
        chains: int = 100,
        sampler: Sampler | None = None,
        products: str = "float32",
        device: str = "cpu",
        batch: int = BATCH,
    ) -> None:
        generator = torch.Generator().manual_seed(SEED)
        weights = [0.01 * torch.randn(*pair, generator=generator) for pair in pairwise(units)]
        machine = assemble([Bernoulli.create(count) for count in units], weights)
        mean_field = MeanField(STEPS_TOLERANCE, MOST_STEPS)
        self.sampler = sampler or Gibbs(1)
        recipe = Recipe(
            objective=PersistentContrastiveDivergence(self.sampler, mean_field),
            mean_field=mean_field,
            optimizer=partial(torch.optim.SGD, lr=LEARNING, fused=True),
            scheduler=partial(torch.optim.lr_scheduler.ConstantLR, factor=1.0),
            chains=chains,
            products=products,
            centring=0.01,
            seed=SEED,
        )
        images = (torch.rand(batch, units[0], generator=generator) < ON).float()
        self.module = BoltzmannTraining(machine, recipe, images.mean(0), MonitoredImages(images, images, images))
        self.module.to(device)
        self.module.generator = torch.Generator(device).manual_seed(SEED)
        self.batch: Tensor = images.to(device)
        trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
        self.module.trainer = trainer
        trainer.strategy.connect(self.module)
        trainer.strategy.setup_optimizers(trainer)
        self.shapes = shapes(units, chains, self.sampler.steps, batch)

    @torch.no_grad()
    def update(self) -> None:
        """One update."""
        self.module.update(self.batch)

    def mean_field_steps(self) -> float:
        """Iterations of mean field in an update so far; 0 where none are needed."""
        return float(self.module.sums.get("train/mean_field_steps", 0.0)) / max(1, self.module.summed)


def shapes(units: tuple[int, ...], chains: int, sweeps: int, batch: int = BATCH) -> dict[tuple[int, int, int], float]:
    """The products (rows, terms, columns) of an update and how many there are, without those of mean field's iterations.

    For each pair of layers a sweep of the chains sends up and down, the data send up once, and the gradient has one product of
    the data and one of the chains.
    """
    found: dict[tuple[int, int, int], float] = {}
    for low, high in pairwise(units):
        for shape, count in (
            ((chains, low, high), sweeps), ((chains, high, low), sweeps), ((batch, low, high), 1),
            ((low, batch, high), 1), ((low, chains, high), 1),
        ):  # fmt: skip
            found[shape] = found.get(shape, 0) + count
    return found


def iteration_shapes(units: tuple[int, ...]) -> dict[tuple[int, int, int], float]:
    """The products of one iteration of mean field: up and down between hidden layers, for the data."""
    found: dict[tuple[int, int, int], float] = {}
    for low, high in pairwise(units[1:]):
        for shape in ((BATCH, low, high), (BATCH, high, low)):
            found[shape] = found.get(shape, 0) + 1
    return found


def product(rows: int, terms: int, columns: int, device: str = "cpu") -> partial[Tensor]:
    """One product by torch.mm, to be called; tensors of states and weights as a step has them."""
    generator = torch.Generator().manual_seed(SEED)
    left = (torch.rand(rows, terms, generator=generator) < ON).float().to(device)
    return partial(torch.mm, left, torch.randn(terms, columns, generator=generator).to(device))
