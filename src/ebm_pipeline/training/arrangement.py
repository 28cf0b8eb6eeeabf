"""How an RBM is trained: as it is, or as one end of a DBM to be (Salakhutdinov & Hinton 2009).

In layerwise pretraining the first RBM gets doubled bottom-up input and the last doubled top-down input, to make up for
the neighbour that each will have. A doubled RBM is a mirrored chain with tied weights: v-h-v (both copies clamped to the
data) or h-v-h (the middle clamped). In the chains both copies are drawn independently given the middle. Gradients sum over
the tied copies.
"""

from __future__ import annotations

from enum import Enum

import torch
from torch import Tensor

from ebm_pipeline.models.machine import EVEN, ODD, BoltzmannMachine, PartialStates, States
from ebm_pipeline.sampling import start_at_visible


class Arrangement(Enum):
    """PLAIN: the machine itself. MIRRORED_VISIBLE: v-h-v. MIRRORED_HIDDEN: h-v-h."""

    PLAIN = "plain"
    MIRRORED_VISIBLE = "mirrored visible"
    MIRRORED_HIDDEN = "mirrored hidden"

    def expand(self, machine: BoltzmannMachine) -> BoltzmannMachine:
        """The machine that is sampled, its weights tied to those of `machine`."""
        if self is Arrangement.PLAIN:
            return machine
        assert machine.depth == 2, "only an RBM can be mirrored"
        assert not machine.offsets, "a mirrored RBM has no offsets"
        visible, hidden = machine.layers
        (weights,) = machine.weights
        if self is Arrangement.MIRRORED_VISIBLE:
            return BoltzmannMachine((visible, hidden, visible), (weights, weights.mT))
        return BoltzmannMachine((hidden, visible, hidden), (weights.mT, weights))

    def clamp(self, depth: int, visible: Tensor) -> PartialStates:
        """States of the expanded machine with the data (samples, units) in place and None for the layers to infer."""
        if self is Arrangement.MIRRORED_VISIBLE:
            return (visible, None, visible)
        if self is Arrangement.MIRRORED_HIDDEN:
            return (None, visible, None)
        return (visible, *(None,) * (depth - 1))

    def own(self, states: States) -> States:
        """The states of the machine's own layers among those of the expanded machine."""
        if self is Arrangement.MIRRORED_VISIBLE:
            return states[:2]
        return (states[1], states[0]) if self is Arrangement.MIRRORED_HIDDEN else states

    def start(self, machine: BoltzmannMachine, visible: Tensor, generator: torch.Generator) -> States:
        """Chains of the expanded machine from visible states (chains, units), the other layers drawn given those."""
        if self is Arrangement.PLAIN:
            return start_at_visible(machine, visible, generator)
        parity = ODD if self is Arrangement.MIRRORED_VISIBLE else EVEN
        return machine.sample(self.clamp(machine.depth, visible), parity, generator)

    def collapse(self, gradient: dict[str, Tensor]) -> dict[str, Tensor]:
        """Gradient for the machine itself from that of the expanded one."""
        if self is Arrangement.PLAIN:
            return gradient
        first, second = gradient["weights/0"], gradient["weights/1"]
        outer, inner = (
            (0, 1) if self is Arrangement.MIRRORED_VISIBLE else (1, 0)
        )  # of the machine: copied, and in the middle
        collapsed = {"weights/0": first.add_(second.mT) if outer == 0 else second.add_(first.mT)}
        for name, value in gradient.items():
            kind, index, *own = name.split("/", 2)
            if kind == "layers" and index == "0":
                collapsed[f"layers/{outer}/{own[0]}"] = value + gradient[f"layers/2/{own[0]}"]
            elif kind == "layers" and index == "1":
                collapsed[f"layers/{inner}/{own[0]}"] = value
        return collapsed
