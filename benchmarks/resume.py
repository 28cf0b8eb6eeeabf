"""Runs that are killed at random times and continued with resume=auto: how many end like one that was left alone."""

from __future__ import annotations

import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from benchmarks.common import SEED, command, table
from ebm_pipeline import tracking
from ebm_pipeline.tracking import RUN_FILE

KILLS = int(os.environ.get("EBM_KILLS", "20"))  # of each model
SETTINGS = {
    "rbm": ("model=rbm", "training.epochs=5"),
    "dbm": ("model=dbm", "training.epochs=2"),
}


def resume(output: Path) -> None:
    """Runs on digits killed at random times and continued: how many are identical, bit by bit (EBM_KILLS: of each model)."""
    rows = []
    for model, settings in SETTINGS.items():
        words = ["data=digits", f"seed={SEED}", *settings]
        base = output / model
        done = command("ebm-train", *words, f"hydra.run.dir={base}/alone/run", output=base)
        expected = left_by(base / "alone" / "run")
        draws = random.Random(SEED)
        same, killed, late = 0, 0, 0
        while killed < KILLS:
            folder = base / f"killed_{killed}" / "run"  # no neighbours: the one left alone has the same configuration
            if not start_and_kill(words, folder, base, draws.uniform(0, done.seconds)):
                late += 1  # this run was faster: it ended before its kill
                shutil.rmtree(folder.parent)
                continue
            killed += 1
            run = tracking.read_run_file(folder)
            command("ebm-train", *words, f"hydra.run.dir={folder}", "resume=auto", output=base)
            differing = differences(expected, left_by(folder))
            if run and run != tracking.read_run_file(folder):
                differing.append(RUN_FILE)
            same += not differing
            print(
                f"{model} {killed}: {'identical' if not differing else 'differs in ' + ', '.join(differing)}",
                flush=True,
            )
        rows.append([model, str(killed), str(same), str(late)])
    table(["model", "killed", "identical", "not counted, as they ended before the kill"], rows)


def start_and_kill(words: list[str], folder: Path, output: Path, seconds: float) -> bool:
    """Whether a training that got SIGKILL after this time was still at work."""
    program = Path(sys.executable).parent / "ebm-train"
    process = subprocess.Popen(
        [program, *words, f"hydra.run.dir={folder}"], env=os.environ | {"EBM_OUTPUT_DIR": str(output)},
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    time.sleep(seconds)
    process.kill()
    return process.wait() == -signal.SIGKILL


def left_by(folder: Path) -> dict[str, Any]:
    """What a run left, times and system metrics excepted, as arrays and text by name."""
    left: dict[str, Any] = {}
    for path in sorted((folder / "checkpoints").rglob("*.ckpt")):
        saved = torch.load(path, weights_only=True)
        name = str(path.relative_to(folder))
        for key in ("state_dict", "optimizer_states", "lr_schedulers", "generator", "epoch", "global_step"):
            flatten(saved[key], f"{name}/{key}", left)
    for path in sorted(folder.glob("*.h5")):
        with h5py.File(path) as file:
            file.visititems(lambda name, item, path=path: flatten(item, f"{path.name}/{name}", left))
    with open(folder / "metrics.csv", newline="") as rows:
        left["metrics.csv"] = [[v for k, v in row.items() if "seconds" not in k] for row in csv.DictReader(rows)]
    run = tracking.find_run("", str(folder))
    uri = tracking.read_run_file(folder)["tracking_uri"]
    for name in (name for name in run.metrics if not name.startswith("system/")):
        history = tracking.metric_history(uri, run.run_id, name)
        left[f"store/{name}"] = history[0] if "seconds" in name else history
    left["status"] = run.status
    return left


def flatten(value: Any, name: str, into: dict[str, Any]) -> None:
    """Leaves of nested containers by name."""
    if isinstance(value, dict):
        for key, item in value.items():
            flatten(item, f"{name}/{key}", into)
    elif isinstance(value, torch.Tensor):
        into[name] = value.numpy()
    elif isinstance(value, h5py.Dataset):
        into[name] = value[()]
    elif not isinstance(value, h5py.Group):
        into[name] = value


def differences(one: dict[str, Any], two: dict[str, Any]) -> list[str]:
    """Names of what two runs do not share, or not with the same bits; a figure that is not a number equals itself."""
    return [
        name for name in one.keys() | two.keys() if name not in one or name not in two or not same(one[name], two[name])
    ]


def same(one: Any, two: Any) -> bool:
    """Whether two values, or sequences or arrays of them, are equal, NaN to NaN."""
    if isinstance(one, (list, tuple)) and isinstance(two, (list, tuple)):
        return len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, np.ndarray) and isinstance(two, np.ndarray):
        return one.dtype == two.dtype and np.array_equal(one, two, equal_nan=one.dtype.kind == "f")
    return type(one) is type(two) and bool(one == two or (one != one and two != two))
