"""What a person sees in MLflow's pages of a finished study, in headless Chromium.

Skipped where there is no browser; with EBM_NEEDS_BROWSER set, as in continuous integration, it fails there instead.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from browser import PROGRAMS, find_browser, page
from mlflow.tracking import MlflowClient
from servers import Server
from study import Study

PICTURES = ("data", "denoising", "fantasies", "reconstructions", "weights_1")
SHOWN = ("data", "learning_curves")  # at the step where the slider stands: other series have no picture there
LOADED = "[...document.images].some(image => image.naturalWidth > 0 && image.src.includes('images%2F{key}%2B'))"


@pytest.fixture
def program() -> str:
    found = find_browser()
    if found is None:
        told = f"no browser: none of {', '.join(PROGRAMS)} is on the PATH (Debian: apt-get install chromium)"
        assert "EBM_NEEDS_BROWSER" not in os.environ, told
        pytest.skip(told)
    return found


async def look(program: str, profile: Path, address: str, sweep: str, run_id: str) -> None:
    async with page(program, profile) as tab:
        await tab.open(f"{address}/runs")
        await tab.see("Training runs", "5 matching runs", sweep[:16])

        await tab.open(f"{address}/runs/{run_id}")
        await tab.see("RBM", "Finished", sweep, "bars_and_stripes", "hardware.cpu", "reconstruction_error")

        await tab.open(f"{address}/runs/{run_id}/model-metrics")
        await tab.see("RBM (reconstruction_error)", "RBM (pseudo_likelihood)", *PICTURES)
        await tab.wait_for("document.querySelectorAll('.js-plotly-plot').length >= 5")
        for key in SHOWN:
            await tab.wait_for(LOADED.format(key=key))

        await tab.open(f"{address}/runs/{run_id}/artifacts")
        await tab.see("model.h5", "config.yaml", "packages.txt", "mlflow_model")


@pytest.mark.slow
def test_a_person_sees_the_study_its_runs_charts_and_images(program: str, study: Study, tmp_path: Path) -> None:
    experiment = MlflowClient(study.uri).get_experiment_by_name("smoke")
    assert experiment is not None
    with Server(study.outputs) as server:
        address = f"{server.uri}/#/experiments/{experiment.experiment_id}"
        asyncio.run(look(program, tmp_path / "profile", address, study.parent.name, study.runs[1].run_id))
