"""A trained machine as an MLflow model: its folder holds model.h5 and names this module, which reads it; nothing is pickled.

The input is images (images, pixels), as the training saw them after its transform. The parameter `task` says what comes back:

    reconstruct   the final conditional means of the pass up and down (images, pixels)
    score         free energy F(v) in nats (images, 1); for machines of more than two layers the variational free energy, from
                  the mean-field bound: F up to the bound's gap. Without log Z, so it compares images and not models
    sample        visible states (images, pixels) after `sweeps` block Gibbs sweeps that start at the images
    classify      p(label | image) (images, classes), of a model of images and labels; for more than two layers by the bound

A model of images and labels wants the label behind the pixels, one-hot, in all tasks but `classify`, which does not read it
and takes the pixels alone as well.
"""

from __future__ import annotations

import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from mlflow.models import Model, ModelSignature
from mlflow.pyfunc import save_model
from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from numpy.typing import NDArray
from torch import Tensor

from ebm_pipeline.errors import UserError, check_whole
from ebm_pipeline.evaluation.classification import label_log_probabilities
from ebm_pipeline.evaluation.likelihood import unnormalized_each
from ebm_pipeline.inference import MeanField, up_and_down
from ebm_pipeline.samplers import Gibbs, start_at_visible
from ebm_pipeline.storage import SavedModel, load_model
from ebm_pipeline.visible import VisibleUnits

REQUIREMENTS = ("ebm_pipeline", "torch", "numpy", "h5py", "mlflow")
PARAMETERS: dict[str, tuple[DataType, str | int]] = {
    "task": (DataType.string, "reconstruct"),
    "sweeps": (DataType.long, 1000),
    "seed": (DataType.long, 0),
}


class ServedMachine:
    """What MLflow calls `predict` on."""

    def __init__(self, saved: SavedModel) -> None:
        self.machine = saved.machine
        self.visible = saved.visible
        settings = yaml.safe_load(saved.config)["mean_field"]
        self.mean_field = MeanField(settings["tolerance"], settings["max_steps"])

    def predict(self, images: Any, params: dict[str, Any] | None = None) -> NDArray[np.float32]:
        """`images` (images, units), `params` task, sweeps, seed -> float32, as the module says; raises UserError."""
        chosen = {name: default for name, (_, default) in PARAMETERS.items()} | (params or {})
        visible = torch.from_numpy(np.array(images, dtype=np.float32))
        task = chosen["task"]
        widths = {self.visible.units} | ({self.visible.pixels} if task == "classify" else set())
        if visible.dim() != 2 or visible.shape[1] not in widths:
            expected = " or ".join(f"(images, {width})" for width in sorted(widths))
            label = f", the last {self.visible.classes} columns for the label" if self.visible.classes else ""
            raise UserError(f"expected images {expected}, one row each{label}; got {tuple(visible.shape)}")
        if not visible.isfinite().all():
            raise UserError("expected finite pixels; got nan or inf")
        with torch.inference_mode():
            if task == "reconstruct":
                answer = up_and_down(self.machine, visible)[0]
            elif task == "score":
                answer = -unnormalized_each(self.machine, visible, self.mean_field)[:, None]
            elif task == "sample":
                check_whole("sweeps", int(chosen["sweeps"]), 1)
                generator = torch.Generator().manual_seed(int(chosen["seed"]))
                chains = start_at_visible(self.machine, visible, generator)
                answer = Gibbs(int(chosen["sweeps"])).step(self.machine, chains, generator)[0]
            elif task == "classify":
                if not self.visible.classes:
                    raise UserError("this model knows no labels: classify needs one trained with model=rbm_labels")
                answer = label_log_probabilities(self.machine, self.visible, visible, self.mean_field).exp()
            else:
                raise UserError(f"task is one of reconstruct, score, sample, classify; got {task!r}")
        return answer.float().numpy()


def _load_pyfunc(path: str) -> ServedMachine:
    """MLflow's entry point: `path` is the model.h5 in the model's folder."""
    return ServedMachine(load_model(Path(path)))


def save_served(folder: Path, model: Path, example: Tensor, run_id: str, visible: VisibleUnits) -> None:
    """Write the MLflow model of `model`, a model.h5, into `folder`, with `example` (images, units) as its input example."""
    shutil.rmtree(folder, ignore_errors=True)
    columns = -1 if visible.classes else visible.units  # classify takes images without labels too
    signature = ModelSignature(
        Schema([TensorSpec(np.dtype(np.float32), (-1, columns))]),
        Schema([TensorSpec(np.dtype(np.float32), (-1, -1))]),
        ParamSchema([ParamSpec(name, kind, default) for name, (kind, default) in PARAMETERS.items()]),
    )
    save_model(
        folder,
        loader_module=__name__,
        data_path=str(model),
        mlflow_model=Model(artifact_path=folder.name, run_id=run_id),
        signature=signature,
        input_example=example.numpy(),
        pip_requirements=[f"{name}=={version(name)}" for name in REQUIREMENTS],
    )
