"""Logged models (MLflow 3): models of a run, each with its step, its files and numbers that name it and the data set.

A model is known by its run and its name, so every call can be made twice. A server that is older has no such models: there the
result is a folder of the run's files, as before, and of the others nothing is kept.
"""

from __future__ import annotations

import json
import logging
import posixpath
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Metric, Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from ebm_pipeline.tracking.store import WrongAnswerError

log = logging.getLogger(__name__)

RESULT, BEST, LAST = "result", "best", "last"
NAMES = (BEST, LAST, RESULT)  # in the order in which they are logged: MLflow shows the newest first
STEP_TAG = "ebm.step"
SOURCE = {
    "mlflow.source.name": "ebm-train",
    "mlflow.source.type": "LOCAL",
}  # what MLflow's pages say that it was logged from
VERSIONS_TAG = "mlflow.modelVersions"  # by which MLflow's pages know what a model is registered as
AS_FILES = "mlflow_model"  # the folder of the result among a run's files, where a server knows no models
UNKNOWN = ("ENDPOINT_NOT_FOUND", "NOT_FOUND", "RESOURCE_DOES_NOT_EXIST")

Call = Mapping[str, Any]


def of_run(client: MlflowClient, run: Run) -> dict[str, LoggedModel] | None:
    """The models of a run, which was read just now, by name; None where the server knows no logged models."""
    run_id = run.info.run_id
    try:
        found = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run_id}'")
    except MlflowException as error:
        if error.error_code not in UNKNOWN:
            raise
        return None
    return {_checked(model, run_id).name: model for model in found}


def _checked(model: LoggedModel, run_id: str) -> LoggedModel:
    if model.source_run_id != run_id or not model.model_id:
        raise WrongAnswerError(f"asked for models of the run {run_id}, it answers {model.model_id!r}")
    return model


def log_model(client: MlflowClient, run: Run, call: Call) -> bool:
    """Make the model that `call` names, or complete the one that is there; False where the server knows no logged models."""
    models, name = of_run(client, run), call["name"]
    if models is None:
        return False
    model = models.get(name) or client.create_logged_model(
        run.info.experiment_id,
        name,
        source_run_id=run.info.run_id,
        tags={STEP_TAG: str(call["step"]), **SOURCE},
        params=call["params"],
    )
    _checked(model, run.info.run_id)
    client.log_model_artifacts(model.model_id, call["file"])
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    outputs = run.outputs.model_outputs if run.outputs is not None else []
    if model.model_id not in {output.model_id for output in outputs}:
        client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, call["step"])])
    return True


def confirm_model(client: MlflowClient, run: Run, call: Call) -> bool:
    """Raise WrongAnswerError unless the store has the model whole; False where the server knows no logged models."""
    models = of_run(client, run)
    if models is None:
        return False
    model = models.get(call["name"])
    outputs = run.outputs.model_outputs if run.outputs is not None else []
    if model is None or model.status != LoggedModelStatus.READY or model.model_id not in {o.model_id for o in outputs}:
        raise WrongAnswerError(f"it took the model {call['name']!r} and does not have it")
    wanted = {
        path.relative_to(call["file"]).as_posix(): path for path in Path(call["file"]).rglob("*") if path.is_file()
    }
    for folder in sorted({posixpath.dirname(name) for name in wanted}):
        found = {entry.path for entry in client.list_logged_model_artifacts(model.model_id, folder or None)}
        missing = {name for name in wanted if posixpath.dirname(name) == folder} - found
        if missing:
            raise WrongAnswerError(f"it took {min(missing)} of a model and does not have it")
    return True


def log_numbers(client: MlflowClient, run: Run, call: Call) -> None:
    """Numbers of a model on a data set, which the run has too.

    Numbers without a time have one that follows from the run, so that those that are sent twice are there once; a number of the
    result is the run's own, also where it is not linked, and by its time the newest at its step.
    """
    model = (of_run(client, run) or {}).get(call["model"])
    if model is None and call["model"] != RESULT:
        return
    name, digest = call["dataset"]
    linked = {} if model is None else {"model_id": model.model_id, "dataset_name": name, "dataset_digest": digest}
    time = run.info.start_time + NAMES.index(call["model"])
    values = [(key, value, time if at is None else at, step) for key, value, at, step in call["values"]]
    client.log_batch(run.info.run_id, metrics=[Metric(*value, **linked) for value in values])


def confirm_numbers(client: MlflowClient, run: Run, call: Call) -> None:
    """Raise WrongAnswerError unless the model, if there is one, has what `call` sent."""
    model = (of_run(client, run) or {}).get(call["model"])
    found = set() if model is None else {metric.key for metric in model.metrics or ()}
    missing = {key for key, *_ in call["values"]} - found
    if model is not None and missing:
        raise WrongAnswerError(f"it took the metrics of a model and does not have {min(missing)}")


def note_version(client: MlflowClient, model: LoggedModel, name: str, version: str) -> None:
    """Let the pages of a model say what it is registered as."""
    known = json.loads(model.tags.get(VERSIONS_TAG, "[]"))
    entry = {"name": name, "version": version}
    if entry not in known:
        client.set_logged_model_tags(model.model_id, {VERSIONS_TAG: json.dumps([*known, entry])})
