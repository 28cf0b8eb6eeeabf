"""`ebm-sample`: a task asked of a trained model, its arrays as HDF5 and its images as a picture."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from matplotlib.figure import Figure
from omegaconf import DictConfig
from tqdm import tqdm

from ebm_pipeline import plots, tracking
from ebm_pipeline.assessment import advance
from ebm_pipeline.configuration import (
    READER_KEYS,
    STORE_KEYS,
    build,
    build_data,
    check_keys,
    check_seed,
    parse_run_config,
    set_up_torch,
    tracking_uri,
)
from ebm_pipeline.data.hdf5 import new_file, set_text
from ebm_pipeline.errors import UserError, check_whole
from ebm_pipeline.storage import SavedModel, load_model
from ebm_pipeline.tasks import Answer, Task

log = logging.getLogger(__name__)

SHOWN = 8  # images in a row of the picture
GRID = 64  # images of a picture of one kind


def ask(config: DictConfig, reference: str, folder: Path) -> Answer:
    """Ask `config.task` of a run's model, or of a model.h5 alone, with images of the data that it was trained on."""
    check_keys(config, READER_KEYS | {"task": Mapping, "count": int | None}, "")
    check_keys(config.tracking, STORE_KEYS, "tracking.")
    if config.count is not None:
        check_whole("count, if not null,", config.count, 4)
    check_seed(config.seed)
    set_up_torch(config.threads)
    task: Task = build(config.task, "task", Task)
    path = model_path(tracking_uri(config), reference)
    saved = load_model(path)
    own = parse_run_config(saved.config, path)
    data = build_data(own)
    if task.changes_pixels and data.transform.mixes_pixels:
        raise UserError(
            f"task={task.name} changes single pixels, and the transform {data.transform.name!r} that this model was trained with "
            "mixes them: ask for task=fantasies or task=features, or train with data/transform=dequantise"
        )
    images = data.images(config.part, config.count)
    labels = data.labels(config.part, config.count)
    with tqdm(desc=task.name, unit=" sweeps", leave=False, disable=None) as bar, torch.inference_mode():
        answer = task(saved, images, config.seed, lambda done: advance(bar))
    grey = {name: data.transform.to_grey(x) for name, x in answer.arrays.items() if name not in answer.hidden}
    answer = replace(answer, arrays=answer.arrays | grey)
    written = folder / f"{task.name}.h5"
    with new_file(written) as file:
        set_text(file, "model", str(path))
        file.attrs["image_shape"] = saved.image_shape
        set_text(file, "data", f"{data.name} {data.digest}, {config.part}, transform {data.transform.name}")
        for name, tensor in answer.arrays.items():
            file[name] = tensor.cpu().numpy()
            set_text(file[name], "made", answer.made.get(name.removesuffix("_labels"), "from the data"))
        if labels is not None:
            file["labels"] = labels.numpy()
    title = f"{own.model.name}: {task.name}"
    picture = plots.save(draw(answer, saved, title), folder / f"{task.name}.png")
    lines = [f"{title} on {data.name}, {config.part}"]
    lines += [f"  {name.replace('_', ' ')}: {how}" for name, how in answer.made.items()]
    lines += [f"  {name.replace('_', ' ')} {value:.4g}" for name, value in answer.figures.items()]
    log.info("\n".join([*lines, f"arrays: {written}", f"picture: {picture}"]))
    return answer


def model_path(uri: str, reference: str) -> Path:
    """The model.h5 that is meant: the file itself, or that of a finished run."""
    if Path(reference).suffix == ".h5":
        return Path(reference)
    folder = tracking.find_model(uri, reference).output_dir
    assert folder is not None
    return folder / tracking.MODEL_FILE


def draw(answer: Answer, saved: SavedModel, title: str) -> Figure:
    """The confusion of labels, or a grid where there is one kind of images, or a row for each kind."""
    if answer.confusion is not None:
        return plots.confusion_matrix(answer.confusion.cpu().numpy(), title, answer.how)
    rows = {name: answer.arrays[name].cpu().numpy() for name in answer.shown}
    how = answer.how or answer.made.get(answer.shown[-1], "")
    if len(rows) == 1:
        ((name, images),) = rows.items()
        units = answer.arrays.get(f"{name}_labels")  # of the label, written beside each image
        labels = None if units is None else units[:GRID].argmax(1).cpu().numpy()
        return plots.data_examples(images[:GRID], labels, saved.image_shape, title, how)
    named = {name.replace("_", " ").capitalize(): images[:SHOWN] for name, images in rows.items()}
    return plots.comparison(named, saved.image_shape, title, how)
