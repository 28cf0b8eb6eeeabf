"""The calls by which a run is written: how each is made, and how the store shows that it has arrived.

Each can be made twice, since nobody knows of a call without an answer whether it was made: the second changes nothing. Pictures
therefore have names that follow from the call, where MLflow's own `log_image` draws one, and a table is written whole, where
`log_table` appends to the one that is there.
"""

from __future__ import annotations

import json
import logging
import posixpath
import shutil
import tempfile
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, FileInfo, Metric, Param, RunTag
from mlflow.exceptions import MlflowException, RestException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient
from PIL import Image

from ebm_pipeline.tracking import deadline, logged_models
from ebm_pipeline.tracking.address import is_local, without_password
from ebm_pipeline.tracking.store import RefusedError, WrongAnswerError, checked

log = logging.getLogger(__name__)

THUMBNAIL = 640  # pixels, of the longer side of the small copy of a picture that MLflow's pages show
IMAGES_TAG, TABLES_TAG = "mlflow.loggedImages", "mlflow.loggedArtifacts"  # by which MLflow's pages show them

Call = Mapping[str, Any]


def make(client: MlflowClient, run_id: str, call: Call) -> None:
    """Make a call; raises RefusedError for what the store will never take, and whatever the client raises."""
    try:
        _deliver(client, run_id, call)
    except MlflowException as error:
        if error.error_code != "INVALID_PARAMETER_VALUE":
            raise
        if isinstance(error, RestException):  # not if this server says so to everything
            checked(client.get_run(run_id), run_id)
        raise RefusedError(str(error)) from error


def confirm(client: MlflowClient, run_id: str, call: Call) -> None:
    """Raise WrongAnswerError unless the store has what `call` sent: what answers may be no MLflow server any more."""
    if call["call"] in ("text", "file", "image", "table"):
        _confirm_artifacts(client, run_id, call)
    elif call["call"] != "register":  # which is read back as it is made
        run = checked(client.get_run(run_id), run_id)
        if call["call"] == "model":
            if not logged_models.confirm_model(client, run, call) and call["name"] == logged_models.RESULT:
                _confirm_artifacts(client, run_id, {**call, "folder": logged_models.AS_FILES})
            return
        if "model" in call:
            logged_models.confirm_numbers(client, run, call)
            return
        missing = _expected(call) - _found(run, call)
        if missing:
            raise WrongAnswerError(f"it took the {call['call']} of the run and does not have {min(missing)}")


def allowance(call: Call) -> float:
    """Seconds that a call may take longer for the sake of its files."""
    path = Path(call["file"]) if "file" in call else None
    if path is None or not path.exists():
        return 0.0
    files = [path, *path.rglob("*")]
    return sum(file.stat().st_size for file in files if file.is_file()) / deadline.BYTES_PER_SECOND


def _deliver(client: MlflowClient, run_id: str, call: Call) -> None:
    match call["call"]:
        case "parameters":
            client.log_batch(run_id, params=[Param(*value) for value in call["values"]])
        case "metrics" if "model" in call:
            logged_models.log_numbers(client, checked(client.get_run(run_id), run_id), call)
        case "metrics":
            client.log_batch(run_id, metrics=[Metric(*value) for value in call["values"]])
        case "tags":
            client.log_batch(run_id, tags=[RunTag(*value) for value in call["values"]])
        case "text":
            client.log_text(run_id, call["text"], call["name"])
        case "file" if Path(call["file"]).is_dir():
            client.log_artifacts(run_id, call["file"], call["folder"])
        case "file":
            client.log_artifact(run_id, call["file"], call["folder"])
        case "model":
            _log_model(client, run_id, call)
        case "image":
            _log_image(client, run_id, call)
        case "table":
            client.log_text(run_id, _table(call), call["name"])
            client.set_tag(run_id, TABLES_TAG, json.dumps([{"path": call["name"], "type": "table"}]))
        case "dataset":
            fields = {key: value for key, value in call.items() if key != "call"}
            _twice(client.log_inputs, run_id, datasets=[DatasetInput(Dataset(**fields))])
        case "register":
            _register(client, run_id, call["artifact"], *call["name"].split("@"))
        case "end":
            client.set_terminated(run_id, call["status"], call["time"])


def _twice(call: Callable[..., object], *arguments: Any, **options: Any) -> None:
    """Make a call, and again if another run has made the same entry of the store at the same moment."""
    try:
        call(*arguments, **options)
    except MlflowException as error:
        if "IntegrityError" not in str(error):
            raise
        call(*arguments, **options)


def _picture(run_id: str, call: Call) -> str:
    """The name of a picture of a series, as MLflow's pages know it, without its ending."""
    name = f"{call['key'].replace('/', '~')}+step+{call['step']}+timestamp+{call['time']}"
    return f"{name}+{uuid.uuid5(uuid.NAMESPACE_URL, f'{run_id}/{name}')}"


