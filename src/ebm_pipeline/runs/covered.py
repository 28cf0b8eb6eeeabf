"""What `ebm-sample task=fantasies` says of samples beside the labelled data that the model was trained on."""

from __future__ import annotations

from pathlib import Path

from ebm_pipeline import plots
from ebm_pipeline.data.dataset import DataSet
from ebm_pipeline.evaluation.coverage import NEIGHBOURS, coverage
from ebm_pipeline.tasks import Answer

MOST_IMAGES, HELD_OUT = 60_000, 2000
MOST_CLASSES = 50  # that a picture has room for
SHOWN = 8  # samples beside their nearest training image


def covered(answer: Answer, data: DataSet | None, folder: Path, title: str, files: plots.Files) -> list[str]:
    """Lines on the classes of the samples and their nearest training images, with two pictures; none without labelled data."""
    labels = None if data is None else data.labels("train", MOST_IMAGES)
    held_out = None if data is None else data.labels("validation", HELD_OUT)
    if data is None or labels is None or held_out is None or not answer.families or len(labels) < NEIGHBOURS:
        return []
    if (count := len(labels.unique())) > MOST_CLASSES:
        return [f"classes of the samples are left out: the labels have {count} values, more than {MOST_CLASSES}"]
    alone = data.visible.images
    images = alone(data.images("train", MOST_IMAGES))
    samples = {start: alone(states) for start, states in answer.families.items()}
    found = coverage(samples, images, labels, alone(data.images("validation", HELD_OUT)), held_out)
    answer.metrics.update(found.metrics("noise"))
    how = answer.made["fantasies"].replace(
        "half of the chains from data, half from noise", "chains from data and from noise"
    )
    shares = {f"chains from {start}": (values, found.error_of(start)) for start, values in found.samples.items()}
    unsure = ", ".join(f"{100 * share:.0f}% from {start}" for start, share in found.unsure.items())
    note = (
        f"bars: two standard errors; {how}; class by the {NEIGHBOURS} nearest training images, wrong for "
        f"{100 * found.error:.1f}% of held-out images; left out as unsure: {unsure}"
    )
    bars = plots.class_shares(shares, found.data, found.classes, f"{title}: classes", note)
    rows = {}
    for start, states in samples.items():
        rows[f"Chains from {start}"] = data.transform.to_grey(states[:SHOWN]).cpu().numpy()
        near = images[found.nearest[start][:SHOWN]]
        rows[f"Nearest to these ({start})"] = data.transform.to_grey(near).cpu().numpy()
    distances = ", ".join(f"{float(sorted(d)[len(d) // 2]):.3f} from {start}" for start, d in found.distance.items())
    nearest = plots.comparison(
        rows, data.image_shape, f"{title} and the nearest training images",
        f"median distance (root mean square of pixels): {distances}; of held-out images {found.usual:.3f}",
    )  # fmt: skip
    written = []
    for name, figure in (("fantasies_classes", bars), ("fantasies_nearest", nearest)):
        written.append(str(plots.save(figure, folder / f"{name}.png", files)))
    return [*str(found).splitlines(), f"pictures: {', '.join(written)}"]
