"""What to say of data that are no states of a layer: what they are, and the model or transform that fits them."""

from __future__ import annotations

from torch import Tensor

from ebm_pipeline.data.values import FITTING, survey

CURES = {  # (kind of layer, what the data are), where more can be said than for any layer
    ("bernoulli", "real"): "model=grbm, or data/transform=threshold or stochastic if they were made of grey levels",
    ("bernoulli", "spins"): "model=ising, or data/transform=threshold, which makes 0 of -1",
    ("ising", "binary"): "data/transform=spin, or model=rbm",
    ("ising", "grey8"): "data/transform=spin, or model=grbm",
    ("ising", "unit"): "data/transform=spin, or model=grbm",
    ("potts", "binary"): "model=rbm, or give one-hot rows",
    ("rectified_gaussian", "spins"): "model=ising",
    ("rectified_gaussian", "real"): "model=grbm, or data/transform=scale for grey levels",
}


def cure(kind: str, images: Tensor) -> str:
    """What images (samples, units) hold, and what fits them in place of a layer of this kind."""
    if not images.isfinite().all():
        return "nan or inf, which are no finite numbers: leave such images out"
    found = survey([images.detach().cpu().numpy()])
    own = found.found() or "categories"
    return f"{found}: what fits is {CURES.get((kind, own), FITTING[own])}"
