"""Centring (Montavon & Mueller 2012; Melchior, Fischer & Wiskott 2016), for machines of any depth.

A centred machine has the energy E(x) = sum_l E_l(x_l) - sum_l (x_l - o_l)^T W_l (x_{l+1} - o_{l+1}); gradient descent on its
parameters, with the biases changed whenever the offsets move so that the distribution does not, is the same as descent on
the uncentred parameters along the transformed gradient

    g_W'   = g_W - o_l g_{b_{l+1}}^T - g_{b_l} o_{l+1}^T,        g_b_l' = g_b_l - g_W'_l o_{l+1} - g_W'_{l-1}^T o_{l-1}

So the machine that is trained carries no offsets; they live in the training alone, as running means of the data phase.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

Gradient = dict[str, Tensor]


@contextmanager
def centred(gradient: Gradient, offsets: Sequence[Tensor]) -> Iterator[None]:
    """Transform the gradient in place, for one offset (units,) per layer; without offsets it stays.

    Inside the block it is the gradient with respect to the centred machine's own parameters, and may be transformed further.
    """
    biases = [gradient[f"layers/{index}/bias"] for index in range(len(offsets))]
    plain = [bias.clone() for bias in biases]
    for index in range(len(offsets) - 1):
        lower, upper = offsets[index], offsets[index + 1]
        weights = gradient[f"weights/{index}"]
        weights.addr_(lower, plain[index + 1], alpha=-1).addr_(plain[index], upper, alpha=-1)
    yield
    for index in range(len(offsets) - 1):
        lower, upper = offsets[index], offsets[index + 1]
        weights = gradient[f"weights/{index}"]
        biases[index].addmv_(weights, upper, alpha=-1)
        biases[index + 1].addmv_(weights.mT, lower, alpha=-1)
