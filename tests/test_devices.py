"""A training step, a sweep and a temperature of AIS on a device that is not there: the host neither waits nor helps out."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from device_watch import DEVICE, Watch

from ebm_pipeline.data.batches import BatchLoader, EpochOrder
from ebm_pipeline.data.transforms import Identity
from ebm_pipeline.evaluation import ais
from ebm_pipeline.evaluation.ais import (
    annealed_importance_sampling,
    base_of_data,
    equal_steps,
    even_steps,
    reverse_annealed_importance_sampling,
)
from ebm_pipeline.evaluation.metrics import MonitoredImages
from ebm_pipeline.models.inference import MeanField
from ebm_pipeline.models.layers import Bernoulli, Gaussian, Ising, Layer, LearnedGaussian, Potts
from ebm_pipeline.models.machine import BoltzmannMachine, assemble
from ebm_pipeline.models.numerics import choose_float32_products, thin_products
from ebm_pipeline.sampling import Gibbs, GibbsLangevin, ParallelTempering, Sampler
from ebm_pipeline.training import L1, FixedColumnNorm, SparsityTarget
from ebm_pipeline.training.arrangement import Arrangement
from ebm_pipeline.training.module import BoltzmannTraining
from ebm_pipeline.training.objectives import ContrastiveDivergence, PersistentContrastiveDivergence, Tap
from ebm_pipeline.training.recipe import Recipe

MEAN_FIELD = MeanField()
RBM, DBM = (Bernoulli.create(6), Bernoulli.create(4)), (Bernoulli.create(6), Bernoulli.create(4), Bernoulli.create(3))
GAUSSIAN, LEARNED = (Gaussian.create(6), Bernoulli.create(4)), (LearnedGaussian.create(6), Bernoulli.create(4))


def on_device(layers: tuple[Layer, ...]) -> BoltzmannMachine:
    machine = assemble(layers, [torch.zeros(low.units, high.units) for low, high in itertools.pairwise(layers)])
    return machine.map(lambda tensor: tensor.to(DEVICE))


def pcd(sampler: Sampler, data_sweeps: int | None = None) -> PersistentContrastiveDivergence:
    return PersistentContrastiveDivergence(sampler, MEAN_FIELD, data_sweeps)


def seen_in_a_step(
    layers: tuple[Layer, ...], arrangement: Arrangement = Arrangement.PLAIN, **changes: Any
) -> Counter[str]:
    """What an update waits for, the second one of a training."""
    settings: dict[str, Any] = {
        "objective": pcd(Gibbs(1)), "mean_field": MEAN_FIELD, "optimizer": partial(torch.optim.SGD, lr=0.1),
        "scheduler": partial(torch.optim.lr_scheduler.ConstantLR), "centring": 0.01, "average_from": -1,
    }  # fmt: skip
    recipe = Recipe(**settings | changes)
    images = torch.zeros(20, layers[0].units, device=DEVICE)
    with Watch():
        held = MonitoredImages(images, images, images)
        module = BoltzmannTraining(on_device(layers), recipe, images.mean(0), held, arrangement)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    module.trainer = trainer
    trainer.strategy.connect(module)
    trainer.strategy.setup_optimizers(trainer)
    with torch.no_grad():
        with Watch():
            module.update(images)
        with (watch := Watch()):
            module.update(images)
    return watch.seen


@pytest.mark.parametrize(
    ("layers", "changes"),
    [
        (RBM, {}),
        (RBM, {"products": "bfloat16"}),
        (RBM, {"centring": None, "average_from": None}),
        (RBM, {"optimizer": partial(torch.optim.Adam, lr=0.1)}),
        (RBM, {"penalties": (L1(1e-3, ["weights/0"]), SparsityTarget(0.1, ["layers/1/bias"], 0.1))}),
        (RBM, {"constraints": (FixedColumnNorm(["weights/0"], 1.0),)}),
        (RBM, {"objective": ContrastiveDivergence(Gibbs(2), MEAN_FIELD)}),
        (RBM, {"objective": pcd(ParallelTempering(2, 4))}),
        (GAUSSIAN, {}),
        (LEARNED, {}),
        (GAUSSIAN, {"objective": pcd(GibbsLangevin(1))}),
        ((Potts.create(6, 3), Ising.create(4)), {}),
        (DBM, {"objective": pcd(Gibbs(1), data_sweeps=3)}),
        (DBM, {"objective": pcd(ParallelTempering(1, 4), data_sweeps=3)}),
        (RBM, {"arrangement": Arrangement.MIRRORED_VISIBLE}),
    ],
)
def test_a_step_waits_for_nothing(layers: tuple[Layer, ...], changes: dict[str, Any]) -> None:
    assert seen_in_a_step(layers, **changes) == Counter()


@pytest.mark.parametrize(
    ("layers", "changes", "file"),
    [(DBM, {}, "inference.py"), (RBM, {"objective": Tap(MEAN_FIELD)}, "tap.py")],
)
def test_a_tolerance_is_read_once_in_an_iteration(
    layers: tuple[Layer, ...], changes: dict[str, Any], file: str
) -> None:
    """Mean field and TAP end when nothing changes any more, which the host must read; 0 is read, so they end at the first."""
    assert seen_in_a_step(layers, **changes) == Counter({f"{file}: reads a number": 1})


def test_batches_there_cost_one_copy_an_epoch() -> None:
    """That of the order of the images; the images are there already."""
    for size in (5, 20):
        batches = BatchLoader(torch.zeros(60, 6, device=DEVICE), EpochOrder(torch.arange(60), 1, 0), Identity(), size)
        with (watch := Watch()):
            assert len(list(batches)) == 60 // size
        assert watch.seen == Counter({"batches.py: _to_copy of CPU and device": 1})


@pytest.mark.parametrize("sampler", [Gibbs(3), GibbsLangevin(3), ParallelTempering(3, 4, warm_up=2)])
def test_a_sweep_waits_for_nothing(sampler: Sampler) -> None:
    machine = on_device(GAUSSIAN)
    states = tuple(torch.zeros(5, layer.units, device=DEVICE) for layer in machine.layers)
    with (watch := Watch()):
        state = sampler.init(machine, states, (states[0][0], None))
        sampler.step(machine, state, None)
    assert watch.seen == Counter()


@pytest.mark.parametrize("layers", [RBM, DBM, GAUSSIAN])
@pytest.mark.parametrize("way", ["forward", "reverse", "pilot"])
def test_ais_waits_at_its_end_alone(layers: tuple[Layer, ...], way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many temperatures there are; and nothing of the CPU is met on the way."""
    monkeypatch.setattr(ais, "PATH_POINTS", 5)  # at which the way of log Z is read, in the end
    machine, generator = on_device(layers), torch.Generator().manual_seed(0)
    images = torch.zeros(5, layers[0].units, device=DEVICE)
    states = tuple(torch.zeros(5, layer.units, device=DEVICE) for layer in layers)

    def seen(count: int) -> Counter[str]:
        betas = even_steps(count)
        with (watch := Watch(answer=1.0)):
            base = base_of_data(machine, images, MeanField(max_steps=1), generator)
            if way == "forward":
                annealed_importance_sampling(machine, base, betas, 5, generator)
            elif way == "reverse":
                reverse_annealed_importance_sampling(machine, base, betas, states, generator)
            else:
                equal_steps(machine, base, count, 5, generator)
        return watch.seen

    counts = (201, 401) if way == "pilot" else (11, 21)  # a pilot has a tenth
    assert seen(counts[0]) == seen(counts[1])


