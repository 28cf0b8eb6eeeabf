"""Cost of training: an epoch of `ebm-train` against the matrix products that PCD-1 needs, and the peak memory."""

from __future__ import annotations

import csv
import os
import statistics
from pathlib import Path

import torch

from benchmarks.common import command, composed, median_seconds, table
from ebm_pipeline.runs import train

BATCH, VISIBLE, STEPS = 100, 784, 570


def five_products(setting: str, hidden_units: int, dtype: torch.dtype = torch.float32) -> float:
    """Seconds of h from v for data and chains, v from h, and two gradients, each product on its own."""
    torch.set_float32_matmul_precision(setting)
    generator = torch.Generator().manual_seed(0)
    visible = (torch.rand(BATCH, VISIBLE, generator=generator) < 0.13).to(dtype)
    hidden = torch.rand(BATCH, hidden_units, generator=generator).to(dtype)
    weights = torch.randn(VISIBLE, hidden_units, generator=generator).to(dtype)

    def step() -> None:
        for _ in range(2):
            torch.mm(visible, weights)
            torch.mm(visible.mT, hidden)
        torch.mm(hidden, weights.mT)

    return median_seconds(step, calls=20 if dtype == torch.float32 else 2)


def epochs(output: Path, name: str, *overrides: str) -> tuple[float, float]:
    """Seconds of the training batches and of the validation of an epoch: medians over all epochs but the first."""
    folder = output / name
    train.train(composed(output, "data=mnist", "model=rbm", "threads=1", "training.epochs=6", *overrides), folder)
    with open(folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))[2:]
    return (
        statistics.median(float(row["time/seconds_per_epoch"]) for row in rows),
        statistics.median(float(row["time/validation_seconds"]) for row in rows),
    )


def speed(output: Path) -> None:
    """RBMs 784-200 and 784-500, PCD-1, batch 100, 57,000 MNIST images, one thread."""
    torch.set_num_threads(1)
    for hidden_units in (200, 500):
        speed_of(output, hidden_units)


def speed_of(output: Path, hidden_units: int) -> None:
    default = five_products("highest", hidden_units)
    fastest = min(default, five_products("medium", hidden_units))
    low = five_products("highest", hidden_units, torch.bfloat16)
    flops = 5 * 2 * BATCH * VISIBLE * hidden_units
    print(
        f"five products of a step: {1e3 * default:.2f} ms by default ({flops / default / 1e9:.0f} GFLOP/s), "
        f"{1e3 * fastest:.2f} ms at the fastest float32 setting, {1e3 * low:.2f} ms in bfloat16\n"
    )
    cases = {
        "float32, the default settings": (),
        "float32, without centring": ("training.centring=null",),
        "bfloat16": ("training.products=bfloat16",),
    }
    if low > default:
        del cases["bfloat16"]
        print("bfloat16 is not run: this CPU has no units for it, its products take longer than float32 ones\n")
    rows = []
    for name, overrides in cases.items():
        folder = f"{hidden_units}_{name.replace(', ', '_').replace(' ', '_')}"
        training, validation = epochs(output, folder, f"hidden_units={hidden_units}", *overrides)
        rows.append([
            name, f"{training:.2f}", f"{validation:.2f} ({validation / training:.0%})",
            f"**{training / STEPS / default:.2f}**", f"{training / STEPS / fastest:.2f}",
        ])  # fmt: skip
    again = five_products("highest", hidden_units)
    table(
        [
            f"RBM 784-{hidden_units}, PCD-1",
            "s per epoch",
            "validation, s",
            "ratio to five default products",
            "to the fastest float32",
        ],
        rows,
    )
    print(f"five default products again, after the training: {1e3 * again:.2f} ms ({again / default - 1:+.0%})\n")


def parallel(output: Path) -> None:
    """An epoch of that training in one process and in one per core, one thread each, by batch size (chains as many)."""
    rows = []
    for batch in (100, 1000):
        for count in (1, os.cpu_count() or 1):
            settings = (f"trainer.devices={count}", f"data.batch_size={batch}", f"training.chains={batch}")
            training, validation = epochs(
                output, f"{count}_{batch}", "trainer=ddp", "trainer.accelerator=cpu", *settings
            )
            rows.append([str(batch), str(count), f"{training:.2f}", f"{validation:.2f}"])
    table(["batch size", "processes", "s per epoch", "validation, s"], rows)


def memory(output: Path) -> None:
    """Peak resident memory of a whole `ebm-train data=mnist model=rbm`."""
    done = command("ebm-train", "data=mnist", "model=rbm", "training.epochs=2", "threads=1", output=output / "memory")
    table(["`ebm-train data=mnist model=rbm`", "GB"], [["peak resident memory", f"{done.peak_gigabytes:.2f}"]])
