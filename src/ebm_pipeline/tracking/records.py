"""Runs that are found and read: by folder, by MLflow id, by the run that they belong to."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mlflow.artifacts import download_artifacts
from mlflow.entities import Metric, Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from ebm_pipeline.support.errors import UserError
from ebm_pipeline.support.files import write_text
from ebm_pipeline.support.names import SYSTEM, current, with_current, with_current_tags
from ebm_pipeline.tracking import deadline
from ebm_pipeline.tracking.address import SQLITE, database_file, is_local, without_password
from ebm_pipeline.tracking.calls import latest_steps
from ebm_pipeline.tracking.moved import MOST_LEVELS, absolute, has_tag, holds
from ebm_pipeline.tracking.store import RUN_ID, answering, ask, checked
from ebm_pipeline.tracking.whose import permitted

PARENT_VARIABLE = "EBM_PARENT_RUN"  # how the jobs of a sweep learn of their parent run
RUN_FILE = "run.json"
DATA = "data"  # in it: the digest of the data
ORIGIN = "started_from"  # in it, and as the tag ebm.started_from: the run, by its id, whose model a run began as, or the file
MODEL_FILE = "model.h5"
METRICS_FILE = "metrics.json"  # the last numbers of a run, all of them
LAST_FILE = "model_last.h5"  # the weights of the last update, where MODEL_FILE has their mean over the last ones
OUTPUT_TAG = "ebm.output_dir"
PARENT_TAG = "mlflow.parentRunId"
CLAIM_TAG = "ebm.claim"  # by which a run is found whose process was killed before run.json had its id
NOTE_TAG = "mlflow.note.content"  # Markdown that the page of a run shows
ERROR_TAG = "ebm.error"  # why a run failed
PRUNED_TAG = "ebm.pruned"  # why a search ended a run early
PAGE = 200  # runs of an answer
REGISTERED = re.compile(r"models:/([^/@:]+)(?:@([^/@:]+)|/(\w+))")
MODELS = "models:/NAME@ALIAS, models:/NAME/VERSION or models:/m-..."
LOGGED = re.compile(r"models:/(m-[0-9a-f]{32})")


@dataclass(frozen=True)
class RunRecord:
    """A run as the store has it; metrics and tags by the names of today, whatever version wrote them."""

    run_id: str
    name: str
    status: str
    parent_run_id: str | None
    output_dir: Path | None
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    uri: str = ""  # of the store
    last_step: int = 0  # of its metrics: updates made

    @property
    def parameters(self) -> int | None:
        """How many numbers training changed; a metric in earlier versions."""
        text = self.params.get("parameters", "")
        count = int(text) if text.isdecimal() else self.metrics.get("parameters")
        return None if count is None else int(count)

    data: str = ""  # digest of its data set

    @property
    def outcome(self) -> str:
        """Its status, PRUNED where a search ended it."""
        return "PRUNED" if self.status == "KILLED" and PRUNED_TAG in self.tags else self.status


def write_run_file(folder: Path, run_id: str, uri: str, config: str, facts: Mapping[str, str] | None = None) -> None:
    """Leave in a run's folder which MLflow run it belongs to, the digest of its configuration and what else is known of it."""
    known = {"run_id": run_id, "tracking_uri": absolute(uri), "config": config, **(facts or {})}
    write_text(folder / RUN_FILE, json.dumps(known))


def write_claim(folder: Path, claim: str, uri: str, config: str, facts: Mapping[str, str] | None = None) -> None:
    """Leave in a run's folder the tag of a run that is about to be made: see `claimed_run`."""
    known = {"claim": claim, "tracking_uri": absolute(uri), "config": config, **(facts or {})}
    write_text(folder / RUN_FILE, json.dumps(known))


def facts_of(known: Mapping[str, str]) -> dict[str, str]:
    """What a run.json says beside the run's id, store and configuration."""
    return {name: value for name, value in known.items() if name not in ("run_id", "claim", "tracking_uri", "config")}


def read_run_file(folder: Path) -> dict[str, str]:
    """What `write_run_file` left; empty where there is no such file, or a damaged one."""
    try:
        known = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    good = isinstance(known, dict) and all(isinstance(value, str) for value in known.values())
    return known if good and "tracking_uri" in known else {}


def read_metrics(folder: Path) -> dict[str, float]:
    """What a finished run left in METRICS_FILE; empty where that is missing or damaged, as the store has the most of it."""
    try:
        known = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return (
        {name: value for name, value in known.items() if type(value) in (int, float)} if isinstance(known, dict) else {}
    )


def claimed_run(folder: Path, users: str) -> dict[str, str]:
    """As `read_run_file`, with a store that may be used: see `store_of`, also for `users`. Empty without a run.

    The id of a run that was made, but not yet noted, is looked up and noted.
    """
    known = read_run_file(folder)
    if "run_id" in known:
        return known | {"tracking_uri": store_of(folder, users)}
    claim = known.get("claim", "")
    if not RUN_ID.fullmatch(claim):
        return {}

    def holds(uri: str) -> bool | None:
        return has_tag(uri, CLAIM_TAG, claim)

    uri = permitted(folder, known["tracking_uri"], users, holds)
    found = None if holds(uri) is False else ask(uri, lambda client: _with_claim(client, claim))
    if found is None:
        return {}
    write_run_file(folder, found, uri, known.get("config", ""), facts_of(known))
    return read_run_file(folder)


