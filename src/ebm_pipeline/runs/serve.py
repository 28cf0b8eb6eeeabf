"""A trained machine as an MLflow model, and `ebm-serve`, which answers for one over HTTP.

The model's folder holds model.h5 and names this module, which reads it; nothing is pickled. MLflow imports what a folder names,
whoever wrote it: `ebm-serve` checks the folder as data (`serving.folder`) and reads its model.h5 itself.
"""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from numpy.typing import NDArray
from omegaconf import DictConfig
from torch import Tensor

from ebm_pipeline.data.visible import VisibleUnits
from ebm_pipeline.models.storage import load_model
from ebm_pipeline.runs.configuration import STORE_KEYS, check_keys, set_up_torch, tracking_uri
from ebm_pipeline.runs.reference import model_file
from ebm_pipeline.runs.serving.folder import ENVIRONMENTS, EXAMPLE, MLMODEL, MODEL, REQUIREMENTS
from ebm_pipeline.runs.serving.machine import DEFAULTS, ServedMachine
from ebm_pipeline.runs.trust import trusted_modules
from ebm_pipeline.support.errors import UserError, check_whole
from ebm_pipeline.support.files import whole_folder, write_text
from ebm_pipeline.support.listening import listening

KEYS = {
    "run": Any, "host": str, "port": int, "trust": Sequence | None, "threads": int | None, "output_root": str,
    "tracking": Mapping,
}  # fmt: skip
MOST_CONNECTIONS = 64
TYPES = {str: DataType.string, int: DataType.long}


class MlflowMachine:
    """What MLflow calls `predict` on: a mistake is MLflow's exception, which its server answers with status 400."""

    def __init__(self, machine: ServedMachine) -> None:
        self.machine = machine

    def predict(self, images: Any, params: dict[str, Any] | None = None) -> NDArray[np.float32]:
        """`images` (images, units), `params` task, sweeps, seed -> float32, as `serving.machine` says."""
        try:
            return self.machine.answer(images, params or {})
        except UserError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error


def _load_pyfunc(path: str) -> MlflowMachine:
    """MLflow's entry point: `path` is the model.h5 in the model's folder."""
    trusted_modules(None)
    return MlflowMachine(ServedMachine(load_model(Path(path))))


def save_served(folder: Path, model: Path, example: Tensor, run_id: str, visible: VisibleUnits) -> None:
    """Write the MLflow model of `model`, a model.h5, into `folder`, with `example` (images, units) as its input example.

    The files are those of `mlflow.pyfunc.save_model`, which reads the metadata of all installed packages to compare five of them
    with themselves.
    """
    columns = -1 if visible.classes else visible.units  # classify takes images without labels too
    signature = ModelSignature(
        Schema([TensorSpec(np.dtype(np.float32), (-1, columns))]),
        Schema([TensorSpec(np.dtype(np.float32), (-1, -1))]),
        ParamSchema([ParamSpec(name, TYPES[type(default)], default) for name, default in DEFAULTS.items()]),
    )
    described = Model(folder.name, run_id, signature=signature, saved_input_example_info=EXAMPLE)
    described.add_flavor(
        "python_function", loader_module=__name__, data=MODEL, code=None, streamable=False, env=ENVIRONMENTS,
        python_version=platform.python_version(),
    )  # fmt: skip
    images = example.tolist()
    with whole_folder(folder) as partial:
        place = partial / MODEL
        place.parent.mkdir(parents=True)
        shutil.copyfile(model, place)
        write_text(partial / EXAMPLE["artifact_path"], json.dumps(images))
        write_text(partial / EXAMPLE["serving_input_path"], json.dumps({"inputs": images}))
        for name, text in environment().items():
            write_text(partial / name, text)
        described.model_size_bytes = place.stat().st_size
        write_text(partial / MLMODEL, described.to_yaml())


def environment() -> dict[str, str]:
    """What an MLflow model rests on, as files for pip, conda and virtualenv."""
    needed = [f"{name}=={version(name)}" for name in REQUIREMENTS]
    python, tools = platform.python_version(), ["pip", "setuptools", "wheel"]
    conda = {
        "name": "mlflow-env", "channels": ["conda-forge"], "dependencies": [f"python={python}", "pip", {"pip": needed}]
    }  # fmt: skip
    virtual = {"python": python, "build_dependencies": tools, "dependencies": ["-r requirements.txt"]}
    return {
        "requirements.txt": "\n".join(needed),
        ENVIRONMENTS["conda"]: yaml.safe_dump(conda),
        ENVIRONMENTS["virtualenv"]: yaml.safe_dump(virtual),
    }


# ---------------------------------------------------------------------------------------------- ebm-serve


def serve(config: DictConfig, reference: str) -> None:
    """`ebm-serve`: answer for a model until the process is told to end."""
    import uvicorn

    from ebm_pipeline.runs.serving.app import make_app

    check_keys(config, KEYS, "")
    check_keys(config.tracking, STORE_KEYS, "tracking.")
    check_whole("port", config.port, 1, 65535)
    set_up_torch(config.threads)
    trusted_modules(config.trust)
    machine = ServedMachine(load_model(model_file(tracking_uri(config), reference)))
    with listening(config.host, config.port, "make serve: SERVE_PORT=", MOST_CONNECTIONS) as place:
        print(
            f"http://{config.host}:{config.port} answers for {reference} ({machine.visible.units} visible units); Ctrl-C ends it",
            flush=True,
        )
        settings = uvicorn.Config(make_app(machine), log_level="warning", limit_concurrency=MOST_CONNECTIONS)
        uvicorn.Server(settings).run(sockets=[place])
