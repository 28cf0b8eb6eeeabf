"""`ebm-data`: a data set or own data, all of it checked, what it holds, and a file of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from omegaconf import DictConfig

from ebm_pipeline.data.describe import describe, write_copy
from ebm_pipeline.data.parts import Images
from ebm_pipeline.data.reading import read
from ebm_pipeline.runs.configuration import build_images, check_keys, check_seed
from ebm_pipeline.support.errors import UserError

DATA_KEYS = {
    "data": Mapping, "from": str | None, "out": str | None, "seed": int, "output_root": str, "shuffled_copy": str | None,
}  # fmt: skip


def prepare_data(config: DictConfig) -> str:
    """Prepare the data set of a configuration, or own data; returns what they hold, for the terminal."""
    check_keys(config, DATA_KEYS, "")
    check_seed(config.seed)
    own, values = config["from"], None
    if own is None:
        images, values = build_images(config)
    else:
        images = read(own)
    if config.out is not None and config.shuffled_copy is not None:
        raise UserError("give out=FILE.h5 (the images in their order) or shuffled_copy=FILE.h5, not both")
    for target, seed in ((config.out, None), (config.shuffled_copy, config.seed)):
        if target is not None:
            images = _copied(images, Path(target).absolute(), seed)
    return describe(images, values)


def _copied(images: Images, target: Path, seed: int | None) -> Images:
    if target.suffix not in (".h5", ".hdf5"):
        raise UserError(f"what is written is HDF5: give a name that ends in .h5; got {target}")
    write_copy(images, target, seed)
    return read(str(target))
