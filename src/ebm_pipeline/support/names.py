"""Names of metrics: what the glossary says of one, and those that earlier versions had.

`python -m ebm_pipeline.support.names` writes docs/glossary.md.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from ebm_pipeline.support.files import write_text
from ebm_pipeline.support.glossary import ALL, LOWER, NONE, SECTIONS, TERMS, Term

Value = TypeVar("Value")

SYSTEM = "system/"  # how MLflow's names of processor, memory, ... begin
FIELDS = {"part": "train|validation|test|given", "layer": r"\d+", "pair": r"\d+"}
PHASE = re.compile(r"(pretraining_\d+)/(.+)")
OF_A_PHASE = ("validation/reconstruction_error",)  # what MLflow gets of a pretraining phase
LAST = "last/"  # how names of numbers of the last weights begin, where model.h5 has averaged ones

# ---------------------------------------------------------------------------------------------- what a name says


def _pattern(term: Term) -> re.Pattern[str]:
    fields = {name: f"(?P<{name}>{values})" for name, values in FIELDS.items()}
    return re.compile(term.name.format(**fields))


_PATTERNS = [(term, _pattern(term)) for term in TERMS]


@functools.cache
def found(name: str) -> tuple[Term, dict[str, str]] | None:
    """The term of a name, and what its fields are; None where the glossary has none."""
    for term, pattern in _PATTERNS:
        match = pattern.fullmatch(name)
        if match is not None:
            return term, match.groupdict()
    return None


def names_of(terms: Sequence[Term], name: str) -> bool:
    """Whether a name is one of these terms'."""
    known = found(name)
    return known is not None and known[0] in terms


def label(name: str) -> str:
    """What stands for a name in tables and pictures: no two names have one label.

    >>> label("validation/reconstruction_error"), label("weights/largest_singular_value_2")
    ('reconstruction error, validation (RMS of pixels)', 'largest singular value, layer 2')
    """
    own, after = _whole(name)
    return _quantity(own) + (f" ({unit(own)})" if unit(own) not in ("", "1") else "") + after


def quantity(name: str) -> str:
    """The label without the unit, for what has the unit beside it.

    >>> quantity("validation/reconstruction_error"), quantity("last/validation/reconstruction_error")
    ('reconstruction error, validation', 'reconstruction error, validation, last weights')
    """
    own, after = _whole(name)
    return _quantity(own) + after


def unit(name: str) -> str:
    """The unit of a metric, "1" for a pure number; empty where the glossary does not know the name.

    >>> unit("validation/reconstruction_error"), unit("weights/norm"), unit("error")
    ('RMS of pixels', '1', '')
    """
    known = found(_whole(name)[0])
    return "" if known is None else known[0].unit


def better(name: str) -> str:
    """Which way a metric is better, in the words of the glossary: `NONE` where it says nothing, or does not know the name.

    >>> better("validation/pseudo_likelihood"), better("last/validation/denoising_error"), better("weights/norm")
    ('higher', 'lower', '-')
    """
    known = found(_whole(name)[0])
    return NONE if known is None else known[0].better


def _whole(name: str) -> tuple[str, str]:
    """The name that the glossary has, and what a label says after it of a phase, or of the last weights."""
    phase = PHASE.fullmatch(name)
    if phase is not None:
        return _of_phase(phase[2]), f", {phase[1].replace('_', ' ')}"
    return (name.removeprefix(LAST), ", last weights") if name.startswith(LAST) else (name, "")


def _quantity(name: str) -> str:
    known = found(name)
    if known is None:
        return name.replace("_", " ")
    term, fields = known
    return ", ".join(
        [term.label, *(value if field == "part" else f"{field} {value}" for field, value in fields.items())]
    )


def short_labels(metrics: Mapping[str, Value]) -> dict[str, Value]:
    """Those that stand in the line of progress, by their short labels."""
    known = [(found(name), value) for name, value in metrics.items()]
    return {one[0].short: value for one, value in known if one is not None and one[0].short}


def tracked(metrics: Mapping[str, Value]) -> dict[str, Value]:
    """Those that MLflow gets; the others are in the files of a run alone."""
    return {name: value for name, value in metrics.items() if _is_tracked(name)}


def _is_tracked(name: str) -> bool:
    known = found(name.removeprefix(LAST))
    return known is None or known[1].get("part", ALL[0]) in known[0].tracked or known[0].tracked == ALL


def of_phase(metrics: Mapping[str, Value], phase: str) -> dict[str, Value]:
    """What MLflow gets of a pretraining phase: one section of its page, as MLflow makes them of all before the last slash.

    >>> of_phase({"validation/reconstruction_error": 0.2, "train/learning_rate": 0.1}, "pretraining_1")
    {'pretraining_1/validation_reconstruction_error': 0.2}
    """
    return {f"{phase}/{name.replace('/', '_')}": metrics[name] for name in OF_A_PHASE if name in metrics}


def _of_phase(rest: str) -> str:
    return next((name for name in OF_A_PHASE if name.replace("/", "_") == rest), rest)


# ---------------------------------------------------------------------------------------------- earlier names

