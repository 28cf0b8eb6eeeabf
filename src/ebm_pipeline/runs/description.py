"""What the page of a run says first, in Markdown: verdict, likelihood, the command that makes it again, where its files are."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from ebm_pipeline.evaluation.card import LikelihoodCard
from ebm_pipeline.evaluation.verdict import Verdict
from ebm_pipeline.runs import swept
from ebm_pipeline.support.names import better_is_lower, label
from ebm_pipeline.tracking import records
from ebm_pipeline.tracking.records import ORIGIN, RunRecord
from ebm_pipeline.tracking.store import RUN_ID

MOST_CHARACTERS = 7000  # of a table, in a note: MLflow takes 8,000 for all of it
ORIGINS = re.compile(r"[^`\n]{1,200}")  # what a run began as: a folder may be another person's
LEFT_OUT = ("resume=", "hydra.mode=")  # of a command
BEST_BY = (  # what the best run of a sweep is chosen by: the first that all of them have, never of test images
    "validation/log_likelihood_low", "validation/variational_bound_low", "validation/pseudo_likelihood",
    "validation/classification_error", "validation/reconstruction_error",
)  # fmt: skip


def of_run(folder: Path, verdict: Verdict | None = None, card: LikelihoodCard | None = None) -> str:
    """The description of a run, of which more is known at its end."""
    said = []
    if verdict is not None:
        said.append(f"**{verdict.name}**: {verdict.reason}" + (f" ({verdict.beside})" if verdict.beside else ""))
    if card is not None:
        quantity = card.quantity.replace("_", " ").replace("log likelihood", "log-likelihood")
        for part in card.images:
            value = f"{card.intervals[part]} nats per image" if card.determined else "not determined"
            said.append(
                f"{quantity}, {part}: **{value}** ({card.binarisation}; independent units {card.independent[part]:.2f})"
            )
    origin = records.read_run_file(folder).get(ORIGIN, "")
    if ORIGINS.fullmatch(origin):
        known = RUN_ID.fullmatch(origin)
        said.append(f"Begins as {f'the run [{origin}](#/runs/{origin})' if known else f'`{origin}`'}")
    return "\n\n".join([*said, f"Again: `{command(folder)}`", f"Files: `{folder}`"])


def command(folder: Path) -> str:
    """What makes the run in `folder` again."""
    words = [word for word in swept.words_of(folder) if not word.lstrip("+").startswith(LEFT_OUT)]
    if not (folder / swept.OVERRIDES).is_file():
        return "made from Python: its settings are in config.yaml"
    alone = ["hydra.mode=RUN"] if any(word.startswith(("sweep=", "+sweep=", "experiment=")) for word in words) else []
    return shlex.join(["ebm-train", *words, *alone])


def of_sweep(runs: Sequence[RunRecord], table: str, folder: Path, words: str) -> str:
    """The description of the parent run of a sweep."""
    shared = ", ".join(f"{name} {value}" for name, value in shared_parameters(runs).items())
    best = best_run(runs)
    said = []
    if best is not None:
        run, name = best
        said.append(f"Best of {len(runs)} by {label(name)}: **{run.name}**, {run.metrics[name]:.4g} (run {run.run_id})")
    said.append(shortened(table))
    if shared:
        said.append(f"All: {shared}")
    if words:
        said.append(f"Again: `{words}`")
    return "\n\n".join([*said, f"Files: `{folder}`"])


def shortened(table: str) -> str:
    """The first rows of a table that is too long for a note."""
    if len(table) <= MOST_CHARACTERS:
        return table
    kept = table[:MOST_CHARACTERS].rsplit("\n", 1)[0]
    return f"{kept}\n\n{table.count(chr(10)) - kept.count(chr(10))} more lines are in comparison/comparison.md"


def shared_parameters(runs: Sequence[RunRecord]) -> dict[str, str]:
    """Parameters that are the same in all of the runs."""
    first, *others = (run.params for run in runs)
    return {name: value for name, value in first.items() if all(own.get(name) == value for own in others)}


def best_run(runs: Sequence[RunRecord]) -> tuple[RunRecord, str] | None:
    """The best run and the metric that it is the best by; None of one run alone, or without a number of all."""
    for name in BEST_BY:
        if len(runs) > 1 and all(math.isfinite(finite_metric(run.metrics, name)) for run in runs):
            sign = -1 if better_is_lower(name) else 1
            return max(runs, key=lambda run: sign * run.metrics[name]), name
    return None


def finite_metric(metrics: Mapping[str, float], name: str) -> float:
    """A metric of a run; NaN where it is not there, or infinite."""
    return swept.finite(metrics.get(name, math.nan))
