"""What a person sees in MLflow's pages, by `ebm-ui`, in headless Chromium: clicked through from the start page.

Skipped where there is no browser; with EBM_NEEDS_BROWSER set, as in continuous integration, it fails there instead.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from browser import PATIENCE, PROGRAMS, Page, find_browser, page
from commands import PLAIN, run_command
from servers import Pages
from study import Study

from ebm_pipeline import cli
from ebm_pipeline.tracking import records

LEAST_WIDTH = 200  # pixels of a picture that one can read
OF_A_RUN = ("data", "denoising", "fantasies", "learning_curves", "reconstructions", "weights_1")
OF_AN_ASSESSMENT = ("approach", "chains_by_sweeps", "energy_traces", "moments", "samples_against_data")
OF_A_PARENT = ("denoising", "fantasies", "learning_curves", "reconstructions")
LINK = "[...document.querySelectorAll('a')].find(link => link.innerText.trim() === {text!r})"
TAB = "[...document.querySelectorAll('[role=tab]')].find(tab => tab.innerText.trim() === {text!r})"
ITEM = "[...document.querySelectorAll('[role^=menuitem]')].find(item => item.innerText.trim() === {text!r})"
BY_TESTID = """document.querySelector('[data-testid="{name}"]')"""
CARD = """[...document.querySelectorAll('[data-testid="experiment-view-compare-runs-card"]')]
    .find(card => card.querySelector('h4')?.title === 'pictures/{key}')"""
ROW = """[...document.querySelectorAll('.ag-row')]
    .find(row => row.querySelector({inside!r}) && row.getAttribute('row-id') === {run!r})"""
# What is wrong with the pictures of a card, as text: empty when each is loaded, inside the card, uncovered and wide enough.
FAULTS = """(() => {{
  const card = {card};
  if (!card) {{  // cards are drawn when one scrolls to them
    const sections = [...document.querySelectorAll(".du-bois-light-collapse-item")];
    const section = sections.find(section => section.innerText.startsWith("pictures"));
    const places = section?.querySelectorAll('[data-testid="draggable-chart-cards-grid"] > *') ?? [];
    window.tried = (window.tried ?? 0) + 1;
    (places[window.tried % places.length] ?? section)?.scrollIntoView({{block: "center"}});
    return "there is no such card";
  }}
  card.scrollIntoView({{block: "center"}});
  const pictures = [...card.querySelectorAll("img")];
  if (pictures.length !== {count}) return `${{pictures.length}} pictures instead of {count}`;
  const inside = (small, large) => small.left >= large.left - 1 && small.right <= large.right + 1
    && small.top >= large.top - 1 && small.bottom <= large.bottom + 1;
  for (const picture of pictures) {{
    const box = picture.getBoundingClientRect(), shown = JSON.stringify(box);
    if (!picture.complete || !picture.naturalWidth) return "a picture is not loaded";
    if (box.width < {least}) return `a picture is ${{box.width}} pixels wide`;
    for (let around = picture.parentElement; around !== card.parentElement; around = around.parentElement)
      if (around === card || getComputedStyle(around).overflow !== "visible")
        if (!inside(box, around.getBoundingClientRect()))
          return `a picture ${{shown}} is outside its card ${{JSON.stringify(around.getBoundingClientRect())}}`;
    for (const [x, y] of [[0.5, 0.5], [0.03, 0.03], [0.97, 0.03], [0.03, 0.97], [0.97, 0.97]])
      if (document.elementFromPoint(box.x + x * box.width, box.y + y * box.height) !== picture)
        return `a picture ${{shown}} is covered`;
  }}
  return "";
}})()"""
PICTURE = "decodeURIComponent({card}?.querySelector('img')?.src ?? '')"
METRIC = "validation/reconstruction_error"
SORTED = """(() => {{
  const rows = [...document.querySelectorAll('.ag-center-cols-container .ag-row')];
  rows.sort((one, two) => one.getAttribute('row-index') - two.getAttribute('row-index'));
  const of = row => [...row.querySelectorAll('.ag-cell')].find(cell => cell.getAttribute('col-id').includes({name!r}));
  const values = rows.map(row => parseFloat(of(row)?.innerText)).filter(value => !isNaN(value));
  return values.length >= {count} && values.every((value, i) => i === 0 || values[i - 1] >= value);
}})()"""


@pytest.fixture
def program() -> str:
    found = find_browser()
    if found is None:
        told = f"no browser: none of {', '.join(PROGRAMS)} is on the PATH (Debian: apt-get install chromium)"
        assert "EBM_NEEDS_BROWSER" not in os.environ, told
        pytest.skip(told)
    return found


async def see_pictures(tab: Page, keys: Sequence[str], name: str, count: int = 1) -> None:
    """`count` pictures in each of these series, which one can see where the page has opened."""
    for key in keys:
        faults = FAULTS.format(card=CARD.format(key=key), count=count, least=LEAST_WIDTH)
        until = time.monotonic() + PATIENCE
        while (fault := await tab.evaluate(faults)) != "":
            if time.monotonic() > until:
                await tab.fail(f"pictures/{key}: {fault}")
            await asyncio.sleep(0.2)
        await tab.shot(f"{name}_{key}")


async def open_metrics(tab: Page) -> None:
    """From the page of a run to its charts."""
    await tab.click(TAB.format(text="Model metrics"), "location.href.includes('model-metrics')")


async def move_a_slider(tab: Page, key: str) -> None:
    """To the last step, which has another picture."""
    await see_pictures(tab, [key], "before_moving")
    card = CARD.format(key=key)
    first = await tab.evaluate(PICTURE.format(card=card))
    assert "+step+0+" in first
    slider = f"{card}.querySelector('[role=slider]')"
    last = await tab.evaluate(f"{slider}.getAttribute('aria-valuemax')")
    track = f"{slider}.parentElement.parentElement"
    await tab.click(track, f"{PICTURE.format(card=card)}.includes('+step+{last}+')", at=0.97)
    await see_pictures(tab, [key], f"moved_to_{last}")


async def from_the_start_page(tab: Page, address: str, study: Study) -> None:
    """To the runs of the experiment, to a child of its parent, and to its pictures."""
    await tab.open(address)
    await tab.see("smoke")
    await tab.shot("start_page")
    await tab.click(LINK.format(text="smoke"), "location.href.includes('/runs')")
    await tab.see("5 matching runs", study.parent.name[:12])
    await tab.click("document.querySelector('.ag-row button')", f"Boolean({LINK.format(text='RBM')})")
    await tab.shot("runs")
    await tab.click(LINK.format(text="RBM"), f"location.href.includes({study.runs[1].run_id!r})")
    await tab.see("RBM", "Finished", "bars_and_stripes", METRIC)
    await tab.shot("child")
    await open_metrics(tab)
    await see_pictures(tab, OF_A_RUN, "child")
    await move_a_slider(tab, "weights_1")


async def compare_two(tab: Page, address: str, runs: Sequence[records.RunRecord], of_parent: records.RunRecord) -> None:
    """Sort the table, see the pictures of two runs side by side, open their comparison."""
    await tab.open(f"{address}/runs")
    await tab.see("matching runs")
    await tab.click(BY_TESTID.format(name="sort-select-dropdown"), "document.querySelector('[role=menu]') !== null")
    options = "[...document.querySelectorAll('[data-testid^=sort-select-]')].map(option => option.dataset.testid)"
    ending = [name for name in await tab.evaluate(options) if name.endswith(METRIC)]
    await tab.click(BY_TESTID.format(name=ending[0]), SORTED.format(name=METRIC, count=len(runs)))
    await tab.shot("sorted")

    await tab.click("document.querySelector('input[value=CHART]').closest('label')", "location.href.includes('CHART')")
    await tab.click(
        BY_TESTID.format(name="experiment-view-runs-visibility-column-header"),
        f"Boolean({ITEM.format(text='Hide all runs')})",
    )
    eye = ROW + ".querySelector('.is-visibility-toggle-checkbox')"
    eyes = [eye.format(inside=".is-visibility-toggle-checkbox", run=run.run_id) for run in (*runs, of_parent)]
    await tab.click(ITEM.format(text="Hide all runs"), f"[{','.join(eyes)}].every(eye => !eye.checked)")
    for one in eyes[:2]:
        await tab.click(f"{one}.closest('label')", f"{one}.checked")
    await see_pictures(tab, OF_A_RUN, "two_runs", count=2)

    await tab.open(f"{address}/runs?compareRunsMode=TABLE")
    await tab.see("matching runs")
    box = ROW + ".querySelector('input.ag-checkbox-input')"
    for run in runs[:2]:
        one = box.format(inside="input.ag-checkbox-input", run=run.run_id)
        await tab.click(one, f"{one}.checked")
    await tab.click(BY_TESTID.format(name="runs-compare-button"), "location.href.includes('compare-runs')")
    await tab.see("Comparing 2 Runs from 1 Experiment", *(run.name for run in runs[:2]))
    await tab.shot("comparison")


async def open_a_model(tab: Page, address: str) -> None:
    """From the runs to the models of the experiment, and to one of them."""
    await tab.open(f"{address}/runs")
    await tab.click(LINK.format(text="Models"), "location.href.includes('/models')")
    await tab.see("result", "best", "last")
    await tab.shot("models")
    await tab.click(LINK.format(text="result"), "location.href.includes('/models/m-')")
    await tab.see("result", "bars_and_stripes", METRIC)
    await tab.shot("model")


async def look_at_a_study(program: str, folder: Path, address: str, study: Study, experiment: str) -> None:
    async with page(program, folder) as tab:
        await from_the_start_page(tab, address, study)
        place = f"{address}/#/experiments/{experiment}"
        await tab.open(f"{place}/runs/{study.parent.run_id}")
        await open_metrics(tab)
        await see_pictures(tab, OF_A_PARENT, "parent")
        await compare_two(tab, place, study.runs, study.parent)
        await tab.open(f"{place}/runs/{study.runs[1].run_id}/artifacts")
        await tab.see("model.h5", "config.yaml", "packages.txt")
        await tab.shot("artifacts")
        await open_a_model(tab, place)


@pytest.mark.slow
def test_a_person_sees_the_study_its_pictures_and_the_comparison(program: str, study: Study, tmp_path: Path) -> None:
    with Pages(study.outputs, tmp_path / "ui.log") as pages:
        experiment = pages.said.split("/#/experiments/")[1].split("/")[0]
        asyncio.run(look_at_a_study(program, tmp_path, pages.uri, study, experiment))


@pytest.mark.slow
def test_a_person_sees_every_picture_of_a_single_run(program: str, tmp_path: Path) -> None:
    """Also those of its assessment, at the address that `ebm-ui` has printed."""
    outputs = tmp_path / "outputs"
    words = (*PLAIN, "evaluation=full", "diagnostics.sweeps=100")
    assert run_command(cli.train, *words, output_root=outputs).code == 0
    (run,) = (outputs / "runs").iterdir()
    name = records.find_run(f"sqlite:///{outputs / 'mlflow.db'}", str(run)).name

    async def look(printed: str) -> None:
        async with page(program, tmp_path) as tab:
            await tab.open(printed)
            await tab.click(LINK.format(text=name), "location.href.includes('/runs/')")
            await open_metrics(tab)
            await see_pictures(tab, (*OF_A_RUN, *OF_AN_ASSESSMENT), "single")
            await move_a_slider(tab, "fantasies")

    with Pages(outputs, tmp_path / "ui.log") as pages:
        asyncio.run(look(next(word for word in pages.said.split() if word.endswith("/runs"))))
