"""`python -m benchmarks.scale [ROW ...]` (`make bench-scale ARGS=ROW`): cost and memory against each size, beside the products.

An update of the default recipe (PCD-k, centring, batch 100, 100 chains, one thread, float32) on random images, unless a row says
otherwise. Products are those that the algorithm needs, each on its own by torch.mm with torch's default settings. Both are timed
in turns, and the least of the repetitions stands in the table: processor time with one thread, else that of the clock, which is
worth something on an idle machine only. Each line is a process of its own; GB is the most memory it had, everything imported.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from benchmarks import training_cost
from benchmarks.common import SEED, composed, hardware, table
from benchmarks.steps import BATCH, Step, iteration_shapes, product, shapes
from ebm_pipeline.models.layers import Bernoulli
from ebm_pipeline.models.numerics import choose_float32_products
from ebm_pipeline.runs.assess import check_states
from ebm_pipeline.runs.configuration import build_data
from ebm_pipeline.sampling import Gibbs
from ebm_pipeline.training.processes import average, started

REPEATS, SLICE = 7, 0.2  # repetitions, and seconds of one of them
PIXELS, LIMIT_MB = 196, 100.0  # of the generated images: 10^7 of 784 pixels would be 8 GB; what is larger streams
IMAGES, VISIBLE = 57_000, 784  # of an epoch of MNIST
AVERAGES = 300  # of the gradient over the processes
Shapes = Mapping[tuple[int, int, int], float]


def least(actions: Sequence[Callable[[], object]], clock: Callable[[], float]) -> list[float]:
    """Seconds of a call of each, in turns."""
    calls = []
    for action in actions:
        began = clock()
        action()
        action()
        calls.append(max(1, int(2 * SLICE / max(clock() - began, 1e-6))))
    found = [float("inf")] * len(actions)
    for _ in range(REPEATS):
        for index, (action, count) in enumerate(zip(actions, calls, strict=True)):
            began = clock()
            for _ in range(count):
                action()
            found[index] = min(found[index], (clock() - began) / count)
    return found


def compared(action: Callable[[], object], needed: Shapes, clock: Callable[[], float]) -> tuple[float, float]:
    """Seconds of the action, with the products as this machine runs them fastest, and of the products that it needs."""
    fast = choose_float32_products()

    def act() -> None:
        torch.set_float32_matmul_precision(fast)
        action()
        torch.set_float32_matmul_precision("highest")

    took, *each = least([act, *(product(*shape) for shape in needed)], clock)
    return took, sum(count * seconds for count, seconds in zip(needed.values(), each, strict=True))


def update_of(units: tuple[int, ...], chains: int = 100, sweeps: int = 1, threads: int = 1) -> list[str]:
    """Milliseconds of an update and of its products, and their ratio."""
    torch.set_num_threads(threads)
    step = Step(units, chains=chains, sampler=Gibbs(sweeps))
    step.update()
    needed = dict(step.shapes)
    for shape, count in iteration_shapes(units).items():
        needed[shape] = needed.get(shape, 0) + count * step.mean_field_steps()
    clock = time.process_time if threads == 1 else time.perf_counter
    took, products = compared(step.update, needed, clock)
    return [f"{1e3 * took:.2f}", f"{1e3 * products:.2f}", f"{took / products:.2f}"]


def alone(function: Callable[..., list[str]], *arguments: Any) -> list[str]:
    """What a function gives in a process of its own, and the most memory that this had."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_send, args=(theirs, function, arguments))
    process.start()
    theirs.close()
    try:
        cells: list[str] = ours.recv()
    except EOFError:
        cells = []
    process.join()
    if not cells:
        raise SystemExit(f"{function.__name__}{arguments} failed")
    return cells


