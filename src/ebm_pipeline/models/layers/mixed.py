"""A layer made of parts of several kinds, side by side: an image of Bernoulli pixels and a label of one Potts site, say.

E(x) = sum_p E_p(x_p), x = (x_1, x_2, ...). The bias is one tensor of all units; the other parameters of part p have the
names parts/p/....
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import ClassVar, Self

import torch
from torch import Tensor

from ebm_pipeline.models.layers.base import Layer
from ebm_pipeline.support.errors import UserError


@dataclass(frozen=True, eq=False)
class Mixed(Layer):
    """Parameters bias (units,) and those of the parts; the biases that the parts themselves hold are not read."""

    kind: ClassVar[str] = "mixed"

    parts: tuple[Layer, ...]

    @classmethod
    def create(cls, parts: Mapping[str, Layer]) -> Mixed:
        """Parts from the first units on, by names that only the configuration uses."""
        if not parts:
            raise UserError("a mixed layer needs at least one part; got none")
        layers = tuple(parts.values())
        return cls(bias=torch.cat([part.bias for part in layers]), parts=layers)

    def _slices(self) -> list[slice]:
        ends = accumulate((part.units for part in self.parts), initial=0)
        return [slice(start, end) for start, end in pairwise(ends)]

    def _layers(self) -> list[tuple[slice, Layer]]:
        """Each part with its share of the bias, and where its units are."""
        return [
            (where, part.with_tensors(bias=self.bias[..., where]))
            for where, part in zip(self._slices(), self.parts, strict=True)
        ]

    def without_last_part(self) -> Layer:
        """The layer of all parts but the last, with their share of the bias; of one part it is that part itself."""
        layers = tuple(layer for _, layer in self._layers()[:-1])
        if len(layers) == 1:
            return layers[0]
        return replace(self, bias=torch.cat([layer.bias for layer in layers], -1), parts=layers)

    def _joined(self, function: Callable[[Layer, Tensor], Tensor], x: Tensor) -> Tensor:
        return torch.cat([function(layer, x[..., where]) for where, layer in self._layers()], -1)

    def _summed(self, function: Callable[[Layer, Tensor], Tensor], x: Tensor) -> Tensor:
        return torch.stack([function(layer, x[..., where]) for where, layer in self._layers()]).sum(0)

    @property
    def fixed(self) -> tuple[str, ...]:
        return tuple(f"parts/{index}/{name}" for index, part in enumerate(self.parts) for name in part.fixed)

    @property
    def learned_variances(self) -> dict[str, slice]:
        return {
            f"parts/{index}/{name}": slice(where.start + own.start, where.start + own.stop)
            for index, (where, part) in enumerate(zip(self._slices(), self.parts, strict=True))
            for name, own in part.learned_variances.items()
        }

    def named_tensors(self) -> dict[str, Tensor]:
        further = {
            f"parts/{index}/{name}": tensor
            for index, part in enumerate(self.parts)
            for name, tensor in part.named_tensors().items()
            if name != "bias"
        }
        return {"bias": self.bias, **further}

    def with_tensors(self, **tensors: Tensor) -> Self:
        parts = []
        for index, part in enumerate(self.parts):
            prefix = f"parts/{index}/"
            own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            parts.append(part.with_tensors(**own))
        return replace(self, bias=tensors.get("bias", self.bias), parts=tuple(parts))

    def sites(self) -> list[Tensor] | None:
        sites: list[Tensor] = []
        for part in self.parts:
            own = part.sites()
            if own is None:
                return None
            sites += own
        return sites

    def energy(self, x: Tensor) -> Tensor:
        return self._summed(lambda layer, own: layer.energy(own), x)

    def further_gradient(self, states: Tensor, sample_weights: Tensor) -> dict[str, Tensor]:
        return {
            f"parts/{index}/{name}": gradient
            for index, (where, layer) in enumerate(self._layers())
            for name, gradient in layer.further_gradient(states[..., where], sample_weights).items()
        }

    def log_partition(self, inputs: Tensor) -> Tensor:
        return self._summed(lambda layer, own: layer.log_partition(own), inputs)

    def mean(self, inputs: Tensor) -> Tensor:
        return self._joined(lambda layer, own: layer.mean(own), inputs)

    def mode(self, inputs: Tensor) -> Tensor:
        return self._joined(lambda layer, own: layer.mode(own), inputs)

    def sample(self, inputs: Tensor, generator: torch.Generator | None) -> Tensor:
        return self._joined(lambda layer, own: layer.sample(own, generator), inputs)

    def bias_for_mean(self, mean: Tensor) -> Tensor:
        return self._joined(lambda layer, own: layer.bias_for_mean(own), mean)

    def fitted(self, states: Tensor) -> Self:
        return self._of([layer.fitted(states[..., where]) for where, layer in self._layers()])

    def of_data(self, images: Tensor) -> Self:
        return self._of([layer.of_data(images[..., where]) for where, layer in self._layers()])

    def annealed(self, beta: float | Tensor, base: Self) -> Self:
        return self._of(
            [layer.annealed(beta, other) for (_, layer), (_, other) in zip(self._layers(), base._layers(), strict=True)]
        )

    def _of(self, parts: Sequence[Layer]) -> Self:
        return replace(self, bias=torch.cat([part.bias for part in parts], -1), parts=tuple(parts))

    def holds(self, images: Tensor) -> bool:
        return all(layer.holds(images[..., where]) for where, layer in self._layers())

    def check_data(self, images: Tensor, what: str = "the images") -> None:
        for where, layer in self._layers():
            layer.check_data(images[..., where], what)
