"""What a file of another person can do: nothing is called, imported, written or sent because it says so."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import torch
import yaml
from commands import PLAIN, composed, run_command
from servers import free_port, wait_for

from ebm_pipeline import cli
from ebm_pipeline.models.layers import Bernoulli
from ebm_pipeline.models.machine import assemble
from ebm_pipeline.models.storage import SavedModel, save_model
from ebm_pipeline.runs.configuration import parse_run_config, plain
from ebm_pipeline.support.errors import UserError

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "own-classes.md").read_text(encoding="utf-8")

NAMES = [  # things to call, of the standard library, of what is installed, and of this package
    "os.system", "subprocess.call", "builtins.exec", "builtins.open", "importlib.import_module", "shutil.rmtree", "pickle.load",
    "torch.load", "numpy.load", "yaml.unsafe_load", "pytorch_lightning.LightningModule.load_from_checkpoint", "torch.hub.load",
    "torch.optim.SGD", "mlflow.pyfunc.load_model", "hydra.utils.instantiate", "hydra.utils.get_object", "urllib.request.urlopen",
    "ebm_pipeline.models.storage.save_model", "ebm_pipeline.models.storage.load_model", "ebm_pipeline.support.files.write_text",
    "ebm_pipeline.runs.train.train", "ebm_pipeline.data.stored.write", "ebm_pipeline.data.sources.shutil.rmtree",
    "ebm_pipeline.tracking.records.os.system", "ebm_pipeline.cli.train", "mymodule.anything", "", "data.load.", "..", "a b",
]  # fmt: skip
PLACES = ["data", "data.source", "data.transform", "mean_field"]
TEXTS = {  # values that reach for something
    "a variable": ("data.name", "${oc.env:EBM_SECRET}"),
    "a resolver": ("data.path", "${oc.decode:${oc.env:EBM_SECRET}}"),
    "an interpolation": ("data.seed", "${seed}"),
    "an address": ("data.source.urls", ["http://127.0.0.1:9/${oc.env:EBM_SECRET}"]),
    "another address": ("data.source.urls", ["ftp://stranger/images.gz"]),
    "a file address": ("data.path", "file:///etc/passwd"),
    "recursion": ("data._recursive_", "x"),
    "arguments": ("data._args_", ["x"]),
    "a number as a key": ("data", {"_target_": "ebm_pipeline.data.load", 1: 2}),
}
LINES = [f"{new}: &{new} [*{old},*{old},*{old},*{old}]" for old, new in zip("abcdefgh", "bcdefghi", strict=True)]
BOMB = "\n".join(["a: &a [x,x,x,x]", *LINES])
WHOLE = {  # texts of a configuration
    "an alias": "a: &a [1]\ndata: *a\n",
    "an alias to itself": "data: &a {b: *a}\n",
    "an alias bomb": BOMB,
    "three thousand brackets": "data: " + "[" * 3000,
    "thirty thousand brackets": "data: " + "[" * 30000 + "]" * 30000,
    "a python object": "data: !!python/object/apply:os.system ['touch called']\n",
    "a python name": "data: !!python/name:os.system\n",
    "deep": "data: " + "{a: " * 100 + "1" + "}" * 100,
    "a list": "- 1\n",
    "nothing": "",
    "binary": "\x00\x01",
    "not closed": "data: {a: [1, 2\n",
}  # fmt: skip


def strangers() -> Iterator[Any]:
    for place in PLACES:
        for name in NAMES if place == "data" else NAMES[::3]:
            if name:
                yield pytest.param((f"{place}._target_", name), None, id=f"{place}-{name}")
    for name, change in TEXTS.items():
        yield pytest.param(change, None, id=name)
    for name, text in WHOLE.items():
        yield pytest.param(None, text, id=name)


def changed(change: tuple[str, Any]) -> str:
    """The configuration of a run, but for one value by dotted name."""
    config = plain(composed(*PLAIN))
    *parents, last = change[0].split(".")
    node: dict[Any, Any] = config
    for parent in parents:
        node = node[parent]
    node[last] = change[1]
    return str(yaml.safe_dump(config))


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What the process does on the way, of what a stranger may not make it do: seen by an audit hook."""
    seen: list[str] = []
    active = [True]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if active[0] and event in (
            "os.system",
            "subprocess.Popen",
            "socket.connect",
            "shutil.rmtree",
            "pickle.find_class",
        ):
            seen.append(f"{event} {arguments!r}")
        if active[0] and event == "open" and isinstance(arguments[1], str) and set("wax") & set(arguments[1]):
            seen.append(f"open {arguments!r}")

    sys.addaudithook(hook)
    monkeypatch.setenv("EBM_SECRET", "s3cret")
    yield seen
    active[0] = False


@pytest.mark.parametrize(("change", "text"), list(strangers()))
def test_a_strangers_configuration_is_refused_in_one_message(
    change: tuple[str, Any] | None, text: str | None, watched: list[str], tmp_path: Path
) -> None:
    whole = text if change is None else changed(change)
    assert whole is not None
    with pytest.raises(UserError) as caught:
        parse_run_config(whole, tmp_path / "config.yaml")
    message = str(caught.value)
    assert str(tmp_path) in message
    assert "s3cret" not in message
    assert "\n" not in message
    assert watched == []


def test_more_than_sixty_attempts_are_made() -> None:
    assert len(list(strangers())) >= 60


