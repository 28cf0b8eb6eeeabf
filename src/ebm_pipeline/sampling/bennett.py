"""Bennett's acceptance ratio (Bennett 1976, doi:10.1016/0021-9991(76)90078-4): log Z of two machines that overlap.

With w(x) = F_low(x) - F_high(x), the log weight of a state in the higher machine over that in the lower one, and any c,

    Z_high / Z_low = e^c <sigmoid(w - c)>_low / <sigmoid(c - w)>_high

exactly; of all such ratios that with c = log(Z_high / Z_low) has the least error where both have as many samples.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

ITERATIONS = 200
TOLERANCE = 1e-9  # nats


def bennett_step(low: Tensor, high: Tensor, guess: Tensor) -> Tensor:
    """log(Z_high / Z_low) (...) from log weights w (..., samples) of samples of either machine, by c = `guess` (...)."""
    c = guess[..., None]
    return guess + _log_mean(logsigmoid(low - c)) - _log_mean(logsigmoid(c - high))


def bennett(low: Tensor, high: Tensor) -> Tensor:
    """As `bennett_step`, with c at its own result, which has the least error where there are as many samples of either machine.

    That is found by half steps, each of which comes nearer. Whole ones leap beyond it, by as much as they were away where the
    machines hardly overlap.

    >>> import torch
    >>> low = torch.tensor([0.5, 1.5]); bennett(low, low)
    tensor(1., dtype=torch.float64)
    """
    low, high = low.double(), high.double()
    found = 0.5 * (low.mean(-1) + high.mean(-1))
    for _ in range(ITERATIONS):
        before, found = found, torch.lerp(found, bennett_step(low, high, found), 0.5)
        if not ((found - before).abs() > TOLERANCE).any():
            break
    return found


def _log_mean(logarithms: Tensor) -> Tensor:
    """log mean exp over the last dimension."""
    return torch.logsumexp(logarithms, -1) - math.log(logarithms.shape[-1])
