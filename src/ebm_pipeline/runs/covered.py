"""What `ebm-sample task=fantasies` says of samples beside the labelled data that the model was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from ebm_pipeline import plots
from ebm_pipeline.data.dataset import DataSet
from ebm_pipeline.evaluation.coverage import NOTHING, Coverage, coverage
from ebm_pipeline.tasks import Answer

MOST_IMAGES, HELD_OUT = 60_000, 2000
MOST_CLASSES = 50  # that a picture has room for
SHOWN = 10  # samples beside their nearest training image


def covered(
    answer: Answer, data: DataSet | None, folder: Path, title: str, seed: int, files: plots.Files
) -> tuple[list[str], dict[str, Any]]:
    """Lines on the classes of the samples and their nearest training images, with two pictures, and the numbers; none without
    labelled data. Training, which the classifier sees, and held-out images are those of the run; the seed is the classifier's.
    """
    labels = None if data is None else data.labels("train", MOST_IMAGES)
    held_out = None if data is None else data.labels("validation", HELD_OUT)
    if data is None or labels is None or held_out is None or not answer.families:
        return [], {}
    if not 2 <= (count := len(labels.unique())) <= MOST_CLASSES:
        why = "one value alone" if count < 2 else f"{count} values, more than {MOST_CLASSES}"
        return [f"classes of the samples are left out: the labels have {why}"], {}
    alone = data.visible.images
    images = alone(data.images("train", MOST_IMAGES))
    samples = {start: alone(states) for start, states in answer.families.items()}
    found = coverage(samples, images, labels, alone(data.images("validation", HELD_OUT)), held_out, seed)
    answer.metrics.update(found.metrics("noise"))
    figures = {"classes": _classes(found, answer, title), "nearest": _nearest(found, data, samples, images, title)}
    written = [plots.save(figure, folder / f"fantasies_{name}.png", files) for name, figure in figures.items()]
    return [*str(found).splitlines(), f"pictures: {', '.join(map(str, written))}"], found.as_dict()


def _classes(found: Coverage, answer: Answer, title: str) -> Figure:
    """Shares with their errors."""
    how = answer.made["fantasies"].replace(
        "half of the chains from data, half from noise", "chains from data and from noise"
    )
    shares = {f"chains from {start}": (found.shares(start), found.error_of(start)) for start in found.given}
    unsure = ", ".join(f"{100 * found.unsure(start):.0f}% from {start}" for start in found.given)
    note = (
        f"bars: two standard errors; {how}; class by a network ({found.wrong} of held-out images); "
        f"left out as unsure: {unsure}; the two starts: {found.starts() or NOTHING}"
    )
    return plots.class_shares(shares, found.data, found.classes, f"{title}: classes", note)


def _nearest(found: Coverage, data: DataSet, samples: dict[str, Tensor], images: Tensor, title: str) -> Figure:
    """Samples above the training images nearest to them: the first ones of each start, and from noise the first of each class."""
    given = found.given["noise"].tolist()
    of_classes = [given.index(kind) for kind in range(len(found.classes)) if kind in given]
    chosen = {f"from {start}": (start, list(range(min(SHOWN, len(states))))) for start, states in samples.items()}
    chosen["of each class"] = ("noise", of_classes[:SHOWN])
    rows = {}
    for name, (start, places) in chosen.items():
        near = images[found.nearest[start][places]]
        rows[f"Samples {name}"] = _tiles(samples[start][places], data)
        rows[f"Nearest to those {name}"] = _tiles(near, data)
    distances = ", ".join(f"{np.median(near):.3f} from {start}" for start, near in found.distance.items())
    return plots.comparison(
        rows, data.image_shape, f"{title} and the nearest training images",
        "chains from data, from noise, and from noise the first sample of each class; median distance (root mean square of "
        f"pixels): {distances}; of held-out images {found.usual:.3f}",
    )  # fmt: skip


def _tiles(states: Tensor, data: DataSet) -> NDArray[np.float32]:
    """SHOWN images, with empty ones where there are fewer."""
    grey = data.transform.to_grey(states).cpu().numpy()
    tiles = np.full((SHOWN, grey.shape[1]), np.nan, np.float32)
    tiles[: len(grey)] = grey
    return tiles
