"""Checkpoints: written whole, the one before the newest kept beside it, read without pickled code.

`last.ckpt` is the state after the newest epoch, `before.ckpt` that after the epoch before; `best.ckpt` is the one with the
lowest reconstruction error of the validation images: the one number that every machine and phase has, and no likelihood.
"""

from __future__ import annotations

import io
import logging
import os
import traceback
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from ebm_pipeline.support.files import whole_file
from ebm_pipeline.support.names import current

log = logging.getLogger(__name__)

CONTENT = {  # of a checkpoint of this package
    "state_dict", "generator", "generator_device", "epoch", "global_step", "optimizer_states", "callbacks", "loops",
}  # fmt: skip
LAST, BEFORE, BEST = "last.ckpt", "before.ckpt", "best.ckpt"
MONITOR = "validation/reconstruction_error"
OLD_MONITOR = "reconstruction_error"  # which is part of the name of the state in a checkpoint


class WholeCheckpoints(TorchCheckpointIO):
    """How Lightning writes and reads the files."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        buffer = io.BytesIO()  # torch hides why it could not write to a file
        torch.save(checkpoint, buffer)
        with whole_file(path) as partial:
            partial.write_bytes(buffer.getbuffer())
            if path.name == LAST and path.exists():
                os.replace(path, path.with_name(BEFORE))

    def load_checkpoint(self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True) -> Any:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        folder = Path(os.path.realpath(Path(path).parent))  # as Lightning names it
        saved["callbacks"] = {
            name.replace(f"'{OLD_MONITOR}'", f"'{current(OLD_MONITOR)}'"): _of_folder(state, folder)
            if isinstance(state, dict) and "best_model_path" in state
            else state
            for name, state in saved["callbacks"].items()
        }
        return saved


def _of_folder(state: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The state of a ModelCheckpoint whose paths lie in the folder where the checkpoint is now.

    Lightning removes the file that it says was the best, wherever that is, and forgets the best where the folder has moved.
    """

    def placed(path: object) -> str:
        name = Path(path).name if isinstance(path, str) else ""
        return str(folder / name) if name in (LAST, BEFORE, BEST) else ""

    best = state.get("best_k_models")
    scores = best.items() if isinstance(best, dict) else ()
    models = {placed(path): score for path, score in scores if placed(path) and isinstance(score, Tensor)}
    paths = {name: placed(state[name]) for name in state if name.endswith("_path")}
    if paths.get("kth_best_model_path") not in models:
        models = {}  # the best is looked for anew
    return state | paths | {"dirpath": str(folder), "best_k_models": models}


def fault_in_restoring(error: BaseException) -> bool:
    """Whether an exception was raised while Lightning took over what a checkpoint holds."""
    return any("checkpoint_connector" in frame.filename for frame in traceback.extract_tb(error.__traceback__))


def every_epoch(folder: Path) -> list[ModelCheckpoint]:
    """The callbacks that write best.ckpt and last.ckpt at the end of an epoch, when everything else of it is done.

    The best first, so that the last one knows of it. Two of them: one alone saves the last only where it is the best.
    """
    return [
        ModelCheckpoint(
            dirpath=folder,
            filename=Path(name).stem,
            monitor=monitor,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )
        for name, monitor in ((BEST, MONITOR), (LAST, None))
    ]


def newest(folder: Path) -> Path | None:
    """The newest sound checkpoint, or None where there is none; says so when a damaged one is passed over."""
    for name in (LAST, BEFORE, BEST):
        path = folder / name
        if not path.exists():
            continue
        damage = damage_of(path)
        if damage is None:
            return path
        log.warning(f"the checkpoint {path} is damaged ({damage}): going on from an earlier one")
    return None


def damage_of(path: Path) -> str | None:
    """What is wrong with a checkpoint; torch itself does not compare the checksums that it writes."""
    try:
        with ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            return f"the checksum of {damaged} is another"
        saved = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(saved, dict) or not saved.keys() >= CONTENT:
            return "it is no checkpoint of a training"
    except Exception as error:  # a damaged file can raise anything
        return str(error).split("\n", 1)[0]
    return None
