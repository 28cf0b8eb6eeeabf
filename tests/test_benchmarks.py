"""What the benchmarks count: the products of an update; and what they say where there is nothing to measure."""

from __future__ import annotations

import math
from pathlib import Path

import h5py
import pytest
import torch

from benchmarks import gpu, scale
from benchmarks.steps import BATCH, Step, iteration_shapes, shapes


def flops(needed: dict[tuple[int, int, int], float]) -> float:
    return sum(2 * count * math.prod(shape) for shape, count in needed.items())


def test_the_products_of_pcd_1_are_five_of_a_batch() -> None:
    assert flops(shapes((784, 200), BATCH, 1)) == 5 * 2 * BATCH * 784 * 200
    assert flops(shapes((784, 200), 1000, 25)) == 2 * 784 * 200 * (50 * 1000 + BATCH + BATCH + 1000)
    assert iteration_shapes((784, 200)) == {}
    assert flops(iteration_shapes((784, 200, 50))) == 2 * 2 * BATCH * 200 * 50


def test_an_update_outside_of_a_run_is_an_update() -> None:
    step = Step((6, 4, 3), chains=10)
    before = step.module.machine.weights[0].clone()
    step.update()
    assert (step.module.machine.weights[0] != before).any()
    assert 1 <= step.mean_field_steps() <= 25


def test_a_benchmark_of_a_gpu_needs_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="no GPU") as ended:
        gpu.main()
    assert isinstance(ended.value.code, str)  # which Python prints, and ends with 1


def test_generated_images_are_bits(tmp_path: Path) -> None:
    scale.generated(tmp_path / "images.h5", 1000)
    with h5py.File(tmp_path / "images.h5") as file:
        images = file["train/images"][()]
    assert images.shape == (1000, scale.PIXELS)
    assert set(images.flat) == {0, 1}
    assert abs(images.mean() - 0.13) < 5 * math.sqrt(0.13 * 0.87 / images.size)
