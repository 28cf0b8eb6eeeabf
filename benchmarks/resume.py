"""Runs that are killed at random moments and continued with resume=auto: how many end like one that was left alone."""

from __future__ import annotations

import csv
import itertools
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from mlflow.tracking import MlflowClient
from sklearn.datasets import load_digits

from benchmarks.common import SEED, command, composed, table
from ebm_pipeline import cli
from ebm_pipeline.data.stored import write
from ebm_pipeline.runs.help import choices
from ebm_pipeline.runs.plan import prepare
from ebm_pipeline.support.conf import config_folder
from ebm_pipeline.support.errors import UserError
from ebm_pipeline.tracking import records
from ebm_pipeline.tracking.records import RUN_FILE

KILLS = int(os.environ.get("EBM_KILLS", "20"))  # of each row
FIRST_SECONDS = 10.0
LATER = 1.5  # on a slow machine: so much later than config.yaml, after which the store is made
FIRST_RUN = ("data=digits", "training.epochs=8", f"seed={SEED}")  # which takes longer than that
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)  # of them one is drawn
GROUPS = ("model", "sampler", "objective")
SHORT = (
    "training.epochs=4",
    f"seed={SEED}",
    "tracking.log_model=false",
    "tracking.system_metrics=false",
    "evaluation.every_epochs=2",
)
OF_MODEL = {
    "dbm": ("model.pretraining.epochs=2",),
    "rbm_categories": ("data=file", "data.units=null", "data.path={path}"),
}
CONTEXT = multiprocessing.get_context("forkserver")  # one server imports torch and the rest, runs are its forks
CONTEXT.set_forkserver_preload(["benchmarks.__main__", "ebm_pipeline.runs.train", "ebm_pipeline.tracking.database"])


@dataclass
class Row:
    """What became of the runs of one kind."""

    name: str
    killed: int = 0
    identical: int = 0
    late: int = 0

    def add(self, what: str, differing: list[str]) -> None:
        self.killed += 1
        self.identical += not differing
        said = "identical" if not differing else f"differs in {', '.join(differing)}"
        print(f"{self.name}, {self.killed}: {what}: {said}", flush=True)

    def cells(self) -> list[str]:
        return [self.name, str(self.killed), str(self.identical), str(self.late)]


def resume(output: Path) -> None:
    """Runs killed at random moments and continued: how many are identical, bit by bit (EBM_KILLS: of each row)."""
    rows = [fresh_store(output / "fresh", KILLS), prepared_store(output / "prepared", KILLS)]
    header = ["killed at random moments", "killed", "identical", "not counted, as they ended before the kill"]
    table(header, [row.cells() for row in rows])


# ---------------------------------------------------------------------------------------------- a first run


def fresh_store(base: Path, kills: int) -> Row:
    """A newcomer's first run, in an empty output folder, stopped in its first ten seconds, and the same command again."""
    row = Row(f"first run on a fresh store, first {FIRST_SECONDS:g} s")
    started = time.time()
    command("ebm-train", *FIRST_RUN, output=base / "alone")
    alone = only_run(base / "alone")
    expected = left_by(alone)
    span = max(FIRST_SECONDS, LATER * ((alone / "config.yaml").stat().st_mtime - started))
    print(f"{row.name}: moments up to {span:.1f} s", flush=True)
    draws = random.Random(SEED)
    while row.killed < kills:
        output = base / f"killed_{row.killed}"
        seconds, number = draws.uniform(0, span), draws.choice(SIGNALS)
        if start_and_stop(output, seconds, number):
            row.add(f"{number.name} after {seconds:.2f} s", differences_of_first(output, expected))
        else:
            row.late += 1
        shutil.rmtree(output, ignore_errors=True)
    return row


def start_and_stop(output: Path, seconds: float, number: signal.Signals) -> bool:
    """Whether a first run that got this signal after this time was still at work."""
    process = subprocess.Popen(
        [ebm_train(), *FIRST_RUN], env=os.environ | {"EBM_OUTPUT_DIR": str(output)}, stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # not ignored, as with nohup
    )  # fmt: skip
    time.sleep(seconds)
    process.send_signal(number)
    return process.wait() != 0


