"""The table of likelihoods, docs/table.md: published numbers beside ours, each as the interval of its card.

`python -m benchmarks.results [ROW ...]` (`make results ROW=...`) trains the rows, all or those that are named, by their recipes
in conf/experiment/table, judges them and writes the table. What was measured stays in docs/table.json by row and seed, with its
hardware and date, so that rows of several machines stand in one table. Runs are kept in the output folder: one that is
interrupted goes on, one that is finished is read. `--seed N`: another seed than 137, another line. `--write` writes the table
anew from what was measured; `--output DIR`: another folder than outputs.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from benchmarks.classification import rows as classified
from benchmarks.common import SEED, command, hardware
from ebm_pipeline.evaluation.ais import annealed_importance_sampling, even_steps
from ebm_pipeline.evaluation.likelihood import unnormalized
from ebm_pipeline.models.inference import MeanField
from ebm_pipeline.models.storage import load_model
from ebm_pipeline.runs.configuration import build_data

DOCS = Path(__file__).parents[1] / "docs"
MEASURED, TABLE = DOCS / "table.json", DOCS / "table.md"
USUAL_TEMPERATURES, USUAL_CHAINS = (
    14_500,
    100,
)  # of Salakhutdinov & Murray (2008), whose base has the hidden units on half of the time


@dataclass(frozen=True)
class Row:
    """A recipe of conf/experiment/table: what it trains, and what was published of such a machine."""

    model: str
    published: str = "none known"
    source: str = ""


MURRAY = "[Salakhutdinov & Murray 2008](https://doi.org/10.1145/1390156.1390266)"
HINTON = "[Salakhutdinov & Hinton 2009](https://proceedings.mlr.press/v5/salakhutdinov09a.html)"
MELCHIOR = "[Melchior et al. 2016](https://arxiv.org/abs/1311.1354)"
ROWS = {
    "rbm16": Row("RBM 16, PCD-1", "-142.56, exact", MELCHIOR),
    "rbm200": Row("RBM 200, PCD-1"),
    "rbm500_threshold": Row("RBM 500, PCD-1", "-84.86, AIS", MELCHIOR),
    "melchior": Row("RBM 500, PCD-1, the paper's recipe", "-84.86, AIS", MELCHIOR),
    "rbm500_cd1": Row("RBM 500, CD-1", "-125.5, AIS", MURRAY),
    "rbm500_cd25": Row("RBM 500, CD-25", "-86.34, AIS", MURRAY),
    "rbm500_trajectory": Row("RBM 500, trajectory tempering"),
    "rbm500": Row("RBM 500, PCD-1", "-86.34, AIS (CD-25)", MURRAY),
    "dbm500_1000": Row("DBM 500-1000, bound", "-84.62, AIS", HINTON),
    "dbm500_500_1000": Row("DBM 500-500-1000, bound", "-85.10, AIS", HINTON),
    "labels": Row("RBM 500 of images and labels"),
    "gaussian": Row("Gaussian RBM 200"),
}


@dataclass(frozen=True)
class Measured:
    """What a row gave."""

    likelihood: str  # the interval of the card, or why there is none
    usual: str  # forward AIS alone, as the literature states it
    verdict: str
    binarisation: str
    epochs: int
    minutes: (
        float | None
    )  # of the processor, on one core: training, card and diagnostics; None where the run was interrupted or there
    hardware: str
    error: str = ""  # of classification


def measure(name: str, seed: int, output: Path, earlier: float | None) -> Measured:
    """Train a row, or go on with it, and read what the run says of itself; `earlier`: minutes that a finished run took."""
    run = output / "table" / (name if seed == SEED else f"{name}_{seed}")
    begun, finished = run.exists(), (run / "verdict.json").exists()
    done = command(
        "ebm-train", f"experiment=table/{name}", f"seed={seed}", "resume=auto", f"hydra.run.dir={run}", output=output
    )
    card, verdict = (_read(run / f"{file}.json") for file in ("likelihood", "verdict"))
    config = OmegaConf.load(run / "config.yaml")
    assert isinstance(config, DictConfig)
    stages = config.model.pretraining.epochs if config.model.pretraining else 0
    return Measured(
        likelihood=_interval(card),
        usual=_usual(run / "model.h5", config),
        verdict=verdict["name"],
        binarisation=card["binarisation"],
        epochs=stages + config.training.epochs,
        minutes=(earlier if finished else None) if begun else done.processor_seconds / 60,
        hardware=hardware(seed),
        error=next(row[4] for row in classified(run / "model.h5") if row[2] == "test") if config.data.labels else "",
    )


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _interval(card: dict[str, Any]) -> str:
    if card["reasons"]:
        return f"not determined: {card['reasons'][0]}"
    ends = card[f"{card['quantity']}_nats_per_image"]["test"]
    return f"[{ends['low']:.2f}, {ends['high']:.2f}]" if ends["high"] > ends["low"] else f"{ends['low']:.2f}, exact"


def _usual(model: Path, config: DictConfig) -> str:
    """Forward AIS alone, from pixels at their mean and hidden units on half of the time: the number a paper would state."""
    data, saved = build_data(config), load_model(model)
    machine = saved.machine.folded()
    if not all(layer.binary for layer in machine.layers):
        return "-"
    generator = torch.Generator().manual_seed(SEED)
    mean_field = MeanField(config.mean_field.tolerance, config.mean_field.max_steps)
    with torch.inference_mode():
        base = machine.independent(data.train_mean().float())
        steps = even_steps(USUAL_TEMPERATURES)
        estimate = annealed_importance_sampling(machine, base, steps, USUAL_CHAINS, generator)
        nats = unnormalized(machine, data.images("test"), mean_field) - estimate.value
    return f"{nats:.2f} (effective sample size {estimate.ess:.0f} of {USUAL_CHAINS})"


HEADER = (
    "row", "model", "binarisation", "published", "seed", "ours, test", "forward AIS alone", "verdict", "epochs", "minutes",
)  # fmt: skip
INTRODUCTION = f"""# Likelihoods on MNIST, published and measured

