"""The Gaussian RBM against a Gaussian of full covariance, fitted to the same training data under the same transform.

`python -m benchmarks.gaussian MODEL ...` for the model.h5 of finished runs: nats per test image of both, log Z of the RBM by
forward AIS (tends to be too low, the likelihood too high) or exact, its standard deviations and their floor.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from benchmarks.common import ais, hardware, table
from benchmarks.studies import HEADER, row
from ebm_pipeline.configuration import build_data
from ebm_pipeline.evaluation.metrics import deviation_figures
from ebm_pipeline.storage import load_model

TEMPERATURES = 10_000


def full_covariance_nats(training: Tensor, test: Tensor) -> float:
    """Mean log density of `test` (images, units) under the Gaussian of most likelihood for `training`, nats per image."""
    fitted = torch.distributions.MultivariateNormal(training.mean(0), training.mT.cov(correction=0))
    return float(fitted.log_prob(test).mean())


def against_gaussian(path: Path) -> None:
    """Print the table of one model."""
    saved = load_model(path)
    config = OmegaConf.create(saved.config)
    assert isinstance(config, DictConfig)
    data = build_data(config)
    gaussian = full_covariance_nats(data.images("train").double(), data.images("test").double())
    name = f"{data.name}, {' - '.join(str(layer.units) for layer in saved.machine.layers)}"
    print(f"\n{path}: transform {OmegaConf.to_container(config.data.transform)}")
    print("  ".join(f"{key} {value:.4g}" for key, value in deviation_figures(saved.machine.layers[0]).items()) + "\n")
    table(HEADER, [row(name, ais(path, "test", TEMPERATURES)), ["full covariance", f"{gaussian:.2f}", *["-"] * 3]])


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    print(hardware(), flush=True)
    for argument in sys.argv[1:]:
        against_gaussian(Path(argument))
