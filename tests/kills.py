"""Trainings that end in mid-work: a child process that kills itself, and what a finished run left, to compare."""

from __future__ import annotations

import csv
import functools
import multiprocessing
import os
import pkgutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from commands import composed
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from ebm_pipeline.tracking import records

CONTEXT = multiprocessing.get_context("forkserver")  # one server imports torch and the rest, children are its forks
CONTEXT.set_forkserver_preload(["ebm_pipeline.runs.train"])


def at_call(target: str, number: int, action: Callable[[], object]) -> tuple[Any, str, Callable[..., Any]]:
    """(owner, name, function): the function of this dotted name, but `action` comes before its call `number`, from 1."""
    owner_name, name = target.rsplit(".", 1)
    owner = pkgutil.resolve_name(owner_name)
    original = getattr(owner, name)
    calls = 0

    @functools.wraps(original)
    def replaced(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            action()
        return original(*arguments, **options)

    return owner, name, replaced


def kill_self(number: signal.Signals = signal.SIGKILL) -> None:
    os.kill(os.getpid(), number)


def train_until(overrides: tuple[str, ...], output_root: Path, folder: Path, target: str, number: int) -> None:
    """What the child does: a run, until a function's call."""
    from ebm_pipeline.runs import train

    torch.set_num_threads(1)
    setattr(*at_call(target, number, kill_self))
    train.train(composed(*overrides, output_root=output_root), folder)


def killed(overrides: tuple[str, ...], output_root: Path, folder: Path, target: str, number: int) -> None:
    """A run in a child process that is killed at that call of that function; fails if the run came to its end before."""
    child = CONTEXT.Process(target=train_until, args=(overrides, output_root, folder, target, number))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL, f"{target} was not called {number} times: exit code {child.exitcode}"


def left_by(folder: Path, output_root: Path) -> dict[str, Any]:
    """Everything that a run left, times excepted: checkpoints, arrays, metrics.csv, the store's metrics and pictures."""
    left: dict[str, Any] = {}
    for path in sorted((folder / "checkpoints").rglob("*.ckpt")):
        saved = torch.load(path, weights_only=True)
        record = saved["callbacks"]["Record"]["history"]
        left[str(path.relative_to(folder))] = {
            **{
                name: saved[name] for name in ("state_dict", "optimizer_states", "lr_schedulers", "generator", "others")
            },
            **{name: saved[name] for name in ("epoch", "global_step")},
            "record": {name: values for name, values in record.items() if "seconds" not in name},
        }
    for path in sorted(folder.glob("*.h5")):
        with h5py.File(path) as file:
            file.visititems(
                lambda name, item, path=path: (
                    left.update({f"{path.name}/{name}": item[:]}) if isinstance(item, h5py.Dataset) else None
                )
            )
    with open(folder / "metrics.csv", newline="") as table:
        left["metrics.csv"] = [
            {key: value for key, value in row.items() if "seconds" not in key} for row in csv.DictReader(table)
        ]
    uri = f"sqlite:///{output_root / 'mlflow.db'}"
    run = records.find_run(uri, str(folder))
    left["status"] = run.status
    left["params"] = run.params
    client = MlflowClient(uri)
    for name in (name for name in run.metrics if not name.startswith("system/")):
        history = sorted((one.step, one.value) for one in client.get_metric_history(run.run_id, name))
        left[f"store/{name}"] = [step for step, _ in history] if "seconds" in name else history
    left["models"] = models_left(client, run.run_id)
    images = [entry.path.split("+")[:3] for entry in client.list_artifacts(run.run_id, "images")]
    left["images"] = sorted(f"{key} {step}" for key, _, step in images)
    left["pictures"] = sorted(path.name for path in (folder / "pictures").iterdir())
    return left


def steps_of(run: Run) -> dict[str, int]:
    """The step of each logged model of a run, by its id."""
    return {} if run.outputs is None else {output.model_id: output.step for output in run.outputs.model_outputs}


def models_left(client: MlflowClient, run_id: str) -> list[Any]:
    """The logged models of a run: their names, steps, numbers and files."""
    run = client.get_run(run_id)
    steps = steps_of(run)
    models = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run_id}'")
    return sorted(
        (
            model.name, str(model.status), model.params, steps[model.model_id],
            sorted((metric.key, metric.step, metric.value, metric.dataset_digest) for metric in model.metrics or ()),
            sorted(entry.path for entry in client.list_logged_model_artifacts(model.model_id)),
        )
        for model in models
    )  # fmt: skip


def assert_identical(one: Any, two: Any, where: str = "") -> None:
    """Bit by bit, through dicts and sequences."""
    assert type(one) is type(two), where
    if isinstance(one, dict):
        assert one.keys() == two.keys(), where
        for key in one:
            assert_identical(one[key], two[key], f"{where}/{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(two), where
        for index, (left, right) in enumerate(zip(one, two, strict=True)):
            assert_identical(left, right, f"{where}/{index}")
    elif isinstance(one, torch.Tensor):
        assert one.dtype == two.dtype, where
        assert torch.equal(one, two), where
    elif isinstance(one, np.ndarray):
        np.testing.assert_array_equal(one, two, err_msg=where)
    else:
        assert one == two or (one != one and two != two), f"{where}: {one} and {two}"


def run_count(folder: Path, output_root: Path) -> int:
    """How many runs of the store say that this folder is theirs."""
    client = MlflowClient(f"sqlite:///{output_root / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return len(client.search_runs(experiments, f"tags.`{records.OUTPUT_TAG}` = '{folder}'"))


def patched(monkeypatch: pytest.MonkeyPatch, target: str, number: int, action: Callable[[], object]) -> None:
    """`action` comes before call `number` of the function of this dotted name, in this process."""
    monkeypatch.setattr(*at_call(target, number, action))