def _send(connection: Any, function: Callable[..., list[str]], arguments: tuple[Any, ...]) -> None:
    cells = function(*arguments)
    connection.send([*cells, f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f}"])


HEADER = ("update, ms", "products, ms", "ratio", "GB")


def hidden() -> None:
    """Hidden units of an RBM on 784 pixels."""
    table(["hidden units", *HEADER], [[f"{n:,}", *alone(update_of, (784, n))] for n in (50, 200, 1000, 4000, 10_000)])


def chains() -> None:
    """Chains of an RBM 784-200."""
    table(["chains", *HEADER], [[f"{n:,}", *alone(update_of, (784, 200), n)] for n in (10, 100, 1000, 10_000)])


def sweeps() -> None:
    """Sweeps of the chains in an update (k), RBM 784-200."""
    table(["k", *HEADER], [[f"{n}", *alone(update_of, (784, 200), 100, n)] for n in (1, 5, 25, 100)])


def layers() -> None:
    """Hidden layers of 200 units; the products with those of the iterations that mean field made."""
    table(["hidden layers", *HEADER], [[f"{n}", *alone(update_of, (784, *[200] * n))] for n in (1, 2, 3, 5)])


def threads() -> None:
    """Threads of torch, by the clock."""
    sizes = [(units, count) for units in (200, 4000) for count in (1, 2)]
    rows = [[f"784-{units}", f"{count}", *alone(update_of, (784, units), 100, 1, count)] for units, count in sizes]
    table(["RBM", "threads", *HEADER], rows)


def averaged(numbers: int) -> tuple[float, float]:
    """Seconds in which the processes of a training, each of which calls this, replace so many numbers by their means.

    Least and median: between processes of one machine single exchanges wait for milliseconds.
    """
    tensors, found = [torch.zeros(numbers)], []
    for _ in range(AVERAGES):
        began = time.perf_counter()
        average(tensors)
        found.append(time.perf_counter() - began)
    return min(found), statistics.median(found)


def processes() -> None:
    """Processes that share a batch and as many chains, by the clock: an update of `trainer=ddp` on MNIST, RBM 784-200."""
    rows = []
    learned = VISIBLE * 200 + 2 * (VISIBLE + 200)  # weights and biases, and the offsets of centring
    for batch in (BATCH, 10 * BATCH):
        for count in (1, 2):
            with tempfile.TemporaryDirectory() as name:
                settings = (f"trainer.devices={count}", f"data.batch_size={batch}", f"training.chains={batch}")
                words = ("trainer=ddp", "trainer.accelerator=cpu", *settings)
                took = training_cost.epochs(Path(name), "run", *words)[0] / (IMAGES / batch)
            with started(count, averaged, (learned,)):
                exchange = averaged(learned) if count > 1 else (0.0, 0.0)
            needed = shapes((VISIBLE, 200), batch, 1, batch)
            torch.set_float32_matmul_precision("highest")  # the training has chosen its own
            each = least([product(*shape) for shape in needed], time.perf_counter)
            products = sum(number * seconds for number, seconds in zip(needed.values(), each, strict=True))
            cells = [f"{cell:.2f}" for cell in (1e3 * took, 1e3 * products, took / products)]
            rows.append([f"{batch}", f"{count}", *cells, ", ".join(f"{1e3 * seconds:.2f}" for seconds in exchange)])
    table(["batch and chains", "processes", *HEADER[:3], "exchange of the gradient, ms: least, median"], rows)


def generated(path: Path, count: int) -> None:
    """A file of random bits (count, PIXELS), written a piece at a time."""
    generator = np.random.default_rng(SEED)
    with h5py.File(path, "w") as file:
        images = file.create_dataset("train/images", (count, PIXELS), np.uint8)
        for start in range(0, count, 10**5):
            rows = min(10**5, count - start)
            images[start : start + rows] = generator.random((rows, PIXELS), np.float32) < 0.13


def images_of(count: int) -> list[str]:
    """What the data of so many images cost: to load and check, and in each batch of an epoch."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        needed, free = 2 * count * PIXELS, shutil.disk_usage(name).free
        if free < needed:
            return [f"not run: {needed / 1e9:.1f} GB of disk are wanted, {free / 1e9:.1f} are free", *["-"] * 4]
        path = Path(name) / "images.h5"
        generated(path, count)
        began = time.process_time()
        words = ("data=file", f"data.path={path}", "data/transform=threshold", f"data.memory_limit_mb={LIMIT_MB}")
        data = build_data(composed(Path(name), *words))
        data.train_mean()
        check_states(Bernoulli.create(PIXELS), data)
        loaded = time.process_time() - began
        began, batches = time.process_time(), 0
        for _ in data.train_batches():
            batches += 1
        took = (time.process_time() - began) / batches
    needed_products = shapes((PIXELS, 200), BATCH, 1)
    each = least([product(*shape) for shape in needed_products], time.process_time)
    products = sum(number * seconds for number, seconds in zip(needed_products.values(), each, strict=True))
    how = "memory" if data.stored is not None else "streams"
    return [how, f"{1e6 * loaded / count:.2f}", f"{1e3 * took:.3f}", f"{1e3 * products:.2f}", f"{took / products:.2f}"]


def images() -> None:
    """Images of 196 bits in a file; products are those of an update of an RBM 196-200, to which a batch adds its own time."""
    columns = ["", "to load and check, s per million", "batch, ms", "products, ms", "ratio", "GB"]
    table(["images", *columns], [[f"{count:,}", *alone(images_of, count)] for count in (10**4, 10**5, 10**6, 10**7)])


ROWS = {
    "hidden": hidden, "chains": chains, "sweeps": sweeps, "layers": layers, "threads": threads, "processes": processes,
    "images": images,
}  # fmt: skip


def main() -> None:
    """Print the tables, all of them or those that are named."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"{', '.join(ROWS)}; default: all")
    options = parser.parse_args()
    unknown = sorted(set(options.rows) - set(ROWS))
    if unknown:
        parser.error(f"unknown row {', '.join(unknown)}; known: {', '.join(ROWS)}")
    print(f"{hardware()}, load {os.getloadavg()[0]:.1f}", flush=True)
    for name in options.rows or ROWS:
        print(f"\n## {name}: {ROWS[name].__doc__}\n", flush=True)
        ROWS[name]()


if __name__ == "__main__":
    main()