# ---------------------------------------------------------------------------------------------- a model alone


def strangers_model(path: Path, config: str) -> None:
    machine = assemble([Bernoulli.create(16), Bernoulli.create(4)], [torch.zeros(16, 4)])
    save_model(path, SavedModel(machine, machine.layers[0].mean(machine.layers[0].bias), (4, 4), config))


def test_fantasies_need_arrays_alone(tmp_path: Path) -> None:
    path = tmp_path / "model.h5"
    strangers_model(path, "data: {_target_: os.system, command: touch called}")
    done = run_command(
        cli.sample, f"run={path}", "task=fantasies", "task.sweeps=30", "count=8", output_root=tmp_path / "out"
    )
    assert done.code == 0, done.err
    assert "independent pixels at the data's means" in done.out
    refused = run_command(cli.sample, f"run={path}", "task=denoising", output_root=tmp_path / "out")
    assert refused.code == 1
    assert "'os.system' as _target_" in refused.err
    assert refused.err.count("\n") == 1


def test_data_outside_of_ones_folders_are_not_read(tmp_path: Path) -> None:
    path, secret = tmp_path / "given" / "model.h5", tmp_path / "elsewhere" / "secret.h5"
    path.parent.mkdir()
    config = plain(composed(*PLAIN))
    config["data"]["path"] = str(secret)
    strangers_model(path, yaml.safe_dump(config))
    done = run_command(cli.sample, f"run={path}", "task=denoising", output_root=tmp_path / "out")
    assert done.code == 1
    assert f"EBM_DATA_DIR={secret.parent}" in done.err
    assert not secret.parent.exists()


# ---------------------------------------------------------------------------------------------- one's own classes


def reader(tmp_path: Path) -> Path:
    """A folder with what the page says to write."""
    files = [*re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL), *re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]
    for name, text in zip(("mymodule.py", "conf/model/mine.yaml", "conf/data/stripes.yaml"), files, strict=True):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def typed(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command, *words = line.split()
    script = Path(sys.executable).parent / command
    kept = {key: value for key, value in os.environ.items() if key not in ("EBM_OUTPUT_DIR", "EBM_TRUST")}
    return subprocess.run([str(script), *words], cwd=folder, env=kept, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_page_on_own_classes_works_as_a_reader_types_it(tmp_path: Path) -> None:
    folder = reader(tmp_path)
    train, evaluate, *others, _ = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)[0].strip().splitlines()
    done = typed(train, folder)
    assert done.returncode == 0, done.stderr
    without = typed(evaluate.replace("trust=[mymodule] ", ""), folder)
    assert without.returncode == 1
    assert "trust=[mymodule]" in without.stderr
    assert without.stderr.count("\n") == 1
    for line in (evaluate, *others):
        done = typed(line, folder)
        assert done.returncode == 0, (line, done.stderr)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_a_model_with_an_own_layer_is_served_by_the_users_word_alone(tmp_path: Path) -> None:
    folder = reader(tmp_path)
    train, *_, serve = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)[0].strip().splitlines()
    assert serve.startswith("ebm-serve ")
    done = typed(train, folder)
    assert done.returncode == 0, done.stderr
    without = typed(serve.replace("trust=[mymodule]", ""), folder)
    assert without.returncode == 1
    assert "'reluctant'" in without.stderr
    assert "trust=[module], or EBM_TRUST=module" in without.stderr
    assert without.stderr.count("\n") == 1
    command, *words = serve.split()
    script, model = str(Path(sys.executable).parent / command), folder / "outputs" / "runs" / "first" / "mlflow_model"
    answers(folder, [script, *words], {})
    answers(folder, [script, *(word for word in words if "trust" not in word)], {"EBM_TRUST": "mymodule"})
    made = [
        "make",
        "-C",
        str(ROOT),
        "--old-file=setup",
        "serve",
        f"BIN={Path(sys.executable).parent}",
        f"MODEL={model}",
    ]
    answers(folder, made, {"EBM_TRUST": "mymodule", "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])})


def answers(folder: Path, words: list[str], environment: dict[str, str]) -> None:
    """A server starts with these words, and reconstructs an image."""
    port, log = free_port(), folder / "log"
    at = f"SERVE_PORT={port}" if words[0] == "make" else f"port={port}"
    kept = {key: value for key, value in os.environ.items() if key not in ("EBM_OUTPUT_DIR", "EBM_TRUST")}
    with open(log, "w") as output:
        process = subprocess.Popen(
            [*words, at], cwd=folder, env=kept | environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/ping", process, log)
        body = {"inputs": [[0, 1] * 8]}
        answer = requests.post(f"http://127.0.0.1:{port}/invocations", json=body, timeout=60)
        assert len(answer.json()["predictions"][0]) == 16, answer.text
    finally:
        process.terminate()
        process.wait()


@pytest.mark.slow
def test_an_exception_in_own_code_keeps_its_traceback(tmp_path: Path) -> None:
    folder = reader(tmp_path)
    module = folder / "mymodule.py"
    module.write_text(module.read_text().replace("rows = np", 'raise RuntimeError("a fault of mine")\n    rows = np'))
    done = typed("ebm-train --config-dir conf data=stripes training.epochs=1", folder)
    assert done.returncode == 1
    assert "a fault of mine" in done.stderr
    assert 'mymodule.py", line' in done.stderr
    assert "See conf/" not in done.stderr
    shutil.rmtree(folder / "conf")
