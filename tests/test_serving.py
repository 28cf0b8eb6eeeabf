"""The trained model as an MLflow model: every task against the machine's own functions, and served."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow.pyfunc
import numpy as np
import pytest
import requests
import torch
from bad_requests import BAD
from commands import TINY, composed, start
from kills import steps_of
from mlflow.entities import LoggedModel, LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel
from mlflow.tracking import MlflowClient
from servers import free_port, wait_for

from ebm_pipeline.models.inference import up_and_down
from ebm_pipeline.models.storage import load_model
from ebm_pipeline.runs import train
from ebm_pipeline.runs.reference import model_file
from ebm_pipeline.runs.serving.machine import ServedMachine
from ebm_pipeline.sampling import Gibbs, start_at_visible
from ebm_pipeline.support.errors import UserError
from ebm_pipeline.tracking import records, tracker

ROOT = Path(__file__).parents[1]
MODELS = ("rbm", "dbm")
UPDATES = 6  # of the one epoch
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
    # "" would stay as an environment variable for the tests that come later
    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=MODELS)
def run(request: pytest.FixtureRequest, outputs: Path) -> Run:
    folder = outputs / request.param
    overrides = [
        *TINY,
        f"model={request.param}",
        f"tracking.register_as=bars.{request.param}@best",
        "training.epochs=1",
    ]
    train.train(composed(*overrides, output_root=outputs), folder)
    uri = f"sqlite:///{outputs / 'mlflow.db'}"
    return folder, records.find_run(uri, str(folder)).run_id, uri


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
    expected = Gibbs(4).sweep(machine, start_at_visible(machine, IMAGES, generator), generator)[0]
    np.testing.assert_array_equal(served.predict(IMAGES.numpy(), params=params), expected.numpy())
    assert not np.array_equal(served.predict(IMAGES.numpy(), params=params | {"seed": 10}), expected.numpy())


@pytest.mark.parametrize(
    ("images", "params", "message"),
    [
        (IMAGES[:, :15].numpy(), {}, "shape"),
        (IMAGES.numpy()[:0], {}, r"one row each; got \(0, 16\)"),
        (IMAGES.numpy() * np.float32("nan"), {}, "finite"),
        (IMAGES.numpy() / 2, {}, "bernoulli units need data of"),
        (IMAGES.numpy().astype(bool), {}, "bool"),
        (IMAGES.numpy().astype(str), {}, "U"),
        (IMAGES, {"task": "denoise"}, "one of reconstruct, score, sample, classify"),
        (IMAGES, {"task": None}, "one of reconstruct, score, sample, classify"),
        (IMAGES, {"task": "classify"}, "knows no labels"),
        (IMAGES, {"task": "sample", "sweeps": 0}, "sweeps must be a whole number, from 1 to 100000; got 0"),
        (IMAGES, {"task": "sample", "sweeps": 10**9}, "sweeps must be a whole number, from 1 to 100000"),
        (IMAGES, {"task": "sample", "sweeps": None}, "sweeps must be a whole number"),
        (IMAGES, {"task": "sample", "sweeps": "many"}, "sweeps"),
        (IMAGES, {"task": "sample", "sweeps": 2.5}, "sweeps"),
        (IMAGES, {"task": "sample", "seed": -1}, "seed must be a whole number"),
        (IMAGES, {"task": "sample", "seed": 10**30}, "seed"),
    ],
)
def test_a_wrong_question_is_an_exception_of_mlflow_with_status_400(
    served: PyFuncModel, images: torch.Tensor | np.ndarray, params: dict[str, object], message: str
) -> None:
    """Of `mlflow models serve` too: another exception is a stack trace there."""
    with pytest.raises(MlflowException, match=message) as caught:
        served.predict(np.asarray(images), params=params)
    if "enforce" not in str(caught.value):  # MLflow compares the shape and the type with the signature first
        assert caught.value.get_http_status_code() == 400


def test_the_store_has_it_with_signature_example_and_alias(run: Run, served: PyFuncModel) -> None:
    folder, run_id, uri = run
    client = MlflowClient(uri)
    name = f"bars.{folder.name}"
    assert client.get_model_version_by_alias(name, "best").run_id == run_id
    model = models_of(run)["result"]
    artifacts = {entry.path for entry in client.list_logged_model_artifacts(model.model_id)}
    assert {"MLmodel", "data", "serving_input_example.json"} <= artifacts
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
    tracker.Tracker(uri, run_id, "").register("mlflow_model", f"{name}@best")
    tracker.Tracker(uri, run_id, "").register("result", f"{name}@best")
    assert len(MlflowClient(uri).search_model_versions(f"name = '{name}'")) == 1
    assert json.loads(models_of(run)["result"].tags["mlflow.modelVersions"]) == [{"name": name, "version": "1"}]
    with pytest.raises(MlflowException):
        MlflowClient(uri).get_model_version_by_alias(name, "worst")


# ---------------------------------------------------------------------------------------------- the models of the store


def models_of(run: Run) -> dict[str, LoggedModel]:
    client = MlflowClient(run[2])
    experiment = client.get_run(run[1]).info.experiment_id
    return {model.name: model for model in client.search_logged_models([experiment], f"source_run_id = '{run[1]}'")}


def test_result_best_and_last_are_models_of_the_run_with_their_steps(run: Run) -> None:
    models = models_of(run)
    assert set(models) == {"result", "best", "last"}
    assert steps_of(MlflowClient(run[2]).get_run(run[1])) == {one.model_id: UPDATES for one in models.values()}
    for model in models.values():
        assert model.status == LoggedModelStatus.READY
        assert (model.params["data"], model.tags["ebm.step"]) == ("bars_and_stripes", str(UPDATES))


def test_the_models_have_the_weights_of_the_files(run: Run) -> None:
    """The best of one epoch is its only one, and the model that is the result."""
    files = {"result": "model.h5", "best": "model.h5", "last": "model_last.h5"}
    for name, model in models_of(run).items():
        machine = load_model(model_file(run[2], f"models:/{model.model_id}")).machine
        expected = load_model(run[0] / files[name]).machine
        for one, two in zip(machine.weights, expected.weights, strict=True):
            torch.testing.assert_close(one, two, rtol=0, atol=0)


def test_the_models_have_numbers_on_their_data_set_by_which_they_are_ranked(run: Run) -> None:
    inputs = MlflowClient(run[2]).get_run(run[1]).inputs
    assert inputs is not None
    data = inputs.dataset_inputs[0].dataset
    models = models_of(run)
    for model in models.values():
        assert {(metric.dataset_name, metric.dataset_digest) for metric in model.metrics or ()} == {
            (data.name, data.digest)
        }
    error = "validation/reconstruction_error"
    mlflow.set_tracking_uri(run[2])
    found = mlflow.search_logged_models(
        experiment_ids=[models["result"].experiment_id],
        filter_string=f"source_run_id = '{run[1]}' AND metrics.`{error}` < 1",
        order_by=[{"field_name": f"metrics.{error}", "ascending": True, "dataset_name": data.name}],
        output_format="list",
    )
    values = [next(metric.value for metric in model.metrics or () if metric.key == error) for model in found]
    assert values == sorted(values)
    assert len(found) == 3
    record = records.find_run(run[2], run[1])
    result = {metric.key: metric.value for metric in models["result"].metrics or ()}
    assert {name: record.metrics[name] for name in result} == result  # not those of the other models
    assert result[error] == record.metrics[error]


def test_a_logged_model_is_registered_by_mlflow_and_served(run: Run) -> None:
    last = models_of(run)["last"]
    mlflow.set_tracking_uri(run[2])
    version = mlflow.register_model(last.model_uri, f"last.{run[0].name}")
    MlflowClient(run[2]).set_registered_model_alias(version.name, "best", version.version)
    mlflow.set_tracking_uri("")  # what is asked for is the store that is named, not that of the environment
    files = [model_file(run[2], name) for name in (f"models:/{version.name}@best", last.model_uri)]
    assert len({path.read_bytes() for path in files}) == 1
    machine = ServedMachine(load_model(files[0]))
    expected = up_and_down(load_model(run[0] / "model_last.h5").machine, IMAGES)[0].numpy()
    np.testing.assert_allclose(machine.answer(IMAGES.numpy(), {}), expected, rtol=1e-5)


@pytest.mark.parametrize("reference", ["models:/m-" + "0" * 32, "models:/m-", "models:/m-1/2/3"])
def test_a_model_that_is_not_there_is_one_message(run: Run, reference: str) -> None:
    with pytest.raises(UserError, match=r"no model of .*: give models:/NAME@ALIAS, models:/NAME/VERSION or models:/m-"):
        model_file(run[2], reference)


# ---------------------------------------------------------------------------------------------- a real server


@pytest.fixture(scope="module")
def address(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`make serve`, as docs/tracking.md shows it; at its end it has printed no traceback."""
    if not (shutil.which("make") and shutil.which("curl")):
        pytest.skip("needs make and curl")
    place, log = f"http://127.0.0.1:{(port := free_port())}", tmp_path_factory.mktemp("serve") / "log"
    programs = Path(sys.executable).parent
    with open(log, "w") as output:
        process = subprocess.Popen(
            ["make", "--old-file=setup", "serve", f"BIN={programs}", f"MODEL={run[0] / 'mlflow_model'}", f"SERVE_PORT={port}"],
            cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        wait_for(f"{place}/ping", process, log)
        yield place
    finally:
        process.terminate()  # make tells its command, and waits for it
        process.wait()
    said = log.read_text()
    assert f"{place} answers for {run[0] / 'mlflow_model'} (16 visible units); Ctrl-C ends it" in said
    assert "stopped by SIGTERM" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_make_serve_answers_curl(run: Run, served: PyFuncModel, address: str, tmp_path: Path) -> None:
    body = json.loads((run[0] / "mlflow_model" / "serving_input_example.json").read_text())
    body["params"] = {"task": "sample", "sweeps": 10}
    (tmp_path / "request.json").write_text(json.dumps(body))
    words = ["curl", "-s", f"{address}/invocations", "-H", "Content-Type: application/json", "-d", "@request.json"]
    said = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True).stdout
    expected = served.predict(served.input_example, params=body["params"])
    np.testing.assert_array_equal(np.array(json.loads(said)["predictions"], dtype=np.float32), expected)