Nats per test image. Each row is a recipe in `conf/experiment/table`; `make results ROW=...` trains it, brackets log Z from both
sides and renews this page (`make results`: all of them).

- **ours** is the interval of the [card](estimators.md), at most 0.5 nats wide.
- **forward AIS alone** is what a paper of the time would have stated of our machine: {USUAL_TEMPERATURES:,} evenly spaced
  temperatures, {USUAL_CHAINS} chains, from pixels at their mean and hidden units on half of the time. It tends to be too high.
- Numbers under different binarisations are different quantities.
- **minutes** are those of the processor (one thread), for training, card and diagnostics together; - for a run
  that was interrupted or was there already.

The binarised MNIST of Larochelle & Murray (2011) is not among the rows: its draw cannot be made again from MNIST, and its files
are not fetched by this package.
"""


def written(measured: dict[str, dict[str, dict[str, Any]]]) -> str:
    """The page, of what was measured by row and seed."""
    found = [
        (name, seed, Measured(**measured[name][seed]))
        for name in ROWS
        for seed in sorted(measured.get(name, {}), key=int)
    ]
    lines = [INTRODUCTION, f"| {' | '.join(HEADER)} |", f"|{'---|' * len(HEADER)}"]
    lines += [_line(name, seed, values) for name, seed, values in found]
    lines += ["", "Measured on:", ""]
    lines += [f"- `{name}`: {values.hardware}" for name, _, values in found]
    missing = [f"`{name}`" for name in ROWS if name not in measured]
    if missing:
        lines += ["", f"There, but not measured yet: {', '.join(missing)}."]
    return "\n".join(lines) + "\n"


def _line(name: str, seed: str, found: Measured) -> str:
    row = ROWS[name]
    ours = found.likelihood + (f"; test error {found.error}" if found.error else "")
    cells = (
        f"`{name}`", row.model, found.binarisation, f"{row.published} ({row.source})" if row.source else row.published,
        seed, ours, found.usual, found.verdict, str(found.epochs), "-" if found.minutes is None else f"{found.minutes:.1f}",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Train and judge rows, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.results", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"{', '.join(ROWS)}; default: all")
    parser.add_argument("--output", type=Path, default=Path(os.environ.get("EBM_OUTPUT_DIR") or "outputs"))
    parser.add_argument("--seed", type=int, default=SEED, help="of all draws; default: %(default)s")
    parser.add_argument("--write", action="store_true", help="train nothing, write the table from what was measured")
    options = parser.parse_args()
    unknown = sorted(set(options.rows) - set(ROWS))
    if unknown:
        parser.error(f"unknown row {', '.join(unknown)}; known: {', '.join(ROWS)}")
    for name in () if options.write else options.rows or ROWS:
        print(f"\n## {name}: {ROWS[name].model}\n", flush=True)
        earlier = _measured().get(name, {}).get(str(options.seed), {}).get("minutes")
        found = measure(name, options.seed, options.output.absolute(), earlier)
        measured = _measured()  # rows may be measured side by side
        measured.setdefault(name, {})[str(options.seed)] = asdict(found)
        MEASURED.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
        print(_line(name, str(options.seed), found), flush=True)
    TABLE.write_text(written(_measured()), encoding="utf-8")


def _measured() -> dict[str, dict[str, dict[str, Any]]]:
    return _read(MEASURED) if MEASURED.exists() else {}


if __name__ == "__main__":
    main()
