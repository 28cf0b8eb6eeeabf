"""What a run takes outside its training: imports, help, a run of two epochs, the runs of a sweep. Needs an idle machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.common import table

REPEATS = 3  # the least of which stands in the table
FLOOR = "import gc; gc.disable(); import pytorch_lightning, mlflow.store.tracking.sqlalchemy_store"
RUN = ("data=mnist", "model=rbm", "training.epochs=2")
RUNS, WORKERS = 50, 2
TINY = ("data=bars_and_stripes", "hidden_units=16", "training.epochs=1", f"seed=range({RUNS})")
SWEEP = ("-m", *TINY, "hydra/launcher=joblib", f"hydra.launcher.n_jobs={WORKERS}")


def seconds(*words: str, output: Path) -> tuple[float, float]:
    """Wall and processor seconds (user and system) of a command and all that it starts; its output is left out."""
    began = time.perf_counter()
    process = subprocess.Popen(
        words, env=os.environ | {"EBM_OUTPUT_DIR": str(output)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(words)} failed")
    return time.perf_counter() - began, usage.ru_utime + usage.ru_stime


def outside(output: Path) -> tuple[float, float]:
    """Of one training, wall and processor seconds outside its training batches."""
    file = output / "outside.json"
    seconds(sys.executable, "-m", "benchmarks.watched", str(file), *RUN, output=output)
    wall, processor = json.loads(file.read_text(encoding="utf-8"))
    return wall, processor


def start(output: Path) -> None:
    """Seconds that are no training; the least of several, on a store that is there already."""
    train = str(Path(sys.executable).parent / "ebm-train")
    seconds(train, *RUN, output=output)  # makes the store and the data, and compiles all modules
    rows = [
        ["torch, Lightning and MLflow's store imported, nothing else", *least(sys.executable, "-c", FLOOR, output=output)],
        ["`import ebm_pipeline`", *least(sys.executable, "-c", "import ebm_pipeline", output=output)],
        ["`ebm-train --help`", *least(train, "--help", output=output)],
    ]  # fmt: skip
    walls, processors = zip(*(outside(output) for _ in range(REPEATS)), strict=True)
    rows.append([f"`ebm-train {' '.join(RUN)}`, outside training batches", *shown(min(walls), min(processors))])
    wall, processor = seconds(train, *SWEEP, output=output)
    rows.append([f"sweep of {RUNS} tiny runs, {WORKERS} workers: each run", *shown(wall / RUNS, processor / RUNS)])
    table(["", "wall, s", "user + sys, s"], rows)


def least(*words: str, output: Path) -> list[str]:
    """The least wall and processor seconds of several calls."""
    walls, processors = zip(*(seconds(*words, output=output) for _ in range(REPEATS)), strict=True)
    return shown(min(walls), min(processors))


def shown(wall: float, processor: float) -> list[str]:
    return [f"{wall:.2f}", f"{processor:.2f}"]
