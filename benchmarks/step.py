"""`python -m benchmarks.step SRC`: the training step of this tree against that of another checkout (its `src`), in one process.

Both train an RBM on MNIST with the default settings, in turns of a few blocks. What counts is the processor time of the thread,
of each update by itself, so that other work on the machine disturbs few of them; the floor is that of the five products of the
step, as torch runs them by default, between the turns. Lightning's loop, the loader, and the running means of the weights, which
the last quarter of a training takes, are left out.
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir

from benchmarks.common import SEED, hardware, table

TURNS, BLOCKS = 8, 5
BATCH, VISIBLE = 100, 784
HERE = Path(__file__).parents[1] / "src"


def microseconds(call: Callable[[], object]) -> float:
    """Processor time of the thread in a call."""
    started = time.thread_time_ns()
    call()
    return (time.thread_time_ns() - started) / 1e3


class Training:
    """A training by the package in `source`, whose modules are its own."""

    def __init__(self, source: Path, output: str, hidden: int, products: str) -> None:
        for name in [name for name in sys.modules if name.split(".")[0] == "ebm_pipeline"]:
            del sys.modules[name]
        sys.path.insert(0, str(source))
        from ebm_pipeline.runs.plan import prepare
        from ebm_pipeline.training.blocks import Blocks
        from ebm_pipeline.training.module import BoltzmannTraining

        sys.path.remove(str(source))
        words = ["data=mnist", "model=rbm", f"hidden_units={hidden}", f"training.products={products}", f"seed={SEED}"]
        with initialize_config_dir(str(source.parent / "conf"), version_base="1.3"):
            config = compose("train", overrides=[*words, f"output_root={output}"])
        plan = prepare(config, Path(output))
        module: Any = BoltzmannTraining(plan.initial, plan.recipe, plan.data_mean, plan.monitored)
        self.module = module
        self.batches: Any = Blocks(plan.data.train_batches(torch.device("cpu"), SEED))
        self.updates: list[float] = []
        update = self.module.update
        self.module.update = lambda batch: self.updates.append(microseconds(lambda: update(batch)))

    def turn(self) -> None:
        """A few blocks."""
        trainer = pl.Trainer(
            max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, limit_val_batches=0, limit_train_batches=BLOCKS,
        )  # fmt: skip
        trainer.fit(self.module, train_dataloaders=self.batches)

    def operators(self) -> float:
        """Operators of torch per update."""
        before = len(self.updates)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            self.turn()
        calls = [event for event in profile.events() or [] if event.name.startswith("aten::")]
        own = [event for event in calls if event.cpu_parent is None or not event.cpu_parent.name.startswith("aten::")]
        count = len(self.updates) - before
        del self.updates[before:]
        return len(own) / count


def five_products(hidden: int) -> Callable[[], None]:
    """h from v for data and chains, v from h, and two gradients, each product on its own."""
    generator = torch.Generator().manual_seed(0)
    visible = (torch.rand(BATCH, VISIBLE, generator=generator) < 0.13).float()
    states, weights = torch.rand(BATCH, hidden, generator=generator), torch.randn(VISIBLE, hidden, generator=generator)

    def products() -> None:
        for _ in range(2):
            torch.mm(visible, weights)
            torch.mm(visible.mT, states)
        torch.mm(states, weights.mT)

    return products


def compared(other: Path, output: str, hidden: int, products: str) -> None:
    """A table of one size and type of products."""
    sources = {"the other": other, "this tree": HERE}
    trainings = {name: Training(source, output, hidden, products) for name, source in sources.items()}
    floor, fastest = five_products(hidden), torch.get_float32_matmul_precision()
    floors: list[float] = []
    for _ in range(TURNS):
        torch.set_float32_matmul_precision("highest")
        floors += [microseconds(floor) for _ in range(20)]
        torch.set_float32_matmul_precision(fastest)
        for training in trainings.values():
            training.turn()
    rows = []
    measured: dict[str, Training | None] = {"five products": None, **trainings}
    for name, each in measured.items():
        times = sorted(floors if each is None else each.updates)
        least, middle = (times[int(share * len(times))] for share in (0.02, 0.5))
        shares = [
            f"{value / sorted(floors)[int(share * len(floors))]:.2f}" for value, share in ((least, 0.02), (middle, 0.5))
        ]
        rows.append([
            name, f"{least:.0f}", f"{middle:.0f}", *shares, "" if each is None else f"{each.operators():.0f}"
        ])  # fmt: skip
    table([f"784-{hidden}, {products}", "us, 2 %", "us, median", "/ products", "medians", "operators"], rows)


def main() -> None:
    """Print the tables."""
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        raise SystemExit("usage: python -m benchmarks.step SRC, the src folder of another checkout")
    logging.disable(logging.WARNING)  # Lightning says much at every turn
    warnings.simplefilter("ignore")
    print(hardware(), flush=True)
    with TemporaryDirectory() as output:
        for hidden in (200, 500):
            for products in ("float32", "bfloat16"):
                compared(Path(sys.argv[1]).absolute(), output, hidden, products)


if __name__ == "__main__":
    main()
