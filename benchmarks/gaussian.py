"""The Gaussian RBM against a Gaussian of full covariance, fitted to the same training data under the same transform.

`python -m benchmarks gaussian` trains the default one on digits and on MNIST; `python -m benchmarks.gaussian MODEL ...` takes the
model.h5 of finished runs. Nats per test image; log Z of the RBM by forward AIS (tends to be too low, the likelihood too high)
or exact; its standard deviations and their floor; and how fast its chains mix under Gibbs and Gibbs-Langevin sampling.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from benchmarks.common import SEED, ais, command, hardware, table
from benchmarks.studies import HEADER, row
from ebm_pipeline.data import DataSet
from ebm_pipeline.evaluation.equilibrium import autocorrelation_time
from ebm_pipeline.evaluation.metrics import deviation_metrics
from ebm_pipeline.models.storage import load_model
from ebm_pipeline.runs.configuration import build_data
from ebm_pipeline.sampling import Gibbs, GibbsLangevin, start_at_visible

TEMPERATURES = (5_000, 10_000)
CHAINS, BURN_IN, SWEEPS = 50, 500, 2_000  # of the comparison of samplers
SAMPLERS = {
    "Gibbs": Gibbs(),
    "Gibbs-Langevin, 10 steps of 0.5": GibbsLangevin(),
    "Gibbs-Langevin, 1 step of 0.5": GibbsLangevin(langevin_steps=1),
    "Gibbs-Langevin, 1 step of 3": GibbsLangevin(langevin_steps=1, step_size=3.0),
    "the first, not adjusted": GibbsLangevin(adjusted=False),
}


def gaussian(output: Path) -> None:
    """The default Gaussian RBM on digits and on MNIST, beside a Gaussian of full covariance."""
    folder = output / "gaussian"
    for name in ("digits", "mnist"):
        run = folder / name
        done = command("ebm-train", f"data={name}", "model=grbm", f"hydra.run.dir={run}", output=folder)
        print(f"{name}: training {done.seconds:.0f} s in all")
        against_gaussian(run / "model.h5")
        mixing(run / "model.h5")


def full_covariance_nats(data: DataSet, test: Tensor) -> float:
    """Mean log density of `test` (images, units) under the Gaussian of most likelihood for an epoch of training batches."""
    count, total = 0, torch.zeros(data.units, dtype=torch.float64)
    products = torch.zeros(data.units, data.units, dtype=torch.float64)
    for batch in data.train_batches():
        images = batch.double()
        count += len(images)
        total += images.sum(0)
        products.addmm_(images.mT, images)
    mean = total / count
    fitted = torch.distributions.MultivariateNormal(mean, products / count - torch.outer(mean, mean))
    return float(fitted.log_prob(test.double()).mean())


def against_gaussian(path: Path) -> None:
    """Print the table of one model."""
    saved = load_model(path)
    config = OmegaConf.create(saved.config)
    assert isinstance(config, DictConfig)
    data = build_data(config)
    gaussian_nats = full_covariance_nats(data, data.images("test"))
    name = f"{data.name}, {' - '.join(str(layer.units) for layer in saved.machine.layers)}"
    print(f"\n{path}: transform {OmegaConf.to_container(config.data.transform)}")
    print("  ".join(f"{key} {value:.4g}" for key, value in deviation_metrics(saved.machine.layers[0]).items()) + "\n")
    rows = [row(name, ais(path, "test", count)) for count in TEMPERATURES]
    table(HEADER, [*rows, ["full covariance", f"{gaussian_nats:.2f}", *["-"] * 3]])


def mixing(path: Path) -> None:
    """Print how fast chains of one model forget their free energy under each sampler; they start at training images."""
    saved = load_model(path)
    config = OmegaConf.create(saved.config)
    assert isinstance(config, DictConfig)
    images = build_data(config).images("train", CHAINS)
    rows = []
    for name, sampler in SAMPLERS.items():
        generator = torch.Generator().manual_seed(SEED)
        chains = start_at_visible(saved.machine, images, generator)
        trace = []
        started = 0.0
        for sweep in range(BURN_IN + SWEEPS):
            if sweep == BURN_IN:
                started = time.perf_counter()
            chains = sampler.sweep(saved.machine, chains, generator)
            trace.append(saved.machine.free_energy(chains))
        seconds = (time.perf_counter() - started) / SWEEPS
        kept = torch.stack(trace[BURN_IN:], 1)
        forgotten = autocorrelation_time(kept)
        rows.append(
            [
                name,
                f"{forgotten:.1f}",
                f"{1e3 * seconds:.1f}",
                f"{seconds * forgotten:.2g}",
                f"{float(kept.mean()):.1f}",
            ]
        )
    table(
        ["sampler", "autocorrelation time, sweeps", "ms per sweep", "s per independent sample", "mean free energy"],
        rows,
    )


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    print(hardware(), flush=True)
    for argument in sys.argv[1:]:
        against_gaussian(Path(argument))
        mixing(Path(argument))
