"""`python -m benchmarks.gpu` (`make bench-gpu`): epochs, tempering and AIS on one GPU against one core of the CPU.

RBM 784-500 and 784-4000 on MNIST (threshold), batch 100, with 100 and 10,000 chains; seconds are those of the clock, between
synchronisations. On the CPU the largest are timed on a part of the epoch. Without a GPU it ends with a message and exit code 1.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.common import SEED, hardware, table
from benchmarks.steps import LEARNING, Step
from ebm_pipeline.evaluation.ais import annealed_importance_sampling, even_steps
from ebm_pipeline.sampling import ParallelTempering

EPOCH = 570  # updates
HIDDEN, CHAINS, REPLICAS = (500, 4000), (100, 10_000), 10
TEMPERATURES = 100
REPEATS, LONGEST = 3, 5.0  # the least of so many; seconds of updates that are timed at a time


def waited(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(action: Callable[[], object], device: str, most: int = 50) -> float:
    """Of one call: the least of several repetitions, each of as many calls as fit into its time."""
    found = []
    for _ in range(REPEATS):
        waited(device)
        began, calls = time.perf_counter(), 0
        while calls < most and time.perf_counter() - began < LONGEST:
            action()
            calls += 1
            waited(device)
        found.append((time.perf_counter() - began) / calls)
    return min(found)


def times(device: str, hidden: int, chains: int, products: str) -> list[float]:
    """Seconds of an epoch by PCD-1, of an update by tempering, of AIS with TEMPERATURES temperatures."""
    step = Step((784, hidden), chains=chains, device=device, products=products)
    epoch = EPOCH * seconds(step.update, device)
    tempering = ParallelTempering(1, REPLICAS)
    tempered = Step((784, hidden), chains=chains, device=device, products=products, sampler=tempering)
    machine, generator = step.module.machine, torch.Generator(device).manual_seed(SEED)

    def ais() -> Tensor:
        base = machine.independent()
        estimate = annealed_importance_sampling(machine, base, even_steps(TEMPERATURES), chains, generator)
        return torch.tensor(estimate.value)

    return [epoch, seconds(tempered.update, device), seconds(ais, device, most=3)]


def main() -> None:
    """Print the table."""
    if not torch.cuda.is_available():
        raise SystemExit("error: this machine has no GPU that torch can use: `make bench-gpu` needs one")
    torch.set_num_threads(1)
    print(f"{hardware()}, {torch.cuda.get_device_name()}; learning rate {LEARNING}\n", flush=True)
    rows = []
    for hidden in HIDDEN:
        for chains in CHAINS:
            cpu = times("cpu", hidden, chains, "float32")
            for products in ("float32", "bfloat16"):
                gpu = times("cuda", hidden, chains, products)
                cells = [f"{own:.3g} ({other / own:.1f})" for own, other in zip(gpu, cpu, strict=True)]
                rows.append([f"784-{hidden}", f"{chains:,}", products, *cells])
    table(
        ["RBM", "chains", "products", "epoch, s (times as fast as one core)", f"update by tempering, {REPLICAS} replicas, s",
         f"AIS, {TEMPERATURES} temperatures, s"],
        rows,
    )  # fmt: skip


if __name__ == "__main__":
    main()
