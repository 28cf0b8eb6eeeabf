"""Checkpoints: written whole, the one before the newest kept beside it, read without pickled code.

`last.ckpt` is the state after the newest epoch, `before.ckpt` that after the epoch before; `best.ckpt` is the one with the
lowest reconstruction error of the validation images: the one figure that every machine and phase has, and no likelihood.
"""

from __future__ import annotations

import io
import logging
import os
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.callbacks import ModelCheckpoint

from ebm_pipeline.files import whole_file

log = logging.getLogger(__name__)

CONTENT = {  # of a checkpoint of this package
    "state_dict", "generator", "generator_device", "epoch", "global_step", "optimizer_states", "callbacks", "loops",
}  # fmt: skip
LAST, BEFORE, BEST = "last.ckpt", "before.ckpt", "best.ckpt"


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
        return torch.load(path, map_location="cpu", weights_only=True)


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
        for name, monitor in ((BEST, "reconstruction_error"), (LAST, None))
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
