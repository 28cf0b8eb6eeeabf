"""What `ebm-sample task=fantasies` says of samples beside the labelled data that the model was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from ebm_pipeline import plots
from ebm_pipeline.data.dataset import DataSet
from ebm_pipeline.evaluation.coverage import Coverage, coverage
from ebm_pipeline.tasks import Answer

MOST_IMAGES, HELD_OUT = 60_000, 2000
MOST_CLASSES = 50  # that a picture has room for
SHOWN = 10  # samples beside their nearest training image


def covered(
    answer: Answer, data: DataSet | None, folder: Path, title: str, seed: int
) -> tuple[list[str], dict[str, Any]]:
    """Lines on the classes of the samples and their nearest training images, with two pictures, and the numbers; none without
    labelled data. Training, which the classifier sees, and held-out images are those of the run; the seed is the classifier's.
    """
    labels = None if data is None else data.labels("train", MOST_IMAGES)
    held_out = None if data is None else data.labels("validation", HELD_OUT)
    if data is None or labels is None or held_out is None or not answer.families:
        return [], {}
    if not 2 <= (count := len(labels.unique())) <= MOST_CLASSES:
        why = "which tells nothing apart" if count < 2 else f"more than {MOST_CLASSES}"
        return [f"classes of the samples are left out: the labels have {count} value{'s'[: count > 1]}, {why}"], {}
    alone = data.visible.images
    images = alone(data.images("train", MOST_IMAGES))
    samples = {start: alone(states) for start, states in answer.families.items()}
    found = coverage(samples, images, labels, alone(data.images("validation", HELD_OUT)), held_out, seed)
    answer.metrics.update(found.metrics("noise"))
    files = (folder / "fantasies_classes.png", folder / "fantasies_nearest.png")
    plots.save(_classes(found, answer, title), files[0])
    plots.save(_nearest(found, data, samples, images, title), files[1])
    return [*str(found).splitlines(), f"pictures: {files[0]}, {files[1]}"], found.as_dict()


def _classes(found: Coverage, answer: Answer, title: str) -> Figure:
    """Shares with their errors."""
    how = answer.made["fantasies"].replace(
        "half of the chains from data, half from noise", "chains from data and from noise"
    )
    shares = {f"chains from {start}": (found.shares(start), found.error_of(start)) for start in found.given}
    unsure = ", ".join(f"{100 * found.unsure(start):.0f}% from {start}" for start in found.given)
    note = (
        f"bars: two standard errors; {how}; class by a network, wrong for {100 * found.error:.1f}% of held-out images; "
        f"left out as unsure: {unsure}; the two starts: {found.starts()}"
    )
    return plots.class_shares(shares, found.data, found.classes, f"{title}: classes", note)


def _nearest(found: Coverage, data: DataSet, samples: dict[str, Tensor], images: Tensor, title: str) -> Figure:
    """Samples, the first ones, above the training images nearest to them."""
    rows = {}
    for start, states in samples.items():
        rows[f"Chains from {start}"] = data.transform.to_grey(states[:SHOWN]).cpu().numpy()
        near = images[found.nearest[start][:SHOWN]]
        rows[f"Nearest to these ({start})"] = data.transform.to_grey(near).cpu().numpy()
    distances = ", ".join(
        f"{float(sorted(near)[len(near) // 2]):.3f} from {start}" for start, near in found.distance.items()
    )
    return plots.comparison(
        rows, data.image_shape, f"{title} and the nearest training images",
        f"median distance (root mean square of pixels): {distances}; of held-out images {found.usual:.3f}",
    )  # fmt: skip
