"""`python -m benchmarks.step SRC`: the training step of this tree against that of another checkout (its `src`), in one run.

Both train the default RBM on MNIST, in turns, in processes of their own; of each epoch but the first the seconds in training
batches are taken from metrics.csv. The minimum stands for what the step costs, the median for what it took beside other work.
"""

from __future__ import annotations

import csv
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.common import hardware, table

TURNS, EPOCHS = 4, 5
HERE = Path(__file__).parents[1] / "src"
CODE = "from ebm_pipeline.cli import train; train()"


def seconds(source: Path, output: Path, turn: int) -> list[float]:
    """Of the epochs of one training by the package in `source`, the first left out."""
    folder = output / f"{source.parent.name}_{turn}"
    words = ["data=mnist", "model=rbm", "threads=1", f"training.epochs={EPOCHS}", f"hydra.run.dir={folder}"]
    variables = {"PYTHONPATH": str(source), "EBM_OUTPUT_DIR": str(output / source.parent.name)}
    done = subprocess.run(
        [sys.executable, "-c", CODE, *words, "evaluation.every_epochs=0", "tracking.log_model=false"],
        cwd=output, env=os.environ | variables, check=False, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode != 0:
        raise SystemExit(f"the training by {source} failed:\n{done.stderr}")
    with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
        rows = [row["time/seconds_per_epoch"] for row in csv.DictReader(file)]
    return [float(value) for value in rows if value][1:]


def main() -> None:
    """Print both, and the ratio."""
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        raise SystemExit("usage: python -m benchmarks.step SRC, the src folder of another checkout")
    print(hardware(), flush=True)
    other = Path(sys.argv[1]).absolute()
    found: dict[str, list[float]] = {"this tree": [], "the other": []}
    with tempfile.TemporaryDirectory() as name:
        for turn in range(TURNS):
            for label, source in (("this tree", HERE), ("the other", other))[:: 1 if turn % 2 else -1]:
                found[label] += seconds(source, Path(name), turn)
    rows = [[label, f"{min(all_):.3f}", f"{statistics.median(all_):.3f}"] for label, all_ in found.items()]
    mine, its = found.values()
    ratio = (min(mine) / min(its), statistics.median(mine) / statistics.median(its))
    table(["epoch of RBM 784-200", "least s", "median s"], [*rows, ["ratio", *(f"{value:.3f}" for value in ratio)]])


if __name__ == "__main__":
    main()
