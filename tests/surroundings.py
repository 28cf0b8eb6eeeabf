"""Surroundings of a command that are not as usual: paths, environment variables, options of the trainer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from commands import PLAIN

from ebm_pipeline import cli

NAMES = {
    "a file": "afile", "under a file": "afile/x", "a name of 300 bytes": "n" * 300,
    "a path of 5,000 bytes": "/".join(["d" * 200] * 25),
    "a question mark": "q?x", "a hash": "h#x", "a percent sign": "p%20x", "a newline": "n\nx", "a tab": "t\tx", "a quote": "q'x",
    "a double quote": 'q"x', "a symbolic loop": "loop", "a dangling link": "dangling", "a space": "a b", "an umlaut": "ü",
    "a colon": "a:b", "an equals sign": "a=b", "a comma": "a,b", "braces": "{a}",
    "a dollar": "$HOME", "an interpolation": "${seed}",
    "a backslash": "a\\b", "bytes that are no UTF-8": "\udcff", "an emoji": "😀", "a star": "*", "an empty folder": "dir",
}  # fmt: skip
ABSOLUTE = {
    "a device": "/dev/null", "under a device": "/dev/null/x", "proc": "/proc/x/y", "empty": "", "a dash": "-x",
    "a home": "~nobody/x",
    "null": "null", "a list": "[a,b]",
}  # fmt: skip
VARIABLES: list[Mapping[str, str | None]] = [
    *[{name: value} for name in ("HOME", "TMPDIR", "GIT_DIR", "MPLCONFIGDIR") for value in ("/nowhere", None)],
    *[{"MLFLOW_TRACKING_URI": uri} for uri in (
        "ftp://x", "databricks", " ", "sqlite:////proc/x/mlflow.db", "postgresql://127.0.0.1:1/x", "mysql+pymysql://127.0.0.1/x",
        "http://127.0.0.1:1", "file:///tmp/x", "http://[", "sqlite://",
    )],
    *[{"EBM_TRUST": name} for name in ("nowhere", "os;sys", "os.system", " ", ".", "..x", "a b", "os,nowhere", "1")],
    *[{"MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": value} for value in ("x", "-1")],
    {"MLFLOW_HTTP_REQUEST_TIMEOUT": "abc"}, {"MLFLOW_EXPERIMENT_NAME": "other"}, {"MLFLOW_EXPERIMENT_ID": "77"},
    {"MLFLOW_RUN_ID": "abc"},
    {"MLFLOW_ARTIFACT_URI": "s3://x"}, {"MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "true"}, {"EBM_PARENT_RUN": "x"},
    {"WORLD_SIZE": "2"}, {"LOCAL_RANK": "1"}, {"SLURM_NTASKS": "x", "SLURM_JOB_NAME": "train"},
    {"SLURM_NTASKS": "2", "SLURM_JOB_ID": "3", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_JOB_NAME": "train"},
    {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}, {"TORCHELASTIC_RUN_ID": "1"}, {"PL_GLOBAL_SEED": "abc"},
    {"http_proxy": "http://["}, {"HTTPS_PROXY": "garbage"}, {"TZ": "Nowhere/Else"}, {"LC_ALL": "tr_TR.UTF-8"}, {"PATH": ""},
    {"COLUMNS": "abc"}, {"EBM_OUTPUT_DIR": ""}, {"EBM_DATA_DIR": ""}, {"USER": None, "LOGNAME": None, "HOME": None},
]  # fmt: skip
TRAINER = [
    "trainer.precision=7", "trainer.precision=16-mixed", "trainer.devices=-1", "trainer.devices=[0,1]", "trainer.devices=0",
    "trainer.devices=abc", "trainer.devices=1.5", "trainer.devices=null", "trainer.num_nodes=2", "+trainer.num_nodes=0",
    "trainer.strategy=fsdp", "trainer.strategy=garbage", "+trainer.max_time=1", "+trainer.profiler=simple",
    "+trainer.detect_anomaly=true", "+trainer.deterministic=x", "+trainer.callbacks=[]", "+trainer.plugins=x",
    "+trainer.overfit_batches=1", "+trainer.val_check_interval=0.5", "+trainer.check_val_every_n_epoch=2",
    "+trainer.enable_checkpointing=false", "+trainer.sync_batchnorm=true", "+trainer.default_root_dir=/proc/x",
    "+trainer.barebones=true", "trainer.accelerator=mps", "trainer.accelerator=cuda", "trainer.accelerator=[cpu]",
    "trainer.accelerator=null", "trainer=[]", "trainer=null", "trainer=x", "~trainer", "trainer._target_=os.system",
    "trainer._target_=pytorch_lightning.LightningModule.load_from_checkpoint", "trainer=ddp trainer.accelerator=gpu", "threads=0",
    "threads=10000", "threads=-1", "threads=1.5", "threads=x",
]  # fmt: skip


@dataclass(frozen=True)
class Surrounding:
    """A command line, and what else of its surroundings is set."""

    name: str
    command: Callable[[], None]
    words: tuple[str, ...]
    variables: Mapping[str, str | None] = field(default_factory=dict)


def prepare(root: Path) -> None:
    """What some of the paths lead to."""
    (root / "afile").write_text("x")
    (root / "dir").mkdir()
    os.symlink(root / "loop", root / "loop")
    os.symlink(root / "gone", root / "dangling")


def quoted(text: str) -> str:
    """As Hydra's grammar takes it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def cases(root: Path) -> Iterator[Surrounding]:
    """All of them; `root` is the folder that was prepared."""
    for name, path in {**{name: f"{root}/{end}" for name, end in NAMES.items()}, **ABSOLUTE}.items():
        yield Surrounding(f"output_root, {name}", cli.train, (*PLAIN, f"output_root={quoted(path)}"))
        yield Surrounding(f"hydra.run.dir, {name}", cli.train, (*PLAIN, f"hydra.run.dir={quoted(path)}"))
        yield Surrounding(f"data.path, {name}", cli.train, (*PLAIN, "data=file", f"data.path={quoted(path)}"))
        yield Surrounding(f"data.path not quoted, {name}", cli.train, (*PLAIN, "data=file", f"data.path={path}"))
        yield Surrounding(f"from, {name}", cli.data, (f"from={quoted(path)}",))
        yield Surrounding(f"out, {name}", cli.data, ("data=bars_and_stripes", f"out={quoted(path + '.h5')}"))
        yield Surrounding(f"run to evaluate, {name}", cli.evaluate, (f"run={quoted(path)}",))
        yield Surrounding(f"run to sample, {name}", cli.sample, (f"run={quoted(path)}", "task=fantasies"))
        yield Surrounding(f"runs to compare, {name}", cli.compare, (f"runs={quoted(path)}",))
        yield Surrounding(f"run to send, {name}", cli.sync, (f"run={quoted(path)}",))
        yield Surrounding(f"EBM_OUTPUT_DIR, {name}", cli.train, PLAIN, {"EBM_OUTPUT_DIR": path})
    for variables in VARIABLES:
        yield Surrounding(f"environment {variables}", cli.train, PLAIN, variables)
    for words in TRAINER:
        yield Surrounding(words, cli.train, (*PLAIN, *words.split()))
