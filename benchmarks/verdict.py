"""How often the verdict is right: machines made to be known. `python -m benchmarks.verdict [set | test]` prints two tables, and
`python -m benchmarks.verdict calibrate SEED` a third, of two hundred machines of known truth (`benchmarks.calibration`).

The thresholds of conf/verdict/default.yaml were set on the machines of the first table, then left alone; the machines of the
second one are others, of other sizes, data and seeds.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from torch import Tensor

from benchmarks.calibration import calibrate
from benchmarks.common import SEED, composed, hardware, table
from benchmarks.likelihood import digits, trained
from ebm_pipeline.cli import config_folder
from ebm_pipeline.evaluation.card import Likelihood
from ebm_pipeline.evaluation.diagnostics import Diagnostics
from ebm_pipeline.evaluation.equilibrium import shown_r_hat
from ebm_pipeline.evaluation.metrics import MonitoredImages, monitor
from ebm_pipeline.evaluation.verdict import (
    NOT_A_MODEL,
    NOT_DETERMINED,
    OUT_OF_EQUILIBRIUM,
    OVERFITTING,
    TRUSTWORTHY,
    UNTRAINED,
    Criteria,
    Verdict,
)
from ebm_pipeline.models.inference import MeanField
from ebm_pipeline.models.initialization import initialize, normal
from ebm_pipeline.models.layers import Bernoulli, Gaussian, Layer
from ebm_pipeline.models.layers.gaussian import own_variances
from ebm_pipeline.models.machine import BoltzmannMachine, assemble
from ebm_pipeline.runs.configuration import build, build_data
from ebm_pipeline.sampling import Gibbs, start_at_visible


@dataclass(frozen=True, eq=False)
class Known:
    """A machine, images (count, units) of its training and its test part, and temperatures of AIS where it is not enumerated."""

    machine: BoltzmannMachine
    train: Tensor
    test: Tensor
    temperatures: int = 3000


def learned(
    layers: list[Layer], train: Tensor, test: Tensor, steps: int, seed: int, temperatures: int = 3000,
    rate: float | None = None, *, persistent: bool = True, falling: bool = True,
) -> Known:  # fmt: skip
    """A machine after `steps` updates."""
    generator = torch.Generator().manual_seed(seed)
    machine = trained(layers, train, steps, generator, rate, persistent=persistent, falling=falling)
    return Known(machine, train, test, temperatures)


def of_digits(hidden: list[int], steps: int, count: int = 1300, **options: object) -> Known:
    """A machine of binary units, trained on `count` of the shuffled 8 x 8 digits; the last 497 are its test part."""
    images = digits("b")[torch.randperm(1797, generator=torch.Generator().manual_seed(SEED))]
    layers: list[Layer] = [Bernoulli.create(units) for units in (64, *hidden)]
    return learned(layers, images[:count], images[1300:], steps, SEED, **options)  # type: ignore[arg-type]


def two_modes() -> Known:
    """All units off or all on, with equal weights, and data that are off only."""
    layers = [Bernoulli(torch.full((20,), -4.0)), Bernoulli(torch.full((10,), -8.0))]
    machine = assemble(layers, [torch.full((20, 10), 0.8)])
    generator = torch.Generator().manual_seed(SEED)
    states = start_at_visible(machine, torch.zeros(1000, 20), generator)
    visible = Gibbs(10).sweep(machine, states, generator)[0]
    return Known(machine, visible[:500], visible[500:])


def bars(hidden: int) -> Known:
    """4 x 4 bars and stripes, each line on or off, lying or standing."""
    generator = torch.Generator().manual_seed(SEED + 1)
    lines = (torch.rand(2000, 4, 1, generator=generator) < 0.5).float().expand(-1, 4, 4)
    standing = torch.rand(2000, 1, 1, generator=generator) < 0.5
    images = torch.where(standing, lines.mT, lines).flatten(1)
    return learned([Bernoulli.create(16), Bernoulli.create(hidden)], images[:1500], images[1500:], 8000, SEED + 1)


def coins() -> Known:
    """40 images of 20 coins, from which there is nothing to learn but the images."""
    images = (torch.rand(540, 20, generator=torch.Generator().manual_seed(SEED + 2)) < 0.5).float()
    return learned([Bernoulli.create(20), Bernoulli.create(12)], images[:40], images[40:], 5000, SEED + 2)


def gaussian_digits(share: float | None) -> Known:
    """A machine of Gaussian pixels on standardized digits; share: its variances over those of the pixels; None: all 1."""
    images = digits("g")[torch.randperm(1797, generator=torch.Generator().manual_seed(SEED + 3))]
    pixels = Gaussian.create(64)
    if share is not None:
        pixels = pixels.with_tensors(variance=share * own_variances(images[:1300]).float())
    rate = None if share is None else 0.02
    return learned([pixels, Bernoulli.create(20)], images[:1300], images[1300:], 5000, SEED + 3, rate=rate)


def mnist_by_cd() -> Known:
    """CD-1 on MNIST, whose chains never leave the data for long."""
    with tempfile.TemporaryDirectory() as folder:
        data = build_data(composed(Path(folder), "data=mnist"))
        train, test = data.images("train", 10_000), data.images("test", 1000)
    layers: list[Layer] = [Bernoulli.create(784), Bernoulli.create(100)]
    return learned(layers, train, test, 4000, SEED + 4, persistent=False)


def at_its_start(layers: list[Layer], images: Tensor) -> Known:
    """A machine as training starts it."""
    generator = torch.Generator().manual_seed(SEED)
    weights = partial(normal, std=0.01)
    machine = initialize(layers, weights, images.mean(0), generator)
    return Known(machine, images[: len(images) // 2], images[len(images) // 2 :])


FIRST: dict[str, tuple[str, Callable[[], Known]]] = {
    "RBM 64-16 on digits, enumerated": (TRUSTWORTHY, lambda: of_digits([16], 5000)),
    "RBM 64-64 on digits, AIS": (TRUSTWORTHY, lambda: of_digits([64], 5000)),
    "two modes, data of one": (NOT_A_MODEL, two_modes),
    "RBM 64-20 on 50 digits": (OVERFITTING, lambda: of_digits([20], 5000, 50)),
    "RBM 64-64 on digits, rate 20": (NOT_A_MODEL, lambda: of_digits([64], 500, rate=20.0, falling=False)),
    "RBM 64-64, not trained": (
        UNTRAINED,
        lambda: at_its_start([Bernoulli.create(64), Bernoulli.create(64)], digits("b")),
    ),
}
SECOND: dict[str, tuple[str, Callable[[], Known]]] = {
    "RBM 16-12 on bars and stripes, enumerated": (TRUSTWORTHY, lambda: bars(12)),
    "Gaussian RBM 64-20 on digits, variances half the data's": (TRUSTWORTHY, lambda: gaussian_digits(0.5)),
    "Gaussian RBM 64-20 on digits, variances 1": (NOT_A_MODEL, lambda: gaussian_digits(None)),
    "DBM 64-32-16 on digits, AIS": (TRUSTWORTHY, lambda: of_digits([32, 16], 5000)),
    "RBM 784-100 on MNIST, CD-1": (OUT_OF_EQUILIBRIUM, mnist_by_cd),
    "RBM 64-40 on digits, 4 temperatures": (NOT_DETERMINED, lambda: of_digits([40], 5000, temperatures=4)),
    "RBM 20-12 on 40 images of coins": (OVERFITTING, coins),
    "DBM 64-32-16 on digits, rate 20": (NOT_A_MODEL, lambda: of_digits([32, 16], 500, rate=20.0, falling=False)),
    "Hopfield 64-10, not trained": (
        UNTRAINED,
        lambda: at_its_start([Bernoulli.create(64), Gaussian.create(10)], digits("b")),
    ),
}


# ---------------------------------------------------------------------------------------------------------- verdicts


def judged(known: Known) -> tuple[Verdict, str]:
    """The verdict with the thresholds of conf/, and the metrics it looks at."""
    with initialize_config_dir(config_folder(), version_base="1.3"):
        config = compose("evaluate", ["run=none"])
    criteria: Criteria = build(config.verdict, "verdict")
    diagnostics: Diagnostics = build(config.diagnostics, "diagnostics")
    likelihood: Likelihood = replace(
        build(config.likelihood, "likelihood"), temperatures=known.temperatures, sweeps=1000
    )
    parts, mean_field = {"test": known.test, "train": known.train}, MeanField()
    metrics = monitor(known.machine, MonitoredImages(known.test, known.train, known.test), mean_field)
    diagnosis = diagnostics(known.machine, parts, mean_field, SEED)
    card = likelihood(known.machine, known.train.mean(0), parts, known.train, "known", mean_field, SEED)
    ways = [[point.deviation for point in way] for way in diagnosis.approach.values()]
    gains = {part: card.unnormalized[part] - card.log_partition.low - card.independent[part] for part in parts}
    shown = (
        f"R-hat {shown_r_hat(diagnosis.samples_r_hat)}; deviation {max(way[-1] for way in ways):.2f} "
        f"(nearest {min(min(way) for way in ways):.2f}); nats gained {gains['train']:.1f}, test {gains['test']:.1f}"
    )
    return criteria(metrics, known.train.shape[1], card, diagnosis), shown


def report(machines: dict[str, tuple[str, Callable[[], Known]]]) -> None:
    """Judge each machine and print a table."""
    rows, right = [], 0
    for name, (expected, make) in machines.items():
        started = time.perf_counter()
        verdict, shown = judged(make())
        right += verdict.name == expected
        rows.append((name, expected, verdict.name, shown, f"{time.perf_counter() - started:.0f}"))
        print(f"{name}: {verdict}", file=sys.stderr, flush=True)
    table(("machine", "made to be", "verdict", "metrics", "seconds"), rows)
    print(f"{right} of {len(machines)} right\n")


TABLES = {"set": FIRST, "test": SECOND}

if __name__ == "__main__":
    torch.set_num_threads(1)
    print(hardware(), flush=True)
    if sys.argv[1:2] == ["calibrate"]:
        calibrate(int(sys.argv[2]) if len(sys.argv) > 2 else SEED, 200)
        sys.exit()
    for argument in sys.argv[1:] or list(TABLES):
        print(f"\n## {argument}\n", flush=True)
        report(TABLES[argument])
