"""Which model.h5 is meant: how `ebm-sample`, `ebm-serve` and `ebm.load` are told of a model."""

from __future__ import annotations

from pathlib import Path

from ebm_pipeline.runs.serving.folder import checked_model, is_mlflow_model
from ebm_pipeline.tracking import records

REGISTERED = "models:/"


def model_file(uri: str, reference: str) -> Path:
    """The model.h5 of a file, a run's folder, an MLflow model's folder (checked first), models:/NAME@ALIAS or
    models:/m-... (a logged model), or a run's id.

    Raises UserError where there is none.
    """
    path = Path(reference)
    if path.suffix == ".h5" or path.is_file():
        return path
    if is_mlflow_model(path):
        return checked_model(path)
    if reference.startswith(REGISTERED):
        return checked_model(records.download_folder(uri, reference))
    if (path / records.MODEL_FILE).is_file():
        return path / records.MODEL_FILE
    folder = records.find_model(uri, reference).output_dir
    assert folder is not None
    return folder / records.MODEL_FILE


def stands_alone(reference: str) -> bool:
    """Whether a reference names a model without its run: nothing but its arrays is wanted of it."""
    path = Path(reference)
    return path.suffix == ".h5" or is_mlflow_model(path) or reference.startswith(REGISTERED)
