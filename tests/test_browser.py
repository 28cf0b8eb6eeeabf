"""What a person sees in MLflow's pages of a finished study, in headless Chromium.

Skipped where there is no browser; with EBM_NEEDS_BROWSER set, as in continuous integration, it fails there instead.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from browser import PROGRAMS, find_browser, page
from commands import run_command
from mlflow.tracking import MlflowClient
from servers import Server

from ebm_pipeline import cli, tracking

STUDY = ("experiment=smoke", "model=rbm,hopfield", "hydra/launcher=basic", "threads=1")
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
        await tab.see("Training runs", "3 matching runs", sweep[:16])

        await tab.open(f"{address}/runs/{run_id}")
        await tab.see("RBM", "Finished", sweep, "bars_and_stripes", "hardware.cpu", "reconstruction_error")

        await tab.open(f"{address}/runs/{run_id}/model-metrics")
        await tab.see("RBM (reconstruction_error)", "RBM (pseudo_likelihood)", *PICTURES)
        await tab.wait_for("document.querySelectorAll('.js-plotly-plot').length >= 5")
        for key in SHOWN:
            await tab.wait_for(LOADED.format(key=key))

        await tab.open(f"{address}/runs/{run_id}/artifacts")
        await tab.see("model.h5", "config.yaml", "packages.txt", "mlflow_model")


def test_a_person_sees_the_study_its_runs_charts_and_images(program: str, tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    server = Server(outputs)
    tracking.prepare_store(server.database, outputs / "mlartifacts", "smoke")
    server.launch()  # it takes as long to come up as the study to train
    try:
        ended = run_command(cli.train, "-m", *STUDY, output_root=outputs)
        assert ended.code == 0, ended.err
        (sweep,) = (outputs / "sweeps").iterdir()
        server.wait()
        parent = tracking.find_run(server.database, str(sweep))
        (rbm,) = (run for run in tracking.children(server.database, parent.run_id) if run.name == "RBM")
        experiment = MlflowClient(server.database).get_experiment_by_name("smoke")
        assert experiment is not None
        address = f"{server.uri}/#/experiments/{experiment.experiment_id}"
        asyncio.run(look(program, tmp_path / "profile", address, parent.name, rbm.run_id))
    finally:
        server.kill()
