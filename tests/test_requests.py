"""Every request to a served model that is wrong gets one message with a status of its own, and no stack trace."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from bad_requests import BAD, JSON, PIXELS, ROW, Bad, sent
from servers import ask_app
from starlette.applications import Starlette

from ebm_pipeline.models.inference import up_and_down
from ebm_pipeline.models.layers import Bernoulli, Gaussian, Mixed, Potts
from ebm_pipeline.models.machine import assemble
from ebm_pipeline.models.storage import SavedModel
from ebm_pipeline.runs.serving import app as server
from ebm_pipeline.runs.serving import machine as served
from ebm_pipeline.runs.serving.app import make_app
from ebm_pipeline.runs.serving.machine import ServedMachine
from ebm_pipeline.support.errors import UserError

NAMES = {"error_code", "message"}
OTHER_ROW = [0, 0, 1, 1] * 4
ON = np.array(ROW, dtype=np.float32)


def model(*layers: Any, shape: tuple[int, int] = (4, 4), config: str = "") -> SavedModel:
    generator = torch.Generator().manual_seed(5)
    weights = [torch.randn(lower.units, upper.units, generator=generator) for lower, upper in pairwise(layers)]
    return SavedModel(assemble(list(layers), weights), torch.zeros(layers[0].units), shape, config)


RBM = model(Bernoulli.create(PIXELS), Bernoulli.create(4))


@pytest.fixture(scope="module")
def app() -> Starlette:
    return make_app(ServedMachine(RBM))


def asked(app: Any, bad: Bad) -> tuple[int, str]:
    return ask_app(app, "POST", "/invocations", bad.body, bad.kind)


def one_message(status: int, text: str, bad: Bad) -> None:
    """What a person sees of a request that is wrong."""
    assert status == bad.status, text
    answer = json.loads(text)
    assert set(answer) == NAMES
    assert re.search(bad.says, answer["message"]), answer["message"]
    assert "\n" not in answer["message"]
    assert len(answer["message"]) <= 600
    assert not re.search('Traceback|File "|<class|line [0-9]+, in', text)


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_request_is_one_message(name: str, app: Starlette) -> None:
    one_message(*asked(app, BAD[name]), BAD[name])


def test_more_than_sixty_kinds_are_tried() -> None:
    assert len(BAD) >= 60


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/invocations", 405), ("PUT", "/invocations", 405), ("POST", "/", 404), ("GET", "/../etc/passwd", 404)],
)
def test_another_place_is_one_message(method: str, path: str, status: int, app: Starlette) -> None:
    answer = ask_app(app, method, path, b"", None)
    one_message(*answer, Bad(b"", f"there is no {method} .*there is POST /invocations", status))


def test_a_body_that_does_not_come_is_one_message(app: Starlette, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MOST_SECONDS", 0.01)
    answer = ask_app(app, "POST", "/invocations", None, JSON)
    one_message(*answer, Bad(b"", "the request has not come within .*: send it at once", 408))


@pytest.mark.parametrize("path", ["/ping", "/health", "/version"])
def test_it_says_that_it_is_there(path: str, app: Starlette) -> None:
    assert ask_app(app, "GET", path, b"", None)[0] == 200


@pytest.mark.parametrize(
    "body",
    [
        sent(inputs=[ROW, OTHER_ROW]),
        sent(instances=[[float(x) for x in ROW], OTHER_ROW]),
        sent(inputs=[ROW, OTHER_ROW], params=None),
        sent(inputs=[ROW, OTHER_ROW], params={"task": "reconstruct", "sweeps": 3}),
        sent(dataframe_split={"data": [ROW, OTHER_ROW]}),
        sent(dataframe_split={"columns": list("abcdefghijklmnop"), "index": [5, 6], "data": [ROW, OTHER_ROW]}),
        sent(dataframe_records=[dict(zip("abcdefghijklmnop", row, strict=True)) for row in (ROW, OTHER_ROW)]),
        b"\xef\xbb\xbf" + sent(inputs=[ROW, OTHER_ROW]),
    ],
)
def test_every_way_to_send_images_is_the_same_question(body: bytes, app: Starlette) -> None:
    status, text = ask_app(app, "POST", "/invocations", body, f"{JSON}; charset=UTF-8")
    assert status == 200, text
    expected = up_and_down(RBM.machine, torch.tensor([ROW, OTHER_ROW]).float())[0]
    np.testing.assert_allclose(json.loads(text)["predictions"], expected.numpy(), rtol=1e-6)


# ---------------------------------------------------------------------------------------------- other models

LABELLED = model(Mixed.create({"pixels": Bernoulli.create(PIXELS), "label": Potts.create(3, 3)}), Bernoulli.create(4))
GAUSSIAN = model(Gaussian.create(PIXELS), Bernoulli.create(4))


@pytest.mark.parametrize(
    ("saved", "body", "says"),
    [
        (LABELLED, sent(inputs=[ROW]), r"\(images, 19\), one row each, the last 3 columns for the label; got \(1, 16\)"),
        (LABELLED, sent(inputs=[[*ROW, 1, 1, 0]]), "need data of"),  # two labels
        (LABELLED, sent(inputs=[[*ROW, 0, 0, 0]]), "need data of"),
        (LABELLED, sent(inputs=[ROW[1:]], params={"task": "classify"}), r"\(images, 16\) or \(images, 19\)"),
        (LABELLED, sent(inputs=[[2] * 16], params={"task": "classify"}), "need data of"),
        (GAUSSIAN, sent(inputs=[[1e30] * 16], params={"task": "score"}), "the answer is not finite"),
    ],
)  # fmt: skip
def test_what_another_model_cannot_answer_is_one_message(saved: SavedModel, body: bytes, says: str) -> None:
    bad = Bad(body, says)
    one_message(*asked(make_app(ServedMachine(saved)), bad), bad)


def test_labels_are_told_of_the_pixels_alone() -> None:
    body = sent(inputs=[ROW, OTHER_ROW], params={"task": "classify"})
    status, text = ask_app(make_app(ServedMachine(LABELLED)), "POST", "/invocations", body, JSON)
    assert status == 200, text
    np.testing.assert_allclose(np.sum(json.loads(text)["predictions"], axis=1), [1, 1], rtol=1e-6)


# ---------------------------------------------------------------------------------------------- what a request may cost


def test_what_is_said_to_be_allowed_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "MOST_WORK", 10**6)
    machine, images = ServedMachine(RBM), np.tile(ON, (40, 1))
    with pytest.raises(UserError, match="sweeps=100 of 40 images") as caught:
        machine.answer(images, {"task": "sample", "sweeps": 100})
    fewer = int(re.findall(r"at most ([\d,]+) images", str(caught.value))[0])
    sweeps = int(re.findall(r"at most ([\d,]+) sweeps", str(caught.value))[0])
    machine.answer(images[:fewer], {"task": "sample", "sweeps": 100})
    machine.answer(images, {"task": "sample", "sweeps": sweeps})
    for more in ((fewer + 1, 100), (40, sweeps + 1)):
        with pytest.raises(UserError, match="cost more than one request may"):
            machine.answer(np.tile(ON, (more[0], 1)), {"task": "sample", "sweeps": more[1]})


def test_too_many_images_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "MOST_VALUES", 200)
    with pytest.raises(UserError, match=r"11 images of a model of 20 units .*send at most 10 at a time"):
        ServedMachine(RBM).answer(np.tile(ON, (11, 1)), {})
    assert len(ServedMachine(RBM).answer(np.tile(ON, (10, 1)), {})) == 10


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("mean_field: 3", "mean_field must be a mapping"),
        ("mean_field: {max_steps: 1.5}", "max_steps"),
        ("mean_field: {tolerance: .nan}", "tolerance"),
        ("a: &a [1]\nb: *a", "alias"),
        ("mean_field: {max_steps: 1000000000}", None),
    ],
)
def test_a_strangers_settings_are_data(config: str, says: str | None) -> None:
    deep = model(Bernoulli.create(PIXELS), Bernoulli.create(4), Bernoulli.create(3), config=config)
    if says is not None:
        with pytest.raises(UserError, match=says):
            ServedMachine(deep)
        return
    with pytest.raises(UserError, match="1 images cost more than one request may"):
        ServedMachine(deep).answer([ROW], {"task": "score"})


def test_a_fault_of_the_model_keeps_its_traceback_to_the_server() -> None:
    class Broken(ServedMachine):
        def compute(self, visible: Any, question: Any) -> Any:
            raise ZeroDivisionError("a fault of mine in /home/me")

    bad = Bad(sent(inputs=[ROW]), r"the model failed \(ZeroDivisionError\): see what the server has printed", 500)
    one_message(*asked(make_app(Broken(RBM)), bad), bad)
