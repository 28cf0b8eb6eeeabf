"""From an estimator's parameters to the configuration that `ebm-train` would compose, and a training that leaves no trace."""

from __future__ import annotations

import copy
import functools
import logging
import os
import random
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf, open_dict

from ebm_pipeline.support.conf import config_folder

READ = ("EBM_OUTPUT_DIR", "EBM_DATA_DIR", "MLFLOW_TRACKING_URI")  # environment variables in conf/
COMPOSING = threading.Lock()  # Hydra has one global state
QUIET = ("pytorch_lightning", "lightning_fabric")


def composed(overrides: Sequence[str], values: Mapping[str, Any] | None = None, name: str = "train") -> DictConfig:
    """A configuration of conf/ with overrides in Hydra's grammar, then `values` by dotted name; Hydra's state stays as it was."""
    environment = tuple(os.environ.get(variable, "") for variable in READ)
    config: DictConfig = copy.deepcopy(_composed(tuple(overrides), name, environment))
    with open_dict(config):
        for key, value in (values or {}).items():
            OmegaConf.update(config, key, value, merge=False, force_add=True)
    return config


@functools.lru_cache(maxsize=32)
def _composed(overrides: tuple[str, ...], name: str, environment: tuple[str, ...]) -> DictConfig:
    """environment: what conf/ reads of it, by which a change is seen."""
    with COMPOSING:
        before = GlobalHydra.instance().hydra
        GlobalHydra.instance().clear()
        try:
            with initialize_config_dir(str(config_folder()), version_base="1.3"):
                return compose(name, overrides=list(overrides))
        finally:
            GlobalHydra.instance().hydra = before


@contextmanager
def undisturbed(threads: int | None) -> Iterator[None]:
    """Global state as it was when the block began: random numbers, threads, precision, environment, warnings, log levels."""
    torch_state, numpy_state, python_state = torch.random.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    precision, own_threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
    environment = dict(os.environ)
    levels = {name: logging.getLogger(name).level for name in QUIET}
    try:
        for name in QUIET:
            logging.getLogger(name).setLevel(logging.ERROR)
        if threads is not None:
            torch.set_num_threads(threads)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric")
            yield
    finally:
        torch.random.set_rng_state(torch_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)
        torch.set_float32_matmul_precision(precision)
        torch.set_num_threads(own_threads)
        for key in set(os.environ) - set(environment):
            del os.environ[key]
        os.environ.update(environment)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
