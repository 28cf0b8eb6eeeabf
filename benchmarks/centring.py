"""Centred against plain learning: RBM 784-500 on thresholded MNIST, PCD-1, 20 epochs, each at its best of four rates.

`python -m benchmarks.centring [--output DIR]`. Of every training the mean of the weights over its last quarter is measured,
whose likelihood is better than that of the last ones and easier to estimate. The rate is chosen by forward AIS on the
validation images, one training each; then each way is trained with three seeds and gets its likelihood card, which says
whether that choice had a likelihood at all. Trainings that the folder holds already are taken as they are, so that an interrupted
measurement goes on.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from pathlib import Path

from benchmarks.common import SEED, ais, card, command, hardware, table
from ebm_pipeline.evaluation.ais import LogPartition

RATES = (0.05, 0.1, 0.2, 0.4)
SEEDS = (SEED, SEED + 1, SEED + 2)
WAYS = {"centred": "0.01", "plain": "null"}
LEAST_ESS = 20  # of 100 chains
PILOT_TEMPERATURES = (5_000, 20_000)  # the second where the first has fewer effective samples than that
CARD_CHAINS, CARD_TEMPERATURES, CARD_SWEEPS = 200, 40_000, 10_000


def training(output: Path, way: str, rate: float, seed: int) -> Path:
    """The averaged weights of one training by `ebm-train`."""
    folder = output / f"{way}_{rate}_{seed}"
    if not (folder / "model.h5").exists():
        command(
            "ebm-train", "data=mnist", "hidden_units=500", f"seed={seed}", f"training.centring={WAYS[way]}",
            f"optimizer.lr={rate}", "model.penalties=[]", "tracking.log_model=false", f"hydra.run.dir={folder}", output=output,
        )  # fmt: skip
    return folder / "model.h5"


def best_rates(output: Path) -> dict[str, float]:
    """By way, the rate of the best estimate on validation images; prints the table."""
    best: dict[str, float] = {}
    rows = []
    for way in WAYS:
        nats = {}
        for rate in RATES:
            model = training(output, way, rate, SEED)
            for temperatures in PILOT_TEMPERATURES:
                found = ais(model, "validation", temperatures)
                assert isinstance(found.log_partition, LogPartition)
                ess, nats[rate] = found.log_partition.ess, found.nats
                if ess >= LEAST_ESS:
                    break
            rows.append([way, str(rate), f"{found.nats:.2f}", f"{ess:.0f} of 100", str(temperatures)])
            print(rows[-1], flush=True)
        best[way] = max(nats, key=nats.__getitem__)
    print(f"\nvalidation images, forward AIS, seed {SEED}\n")
    table(["learning", "rate", "nats per image (tends to be too high)", "effective sample size", "temperatures"], rows)
    return best


def centring(output: Path) -> None:
    """The two tables, and by how much one way is better."""
    rows, middles = [], dict[str, list[float]]()
    for way, rate in best_rates(output).items():
        for seed in SEEDS:
            found = card(training(output, way, rate, seed), CARD_TEMPERATURES, CARD_CHAINS, CARD_SWEEPS, seed)
            test = found.intervals.get("test")
            if test is not None:
                middles.setdefault(way, []).append((test.low + test.high) / 2)
            assert found.forward is not None
            assert found.reverse is not None
            sizes = f"{found.forward.ess:.0f}, {found.reverse.ess:.0f}"
            rows.append([way, str(rate), str(seed), str(test or "; ".join(found.reasons)), sizes])
            print(rows[-1], f"{found.seconds:.0f} s", flush=True)
    print(f"\ntest images, likelihood card, {CARD_TEMPERATURES:,} temperatures, {CARD_CHAINS} chains\n")
    table(["learning", "rate", "seed", "interval, nats per image", "effective sample size, forward and reverse"], rows)
    means = {way: statistics.mean(values) for way, values in middles.items()}
    errors = {way: statistics.stdev(values) / math.sqrt(len(values)) for way, values in middles.items() if values[1:]}
    for way, values in middles.items():
        print(f"{way}: mean of the middles {means[way]:.2f}, standard error over {len(values)} seeds {errors.get(way)}")
    if len(errors) == len(WAYS):
        apart = means["centred"] - means["plain"]
        print(f"centred minus plain: {apart:.2f} +- {math.hypot(*errors.values()):.2f} nats per image")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="keep the runs in this folder")
    print(hardware(), flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (parser.parse_args().output or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        centring(folder)
