"""`ebm-evaluate model=FILE data=...`: card, diagnosis and verdict of weights that this or another program trained.

Nothing of the file is run (`models.foreign`), and no run is needed: what is measured stands in the folder of the evaluation.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from omegaconf import DictConfig

from ebm_pipeline import plots
from ebm_pipeline.data import DataSet
from ebm_pipeline.evaluation.metrics import MonitoredImages, monitor
from ebm_pipeline.models.foreign import read_foreign
from ebm_pipeline.models.inference import MeanField
from ebm_pipeline.models.machine import BoltzmannMachine
from ebm_pipeline.models.storage import SavedModel, is_own, load_model
from ebm_pipeline.runs.assess import Assessment, Material, Settings, assess, check_states
from ebm_pipeline.runs.configuration import build_data
from ebm_pipeline.runs.present import diagnosis_figures
from ebm_pipeline.support.errors import UserError
from ebm_pipeline.support.files import write_text

log = logging.getLogger(__name__)


def judge(
    config: DictConfig, settings: Settings, path: Path, folder: Path, files: plots.Files = plots.PNG
) -> dict[str, float]:
    """Judge the weights in a file on `config.part` of `config.data`; to the terminal and to files in `folder`."""
    if config.get("data") is None:
        raise UserError(
            f"{path.name} is a file of weights: say which data they are a model of, data=digits, or data=hdf5 data.path=FILE"
        )
    machine = load_model(path).machine if is_own(path) else read_foreign(path)
    settings.check_size(machine)
    data = build_data(config)
    _check(machine, data, path)
    settings.check_images(data, config.part)
    check_states(machine.layers[0], data)
    images, mean_field = data.images(config.part), MeanField()
    seen = MonitoredImages(images, data.images("train", len(images)), images, data.visible.classes, config.part)
    metrics = {
        name: value
        for name, value in monitor(machine, seen, mean_field).items()
        if "/denoising_" not in name  # of images that were not changed
    }
    saved = SavedModel(machine, data.train_mean().float(), data.image_shape, "")
    found = assess(settings, saved, Material.of(data, config.part), metrics, mean_field, config.seed)
    about = f"{path.name}, {config.part} part of {data.name} ({len(images)} images, transform {data.quantity})"
    lines = [about, *(f"  {name} {value:.5g}" for name, value in metrics.items())]
    lines += [f"  {line}" for line in (*str(found).splitlines(), *found.lacking)]
    log.info("\n".join([*lines, f"files: {folder}"]))
    _write(found, metrics | found.metrics, path.name, data, folder, files)
    return metrics | found.metrics


def _check(machine: BoltzmannMachine, data: DataSet, path: Path) -> None:
    units = machine.layers[0].units
    if units != data.visible.units:
        raise UserError(
            f"{path.name} has {units} visible units, the images of {data.name} {data.visible.units}: give the data that it was "
            "trained on"
        )


def _write(
    found: Assessment, metrics: dict[str, float], name: str, data: DataSet, folder: Path, files: plots.Files
) -> None:
    """Verdict, card, numbers and pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "verdict.json", json.dumps(found.verdict.as_dict(), indent=1))
    write_text(folder / "evaluation.json", json.dumps({"model": name, "data": data.digest, **metrics}, indent=1))
    if found.card is not None:
        write_text(folder / "likelihood.json", json.dumps(found.card.as_dict(), indent=1))
    if found.diagnosis is not None:
        for key, figure in diagnosis_figures(found.diagnosis, name, data.image_shape).items():
            plots.save(figure, folder / f"{key}.png", files)