def _log_image(client: MlflowClient, run_id: str, call: Call) -> None:
    stem = _picture(run_id, call)
    with tempfile.TemporaryDirectory() as folder:
        whole, small = Path(folder) / f"{stem}.png", Path(folder) / f"{stem}+compressed.webp"
        shutil.copyfile(call["file"], whole)
        with Image.open(whole) as picture:
            largest = max(picture.size)
            thumbnail = picture.resize([max(1, side * THUMBNAIL // largest) for side in picture.size])
        thumbnail.save(small, method=0)  # the quickest of WebP's ways
        for path in (whole, small):
            client.log_artifact(run_id, str(path), "images")
    client.set_tag(run_id, IMAGES_TAG, "true")


def _table(call: Call) -> str:
    rows = list(zip(*call["columns"].values(), strict=True))
    return json.dumps({"columns": list(call["columns"]), "data": rows})


def _log_model(client: MlflowClient, run_id: str, call: Call) -> None:
    run = checked(client.get_run(run_id), run_id)
    if logged_models.log_model(client, run, call) or call["name"] != logged_models.RESULT:
        return
    client.log_artifacts(run_id, call["file"], logged_models.AS_FILES)
    log.warning(
        f"the MLflow server {without_password(client.tracking_uri)} knows no logged models (MLflow 3 does): the trained model is "
        f"the folder {logged_models.AS_FILES} of the run's files"
    )


def _register(client: MlflowClient, run_id: str, artifact: str, name: str, alias: str = "") -> None:
    """Register a logged model of the run, or the folder of its files where there is none of that name."""
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    mine = f"name = '{name}' and run_id = '{run_id}'"
    model = (logged_models.of_run(client, checked(client.get_run(run_id), run_id)) or {}).get(artifact)
    if not client.search_model_versions(mine):
        if model is None:
            folder = logged_models.AS_FILES if artifact == logged_models.RESULT else artifact
            client.create_model_version(name, f"runs:/{run_id}/{folder}", run_id)
        else:  # MLflow looks up models:/... of a file in the store of the environment
            source = model.artifact_location if is_local(client.tracking_uri) else model.model_uri
            client.create_model_version(name, source, run_id, model_id=model.model_id)
    made = client.search_model_versions(mine)
    if not made or made[0].name != name:
        raise WrongAnswerError(f"it registered a model and does not have {name!r}")
    if model is not None:
        logged_models.note_version(client, model, name, str(made[0].version))
    if alias:
        client.set_registered_model_alias(name, alias, made[0].version)
        if client.get_model_version_by_alias(name, alias).version != made[0].version:
            raise WrongAnswerError(f"it took the alias of a model and does not have {alias!r}")


# ---------------------------------------------------------------------------------------------- what has arrived


def _expected(call: Call) -> set[str]:
    match call["call"]:
        case "dataset":
            return {call["digest"]}
        case "end":
            return {call["status"]}
    return {value[0] for value in call["values"]}


def _found(run: Any, call: Call) -> set[str]:
    match call["call"]:
        case "parameters":
            return set(run.data.params)
        case "metrics":
            steps = latest_steps(run)
            return {name for name, *_, step in call["values"] if steps.get(name, -1) >= step}
        case "tags":
            return set(run.data.tags)
        case "dataset":
            inputs = run.inputs.dataset_inputs if run.inputs is not None else []
            return {entry.dataset.digest for entry in inputs}
    return {run.info.status}


def latest_steps(run: Any) -> dict[str, int]:
    """The last step of each metric of a run."""
    return {metric.key: metric.step for metric in run.data.to_proto().metrics}


def files_in(client: MlflowClient, run_id: str, folder: str) -> list[FileInfo]:
    """What lies in a folder of a run's files. MLflow's own `list_artifacts` looks for a logged model of that name too, each time,
    and fails with a server that knows none.
    """
    run = checked(client.get_run(run_id), run_id)
    found: list[FileInfo] = get_artifact_repository(
        run.info.artifact_uri, tracking_uri=client.tracking_uri
    ).list_artifacts(folder or None)
    return found


def _confirm_artifacts(client: MlflowClient, run_id: str, call: Call) -> None:
    wanted = _artifacts(run_id, call)
    for folder in sorted({posixpath.dirname(path) for path in wanted}):
        found = {entry.path: entry.file_size for entry in files_in(client, run_id, folder)}
        for path, size in wanted.items():
            if posixpath.dirname(path) == folder and (path not in found or (found[path] not in (size, None) and size)):
                raise WrongAnswerError(f"it took {path} and does not have it")


def _artifacts(run_id: str, call: Call) -> dict[str, int | None]:
    """Path -> size of the artifacts that a call makes; the size of some is not known."""
    match call["call"]:
        case "text":
            return {call["name"]: len(call["text"].encode())}
        case "table":
            return {call["name"]: len(_table(call).encode())}
        case "image":
            stem = f"images/{_picture(run_id, call)}"
            return {f"{stem}.png": None, f"{stem}+compressed.webp": None}
    file, folder = Path(call["file"]), call["folder"] or ""
    if not file.is_dir():
        return {posixpath.join(folder, file.name): file.stat().st_size}
    inside = [path for path in file.rglob("*") if path.is_file()]
    return {posixpath.join(folder, path.relative_to(file).as_posix()): path.stat().st_size for path in inside}
