"""Checkpoints and data files of another person: nothing that they name is called, read, removed or sent."""

from __future__ import annotations

import io
import pickle
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from commands import PLAIN, composed, run_command
from kills import patched
from torch import Tensor

from ebm_pipeline import cli
from ebm_pipeline.runs import train
from ebm_pipeline.training.checkpoints import BEFORE, BEST, LAST

SETTINGS = (*PLAIN, "model=rbm", "training.epochs=4", "optimizer=adam")
RUN = "outputs/runs/strangers"
STEP = "ebm_pipeline.training.module.BoltzmannTraining.update"
WATCHED = ("os.system", "subprocess.Popen", "socket.connect", "socket.getaddrinfo", "urllib.Request", "exec.bomb")


class Bomb:
    """An object whose unpickling would make a file."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.place,)


class Stop(BaseException):
    """Ends a run in this process at once."""


def stop() -> None:
    raise Stop


@pytest.fixture
def seen() -> Iterator[list[str]]:
    """What the process does of what a file may not make it do: seen by an audit hook, which cannot be taken off again."""
    found: list[str] = []
    active = [True]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        own = event == "subprocess.Popen" and arguments[0] == "git"  # which code this package is of
        if active[0] and event in WATCHED and not own:
            found.append(f"{event} {arguments!r}")

    sys.addaudithook(hook)
    yield found
    active[0] = False


# ---------------------------------------------------------------------------------------------- checkpoints


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with outputs/, which holds a run that was stopped in its third epoch."""
    place = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patched(patch, STEP, 14, stop)
        with pytest.raises(Stop):
            train.train(composed(*SETTINGS, "output_root=outputs"), place / RUN)
    return place


Change = Callable[[dict[str, Any], Path], object]


def of_callbacks(key: str, value: Callable[[Path], object]) -> Change:
    """A value of the state of both callbacks that write checkpoints."""

    def change(saved: dict[str, Any], victim: Path) -> None:
        for state in saved["callbacks"].values():
            if "best_model_path" in state:
                state[key] = value(victim)

    return change


def outward(victim: Path) -> str:
    """A path that begins in the run's folder, as the stranger can guess it, and leads out of it."""
    return f"{RUN}/checkpoints/../../../../{victim.name}"


CONTENTS: dict[str, Change] = {
    "a best file elsewhere": of_callbacks("best_model_path", str),
    "a best file reached from the folder": of_callbacks("best_model_path", outward),
    "best files elsewhere": of_callbacks("best_k_models", lambda victim: {str(victim): torch.tensor(1e9)}),
    "a worst file elsewhere": of_callbacks("kth_best_model_path", str),
    "a best file on a server": of_callbacks("best_model_path", lambda victim: "http://127.0.0.1:9/x"),
    "a best file in a bucket": of_callbacks("best_model_path", lambda victim: "s3://bucket/x"),
    "another folder": of_callbacks("dirpath", lambda victim: str(victim.parent)),
    "paths that are numbers": of_callbacks("best_model_path", lambda victim: 3),
    "scores that are texts": of_callbacks("best_k_models", lambda victim: {"best.ckpt": "x", "last.ckpt": "y"}),
    "scores that are a list": of_callbacks("best_k_models", lambda victim: [1, 2]),
    "states that are no mapping": lambda saved, victim: saved.update(callbacks=dict.fromkeys(saved["callbacks"], 3)),
    "another attribute of the record": lambda saved, victim: saved["callbacks"]["Record"].update(sink=str(victim)),
    "a record of other types": lambda saved, victim: saved["callbacks"]["Record"].update(history=3),
    "weights of another shape": lambda saved, victim: saved["state_dict"].update(
        {"tensors.weights/0": torch.zeros(3, 3)}
    ),
    "weights that are a text": lambda saved, victim: saved["state_dict"].update({"tensors.weights/0": "x"}),
    "no weights": lambda saved, victim: saved["state_dict"].clear(),
    "optimizer states that are none": lambda saved, victim: saved.update(optimizer_states=[]),
    "an epoch that is a text": lambda saved, victim: saved.update(epoch="x"),
    "loops of another kind": lambda saved, victim: saved.update(loops={"fit_loop": 3}),
    "a generator that is none": lambda saved, victim: saved.update(generator=torch.zeros(2)),
    "hyperparameters": lambda saved, victim: saved.update(
        hyper_parameters={"_target_": "os.system"}, hparams_type="os.system"
    ),
}


def whole(name: str) -> Callable[[Path, Path], None]:
    """What takes the place of a checkpoint."""

    def write(path: Path, victim: Path) -> None:
        bomb = Bomb(victim.with_name("called"))
        if name == "a pickle":
            path.write_bytes(pickle.dumps(bomb))
        elif name == "a torch file with an object":
            torch.save({"state_dict": bomb}, path)
        elif name == "an archive with a pickle":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("x/data.pkl", pickle.dumps(bomb))
                archive.writestr("x/version", "3")
        elif name == "a torch file of before":
            torch.save({"state_dict": bomb}, path, _use_new_zipfile_serialization=False)
        elif name == "a link to a pickle":
            victim.with_name("bomb").write_bytes(pickle.dumps(bomb))
            path.unlink()
            path.symlink_to(victim.with_name("bomb"))
        elif name == "a script":
            content = io.BytesIO()
            with zipfile.ZipFile(content, "w") as archive:
                archive.writestr("x/constants.pkl", pickle.dumps(bomb))
                archive.writestr("x/code/__torch__.py", "import os")
                archive.writestr("x/data.pkl", pickle.dumps(bomb))
            path.write_bytes(content.getvalue())

    return write


