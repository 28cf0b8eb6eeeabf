"""Which float32 matrix product the CPU runs fastest, at float32 accuracy.

torch's `set_float32_matmul_precision("medium")` sends float32 products to oneDNN. On many CPUs that is the faster library
and still computes in float32; on CPUs with bfloat16 matrix units it may not. So it is used only after a product on this
very machine has shown float32 accuracy. Beside a GPU it is not used: the same word would let that one round to TF32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

FLOAT32_ERROR = 2e-6  # largest error, relative to the largest entry, of a product of 784 terms in float32


def choose_float32_products() -> str:
    """Set and return "medium" where it keeps float32 accuracy on this machine, else "highest"."""
    generator = torch.Generator().manual_seed(0)
    left, right = torch.rand(100, 784, generator=generator), torch.randn(784, 200, generator=generator)
    exact = left.double() @ right.double()
    for setting in ("highest",) if torch.accelerator.is_available() else ("medium", "highest"):
        torch.set_float32_matmul_precision(setting)
        products = (left @ right, (right.mT @ left.mT).mT)
        if max(float((product - exact).abs().max() / exact.abs().max()) for product in products) < FLOAT32_ERROR:
            break
    return setting


@contextmanager
def thin_products() -> Iterator[None]:
    """Within it float32 products are torch's default ones: with vectors and a few rows oneDNN takes two to five times as long."""
    setting = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(setting)