def test_the_watch_sees_what_makes_the_host_wait() -> None:
    there, here = torch.zeros(4, device=DEVICE), torch.zeros(4)
    cases: list[tuple[str, Callable[[], object]]] = [
        ("reads a number", lambda: float(there.sum())),
        ("reads a number", lambda: bool((there > 0).any())),
        ("_to_copy of CPU and device", lambda: here.to(DEVICE)),
        ("mul of CPU and device", lambda: there * here),
        ("index, whose size", lambda: there[there > 0]),
        ("nonzero, whose size", lambda: there.nonzero()),
    ]
    for expected, action in cases:
        with Watch() as watch, suppress(RuntimeError, NotImplementedError):  # of `meta` itself, which has no numbers
            action()
        assert [expected in found for found in watch.seen] == [True], (expected, watch.seen)
    with (watch := Watch()):
        there * torch.ones(()) + 1.0
    assert watch.seen == Counter()


def test_float32_products_are_not_rounded_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What lets a CPU take oneDNN lets an NVIDIA GPU take TF32, with 10 bits of a weight."""
    before = torch.get_float32_matmul_precision()
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    try:
        torch.set_float32_matmul_precision("medium")  # as of an earlier run of the process
        assert choose_float32_products() == "highest"
        assert torch.backends.cuda.matmul.fp32_precision == "ieee"
        with thin_products():
            pass
        assert torch.backends.cuda.matmul.fp32_precision == "ieee"
    finally:
        torch.set_float32_matmul_precision(before)