def ebm_train() -> Path:
    return Path(sys.executable).parent / "ebm-train"


def differences_of_first(output: Path, expected: dict[str, Any]) -> list[str]:
    """What a run that goes on in this output folder, a fork of the server's, does not share with the one left alone."""
    output.mkdir(exist_ok=True)  # the run may have been stopped before it was there
    log = output / "again.log"
    child = CONTEXT.Process(target=train, args=((*FIRST_RUN, "resume=auto"), None, output, log))
    child.start()
    child.join()
    if child.exitcode:
        return [f"exit code {child.exitcode}: {log.read_text(errors='replace').strip()[-300:]}"]
    differing = differences(expected, left_by(only_run(output)))
    left = [path.name for path in output.rglob("*.partial*")]
    return differing + left + ([] if runs_in(output / "mlflow.db") == 1 else ["the number of runs in the store"])


def only_run(output: Path) -> Path:
    """The folder of the run in an output folder. Where none began a kill leaves a folder without run.json."""
    (folder,) = (path.parent for path in (output / "runs").glob(f"*/{RUN_FILE}"))
    return folder


def runs_in(store: Path) -> int:
    client = MlflowClient(f"sqlite:///{store}")
    return len(client.search_runs([experiment.experiment_id for experiment in client.search_experiments()]))


# ---------------------------------------------------------------------------------------------- every machine


def prepared_store(base: Path, kills: int) -> Row:
    """Short runs of every model, sampler and objective that go together, killed anywhere, in a store that is there."""
    row = Row("every model x sampler x objective, prepared store")
    draws = random.Random(SEED)
    alone: dict[tuple[str, ...], tuple[float, dict[str, Any]]] = {}
    for words in itertools.islice(in_random_order(base, draws), kills):
        if words not in alone:
            alone[words] = left_alone(words, base, len(alone))
        seconds, expected = alone[words]
        folder = base / f"killed_{row.killed}" / "run"  # no neighbours: the one left alone has the same configuration
        while not started_and_killed(words, folder, base, moment := draws.uniform(0, seconds)):
            row.late += 1  # this run was faster: it ended before its kill
            shutil.rmtree(folder.parent)
        known = records.read_run_file(folder)
        code = run_to_its_end((*words, "resume=auto"), folder, base)
        differing = [f"exit code {code}"] if code else differences(expected, left_by(folder))
        if "run_id" in known and known != records.read_run_file(folder):
            differing.append(RUN_FILE)
        row.add(f"{' '.join(words[:3])} after {moment:.2f} of {seconds:.2f} s", differing)
        shutil.rmtree(folder.parent)
    return row


def in_random_order(base: Path, draws: random.Random) -> Iterator[tuple[str, ...]]:
    """Each combination once, in an order that is drawn, then each once more, ..."""
    write_categories(base / "categories.h5")
    able = list(combinations(base))
    print(f"{len(able)} combinations of model, sampler and objective", flush=True)
    while True:
        yield from draws.sample(able, len(able))


def combinations(base: Path) -> Iterator[tuple[str, ...]]:
    """The words of all models, samplers and objectives that go together."""
    for model, sampler, objective in itertools.product(*(choices(group, config_folder()) for group in GROUPS)):
        if objective == "tap" and sampler != "gibbs":  # it samples nothing
            continue
        given = OF_MODEL.get(model, ())
        own = [word.format(path=base / "categories.h5") for word in ("data=digits", "data.passes_per_epoch=3", *given)]
        words = (f"model={model}", f"sampler={sampler}", f"objective={objective}", *own, *SHORT)
        try:
            prepare(composed(base, *words), base)
        except UserError:
            continue
        yield words


