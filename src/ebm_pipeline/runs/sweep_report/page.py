"""The page: verdicts, tables and pictures of several runs, one file that stands alone, for the screen and for paper."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from ebm_pipeline import plots
from ebm_pipeline.runs.report import ENVIRONMENT, REPORT_FILE, picture
from ebm_pipeline.runs.sweep_report.cells import Table, over_seeds
from ebm_pipeline.runs.sweep_report.facts import Line, diagnostics, facts, how_to_read, undetermined
from ebm_pipeline.runs.sweep_report.results import known, likelihood_part, results
from ebm_pipeline.runs.swept import Group
from ebm_pipeline.support.files import write_text
from ebm_pipeline.tracking.records import RunRecord

HOW_TO_READ = (
    "↑ more is better, ↓ less is better; the best in bold, with all whose intervals reach as far. The shaded rows are what there "
    "is without a model. Reconstructed and denoised: in one pass up and down, to which independent pixels answer with one image."
)
OF_SAMPLES = (
    "R-hat near 1 says that chains from data and from noise agree. Samples told from data: the share for which a nearest "
    "neighbour gives away what they are, 50 % where they cannot be told apart."
)
NO_SAMPLES = "Not measured: train with evaluation=full, or run ebm-evaluate."
PNG = b"\x89PNG\r\n\x1a\n"
MOST_BYTES = 10_000_000  # of a picture that lies in the folder of a run


@dataclass(frozen=True, eq=False)
class Section:
    """Pictures under a heading, with what is said of them."""

    heading: str
    words: Sequence[str]
    pictures: Sequence[bytes] = ()
    table: Table | None = None
    beside: bool = False  # small pictures that stand in two columns


@dataclass(frozen=True, eq=False)
class SweepReport:
    """What the page shows. Pictures are PNGs."""

    title: str
    facts: Mapping[str, str]
    lines: Sequence[Line]
    results: Table
    reading: Sequence[str]  # what is said of the results
    over_seeds: Table | None
    sections: Sequence[Section] = field(default_factory=tuple)

    def html(self) -> str:
        """The page; every text in it is escaped."""
        shown = {one.heading: [picture(png, one.heading) for png in one.pictures] for one in self.sections}
        return ENVIRONMENT.from_string(PAGE).render(report=self, pictures=shown)

    def write(self, folder: Path) -> Path:
        """Write report.html; returns its path."""
        path = folder / REPORT_FILE
        write_text(path, self.html())
        return path


def report_of(
    runs: Mapping[str, RunRecord],
    groups: Sequence[Group],
    title: str,
    words: str,
    lines: Sequence[Line],
    pictures: Sequence[Section],
) -> SweepReport:
    """The report of finished runs, by name; words: the command, lines: of all runs."""
    names, finished = list(runs), list(runs.values())
    numbers = [known(run) for run in finished]
    part, table = likelihood_part(numbers), results(names, finished)
    samples = diagnostics(names, finished, numbers, part)
    return SweepReport(
        title=title,
        facts=facts(finished, words),
        lines=lines,
        results=table,
        reading=[" ".join([HOW_TO_READ, *how_to_read(numbers, part)]), *undetermined(names, finished)],
        over_seeds=over_seeds(table, groups) if max(len(group.runs) for group in groups) > 1 else None,
        sections=[Section("Diagnostics", [OF_SAMPLES if samples else NO_SAMPLES], table=samples), *pictures],
    )


def png_of(figure: Figure) -> bytes:
    """A figure as it stands in the page."""
    file = io.BytesIO()
    Image.fromarray(plots.to_rgb(figure)).save(file, format="png", dpi=(figure.dpi,) * 2)
    return file.getvalue()


def read_png(path: Path) -> bytes | None:
    """A picture in the folder of a run; None where there is none, or something else."""
    try:
        if path.stat().st_size > MOST_BYTES:
            return None
        content = path.read_bytes()
    except OSError:
        return None
    return content if content.startswith(PNG) and len(content) > 24 else None


PAGE = """{% extends "base" %}
{% from "show" import show %}
{% macro tabulate(table, first) %}
<table class="wide">
<thead>
<tr><th>{{ first }}</th>
{% for column in table.columns %}
<th>{{ column.heading }}
{% if column.arrow %}
<span class="arrow" title="{{ column.better }} is better">{{ column.arrow }}</span>
{% endif %}
{% if column.unit %}
<small>{{ column.unit }}</small>
{% endif %}
</th>
{% endfor %}
</tr>
</thead>
<tbody>
{% for row in table.rows %}
<tr{% if not row.run_id %} class="without"{% endif %}><th scope="row">{{ row.name }}</th>
{% for cell in row.cells %}
<td data-label="{{ table.columns[loop.index0].heading }} {{ table.columns[loop.index0].arrow }}"
{% if cell.colour %} class="judged" style="--colour: {{ cell.colour }}"{% elif cell.value is none %} class="said"{% endif %}>
<span>
{%- if cell.best %}<b>{{ cell.text }}</b>{% else %}{{ cell.text }}{% endif %}
{%- if cell.note %}<small>{{ cell.note }}</small>{% endif -%}
</span></td>
{% endfor %}
</tr>
{% endfor %}
</tbody>
</table>
{% for note in table.notes %}
<p class="quiet">{{ note }}</p>
{% endfor %}
{% endmacro %}
{% block style %}
body { max-width: 74rem; }
p { max-width: 62rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem; margin: 1.2rem 0; font-size: .92rem; }
dt { color: #555; }
dd { margin: 0; overflow-wrap: anywhere; }
dd code { font: 12px/1.6 ui-monospace, Consolas, Menlo, monospace; }
ul.runs { list-style: none; padding: 0; margin: .8rem 0; }
ul.runs li { border-left: .3rem solid var(--colour); padding: .1rem 0 .1rem .8rem; margin: .7rem 0; break-inside: avoid; }
ul.runs strong { color: var(--colour); }
ul.runs p { font-size: .87rem; max-width: 62rem; margin: .1rem 0; }
ul.runs code { font: 11.5px/1.4 ui-monospace, Consolas, Menlo, monospace; color: #767676; overflow-wrap: anywhere; }
a { color: #00558b; }
small { display: block; font-size: .9em; font-weight: 400; color: #666; }
table.wide { width: 100%; font-size: .87rem; line-height: 1.3; }
.wide th, .wide td { padding: .35rem 0 .35rem .8rem; vertical-align: top; }
.wide thead th { vertical-align: bottom; }
.wide th:first-child { padding-left: 0; min-width: 6.5rem; border-bottom-color: #e6e9ed; }
.wide thead th:first-child { border-bottom-color: #8b949e; }
.wide td { white-space: nowrap; }
.wide .said { color: #666; font-size: .8rem; white-space: normal; }
.wide .judged { color: var(--colour); font-weight: 600; white-space: normal; }
.wide .without th, .wide .without td { background: #f5f6f8; }
.wide .without th { font-weight: 400; font-style: italic; padding-left: .3rem; }
.arrow { color: #00558b; }
.beside { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 30rem), 1fr)); gap: 0 1.5rem; }
@media screen and (max-width: 56rem) {
  .wide thead { display: none; }
  table.wide, .wide tbody, .wide tr, .wide th, .wide td { display: block; text-align: left; }
  .wide tr { border-bottom: 1px solid #8b949e; padding: .5rem 0; }
  .wide .without { background: #f5f6f8; padding-left: .5rem; }
  .wide th:first-child { font-size: 1rem; border: 0; }
  .wide td, .wide .said, .wide .judged { display: flex; justify-content: space-between; gap: 1rem; border: 0; padding: .1rem 0;
    font-size: .87rem; }
  .wide td::before { content: attr(data-label); color: #555; font-weight: 400; }
  .wide td span { text-align: right; }
  dl { display: block; }
  dd { margin-bottom: .4rem; }
}
@media print { table.wide { font-size: 7pt; } .wide .said { font-size: 6.5pt; } .wide th, .wide td { padding-left: .35rem; }
  .wide th:first-child { min-width: 0; } tr { break-inside: avoid; } .beside { display: block; } .quiet { break-after: avoid; } }
{% endblock %}
{% block body %}
<h1>{{ report.title }}</h1>
<dl>
{% for name, value in report.facts.items() %}
<dt>{{ name }}</dt><dd>{% if name == "Command" %}<code>{{ value }}</code>{% else %}{{ value }}{% endif %}</dd>
{% endfor %}
</dl>
<h2>Runs</h2>
<ul class="runs">
{% for line in report.lines %}
<li style="--colour: {{ line.colour }}"><strong>{{ line.said }}</strong> &ensp;
{% if line.link %}<a href="{{ line.link }}">{{ line.name }}</a>{% else %}{{ line.name }}{% endif %}
 &ensp;<code>{{ line.run_id }}</code>
{% if line.reason %}
<p>{{ line.reason }}</p>
{% endif %}
</li>
{% endfor %}
</ul>
<h2>Results</h2>
{% for words in report.reading %}
<p class="quiet">{{ words }}</p>
{% endfor %}
{{ tabulate(report.results, "run") }}
{% if report.over_seeds %}
<h2>Over seeds</h2>
<p class="quiet">Runs that differ in their seed alone: mean and standard error; of intervals, the lower ends.</p>
{{ tabulate(report.over_seeds, "runs") }}
{% endif %}
{% for section in report.sections %}
<h2>{{ section.heading }}</h2>
{% for words in section.words %}
<p class="quiet">{{ words }}</p>
{% endfor %}
{% if section.table %}
{{ tabulate(section.table, "run") }}
{% endif %}
<div{% if section.beside %} class="beside"{% endif %}>
{{ show(pictures[section.heading]) }}
</div>
{% endfor %}
{% endblock %}
"""
