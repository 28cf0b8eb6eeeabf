"""What a sweep's report says of its runs beside their numbers: what was swept, on which data and machine, what became of each."""

from __future__ import annotations

import os
import time
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebm_pipeline.evaluation.card import NOT_DETERMINED
from ebm_pipeline.evaluation.verdict import NOT_EVALUATED
from ebm_pipeline.runs import swept
from ebm_pipeline.runs.description import shared_parameters
from ebm_pipeline.runs.report import REPORT_FILE, colour_of
from ebm_pipeline.runs.sweep_report.cells import Cell, Column, Row, Table, column_of, number
from ebm_pipeline.runs.sweep_report.results import (
    LIKELIHOOD_TAG,
    NOT_MEASURED,
    QUANTITIES,
    VERDICT_TAG,
    Metrics,
    interval_of,
)
from ebm_pipeline.tracking import records
from ebm_pipeline.tracking.records import ERROR_TAG, PRUNED_TAG, RunRecord

MOST_VALUES = 12  # of a setting that was swept
DIAGNOSED = (
    "sampler/r_hat", "sampler/chains_r_hat", "{part}/samples_adversarial_accuracy", "{part}/samples_energy_distance",
    "train/samples_mean_deviation", "sampler/log_partition_forward", "sampler/log_partition_reverse",
)  # fmt: skip


@dataclass(frozen=True)
class Line:
    """What became of a run; `link` leads to its own report, "" where there is none below the same folder."""

    name: str
    run_id: str
    said: str  # its verdict, or its status
    reason: str
    link: str = ""

    @property
    def colour(self) -> str:
        return colour_of(self.said)

    @classmethod
    def of(cls, name: str, run: RunRecord, folder: Path, root: Path) -> Line:
        """Of a run that finished; folder: of the report, root: below which links may lead."""
        said, reason = run.tags.get(VERDICT_TAG, NOT_EVALUATED), run.tags.get(f"{VERDICT_TAG}.reason", "")
        return cls(name, run.run_id, said, reason, link_to(run.output_dir, folder, root))

    @classmethod
    def unfinished(cls, name: str, run: RunRecord | None, status: str, reason: str = "") -> Line:
        """Of one that did not finish; reason: what is known beside the run's own."""
        told = "" if run is None else run.tags.get(PRUNED_TAG if status == "PRUNED" else ERROR_TAG, "")
        reason = told or reason or ("" if run else "no run was begun")
        return cls(name, run.run_id if run else "", status.lower(), reason)


def link_to(own: Path | None, folder: Path, root: Path) -> str:
    """The way from `folder` to the report in the folder `own`, where both lie below `root`; "" elsewhere."""
    if own is None or not (own / REPORT_FILE).is_file():
        return ""
    own, folder, root = own.resolve(), folder.resolve(), root.resolve()
    if not (own.is_relative_to(root) and folder.is_relative_to(root)):
        return ""
    return urllib.parse.quote(Path(os.path.relpath(own / REPORT_FILE, folder)).as_posix())


def facts(runs: Sequence[RunRecord], words: str) -> dict[str, str]:
    """What is swept, the command, data, seeds, settings that all share, hardware, time; what is not known is left out."""
    shared = {
        name: value for name, value in shared_parameters(runs).items() if name not in ("data", "seed", "transform")
    }
    found = {
        "Swept": "; ".join(f"{name}: {values}" for name, values in _swept(runs).items()),
        "Command": words,
        "Data": "; ".join(data_of(own[0]) for own in _by_data(runs).values()),
        "Seed": _seeds(runs),
        "The same in all": ", ".join(f"{name} {value}" for name, value in shared.items()),
        "Hardware": "; ".join(_of_all(run.tags.get("ebm.hardware", "").split("; host ")[0] for run in runs)),
        "Versions": "; ".join(_of_all(run.tags.get("ebm.versions", "") for run in runs)),
        "Written": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }
    return {name: value for name, value in found.items() if value}


def _of_all(values: Any) -> list[str]:
    return list(dict.fromkeys(value for value in values if value))


def _swept(runs: Sequence[RunRecord]) -> dict[str, str]:
    settings = swept.differing(runs)
    found = {}
    for name in settings[0]:
        values = _of_all(own[name] for own in settings)
        more = f", ... ({len(values)} values)" if len(values) > MOST_VALUES else ""
        found[name] = ", ".join(map(swept.short, values[:MOST_VALUES])) + more
    return found


def _by_data(runs: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    found: dict[str, list[RunRecord]] = {}
    for run in runs:
        found.setdefault(run.data, []).append(run)
    return found


def data_of(run: RunRecord) -> str:
    """Data set and split, as the store has them."""
    known = records.dataset_of(run)
    if known is None:
        return run.params.get("data", "")
    name, _, _, profile = known
    parts = {"train": "training", "validation": "validation", "test": "test"}
    counts = [f"{profile[part]:,} {word}" for part, word in parts.items() if isinstance(profile.get(part), int)]
    seed = swept.setting(run, "data.seed")
    split = f" (split by seed {seed})" if seed else ""
    units, transform = profile.get("units"), profile.get("transform")
    return f"{name}: {', '.join(counts)} images{split}, {units} visible units, transform {transform}"


def _seeds(runs: Sequence[RunRecord]) -> str:
    seeds = _of_all(swept.setting(run, "seed") for run in runs)
    return f"{', '.join(seeds[:MOST_VALUES])}{', ...' if len(seeds) > MOST_VALUES else ''}"


def undetermined(names: Sequence[str], runs: Sequence[RunRecord]) -> list[str]:
    """Why likelihoods are not determined."""
    tags = {name: run.tags.get(LIKELIHOOD_TAG, "") for name, run in zip(names, runs, strict=True)}
    return [f"{name}: {tag}." for name, tag in tags.items() if tag.startswith(NOT_DETERMINED)]


def how_to_read(numbers: Sequence[Metrics], part: str) -> list[str]:
    """What the likelihoods of a table are."""
    found = [known for own in numbers if (known := interval_of(own, part)) is not None]
    said = []
    if any(interval.width > 0 for _, interval in found):
        said.append(
            "Likelihoods are intervals, as log Z is bracketed by annealed importance sampling from both sides, with two standard "
            "errors at each end."
        )
    if any(interval.width == 0 for _, interval in found):
        said.append("A likelihood that is one number is exact: log Z was enumerated.")
    if {quantity for quantity, _ in found} == set(QUANTITIES):
        said.append(
            "A variational bound lies below the log-likelihood, so that a machine with one may be better than it says."
        )
    if found:
        said.append("The gain is that of the lower end.")
    return said


def diagnostics(names: Sequence[str], runs: Sequence[RunRecord], numbers: Sequence[Metrics], part: str) -> Table | None:
    """What is known of the samples of each run; None where nothing is."""
    keys = [key.format(part=part) for key in DIAGNOSED]
    keys = [key for key in keys if any(key in own for own in numbers)]
    if not keys:
        return None
    rows = []
    for name, run, own in zip(names, runs, numbers, strict=True):
        measured = any(key in own for key in keys)
        missing = Cell("exact" if measured else NOT_MEASURED.split(":")[0])
        rows.append(Row(name, tuple(number(key, own[key]) if key in own else missing for key in keys), run.run_id))
    columns: list[Column] = [column_of(key) for key in keys]
    return Table(tuple(columns), tuple(rows))
