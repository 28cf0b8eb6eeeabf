"""What `ebm-data` says and writes: a table of what a set of images holds, an HDF5 file of it, a copy in another order."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ebm_pipeline.data.information import repeats
from ebm_pipeline.data.parts import Array, Images
from ebm_pipeline.data.stored import write
from ebm_pipeline.data.values import FITTING, AskedValuesError, find_values
from ebm_pipeline.support.errors import UserError

MOST_SHOWN = 20  # labels in a line


def describe(images: Images, values: str | None = None) -> str:
    """A table of what a set of images holds and what its numbers are, after checking all of it; values: as `data.values`."""
    lines = [images.where, f"  name {images.name}, images {' x '.join(map(str, images.image_shape))}"]
    lines += [f"  {remark}" for remark in images.remarks]
    for name in ("train", "test"):
        part = images.parts.get(name)
        if part is None:
            lines.append(f"  {name:5} none")
            continue
        total = sum(float(block.sum(dtype=np.float64)) for block in part.blocks())
        low, high = min(block.min() for block in part.blocks()), max(block.max() for block in part.blocks())
        lines.append(
            f"  {name:5} {part.count} images of {part.units} pixels, {part.dtype}, from {low:g} to {high:g}, "
            f"mean {total / (part.count * part.units):.4g}"
        )
        labels = part.labels()
        if labels is not None:
            lines.append(f"        labels {_counted(labels)}")
    found = repeats(images)
    lines += [] if found is None or not found.found else [f"  {found}{' (a leak)' if found.leak else ''}"]
    return "\n".join((*lines, *_meaning(images, values), f"  digest {images.checked_digest()}"))


def _meaning(images: Images, values: str | None) -> list[str]:
    """What the numbers are, and what fits; or the question."""
    try:
        found = find_values(images, values)
    except AskedValuesError as question:
        return [f"  values not known: {question}"]
    return [f"  values {found}", f"  fitting {FITTING[found.kind]}"]


def _counted(labels: Array) -> str:
    values, counts = np.unique(labels, return_counts=True)
    shown = (f"{value}: {count}" for value, count in zip(values[:MOST_SHOWN], counts[:MOST_SHOWN], strict=True))
    return f"{', '.join(shown)}{' ...' if len(values) > MOST_SHOWN else ''}"


def write_copy(images: Images, target: Path, seed: int | None = None) -> None:
    """Write images and labels as HDF5; with a seed, each part in an order that depends on it alone."""
    sources = {Path(images.where).resolve()}
    if target.resolve() in sources:
        raise UserError(f"a copy cannot take the place of its source {images.where}: give another file")
    arrays: dict[str, Array] = {}
    for number, (name, part) in enumerate(images.parts.items()):
        order = slice(None) if seed is None else np.random.default_rng([seed, number]).permutation(part.count)
        arrays[f"{name}/images"] = part.images()[order]
        labels = part.labels()
        if labels is not None:
            arrays[f"{name}/labels"] = labels[order]
    write(target, images.name, images.image_shape, arrays)