def write_categories(path: Path) -> None:
    """The digits with four levels of grey, as numbers of categories."""
    images, labels = load_digits(return_X_y=True)
    parts = {"train": slice(0, 1500), "test": slice(1500, None)}
    levels = (images // 5).astype(np.uint8)
    arrays = {f"{part}/images": levels[rows] for part, rows in parts.items()}
    write(path, "categories", (8, 8), arrays | {f"{part}/labels": labels[rows] for part, rows in parts.items()})


def left_alone(words: tuple[str, ...], base: Path, number: int) -> tuple[float, dict[str, Any]]:
    """(seconds, what it left) of a run that nobody stopped."""
    folder = base / f"alone_{number}" / "run"
    started = time.perf_counter()
    if run_to_its_end(words, folder, base):
        raise SystemExit(f"ebm-train {' '.join(words)} failed")
    seconds = time.perf_counter() - started
    left = left_by(folder)
    shutil.rmtree(folder.parent)
    return seconds, left


def train(words: tuple[str, ...], folder: Path | None, base: Path, log: Path | None = None) -> None:
    """What a child does: the command."""
    os.environ["EBM_OUTPUT_DIR"] = str(base)
    own = () if folder is None else (f"hydra.run.dir={folder}",)
    sys.argv = ["ebm-train", *words, *own]
    sys.stdout = sys.stderr = open(log or os.devnull, "w")  # noqa: SIM115
    cli.train()


def run_to_its_end(words: tuple[str, ...], folder: Path, base: Path) -> int | None:
    child = CONTEXT.Process(target=train, args=(words, folder, base))
    child.start()
    child.join()
    return child.exitcode


def started_and_killed(words: tuple[str, ...], folder: Path, base: Path, seconds: float) -> bool:
    """Whether a training that got SIGKILL after this time was still at work."""
    child = CONTEXT.Process(target=train, args=(words, folder, base))
    child.start()
    child.join(seconds)
    child.kill()
    child.join()
    return child.exitcode == -signal.SIGKILL


# ---------------------------------------------------------------------------------------------- what they left


def left_by(folder: Path) -> dict[str, Any]:
    """What a run left, times and system metrics excepted, as arrays and text by name."""
    left: dict[str, Any] = {}
    for path in sorted((folder / "checkpoints").rglob("*.ckpt")):
        saved = torch.load(path, weights_only=True)
        name = str(path.relative_to(folder))
        for key in ("state_dict", "optimizer_states", "lr_schedulers", "generator", "epoch", "global_step"):
            flatten(saved[key], f"{name}/{key}", left)
    for path in sorted(folder.glob("*.h5")):
        with h5py.File(path) as file:
            file.visititems(lambda name, item, path=path: flatten(item, f"{path.name}/{name}", left))
    with open(folder / "metrics.csv", newline="") as rows:
        left["metrics.csv"] = [[v for k, v in row.items() if "seconds" not in k] for row in csv.DictReader(rows)]
    run = records.find_run(records.run_of(folder)["tracking_uri"], str(folder))
    uri = records.read_run_file(folder)["tracking_uri"]
    for name in (name for name in run.metrics if not name.startswith("system/")):
        history = records.metric_history(uri, run.run_id, name)
        left[f"store/{name}"] = history[0] if "seconds" in name else history
    left["status"] = run.status
    return left


def flatten(value: Any, name: str, into: dict[str, Any]) -> None:
    """Leaves of nested containers by name."""
    if isinstance(value, dict):
        for key, item in value.items():
            flatten(item, f"{name}/{key}", into)
    elif isinstance(value, torch.Tensor):
        into[name] = value.numpy()
    elif isinstance(value, h5py.Dataset):
        into[name] = value[()]
    elif not isinstance(value, h5py.Group):
        into[name] = value


def differences(one: dict[str, Any], two: dict[str, Any]) -> list[str]:
    """Names of what two runs do not share, or not with the same bits; a metric that is not a number equals itself."""
    return [
        name for name in one.keys() | two.keys() if name not in one or name not in two or not same(one[name], two[name])
    ]


def same(one: Any, two: Any) -> bool:
    """Whether two values, or sequences or arrays of them, are equal, NaN to NaN."""
    if isinstance(one, (list, tuple)) and isinstance(two, (list, tuple)):
        return len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, np.ndarray) and isinstance(two, np.ndarray):
        return one.dtype == two.dtype and np.array_equal(one, two, equal_nan=one.dtype.kind == "f")
    return type(one) is type(two) and bool(one == two or (one != one and two != two))
