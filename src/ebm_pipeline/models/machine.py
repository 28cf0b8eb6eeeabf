"""One machine for the family: a chain of layers of independent units.

    E(x) = sum_l E_l(x_l) - scale * sum_l (x_l - o_l)^T W_l (x_{l+1} - o_{l+1})

with offsets o_l (zero unless centring: Montavon & Mueller 2012) and scale 1 (other values: annealing). Hopfield network
(Bernoulli-Gaussian), RBM, Gaussian RBM and DBM (Salakhutdinov & Hinton 2009) differ only in their layers.

Given the layers of even index those of odd index are independent, and the other way round. So a machine of any depth
can be sampled in two half steps, and one parity can be summed out:

    F(x_even) = sum_even E_l(x_l) + sum_odd [o_l . I_l - log_partition_l(I_l)],    I_l: inputs, from x - o of the neighbours

States are tuples with one tensor (..., units) per layer; None stands for a layer that a function does not read.
A machine is immutable; training holds its tensors as parameters and makes a machine of them for each step.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ebm_pipeline.models.layers import Layer
from ebm_pipeline.models.numerics import thin_products
from ebm_pipeline.support.errors import UserError

States = tuple[Tensor, ...]
PartialStates = Sequence[Tensor | None]

EVEN, ODD = 0, 1


@dataclass(frozen=True, eq=False)
class BoltzmannMachine:
    """Layers, the weights between neighbours (lower units, upper units) and, when centred, an offset (units,) per layer."""

    layers: tuple[Layer, ...]
    weights: tuple[Tensor, ...]
    offsets: tuple[Tensor, ...] = ()
    scale: float | Tensor = 1.0  # (replicas, 1, 1) for replicas at several temperatures

    @property
    def depth(self) -> int:
        """Number of layers, the visible one included."""
        return len(self.layers)

    def __repr__(self) -> str:
        """Such as `BoltzmannMachine(784 bernoulli - 200 bernoulli)`."""
        return f"BoltzmannMachine({' - '.join(f'{layer.units} {layer.kind}' for layer in self.layers)})"

    def parity(self, parity: int) -> range:
        """Indices of the even (0) or odd (1) layers."""
        return range(parity, self.depth, 2)

    # ---------------------------------------------------------------- parameters

    def named_tensors(self) -> dict[str, Tensor]:
        """Every parameter by name: weights/0, weights/1, ..., layers/0/bias, ..."""
        tensors = {f"weights/{index}": weights for index, weights in enumerate(self.weights)}
        for index, layer in enumerate(self.layers):
            tensors |= {f"layers/{index}/{name}": tensor for name, tensor in layer.named_tensors().items()}
        return tensors

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> BoltzmannMachine:
        """The machine with every named parameter taken from `tensors` (a name that is missing keeps its value)."""
        layers = tuple(
            layer.with_tensors(
                **{name: tensors.get(f"layers/{index}/{name}", value) for name, value in layer.named_tensors().items()}
            )
            for index, layer in enumerate(self.layers)
        )
        weights = tuple(tensors.get(f"weights/{index}", value) for index, value in enumerate(self.weights))
        return replace(self, layers=layers, weights=weights)

    def map(self, function: Callable[[Tensor], Tensor]) -> BoltzmannMachine:
        """The machine with `function` applied to every tensor: detach, move, change the dtype."""
        machine = self.with_tensors({name: function(tensor) for name, tensor in self.named_tensors().items()})
        return replace(machine, offsets=tuple(function(offset) for offset in self.offsets))

    def with_products_in(self, dtype: torch.dtype) -> BoltzmannMachine:
        """The machine with weights of this dtype, so that the matrix products run in it; biases stay as they are."""
        return replace(self, weights=tuple(weights.to(dtype) for weights in self.weights))

    def folded(self) -> BoltzmannMachine:
        """The same distribution without offsets: b_l - W_l o_{l+1} - o_{l-1} W_{l-1} takes the place of the bias b_l.

        The energies of the two differ by the constant sum_l o_l^T W_l o_{l+1}.
        """
        if not self.offsets:
            return self
        layers = []
        for index, layer in enumerate(self.layers):
            shift = torch.zeros_like(layer.bias)
            if index > 0:
                shift = shift + self.offsets[index - 1] @ self.weights[index - 1]
            if index < self.depth - 1:
                shift = shift + self.weights[index] @ self.offsets[index + 1]
            layers.append(layer.with_tensors(bias=layer.bias - self.scale * shift))
        return replace(self, layers=tuple(layers), offsets=())

    # ---------------------------------------------------------------- energies

    def check_states(self, states: PartialStates) -> None:
        """Raise UserError unless `states` has one tensor (..., units), or None, for each layer.

        A tensor alone would be taken for a tuple of its rows.
        """
        given: Any = states  # a tensor is no sequence to a type checker
        if isinstance(given, Tensor) or len(given) != self.depth:
            came = f"a tensor {tuple(given.shape)}" if isinstance(given, Tensor) else f"{len(given)} of them"
            example = "(" + ", ".join(["visible", *["None"] * (self.depth - 1)]) + ")"
            raise UserError(
                f"{self!r} takes states as a tuple of {self.depth} tensors (..., units), one per layer, such as {example} where "
                f"the others are not read; got {came}"
            )

    def check_units(self, states: PartialStates) -> None:
        """As `check_states`, and raise UserError for a state of another number of units than its layer has."""
        self.check_states(states)
        for index, (state, layer) in enumerate(zip(states, self.layers, strict=True)):
            if state is not None and (state.dim() == 0 or state.shape[-1] != layer.units):
                raise UserError(
                    f"layer {index} of {self!r} has {layer.units} units: expected a state (..., {layer.units}); got "
                    f"{tuple(state.shape)}"
                )

    def _centred(self, states: PartialStates, index: int) -> Tensor:
        state = states[index]
        assert state is not None, f"layer {index} is read but not given"
        return state - self.offsets[index] if self.offsets else state

    def inputs(self, states: PartialStates, index: int) -> Tensor:
        """Field (..., units) that the neighbours of layer `index` send to it; a neighbour that is None sends nothing."""
        self.check_states(states)
        total: Tensor | None = None
        if index > 0 and states[index - 1] is not None:
            total = self._centred(states, index - 1) @ self.weights[index - 1]
        if index < self.depth - 1 and states[index + 1] is not None:
            above = self._centred(states, index + 1) @ self.weights[index].mT
            total = above if total is None else total + above
        if total is None:
            return torch.zeros_like(self.layers[index].bias, dtype=self.weights[max(index - 1, 0)].dtype)
        return total if isinstance(self.scale, float) and self.scale == 1.0 else self.scale * total

    def energy(self, states: States) -> Tensor:
        """E(x): one tensor (..., units) per layer -> (...)."""
        self.check_units(states)
        total = sum((layer.energy(x) for layer, x in zip(self.layers, states, strict=True)), torch.zeros(()))
        for index in self.parity(ODD):
            total = total - (self.inputs(states, index) * self._centred(states, index)).sum(-1)
        return total

    def free_energy(self, states: PartialStates, summed: int = ODD) -> Tensor:
        """-log sum exp(-E) over the layers of parity `summed`, given the others: (..., units) each -> (...)."""
        self.check_units(states)
        total = torch.zeros(())
        for index in self.parity(1 - summed):
            state = states[index]
            assert state is not None, f"layer {index} is read but not given"
            total = total + self.layers[index].energy(state)
        for index in self.parity(summed):
            inputs = self.inputs(states, index)
            total = total - self.layers[index].log_partition(inputs)
            if self.offsets:
                total = total + inputs @ self.offsets[index]
        return total

    def energy_gradient(self, states: States, sample_weights: Tensor) -> dict[str, Tensor]:
        """Gradient of sum_s sample_weights_s E(x_s) with the states held fixed, by parameter name.

        d E / d W_l = -(x_l - o_l)^T (x_{l+1} - o_{l+1}) and d E / d b_l = -x_l; further ones are the layers' own. Where those
        are linear in the state (`Layer.linear`), conditional means may stand for the states of layers that are no neighbours
        of each other. With weights 1/n on data and -1/m on chains this is the gradient of -log p. States (samples, units),
        sample_weights (samples,).
        """
        self.check_states(states)
        dtype = self.layers[0].bias.dtype
        sample_weights = sample_weights.to(states[0].dtype)
        negative = -sample_weights
        weighted = {index: states[index] * negative[:, None] for index in self.parity(ODD)}
        with thin_products():
            sums = [
                weighted[index].sum(0, dtype=dtype) if index in weighted else (negative @ states[index]).to(dtype)
                for index in range(self.depth)
            ]
        gradient = {f"layers/{index}/bias": total for index, total in enumerate(sums)}
        for index, layer in enumerate(self.layers):
            further = layer.further_gradient(states[index], sample_weights)
            gradient |= {f"layers/{index}/{name}": value for name, value in further.items()}
        for index in range(self.depth - 1):
            odd, even = (index, index + 1) if index % 2 else (index + 1, index)
            product = (weighted[odd].mT @ states[even]) if index == odd else (states[even].mT @ weighted[odd])
            product = product.to(dtype)
            if self.offsets:
                lower, upper = self.offsets[index], self.offsets[index + 1]
                upper_sum = sums[index + 1] - negative.sum(dtype=dtype) * upper
                product.addr_(lower, upper_sum, alpha=-1).addr_(sums[index], upper, alpha=-1)
            gradient[f"weights/{index}"] = product
        return gradient

    # ---------------------------------------------------------------- conditionals

    def _update(
        self, states: PartialStates, parity: int, clamped: Collection[int], rule: Callable[[Layer, Tensor], Tensor]
    ) -> States:
        self.check_states(states)
        fresh = [
            rule(layer, self.inputs(states, index)) if index % 2 == parity and index not in clamped else states[index]
            for index, layer in enumerate(self.layers)
        ]
        complete = tuple(state for state in fresh if state is not None)
        assert len(complete) == self.depth, "a layer of the other parity is not given"
        return complete

    def sample(
        self, states: PartialStates, parity: int, generator: torch.Generator | None, clamped: Collection[int] = ()
    ) -> States:
        """Draw the layers of one parity given the others; clamped layers stay."""
        return self._update(states, parity, clamped, lambda layer, inputs: layer.sample(inputs, generator))

    def mean(self, states: PartialStates, parity: int, clamped: Collection[int] = ()) -> States:
        """Conditional means of the layers of one parity in place of their states; clamped layers stay."""
        return self._update(states, parity, clamped, lambda layer, inputs: layer.mean(inputs))

    # ---------------------------------------------------------------- other machines

    def annealed(self, beta: float | Tensor, base: BoltzmannMachine) -> BoltzmannMachine:
        """The machine with the energy (1 - beta) E_base + beta E, for a base without couplings.

        beta is a number, or (replicas, 1, 1) for machines that step together on states (replicas, chains, units).
        """
        assert not any(weights.any() for weights in base.weights), "the base of an annealing has couplings"
        layers = tuple(layer.annealed(beta, other) for layer, other in zip(self.layers, base.layers, strict=True))
        return replace(self, layers=layers, scale=beta * self.scale)

    def independent(self, visible_mean: Tensor | None = None) -> BoltzmannMachine:
        """A machine without couplings and of zero bias, but for visible units that have this mean (units,)."""
        layers = [layer.with_tensors(bias=torch.zeros_like(layer.bias)) for layer in self.layers]
        if visible_mean is not None:
            layers[0] = layers[0].with_tensors(bias=self.layers[0].bias_for_mean(visible_mean))
        return replace(self, layers=tuple(layers), weights=tuple(torch.zeros_like(w) for w in self.weights))

    def fitted(self, states: States) -> BoltzmannMachine:
        """A machine without couplings in which each layer has the moments of its `states` (samples, units); for no offsets."""
        assert not self.offsets, "fold the offsets first"
        self.check_units(states)
        layers = tuple(layer.fitted(state) for layer, state in zip(self.layers, states, strict=True))
        return replace(self.independent(), layers=layers)

    def given_visible(self, visible: Tensor) -> BoltzmannMachine:
        """The machine of the hidden layers alone, one replica per row of `visible` (images, units); for no offsets.

        Its energy is that of the whole machine less E_0(v); its states are (images, chains, units).
        """
        assert not self.offsets, "fold the offsets first"
        inputs = self.inputs((visible, *(None,) * (self.depth - 1)), 1)
        first = self.layers[1].with_tensors(bias=self.layers[1].bias + inputs[:, None])
        return replace(self, layers=(first, *self.layers[2:]), weights=self.weights[1:])


def assemble(layers: Sequence[Layer], weights: Sequence[Tensor]) -> BoltzmannMachine:
    """A machine of these layers and weights, their shapes checked."""
    if len(layers) < 2:
        raise UserError(f"a machine needs at least two layers, visible and hidden; got {len(layers)}")
    if len(weights) != len(layers) - 1:
        raise UserError(f"{len(layers)} layers need {len(layers) - 1} weight matrices; got {len(weights)}")
    for index, matrix in enumerate(weights):
        expected = (layers[index].units, layers[index + 1].units)
        if tuple(matrix.shape) != expected:
            raise UserError(
                f"weights/{index} join {expected[0]} to {expected[1]} units; got a matrix {tuple(matrix.shape)}"
            )
    return BoltzmannMachine(tuple(layers), tuple(weights))
