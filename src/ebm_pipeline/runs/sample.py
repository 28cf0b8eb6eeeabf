"""`ebm-sample`: a task asked of a trained model, its arrays as HDF5 and its images as a picture."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from matplotlib.figure import Figure
from omegaconf import DictConfig
from torch import Tensor

from ebm_pipeline import plots
from ebm_pipeline.data.dataset import DataSet
from ebm_pipeline.data.hdf5 import new_file, set_text
from ebm_pipeline.evaluation.equilibrium import shown_r_hat
from ebm_pipeline.models.storage import LADDER_FILE, SavedModel, load_ladder, load_model
from ebm_pipeline.runs.assess import check_states
from ebm_pipeline.runs.configuration import (
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
from ebm_pipeline.runs.covered import covered
from ebm_pipeline.runs.features import feature_figures
from ebm_pipeline.runs.places import with_data_now
from ebm_pipeline.runs.reference import model_file, stands_alone
from ebm_pipeline.runs.trust import check_path, trusted_modules
from ebm_pipeline.sampling import visible_at_mean
from ebm_pipeline.support.errors import UserError, check_whole
from ebm_pipeline.support.files import write_text
from ebm_pipeline.support.progress import progress_bar
from ebm_pipeline.tasks import Answer, Task

log = logging.getLogger(__name__)

SHOWN = 8  # images in a row of the picture
GRID = 64  # images of a picture of one kind


def ask(config: DictConfig, reference: str, folder: Path) -> Answer:
    """Ask `config.task` of a run's model, or of a model.h5 alone, with images of the data that it was trained on."""
    check_keys(config, READER_KEYS | {"task": Mapping, "plots": Mapping, "count": int | None}, "")
    check_keys(config.tracking, STORE_KEYS, "tracking.")
    if config.count is not None:
        check_whole("count, if not null,", config.count, 4)
    check_seed(config.seed)
    set_up_torch(config.threads)
    trusted = trusted_modules(config.trust)
    task: Task = build(config.task, "task", Task)
    files: plots.Files = build(config.plots, "plots", plots.Files)
    path = model_file(tracking_uri(config), reference)
    saved = load_model(path)
    if task.needs_ladder:
        saved = replace(saved, ladder=load_ladder(path.with_name(LADDER_FILE), saved.machine))
    given = material(config, task, saved, path, trusted, alone=stands_alone(reference))
    with progress_bar(task.name, None, "sweeps") as progress, torch.inference_mode():
        answer = task(saved, given.images, config.seed, progress)
    answer = given.named(answer)
    grey = {name: given.to_grey(x) for name, x in answer.arrays.items() if name not in answer.hidden}
    answer = replace(answer, arrays=answer.arrays | grey)
    written = folder / f"{task.name}.h5"
    with new_file(written) as file:
        set_text(file, "model", str(path))
        file.attrs["image_shape"] = saved.image_shape
        set_text(file, "data", given.description)
        for name, tensor in answer.arrays.items():
            file[name] = tensor.cpu().numpy()
            set_text(file[name], "made", answer.made.get(name.removesuffix("_labels"), "from the data"))
        if given.labels is not None:
            file["labels"] = given.labels.numpy()
    title = f"{given.title}: {task.name}"
    figures = feature_figures(answer, saved, given.title) if answer.hidden else {task.name: draw(answer, saved, title)}
    pictures = [str(plots.save(figure, folder / f"{name}.png", files)) for name, figure in figures.items()]
    classes, numbers = covered(answer, given.data, folder, title, config.seed, files)
    described = {
        "model": str(path), "data": given.description, "count": len(given.images), "seed": config.seed,
        "made": answer.made,
        "metrics": {name: value if math.isfinite(value) else None for name, value in answer.metrics.items()},
    }  # fmt: skip
    if answer.tried:
        described["r_hat_by_sweeps"] = {
            str(sweeps): value if math.isfinite(value) else shown_r_hat(value) for sweeps, value in answer.tried.items()
        }
    write_text(
        folder / f"{task.name}.json", json.dumps(described | ({"coverage": numbers} if numbers else {}), indent=1)
    )
    lines = [f"{title} on {given.description}"]
    lines += [f"  {name.replace('_', ' ')}: {how}" for name, how in answer.made.items()]
    lines += [f"  {name.replace('_', ' ')} {value:.4g}" for name, value in answer.metrics.items()]
    lines += [f"  {line}" for line in classes]
    written_to = [f"arrays: {written}", f"numbers: {folder / f'{task.name}.json'}"]
    log.info("\n".join([*lines, *written_to, f"picture{'s' * (len(pictures) > 1)}: {', '.join(pictures)}"]))
    return answer


@dataclass(frozen=True)
class Given:
    """What a task is given: images (count, units), their labels, and what the answer says of them."""

    images: Tensor
    title: str
    description: str
    labels: Tensor | None = None
    data: DataSet | None = None
    to_grey: Callable[[Tensor], Tensor] = lambda images: images
    starts: str = "data"  # what the images are, where chains start at them

    def named(self, answer: Answer) -> Answer:
        """The answer, which says where its chains started."""
        made = {
            name: how.replace("chains from data", f"chains from {self.starts}") for name, how in answer.made.items()
        }
        return replace(answer, made=made)


def material(
    config: DictConfig, task: Task, saved: SavedModel, path: Path, trusted: Sequence[str], *, alone: bool
) -> Given:
    """Images of the data that the model was trained on; of a file alone, whose task needs none, draws at the data's means.

    So a stranger's file names no data where arrays are enough.
    """
    if alone and not task.needs_images:
        generator = torch.Generator().manual_seed(config.seed)
        drawn = visible_at_mean(saved.machine, config.count or GRID, saved.data_mean, generator)
        return Given(drawn, path.name, "no data: a model alone", starts="independent pixels at the data's means")
    own = with_data_now(parse_run_config(saved.config, path, trusted), path.parent, Path(config.output_root))
    check_path(own, path, Path(config.output_root))
    data = build_data(own)
    check_states(saved.machine.layers[0], data)
    if task.changes_pixels and not data.transform.units_are_pixels:
        raise UserError(
            f"task={task.name} changes single pixels, and the units of the transform {data.transform.name!r} that this model was "
            "trained with are none: ask for task=fantasies or task=features, or train with data/transform=dequantise (grey "
            "levels) or standardize (real numbers)"
        )
    description = f"{data.name} {data.digest}, {config.part}, transform {data.transform.name}"
    images, labels = data.images(config.part, config.count), data.labels(config.part, config.count)
    return Given(images, own.model.name, description, labels, data, data.transform.to_grey)


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