def _with_claim(client: MlflowClient, claim: str) -> str | None:
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(experiments, f"tags.`{CLAIM_TAG}` = '{claim}'")
    return checked(found[0]).info.run_id if found else None


def run_of(folder: Path) -> dict[str, str]:
    """{"run_id": ..., "tracking_uri": ...} of a run's folder, as it says; raises UserError where that cannot be read."""
    known = read_run_file(folder)
    if not RUN_ID.fullmatch(known.get("run_id", "")):
        raise UserError(f"{folder / RUN_FILE} is missing or damaged: give the folder of a run")
    return known


def store_of(folder: Path, users: str) -> str:
    """The store of the run in a folder, if it may be used: the user's (`users`), or the file in a folder above that holds it.

    Raises UserError otherwise: the folder may be another person's.
    """
    known = run_of(folder)
    return permitted(folder, known["tracking_uri"], users, lambda uri: holds(uri, known["run_id"]))


def run_in(folder: Path, known: Mapping[str, str]) -> RunRecord | None:
    """The run of a folder (`claimed_run`), as its store has it; None where it is there no more, or deleted."""
    uri, run_id = known["tracking_uri"], known["run_id"]
    run = None if holds(uri, run_id) is False else ask(uri, lambda client: _run_or_none(client, run_id))
    if run is None or run.info.lifecycle_stage == "deleted":
        return None
    record = _record(run, uri)
    return replace(record, output_dir=folder.absolute(), data=known.get(DATA, record.data))


def _run_or_none(client: MlflowClient, run_id: str) -> Run | None:
    try:
        return checked(client.get_run(run_id), run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def find_run(uri: str, reference: str) -> RunRecord:
    """A run by its folder, its id, or a beginning of its id (at least four characters) that no other run shares.

    uri: the user's store; the one that a folder names is used where `store_of` allows it.
    Its output_dir is where its folder is now: the one that was given, or one that is found below that of the store.
    """
    folder = Path(reference)
    if (folder / RUN_FILE).is_file():
        known, store = run_of(folder), store_of(folder, uri)
        record = run_in(folder, known | {"tracking_uri": store})
        if record is None:
            raise UserError(
                f"the run {known['run_id']} of {folder} is not in the MLflow store {without_password(store)} any more: its "
                "training command with resume=auto makes a new one of it"
            )
        return record
    matches = ask(uri, lambda client: _matches(client, reference))
    if len(matches) == 1:
        return _record(matches[0], uri)
    what = "matches several runs" if matches else "is no run"
    raise UserError(
        f"{reference!r} {what}: give a run's folder (one that holds {RUN_FILE}), an MLflow run id of {without_password(uri)}, "
        "or a beginning of one, at least four characters"
    )


def _matches(client: MlflowClient, reference: str) -> list[Run]:
    """The runs that an id, or a beginning of one, can mean."""
    if len(reference) == 32 and (run := _run_or_none(client, reference)) is not None:
        return [run]
    matches: list[Run] = []
    experiments = (
        [experiment.experiment_id for experiment in client.search_experiments()] if len(reference) >= 4 else []
    )
    token = None
    while experiments:
        page = client.search_runs(experiments, max_results=PAGE, page_token=token)
        matches += [checked(run) for run in page if run.info.run_id.startswith(reference)]
        token = page.token
        if not token:
            break
    return matches


def find_model(uri: str, reference: str) -> RunRecord:
    """A run as by `find_run`, whose folder holds a saved model; raises UserError otherwise."""
    record = find_run(uri, reference)
    if record.output_dir is None or not (record.output_dir / MODEL_FILE).is_file():
        raise UserError(
            f"the run {record.run_id} has no {MODEL_FILE} in {record.output_dir}: it did not finish, or its folder was "
            "moved: give that, run=FOLDER"
        )
    return record


def download_folder(uri: str, reference: str) -> Path:
    """A model of the store as a folder, where it lies or in one of MLflow's own: registered, models:/NAME@ALIAS or
    models:/NAME/VERSION, or the logged model of a run, models:/m-....
    """
    if not (LOGGED.fullmatch(reference) or REGISTERED.fullmatch(reference)):
        raise UserError(f"{reference} names no model of a store: give {MODELS}")

    def fetched() -> Path:
        address = _address_of_model(MlflowClient(uri), reference)
        return Path(download_artifacts(artifact_uri=address, tracking_uri=uri, registry_uri=uri))

    with answering(uri):
        try:
            return fetched() if is_local(uri) else deadline.within(deadline.DOWNLOAD_SECONDS, fetched)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "INVALID_PARAMETER_VALUE"):
                raise
            raise UserError(
                f"{reference} is no model of {uri} ({str(error).splitlines()[0].rstrip('.')}): give {MODELS}, as its page shows "
                "them (ebm-ui)"
            ) from error