WHOLE = [
    "a pickle", "a torch file with an object", "an archive with a pickle", "a torch file of before", "a link to a pickle",
    "a script",
]  # fmt: skip


def gone_on_with(stopped: Path, tmp_path: Path, edit: Callable[[Path, Path], None]) -> tuple[int, str, Path]:
    """A copy of the run whose checkpoints `edit` has changed, gone on with; (code, stderr, a file that is not its own)."""
    place = shutil.copytree(stopped, tmp_path / "place")
    victim = place / "mine.txt"
    victim.write_text("mine")
    for name in (LAST, BEFORE, BEST):
        edit(place / RUN / "checkpoints" / name, victim)
    words = (*SETTINGS, "output_root=outputs", "resume=auto", f"hydra.run.dir={RUN}")
    done = run_command(cli.train, *words, output_root=place)  # the folder where it is called
    return done.code, done.err, victim


def check(code: int, err: str, victim: Path, seen: list[str]) -> None:
    assert victim.read_text() == "mine"
    assert not victim.with_name("called").exists()
    assert seen == []
    messages = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(messages) == (code != 0), err
    assert "Traceback" not in err


@pytest.mark.parametrize("name", CONTENTS)
def test_what_a_strangers_checkpoint_holds_reaches_nothing(
    name: str, stopped: Path, tmp_path: Path, seen: list[str]
) -> None:
    def edit(path: Path, victim: Path) -> None:
        saved = torch.load(path, weights_only=True)
        CONTENTS[name](saved, victim)
        torch.save(saved, path)

    code, err, victim = gone_on_with(stopped, tmp_path, edit)
    check(code, err, victim, seen)
    assert code == 0 or "checkpoint" in err


@pytest.mark.parametrize("name", WHOLE)
def test_a_file_that_is_no_checkpoint_is_never_unpickled(
    name: str, stopped: Path, tmp_path: Path, seen: list[str]
) -> None:
    code, err, victim = gone_on_with(stopped, tmp_path, whole(name))
    check(code, err, victim, seen)
    assert code == 0  # from the beginning


# ---------------------------------------------------------------------------------------------- data


def objects(path: Path, bomb: Bomb) -> None:
    array = np.empty(3, dtype=object)
    array[:] = [bomb] * 3
    np.save(path, array, allow_pickle=True)


def archive_of_objects(path: Path, bomb: Bomb) -> None:
    np.savez(path, images=np.array([bomb] * 3, dtype=object))


def header_that_calls(path: Path, bomb: Bomb) -> None:
    header = b"{'descr': __import__('os').system('touch called'), 'fortran_order': False, 'shape': (3, 4), }"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)


def huge_shape(path: Path, bomb: Bomb) -> None:
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 1000000), }\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)


def pickle_alone(path: Path, bomb: Bomb) -> None:
    path.write_bytes(pickle.dumps(bomb))


def huge_idx(path: Path, bomb: Bomb) -> None:
    path.write_bytes(b"\x00\x00\x08\x03" + b"\xff\xff\xff\xff" * 3)


def table_of_calls(path: Path, bomb: Bomb) -> None:
    path.write_text("a,b\n=cmd|'/c touch called'!A1,2\n@SUM(1),3\n")


def folder_of_links(path: Path, bomb: Bomb) -> None:
    path.mkdir()
    (path / "a.png").symlink_to("/etc/passwd")
    (path / "b.png").symlink_to("/dev/zero")


def linked_elsewhere(path: Path, bomb: Bomb) -> None:
    with h5py.File(path, "w") as file:
        file["train/images"] = h5py.ExternalLink("/etc/passwd", "x")


def stored_elsewhere(path: Path, bomb: Bomb) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("train/images", (10, 16), "u1", external=[("/etc/passwd", 0, 160)])


DATA: dict[str, tuple[str, Callable[[Path, Bomb], None]]] = {
    "objects in .npy": ("x.npy", objects),
    "objects in .npz": ("x.npz", archive_of_objects),
    "a pickle called .npy": ("x.npy", pickle_alone),
    "a pickle called .npz": ("x.npz", pickle_alone),
    "a pickle called .h5": ("x.h5", pickle_alone),
    "a pickle called .csv": ("x.csv", pickle_alone),
    "a header that calls": ("x.npy", header_that_calls),
    "a shape of 10^18": ("x.npy", huge_shape),
    "2^96 pictures of IDX": ("x-images-idx3-ubyte", huge_idx),
    "a table of formulas": ("x.csv", table_of_calls),
    "pictures that are links": ("pictures", folder_of_links),
    "an array in another file": ("x.h5", linked_elsewhere),
    "an array stored elsewhere": ("x.h5", stored_elsewhere),
}


@pytest.mark.parametrize("name", DATA)
def test_a_strangers_data_are_numbers_or_one_message(name: str, tmp_path: Path, seen: list[str]) -> None:
    file, write = DATA[name]
    victim = tmp_path / "mine.txt"
    victim.write_text("mine")
    write(tmp_path / file, Bomb(tmp_path / "called"))
    done = run_command(cli.data, f"from={tmp_path / file}", output_root=tmp_path / "outputs")
    assert done.code == 1
    assert "root:" not in done.err
    check(done.code, done.err, victim, seen)


def test_the_bomb_goes_off_where_it_is_unpickled(tmp_path: Path) -> None:
    """Else the tests above would show nothing."""
    pickle.loads(pickle.dumps(Bomb(tmp_path / "called")))
    assert (tmp_path / "called").exists()
    assert isinstance(torch.zeros(1), Tensor)