@pytest.mark.slow
def test_a_server_answers_every_wrong_request_with_one_message_and_then_a_right_one(
    address: str, record_property: Callable[[str, object], None]
) -> None:
    for name, bad in BAD.items():
        headers = {} if bad.kind is None else {"Content-Type": bad.kind}
        answer = requests.post(f"{address}/invocations", data=bad.body, headers=headers, timeout=60)
        assert answer.status_code == bad.status, name
        assert set(answer.json()) == {"error_code", "message"}, name
        assert re.search(bad.says, answer.json()["message"]), name
        assert "\n" not in answer.json()["message"], name
        assert 400 <= answer.status_code < 500, name
    right = requests.post(f"{address}/invocations", json={"inputs": IMAGES.int().tolist()}, timeout=60)
    assert np.shape(right.json()["predictions"]) == (3, 16)
    record_property(
        "malformed requests", f"{len(BAD)}, all answered with a status 4xx and one message; then a right one was"
    )


@pytest.mark.slow
def test_a_server_takes_a_body_in_parts_and_says_when_it_is_too_much(address: str) -> None:
    whole = json.dumps({"inputs": IMAGES.int().tolist()}).encode()
    headers = {"Content-Type": "application/json"}
    parts = (whole[start : start + 7] for start in range(0, len(whole), 7))
    assert requests.post(f"{address}/invocations", data=parts, headers=headers, timeout=60).ok
    endless = (b" " * 2**20 for _ in range(40))
    answer = requests.post(f"{address}/invocations", data=endless, headers=headers, timeout=60)
    assert answer.status_code == 413


@pytest.mark.slow
def test_a_client_that_goes_leaves_a_server_that_answers(address: str) -> None:
    """The log of the server, which `address` looks at, has no traceback of it."""
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
        client.sendall(b'Content-Length: 1000\r\n\r\n{"inputs": [[0, ')
    assert requests.get(f"{address}/ping", timeout=5).ok


@pytest.mark.slow
def test_a_port_that_is_taken_is_one_message(run: Run, address: str, tmp_path: Path) -> None:
    port = address.rsplit(":", 1)[1]
    done = start("ebm-serve", f"run={run[0] / 'mlflow_model'}", f"port={port}", folder=tmp_path, outputs=tmp_path)
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    assert f"port={int(port) + 1}" in done.stderr
    assert done.stderr.count("\n") == 1