def _address_of_model(client: MlflowClient, reference: str) -> str:
    """Where the files of a model are. MLflow itself looks models:/... up in the store of the environment, whatever it is told."""
    if logged := LOGGED.fullmatch(reference):
        return str(client.get_logged_model(logged[1]).artifact_location)
    registered = REGISTERED.fullmatch(reference)
    assert registered is not None
    name, alias, version = registered.groups()
    if alias is not None:
        version = client.get_model_version_by_alias(name, alias).version
    elif not version.isdigit():  # latest, or a stage
        found = client.search_model_versions(f"name = '{name}'")
        wanted = [int(one.version) for one in found if version.lower() in ("latest", str(one.current_stage).lower())]
        version = str(max(wanted, default=0))
    return str(client.get_model_version_download_uri(name, str(version)))


def children(uri: str, run_id: str, folder: Path | None = None) -> list[RunRecord]:
    """The runs started under a parent, oldest first; `folder`: where that of the parent is."""

    def question(client: MlflowClient) -> list[Run]:
        experiment = checked(client.get_run(run_id), run_id).info.experiment_id
        found = client.search_runs(
            [experiment], f"tags.`{PARENT_TAG}` = '{run_id}'", max_results=1000, order_by=["attributes.start_time ASC"]
        )
        return [checked(run) for run in found]

    return [_record(run, uri, [folder] if folder else []) for run in ask(uri, question)]


def metric_history(uri: str, run_id: str, name: str) -> tuple[list[int], list[float]]:
    """(steps, values) of one metric, in the order of the steps."""
    return metric_histories(uri, [(run_id, name)])[run_id, name]


def metric_histories(
    uri: str, wanted: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], tuple[list[int], list[float]]]:
    """As `metric_history`, of each (run id, name): all of them within END_SECONDS. An earlier version's run has older names.

    Where a step has several values, as those of other models of the run (`logged_models`), the newest is the run's.
    """
    wanted = list(dict.fromkeys(wanted))

    def question(client: MlflowClient) -> list[list[Metric]]:
        return [_history(client, *one) for one in wanted]

    found = {}
    for one, metrics in zip(wanted, ask(uri, question, deadline.END_SECONDS), strict=True):
        history = {m.step: m.value for m in sorted(metrics, key=lambda metric: (metric.step, metric.timestamp))}
        found[one] = list(history), list(history.values())
    return found


def dataset_of(record: RunRecord) -> tuple[str, str, str, dict[str, Any]] | None:
    """(name, digest, path, profile) of the data set of a run, as `Tracker.log_dataset` takes it."""
    run = ask(record.uri, lambda client: checked(client.get_run(record.run_id), record.run_id))
    inputs = run.inputs.dataset_inputs if run.inputs else []
    if not inputs:
        return None
    data = inputs[0].dataset
    try:
        return data.name, data.digest, str(json.loads(data.source)["uri"]), dict(json.loads(data.profile or "{}"))
    except (ValueError, KeyError, TypeError):
        return None


def _history(client: MlflowClient, run_id: str, name: str) -> list[Metric]:
    history = client.get_metric_history(run_id, name)
    if history:
        return list(history)
    logged = client.get_run(run_id).data.metrics
    older = next((one for one in logged if current(one) == name), None)
    return [] if older is None else list(client.get_metric_history(run_id, older))


def _record(run: Run, uri: str, near: Iterable[Path] = ()) -> RunRecord:
    folder = run.data.tags.get(OUTPUT_TAG)
    beside = [database_file(uri).absolute().parent] if uri.startswith(SQLITE) else []
    inputs = run.inputs.dataset_inputs if run.inputs else []
    return RunRecord(
        run_id=run.info.run_id,
        name=run.info.run_name or run.info.run_id,
        status=run.info.status,
        parent_run_id=run.data.tags.get(PARENT_TAG),
        output_dir=folder_now(Path(folder), run.info.run_id, [*near, *beside]) if folder else None,
        params=dict(run.data.params),
        metrics=with_current(run.data.metrics),
        tags=with_current_tags(run.data.tags),
        uri=uri,
        last_step=max((step for name, step in latest_steps(run).items() if not name.startswith(SYSTEM)), default=0),
        data=inputs[0].dataset.digest if inputs else "",
    )


def folder_now(noted: Path, run_id: str, near: Iterable[Path]) -> Path:
    """The folder of a run, noted as `noted`: if that is not there any more, a folder of that name below one of `near`."""
    if is_folder_of(noted, run_id):
        return noted
    names = [Path(*noted.parts[-count:]) for count in range(1, min(MOST_LEVELS, len(noted.parts) - 1) + 1)]
    return next((path / name for path in near for name in names if is_folder_of(path / name, run_id)), noted)


def is_folder_of(folder: Path, run_id: str) -> bool:
    """Whether a folder is that of a run."""
    return read_run_file(folder).get("run_id") == run_id
