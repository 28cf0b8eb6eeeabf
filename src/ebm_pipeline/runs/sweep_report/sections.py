"""The pictures of a sweep's report, with what is said of each kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from ebm_pipeline.runs.description import best_run
from ebm_pipeline.runs.sweep_report.page import Section, png_of, read_png
from ebm_pipeline.runs.swept import Group
from ebm_pipeline.support.names import better_is_lower, label
from ebm_pipeline.tracking.records import RunRecord

MOST_PICTURED = 8  # runs of which images and weights are shown
DIFFERENT = (
    "The runs saw different images (other data, noise, transform or split), so they do not stand side by side: see each run's "
    "own report."
)
TILES = (
    "A tile shows the weights from the pixels to one hidden unit; the colour bar gives their sign and size. The units are the "
    "first ones, not chosen."
)
DATA_PICTURE = Path("pictures") / "data_examples.png"
LOG_PARTITION_PICTURE = "log_partition.png"
SAID = {
    "reconstructions": "Validation images, and what each model makes of them ({made}).",
    "denoising": "Validation images, the same with noise, and what each model restores ({made}).",
    "fantasies": "What each model draws by itself ({made}). The images of a column have nothing in common.",
}  # fmt: skip
MADE = {"reconstructions": "reconstructions", "denoising": "denoised", "fantasies": "fantasies"}  # names in pictures.h5


def pictured(runs: Mapping[str, RunRecord], groups: Sequence[Group]) -> tuple[dict[str, RunRecord], str]:
    """The runs of which pictures are shown, by name, in their order, and which those are of all; "" where they are all."""
    firsts = {group.runs[0].run_id for group in groups}  # the images are those of one seed
    shown = {name: run for name, run in runs.items() if run.run_id in firsts}
    of = "one of each setting" if len(shown) < len(runs) else ""
    if len(shown) > MOST_PICTURED:
        best = best_run(list(shown.values()))
        by = "the first"
        ranked = list(shown.values())
        if best is not None:
            name = best[1]
            sign = 1 if better_is_lower(name) else -1
            ranked.sort(key=lambda run: sign * run.metrics[name])
            by = f"the best by {label(name)}"
        kept = {run.run_id for run in ranked[:MOST_PICTURED]}
        shown = {name: run for name, run in shown.items() if run.run_id in kept}
        of = f"{by}, {of}" if of else by
    return shown, f"Of {len(shown)} of {len(runs)} runs: {of}." if of else ""


def sections(
    figures: Mapping[str, Figure],
    made: Mapping[str, str],
    shown: Mapping[str, RunRecord],
    which: str,
    unseen: Sequence[str],
) -> list[Section]:
    """From figures by key; made: how images were made, by their name in pictures.h5; unseen: of weights that cannot be shown."""
    few = [which] if which else []
    found = [
        Section(
            "Against what was swept", [], [png_of(figures[key]) for key in ("swept", "heat_map") if key in figures]
        ),
        _data(shown),
    ]
    for key, words in SAID.items():
        if key in figures:
            found.append(Section(key.capitalize(), [words.format(made=made[MADE[key]]), *few], [png_of(figures[key])]))
        else:
            found.append(Section(key.capitalize(), [DIFFERENT]))
    weights = [png_of(figures["weights"])] if "weights" in figures else []
    found.append(Section("Weights", [TILES, *few, *(f"Not shown: {words}" for words in unseen)], weights))
    curves = "Numbers on the validation images against the epoch of the joint training."
    found.append(Section("Learning curves", [curves], [png_of(figures["learning_curves"])]))
    return [one for one in found if one.pictures or one.words] + _log_partition(shown, few)


def _data(shown: Mapping[str, RunRecord]) -> Section:
    """Training images, as the first run of each data set drew them."""
    firsts = {run.data: run for run in reversed(list(shown.values())) if run.output_dir is not None}
    pictures = [read_png(run.output_dir / DATA_PICTURE) for run in firsts.values() if run.output_dir is not None]
    found = [png for png in pictures if png is not None]
    return Section("Data", [] if found else ["The runs have left no picture of their data."], found)


def _log_partition(shown: Mapping[str, RunRecord], few: Sequence[str]) -> list[Section]:
    """Of the runs that have bracketed log Z."""
    found = [read_png(run.output_dir / LOG_PARTITION_PICTURE) for run in shown.values() if run.output_dir is not None]
    pictures = [png for png in found if png is not None]
    words = (
        "Estimates of log Z from both ends: they must meet at inverse temperature 1, and stay where they are with more "
        "temperatures."
    )
    return [Section("Log Z", [words, *few], pictures, beside=True)] if pictures else []
