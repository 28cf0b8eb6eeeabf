"""The trained model as an MLflow model: every task against the machine's own functions, and served."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow.pyfunc
import numpy as np
import pytest
import requests
import torch
from commands import TINY, composed
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel
from mlflow.tracking import MlflowClient
from servers import free_port

from ebm_pipeline import pipeline, tracking
from ebm_pipeline.inference import up_and_down
from ebm_pipeline.samplers import Gibbs, start_at_visible
from ebm_pipeline.storage import load_model

ROOT = Path(__file__).parents[1]
MODELS = ("rbm", "dbm")
IMAGES = (torch.arange(3 * 16).reshape(3, 16) % 5 < 2).float()
Run = tuple[Path, str, str]  # folder, MLflow id, store


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """MLflow's functions that take no store make one in the current folder."""
    monkeypatch.chdir(tmp_path)
    yield
    mlflow.set_tracking_uri("")


@pytest.fixture(scope="module", params=MODELS)
def run(request: pytest.FixtureRequest, outputs: Path) -> Run:
    folder = outputs / request.param
    overrides = [
        *TINY,
        f"model={request.param}",
        f"tracking.register_as=bars.{request.param}@best",
        "training.epochs=1",
    ]
    pipeline.train(composed(*overrides, output_root=outputs), folder)
    uri = f"sqlite:///{outputs / 'mlflow.db'}"
    return folder, tracking.find_run(uri, str(folder)).run_id, uri


@pytest.fixture(scope="module")
def served(run: Run) -> PyFuncModel:
    loaded: PyFuncModel = mlflow.pyfunc.load_model(str(run[0] / "mlflow_model"))
    return loaded


def test_it_reconstructs(run: Run, served: PyFuncModel) -> None:
    machine = load_model(run[0] / "model.h5").machine
    expected = up_and_down(machine, IMAGES)[0].numpy()
    np.testing.assert_allclose(served.predict(IMAGES.numpy()), expected, rtol=1e-5)


def test_it_scores_with_the_free_energy_by_enumeration(run: Run, served: PyFuncModel) -> None:
    """Exact for the RBM; the variational free energy of the DBM lies above the exact one, by less than a nat here."""
    machine = load_model(run[0] / "model.h5").machine.map(torch.Tensor.double)
    hidden = [layer.units for layer in machine.layers[1:]]
    states = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * hidden[0])
    visible = IMAGES.double()[:, None].expand(-1, len(states), -1)
    above = [None] * (machine.depth - 2)
    if machine.depth == 2:
        exact = -torch.logsumexp(-machine.energy((visible, states.expand(3, -1, -1))), 1)
    else:  # the upper layer is summed out in closed form
        inputs = machine.inputs((visible, states.expand(3, -1, -1), *above), 2)
        lower = machine.energy((visible, states.expand(3, -1, -1), torch.zeros_like(inputs)))
        exact = -torch.logsumexp(-lower + machine.layers[2].log_partition(inputs), 1)
    score: np.ndarray = np.asarray(served.predict(IMAGES.numpy(), params={"task": "score"}))
    assert score.shape == (3, 1)
    gap = torch.from_numpy(score[:, 0]).double() - exact
    assert gap.abs().max() < 1e-4 if machine.depth == 2 else (gap.min() > -1e-4 and gap.max() < 1)


def test_it_samples(run: Run, served: PyFuncModel) -> None:
    machine = load_model(run[0] / "model.h5").machine
    params = {"task": "sample", "sweeps": 4, "seed": 9}
    generator = torch.Generator().manual_seed(9)
    expected = Gibbs(4).step(machine, start_at_visible(machine, IMAGES, generator), generator)[0]
    np.testing.assert_array_equal(served.predict(IMAGES.numpy(), params=params), expected.numpy())
    assert not np.array_equal(served.predict(IMAGES.numpy(), params=params | {"seed": 10}), expected.numpy())


@pytest.mark.parametrize(
    ("images", "params", "message"),
    [
        (IMAGES[:, :15], {}, "shape"),
        (IMAGES * float("nan"), {}, "finite"),
        (IMAGES, {"task": "denoise"}, "one of reconstruct, score, sample, classify"),
        (IMAGES, {"task": "classify"}, "knows no labels"),
        (IMAGES, {"task": "sample", "sweeps": 0}, "sweeps must be a whole number, at least 1"),
        (IMAGES, {"task": "sample", "sweeps": "many"}, "sweeps"),
    ],
)
def test_a_wrong_request_says_what_is_wrong(
    served: PyFuncModel, images: torch.Tensor, params: dict[str, object], message: str
) -> None:
    with pytest.raises(Exception, match=message):
        served.predict(images.numpy(), params=params)


def test_the_store_has_it_with_signature_example_and_alias(run: Run, served: PyFuncModel) -> None:
    folder, run_id, uri = run
    client = MlflowClient(uri)
    name = f"bars.{folder.name}"
    assert client.get_model_version_by_alias(name, "best").run_id == run_id
    artifacts = {entry.path for entry in client.list_artifacts(run_id, "mlflow_model")}
    assert {"mlflow_model/MLmodel", "mlflow_model/data", "mlflow_model/serving_input_example.json"} <= artifacts
    assert not [path for path in (folder / "mlflow_model").rglob("*") if path.suffix == ".pkl"]
    assert served.metadata.signature.inputs.inputs[0].shape == (-1, 16)
    example = np.asarray(served.input_example)
    assert example.shape == (2, 16)
    mlflow.set_tracking_uri(uri)
    registered = mlflow.pyfunc.load_model(f"models:/{name}@best")
    np.testing.assert_array_equal(registered.predict(example), served.predict(example))


def test_registering_again_makes_no_second_version(run: Run) -> None:
    folder, run_id, uri = run
    name = f"bars.{folder.name}"
    tracking.Tracker(uri, run_id, "").register("mlflow_model", f"{name}@best")
    assert len(MlflowClient(uri).search_model_versions(f"name = '{name}'")) == 1
    with pytest.raises(MlflowException):
        MlflowClient(uri).get_model_version_by_alias(name, "worst")


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("make") and shutil.which("curl")), reason="needs make and curl")
def test_make_serve_answers_curl(run: Run, served: PyFuncModel, tmp_path: Path) -> None:
    """As docs/tracking.md shows it."""
    address, log = f"http://127.0.0.1:{(port := free_port())}", tmp_path / "log"
    programs = Path(sys.executable).parent
    with open(log, "w") as output:
        process = subprocess.Popen(
            ["make", "--old-file=setup", "serve", f"BIN={programs}", f"MODEL={run[0] / 'mlflow_model'}", f"SERVE_PORT={port}"],
            cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        wait_for(f"{address}/ping", process, log)
        body = json.loads((run[0] / "mlflow_model" / "serving_input_example.json").read_text())
        body["params"] = {"task": "sample", "sweeps": 10}
        (tmp_path / "request.json").write_text(json.dumps(body))
        words = ["curl", "-s", f"{address}/invocations", "-H", "Content-Type: application/json", "-d", "@request.json"]
        said = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True).stdout
        expected = served.predict(served.input_example, params=body["params"])
        np.testing.assert_array_equal(np.array(json.loads(said)["predictions"], dtype=np.float32), expected)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until a server answers; fails with what it printed."""
    until = time.monotonic() + 180
    while time.monotonic() < until and process.poll() is None:
        try:
            if requests.get(address, timeout=5).ok:
                return
        except requests.RequestException:
            time.sleep(0.3)
    raise AssertionError(f"{address} does not answer: {log.read_text()}")
