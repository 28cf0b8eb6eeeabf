"""Centred against plain learning: RBM 784-500 on thresholded MNIST, PCD-1, 20 epochs, each at its best of four rates.

`python -m benchmarks.centring [--output DIR]`: the rate is chosen by forward AIS of one training each on the
validation images, then each is trained with three seeds and gets its likelihood card (200 chains). Trainings that
the folder holds already are taken as they are, so that an interrupted measurement goes on.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from benchmarks.common import SEED, ais, command, hardware, table
from ebm_pipeline.assessment import measure_likelihood
from ebm_pipeline.cli import config_folder
from ebm_pipeline.configuration import build, build_data
from ebm_pipeline.evaluation.ais import LogPartition
from ebm_pipeline.evaluation.card import LikelihoodCard
from ebm_pipeline.inference import MeanField
from ebm_pipeline.storage import load_model

RATES = (0.02, 0.05, 0.1, 0.2)
SEEDS = (SEED, SEED + 1, SEED + 2)
WAYS = {"centred": "0.01", "plain": "null"}
PILOT_TEMPERATURES, CARD_CHAINS, CARD_TEMPERATURES = 5000, 200, 10_000


def training(output: Path, way: str, rate: float, seed: int) -> Path:
    """The model.h5 of one training by `ebm-train`."""
    folder = output / f"{way}_{rate}_{seed}"
    if not (folder / "model.h5").exists():
        command(
            "ebm-train", "data=mnist", "data.hidden_units=500", f"seed={seed}", f"training.centring={WAYS[way]}",
            f"optimizer.lr={rate}", "tracking.log_model=false", f"hydra.run.dir={folder}", output=output,
        )  # fmt: skip
    return folder / "model.h5"


def card(model: Path, seed: int) -> LikelihoodCard:
    """The likelihood card of the test images."""
    with initialize_config_dir(config_folder(), version_base="1.3"):
        config = compose(
            "evaluate", [f"likelihood.chains={CARD_CHAINS}", f"likelihood.temperatures={CARD_TEMPERATURES}"]
        )
    saved = load_model(model)
    own = OmegaConf.create(saved.config)
    assert isinstance(own, DictConfig)
    data = build_data(own)
    mean_field = MeanField(own.mean_field.tolerance, own.mean_field.max_steps)
    parts = {"test": data.images("test")}
    return measure_likelihood(build(config.likelihood, "likelihood"), saved, data, parts, mean_field, seed)


def centring(output: Path) -> None:
    """The two tables."""
    best: dict[str, float] = {}
    rows = []
    for way in WAYS:
        nats = {}
        for rate in RATES:
            found = ais(training(output, way, rate, SEED), "validation", PILOT_TEMPERATURES)
            assert isinstance(found.log_partition, LogPartition)
            nats[rate] = found.nats
            rows.append([way, str(rate), f"{found.nats:.2f}", f"{found.log_partition.ess:.0f} of 100"])
            print(rows[-1], flush=True)
        best[way] = max(nats, key=nats.__getitem__)
    print(f"\nvalidation images, forward AIS, {PILOT_TEMPERATURES:,} temperatures, seed {SEED}\n")
    table(["learning", "rate", "nats per image (tends to be too high)", "effective sample size"], rows)
    rows, middles = [], dict[str, list[float]]()
    for way, rate in best.items():
        for seed in SEEDS:
            found_card = card(training(output, way, rate, seed), seed)
            test = found_card.intervals.get("test")
            if test is not None:
                middles.setdefault(way, []).append((test.low + test.high) / 2)
            assert found_card.forward is not None
            rows.append(
                [way, str(rate), str(seed), str(test or "; ".join(found_card.reasons)), f"{found_card.forward.ess:.0f}"]
            )
            print(rows[-1], flush=True)
    print(f"\ntest images, likelihood card, {CARD_TEMPERATURES:,} temperatures, {CARD_CHAINS} chains\n")
    table(["learning", "rate", "seed", "interval, nats per image", "effective sample size"], rows)
    for way, values in middles.items():
        spread = statistics.stdev(values) if len(values) > 1 else float("nan")
        print(
            f"{way}: mean of the middles {statistics.mean(values):.2f}, deviation over {len(values)} seeds {spread:.2f}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="keep the runs in this folder")
    print(hardware(), flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (parser.parse_args().output or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        centring(folder)