RENAMED = {  # names of before, as patterns; {held_out}: the part that a run was assessed on
    r"((?:reconstruction|denoising|classification)_\w+|pseudo_likelihood|free_energy_gap|bound_gap|mean_field_residual)":
        r"validation/\1",
    "mean_field_steps": "train/mean_field_steps",
    "learning_rate": "train/learning_rate",
    "weight_(norm|sparsity|square|participation)": r"weights/\1",
    r"weights_(\d+)_(largest_singular_value|singular_participation)": r"weights/\2_\1",
    "(deviation_least|deviation_largest|deviations_at_floor)": r"weights/\1",
    r"(swap_rate_\d+|round_trips)": r"sampler/\1",
    "samples_r_hat": "sampler/r_hat",
    "(chains_r_hat|energy_bulk_ess|energy_autocorrelation_sweeps|heat_capacity_per_unit)": r"sampler/\1",
    r"log_partition/(\w+)": r"sampler/log_partition_\1",
    "(samples_(?:mean|covariance)_deviation)": r"train/\1",
    "((?:data|independent)_(?:adversarial|energy)\\w+|bound_below_log_likelihood)": r"{held_out}/\1",
    "hidden_units_(dead|saturated)": r"{held_out}/hidden_\1",
    r"layers/(\d+)/(dead|saturated|spread|participation)": r"{held_out}/hidden_\1_\2",
    "(epoch|seconds_per_epoch|validation_seconds)": r"time/\1",
    "training_seconds": "time/total_seconds",
    r"(pretraining_\d+)/reconstruction_error": r"\1/validation_reconstruction_error",
}  # fmt: skip
_RENAMED = [(re.compile(old), new) for old, new in RENAMED.items()]


def current(name: str, held_out: str = "validation") -> str:
    """Today's name of a metric that an earlier version called `name`; others as they are.

    >>> current("pseudo_likelihood"), current("weights_1_largest_singular_value"), current("validation/pseudo_likelihood")
    ('validation/pseudo_likelihood', 'weights/largest_singular_value_1', 'validation/pseudo_likelihood')
    """
    for old, new in _RENAMED:
        match = old.fullmatch(name)
        if match is not None:
            return match.expand(new).format(held_out=held_out)
    return name


def with_current(metrics: Mapping[str, Value]) -> dict[str, Value]:
    """Metrics of a run under today's names, whatever version logged them; a name of today goes before one of then."""
    held_out = "test" if any(name.startswith("test/samples_") for name in metrics) else "validation"
    renamed = {current(name, held_out): value for name, value in metrics.items()}
    return renamed | {name: value for name, value in metrics.items() if current(name, held_out) == name}


RENAMED_TAGS = {
    "verdict": "ebm.verdict",
    "verdict.reason": "ebm.verdict.reason",
    "likelihood": "ebm.likelihood",
    "error": "ebm.error",
    "resumed.versions": "ebm.resumed.versions",
    "code.dirty": "ebm.code.dirty",
}


def with_current_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags of a run under today's names."""
    return {RENAMED_TAGS.get(name, name): value for name, value in tags.items()} | dict(tags)


# ---------------------------------------------------------------------------------------------- the page

HEAD = """# Glossary of metrics

Every number that a run logs: in `metrics.csv`, `metrics.json`, `evaluation.json`, `report.html`, on the console, in MLflow,
as `metric=` for a search, and in Python. One quantity has one name everywhere. This page is made by
`python -m ebm_pipeline.support.names` from `src/ebm_pipeline/support/glossary.py`, where each name has its one label.

Names are groups: `train/`, `validation/` and `test/` by the images that a number was computed on, `weights/`, `sampler/`,
`time/`; MLflow draws each as a section. `{part}` is one of the first three, `{layer}` counts weights and hidden layers from
1, `{pair}` neighbours among replicas from the hottest. `last/NAME` is NAME of the last weights, where `model.h5` holds averaged
ones (`ebm-evaluate weights=last`); `pretraining_1/validation_reconstruction_error` is that of a
pretraining phase, whose other numbers are in `metrics_pretraining_1.csv`. `system/...` are MLflow's own.

Letters: v an image, D its pixels, h hidden units, F the free energy, W weights, E the energy, Z the partition function, C a
covariance matrix, s a singular value, SE a standard error. "MLflow" says of which parts a number is there; the others are in the
files alone.
"""


def page() -> str:
    """docs/glossary.md."""
    lines = [HEAD]
    for title, terms in SECTIONS.items():
        lines += [
            f"## {title}\n",
            "| name | label | what it is | unit | better | MLflow | source |",
            "|---|---|---|---|---|---|---|",
        ]
        lines += [_row(term) for term in terms]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _row(term: Term) -> str:
    if term.tracked == ALL:
        where = "yes"
    else:
        where = ", ".join(term.tracked) or "no"
    formula = term.formula.replace("|", "\\|")
    return f"| `{term.name}` | {term.label} | {formula} | {term.unit} | {term.better} | {where} | {term.source} |"


def better_is_lower(name: str) -> bool:
    """Whether less of a metric is better."""
    return better(name) == LOWER


if __name__ == "__main__":
    write_text(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/glossary.md"), page())
