"""Trajectory tempering: how often its log Z is right, and what training by it costs.

`python -m benchmarks trajectory` prints both tables; MNIST for the second.
"""

from __future__ import annotations

import statistics
import time
from functools import cache
from pathlib import Path

import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor

from benchmarks.common import composed, table
from benchmarks.likelihood import UNITS, digits
from ebm_pipeline.evaluation.card import Likelihood, bracket
from ebm_pipeline.evaluation.enumeration import exact_log_partition
from ebm_pipeline.evaluation.trajectory import trajectory_log_partition
from ebm_pipeline.models.inference import MeanField
from ebm_pipeline.models.initialization import initialize, normal
from ebm_pipeline.models.layers import Bernoulli
from ebm_pipeline.models.machine import BoltzmannMachine
from ebm_pipeline.runs.plan import prepare
from ebm_pipeline.sampling import TrajectoryTempering, start_at_mean
from ebm_pipeline.training.module import BoltzmannTraining
from ebm_pipeline.training.objectives import PersistentContrastiveDivergence

SEEDS = 100
LEARNED = {  # units of the layers, of digits of 8 x 8 pixels: b Bernoulli, g Gaussian
    "RBM 64-16": ("bb", (64, 16)),
    "Gaussian RBM 64-14": ("gb", (64, 14)),
    "DBM 64-16-10": ("bbb", (64, 16, 10)),
    "DBM 64-12-16-8": ("bbbb", (64, 12, 16, 8)),
}
SIZES = (50, 200, 500)  # hidden units, of 784 pixels
TURNS, PART = 2, 57  # epochs, and updates after which the two trainings take turns


@cache
def learned(name: str, steps: int = 2000) -> tuple[BoltzmannMachine, BoltzmannMachine, Tensor]:
    """A machine trained by trajectory on digits, the rungs below it, stacked, and the digits."""
    kinds, sizes = LEARNED[name]
    generator = torch.Generator().manual_seed(len(name))
    images = digits(kinds)
    layers = [UNITS[kind].create(units) for kind, units in zip(kinds, sizes, strict=True)]
    mean = images.mean(0)
    machine = initialize(layers, lambda low, high, g, images: normal(low, high, g, std=0.05), mean, generator)
    objective = PersistentContrastiveDivergence(TrajectoryTempering(every=0), MeanField())
    others = (None,) * (machine.depth - 1)
    chains = objective.init(machine, start_at_mean(machine, 100, mean, generator), (mean, *others))
    rate = 0.1 if isinstance(layers[0], Bernoulli) and isinstance(layers[1], Bernoulli) else 0.01
    for step in range(steps):
        batch = images[torch.randint(len(images), (100,), generator=generator)]
        learning = objective(machine, (batch, *others), chains, generator)
        chains, tensors = learning.chains, machine.named_tensors()
        factor = rate * (1 - step / steps)
        machine = machine.with_tensors(
            {name: tensors[name] - factor * gradient for name, gradient in learning.gradient.items()}
        )
    return machine, chains.machines(machine), images


def coverage(seeds: int) -> None:
    """How often the exact log Z lies within two errors of the estimate, and the estimate in the interval of AIS."""
    rows = []
    for name in LEARNED:
        machine, rungs, images = learned(name)
        exact = exact_log_partition(machine)
        ais = Likelihood(
            temperatures=300,
            chains=100,
            base="data",
            placement="equal",
            sweeps=500,
            most_width=1.0,
            least_ess=20,
            most_r_hat=1.1,
        )
        own, inside, errors, stated, seconds = 0, 0, [], [], 0.0
        for seed in range(seeds):
            generator = torch.Generator().manual_seed(seed)
            began = time.process_time()
            found = trajectory_log_partition(machine, rungs, images, 100, 300, generator)
            seconds += time.process_time() - began
            both = ais.bracketed(machine, images.mean(0), images, MeanField(), generator)
            interval = bracket(both.forward, both.reverse)
            own += abs(found.value - exact) < 2 * found.std_error
            inside += interval.low <= found.value <= interval.high
            errors.append(found.value - exact)
            stated.append(found.std_error)
        rows.append([
            name, str(found.temperatures), f"{exact:.3f}", f"{statistics.fmean(errors):+.4f}",
            f"{statistics.fmean(error**2 for error in errors) ** 0.5:.4f}", f"{statistics.median(stated):.4f}",
            f"**{own} of {seeds}**", f"**{inside} of {seeds}**", f"{seconds / seeds:.2f}",
        ])  # fmt: skip
    table(
        [
            "machine, trained by trajectory", "machines", "log Z, exact", "mean error", "RMS error", "stated error, median",
            "exact value within 2 errors", "estimate within the interval of AIS", "s",
        ],
        rows,
    )  # fmt: skip


def training_of(output: Path, hidden: int, sampler: str) -> tuple[BoltzmannTraining, list[Tensor]]:
    """A training outside of Lightning, which is the same for both, and the batches of an epoch."""
    config = composed(output, "data=mnist", "model=rbm", "threads=1", f"sampler={sampler}", f"hidden_units={hidden}")
    plan = prepare(config, output / f"{sampler}_{hidden}")
    module = BoltzmannTraining(plan.initial, plan.recipe, plan.data_mean, plan.monitored)
    (optimizer,), _ = module.configure_optimizers()
    wrapper = LightningOptimizer(optimizer)
    module.optimizers = lambda use_pl_optimizer=True: wrapper if use_pl_optimizer else optimizer  # type: ignore[method-assign, assignment]
    module.averaged = None  # which counts the updates of a trainer
    return module, list(plan.data.train_batches(seed=137))


def cost(output: Path) -> None:
    """CPU seconds of an epoch by PCD-1 and by trajectory, which take turns of 57 updates; the least of each stand."""
    rows = []
    for hidden in SIZES:
        trainings = {sampler: training_of(output, hidden, sampler) for sampler in ("gibbs", "trajectory")}
        with torch.no_grad():
            for _ in range(TURNS):
                least = _turns(trainings)
        rungs = trainings["trajectory"][0].chains.rungs + 1
        ratio = least["trajectory"] / least["gibbs"]
        rows.append(
            [f"784-{hidden}", str(rungs), *(f"{10 * value:.2f}" for value in least.values()), f"**{ratio:.2f}**"]
        )
    table(["RBM, MNIST", "machines of the ladder", "PCD-1, s per epoch", "by trajectory", "ratio"], rows)


def _turns(trainings: dict[str, tuple[BoltzmannTraining, list[Tensor]]]) -> dict[str, float]:
    """The least CPU seconds of a turn, by sampler, in one epoch."""
    times: dict[str, list[float]] = {sampler: [] for sampler in trainings}
    for first in range(0, len(trainings["gibbs"][1]), PART):
        for sampler, (module, batches) in trainings.items():
            began = time.process_time()
            for batch in batches[first : first + PART]:
                module.update(batch)
            times[sampler].append(time.process_time() - began)
    return {sampler: min(own) for sampler, own in times.items()}


def trajectory(output: Path, seeds: int = SEEDS) -> None:
    """log Z along the ladder against enumeration and AIS, 100 seeds; what training by trajectory costs."""
    coverage(seeds)
    cost(output)
