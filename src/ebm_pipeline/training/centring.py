"""Centring (Montavon & Mueller 2012; Melchior, Fischer & Wiskott 2016), for machines of any depth.

A centred machine has the energy E(x) = sum_l E_l(x_l) - sum_l (x_l - o_l)^T W_l (x_{l+1} - o_{l+1}); gradient descent on its
parameters, with the biases changed whenever the offsets move so that the distribution does not, is the same as descent on
the uncentred parameters along the transformed gradient

    g_W'   = g_W - o_l g_{b_{l+1}}^T - g_{b_l} o_{l+1}^T,        g_b_l' = g_b_l - g_W'_l o_{l+1} - g_W'_{l-1}^T o_{l-1}

So the machine that is trained carries no offsets; they live in the training alone, as running means of the data phase.

The biases follow whatever moves the weights: `subtract_outer` makes g_W', to which penalties on the weights are added, and
`follow` then makes the biases' gradient; what a constraint does to the weights is followed too (`followed`). Where they
did not follow, training would come to rest at biases whose gradient is not 0: a model without the means of its data.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

Gradient = dict[str, Tensor]


def subtract_outer(gradient: Gradient, offsets: Sequence[Tensor]) -> None:
    """The weights' gradient of the machine centred at one offset (units,) per layer, in place; without offsets it stays.

    Those of the biases are the centred machine's as they are.
    """
    for index in range(len(offsets) - 1):
        lower, upper = offsets[index], offsets[index + 1]
        below, above = gradient[f"layers/{index}/bias"], gradient[f"layers/{index + 1}/bias"]
        gradient[f"weights/{index}"].addmm_(torch.stack((lower, below)).mT, torch.stack((above, upper)), alpha=-1)


def follow(
    gradient: Gradient, offsets: Sequence[Tensor], moved: Collection[str], rates: Mapping[str, float] | None = None
) -> None:
    """The biases' gradient of the uncentred machine from all of the centred one's, in place; `moved` names what is trained.

    rates: of parameters that learn at another rate than the biases below and above them, relative to the others'.
    """
    own = rates or {}
    for index in range(len(offsets) - 1):
        if (name := f"weights/{index}") in moved:
            biases = [f"layers/{index + offset}/bias" for offset in (0, 1)]
            below, above = (gradient[bias] for bias in biases)
            factors = [own.get(name, 1.0) / own.get(bias, 1.0) for bias in biases]
            _add(below, above, gradient[name], offsets, index, factors)


@contextmanager
def followed(
    tensors: Mapping[str, Tensor], name: str, offsets: Sequence[Tensor], moved: Collection[str]
) -> Iterator[Tensor]:
    """The parameter `name`, to be changed in place; of weights that are centred the biases that are trained then follow."""
    kind, index, *_ = name.split("/")
    parameter = tensors[name].data
    before = parameter.clone() if kind == "weights" and offsets else None
    yield parameter
    if before is not None:
        names = (f"layers/{index}/bias", f"layers/{int(index) + 1}/bias")
        below, above = (tensors[bias].data if bias in moved else None for bias in names)
        _add(below, above, parameter - before, offsets, int(index))


def _add(
    below: Tensor | None,
    above: Tensor | None,
    weights: Tensor,
    offsets: Sequence[Tensor],
    index: int,
    factors: Sequence[float] = (1.0, 1.0),
) -> None:
    if below is not None:
        below.addmv_(weights, offsets[index + 1], alpha=-factors[0])
    if above is not None:
        above.addmv_(weights.mT, offsets[index], alpha=-factors[1])
