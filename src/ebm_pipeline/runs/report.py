"""report.html: all of a run on one page that stands alone, its pictures inside it, for the screen and for paper.

The page of a sweep (`sweep_report`) shares its looks.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import DictLoader, Environment, StrictUndefined

from ebm_pipeline.evaluation.card import LikelihoodCard
from ebm_pipeline.evaluation.verdict import Verdict
from ebm_pipeline.plots import DPI
from ebm_pipeline.support.files import write_text
from ebm_pipeline.support.names import label

REPORT_FILE = "report.html"
PAGE_DPI = 96  # pixels of a page to the inch
INCH = 0.0254  # metres


@dataclass(frozen=True, eq=False)
class Report:
    """What the page shows. `metrics` are those measured last, by name; `drawn` says how samples were drawn, "" for none.

    Pictures are PNG files; those of `diagnostics` rest on samples, those of `training` were made while the machine learned.
    """

    title: str
    subtitle: str
    verdict: Verdict
    card: LikelihoodCard | None
    metrics: Mapping[str, float]
    drawn: str
    diagnostics: Sequence[Path]
    samples: Sequence[Path]
    training: Sequence[Path]
    config: str
    lacking: Sequence[str] = ()  # what the model cannot have, a sentence each

    def html(self) -> str:
        """The page; every text in it is escaped."""
        sections = (
            ("Likelihood", [path for path in self.diagnostics if path.stem == "log_partition"]),
            ("Diagnostics", [path for path in self.diagnostics if path.stem != "log_partition"]),
            ("Samples and weights", self.samples),
            ("Training", self.training),
        )
        return ENVIRONMENT.from_string(PAGE).render(
            report=self,
            colour=colour_of(self.verdict.name),
            gained={part: interval.low - self.card.independent[part] for part, interval in self.card.intervals.items()}
            if self.card
            else {},
            card_lines=str(self.card).splitlines()[len(self.card.images) :] if self.card else [],
            pictures={heading: [picture_of(path) for path in paths] for heading, paths in sections},
        )

    def write(self, folder: Path) -> Path:
        """Write report.html; returns its path."""
        path = folder / REPORT_FILE
        write_text(path, self.html())
        return path


def picture_of(path: Path) -> dict[str, str | int]:
    """A PNG file as what an img element needs."""
    return picture(path.read_bytes(), path.stem.removesuffix("_final").replace("_", " "))


def picture(png: bytes, name: str) -> dict[str, str | int]:
    """A PNG, whose width and dots per inch stand in its header, as what an img element needs."""
    (width,) = struct.unpack(">I", png[16:20])
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return {"source": source, "width": round(width * PAGE_DPI / dots_per_inch(png)), "name": name}


def dots_per_inch(png: bytes) -> float:
    """Of a PNG whose header has them, so that all pictures have letters of one size; else what is usual here."""
    place = 8
    while place + 12 <= len(png):  # chunks of length, name, content, checksum
        length, name = struct.unpack(">I4s", png[place : place + 8])
        if name == b"pHYs" and length == 9 and place + 17 <= len(png):
            across, _, metres = struct.unpack(">IIB", png[place + 8 : place + 17])
            return across * INCH if metres == 1 and across else DPI
        if name == b"IDAT":
            break
        place += 12 + length
    return DPI


def colour_of(verdict: str) -> str:
    """The colour of a verdict, by its name."""
    return {"trustworthy": "#00694c", "diverged": "#a32020", "not evaluated": "#555555"}.get(verdict, "#8a5a00")


SHOW = """{% macro show(pictures) %}
{% for picture in pictures %}
<figure><img src="{{ picture.source }}" width="{{ picture.width }}" alt="{{ picture.name }}"></figure>
{% endfor %}
{% endmacro %}
"""
BASE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ report.title }}</title>
<style>
body { font: 15px/1.5 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; color: #1c1c1c; max-width: 60rem; margin: 2.5rem auto;
  padding: 0 1.25rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0; }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .6rem; border-bottom: 1px solid #cfd5dc; padding-bottom: .2rem; }
p { margin: .4rem 0; max-width: 48rem; overflow-wrap: anywhere; }
.quiet { color: #555; }
.verdict { border-left: .35rem solid var(--colour); padding: .3rem 0 .3rem .9rem; margin: 1.4rem 0; }
.verdict strong { color: var(--colour); font-size: 1.15rem; }
table { border-collapse: collapse; margin: .6rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .18rem 1.4rem .18rem 0; text-align: right; border-bottom: 1px solid #e6e9ed; }
th { font-weight: 600; border-bottom-color: #8b949e; }
th:first-child, td:first-child { text-align: left; }
.metrics { columns: 2 24rem; column-gap: 2.5rem; }
.metrics table { width: 100%; margin: 0; }
.metrics td { font-size: .87rem; break-inside: avoid; }
figure { margin: 1rem 0; break-inside: avoid; }
img { max-width: 100%; height: auto; }
pre { font: 12px/1.45 ui-monospace, Consolas, Menlo, monospace; background: #f5f6f8; padding: .8rem 1rem; white-space: pre-wrap;
  overflow-wrap: anywhere; }
@media print { body { margin: 0; font-size: 10pt; max-width: none; } h2 { break-after: avoid; } }
@page { margin: 18mm; }
{% block style %}{% endblock %}
</style>
</head>
<body>
{% block body %}{% endblock %}
</body>
</html>
"""
PAGE = """{% extends "base" %}
{% from "show" import show %}
{% block body %}
<h1>{{ report.title }}</h1>
<p class="quiet">{{ report.subtitle }}</p>
<div class="verdict" style="--colour: {{ colour }}">
<p><strong>{{ report.verdict.name }}</strong></p>
<p>{{ report.verdict.reason }}</p>
{% if report.verdict.beside %}
<p class="quiet">{{ report.verdict.beside }}</p>
{% endif %}
</div>
<h2>Likelihood</h2>
{% if report.card %}
<table>
<tr><th>{{ report.card.quantity | words }}, nats per image</th><th>interval</th><th>independent pixels</th><th>gain</th>
<th>images</th></tr>
{% for part, count in report.card.images.items() %}
<tr><td>{{ part }}</td><td>{{ report.card.intervals[part] if report.card.determined else "not determined" }}</td>
<td>{{ "%.2f" | format(report.card.independent[part]) }}</td>
<td>{{ "%.2f" | format(gained[part]) if part in gained else "-" }}</td><td>{{ count }}</td></tr>
{% endfor %}
</table>
<p class="quiet">Binarisation of the data: {{ report.card.binarisation }}. Method: {{ report.card.method }}.
{{ "%.0f" | format(report.card.seconds) }} s. The gain is that of the lower end of the interval.</p>
{% for line in card_lines %}
<p>{{ line }}</p>
{% endfor %}
{{ show(pictures["Likelihood"]) }}
{% else %}
<p>Not measured: run ebm-evaluate, or train with evaluation=full.</p>
{% endif %}
<h2>Diagnostics</h2>
{% if report.drawn %}
<p>Samples: {{ report.drawn }}.</p>
{% else %}
<p>No samples were drawn for diagnostics: run ebm-evaluate, or train with evaluation=full.</p>
{% endif %}
{{ show(pictures["Diagnostics"]) }}
<h2>Metrics</h2>
<div class="metrics"><table>
{% for name, value in report.metrics.items() %}
<tr><td title="{{ name }}">{{ name | label }}</td><td>{{ "%.5g" | format(value) }}</td></tr>
{% endfor %}
</table></div>
{% if report.lacking %}
<h2>What this model cannot have</h2>
{% for sentence in report.lacking %}
<p>{{ sentence }}</p>
{% endfor %}
{% endif %}
{% for heading in ("Samples and weights", "Training") %}
<h2>{{ heading }}</h2>
{{ show(pictures[heading]) }}
{% endfor %}
<h2>Configuration</h2>
<pre>{{ report.config }}</pre>
{% endblock %}
"""
ENVIRONMENT = Environment(
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    loader=DictLoader({"base": BASE, "show": SHOW}),
)
ENVIRONMENT.filters["words"] = lambda name: name.replace("_", " ")
ENVIRONMENT.filters["label"] = label
