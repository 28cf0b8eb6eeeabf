"""What a layer does with the field ("inputs") that its neighbours send.

A layer of independent units x with the energy E(x) = E_0(x) - bias . x answers to inputs I, from
p(x | I) = exp(-E(x) + I . x - log_partition(I)), with the four functions of this contract. Everything else in the
package follows from them. The bias acts like a constant input, so that d E / d bias = -x for every kind of unit. A layer
with further parameters to learn gives their gradient (`further_gradient`); where it is not linear in the state, as for a
variance, a conditional mean may not stand for the state (`linear`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from ebm_pipeline.models.layers.states import cure
from ebm_pipeline.support.errors import UserError, check_whole

MOST_UNITS = 10**6


def positive_units(units: int) -> int:
    """Check the number of units of a layer that a configuration names."""
    check_whole("units of a layer", units, 1, MOST_UNITS)
    return units


@dataclass(frozen=True, eq=False)
class Layer:
    """Parameters of a layer; each is a tensor (units,), or (replicas, 1, units) for replicas that step together.

    Fields that are no tensors are settings, such as a number of categories.
    """

    kind: ClassVar[str]
    binary: ClassVar[bool] = False  # independent states in {0, 1}
    needs: ClassVar[str] = "finite numbers"  # what its states are

    bias: Tensor

    @property
    def fixed(self) -> tuple[str, ...]:
        """Names of the parameters that training leaves alone."""
        return ()

    @property
    def learned_variances(self) -> dict[str, slice]:
        """Names of the variances that training moves, and which units they are of; training holds NAME >= NAME_floor."""
        return {}

    @property
    def linear(self) -> bool:
        """Whether the energy's gradient is linear in the state, so that a conditional mean may stand for it."""
        return not self.learned_variances

    @property
    def units(self) -> int:
        return self.bias.shape[-1]

    def named_tensors(self) -> dict[str, Tensor]:
        """The parameters by field name."""
        return {name: value for name, value in self._values().items() if isinstance(value, Tensor)}

    def settings(self) -> dict[str, object]:
        """What the layer is made with beside its parameters, by field name."""
        return {name: value for name, value in self._values().items() if not isinstance(value, Tensor)}

    def _values(self) -> dict[str, object]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def with_tensors(self, **tensors: Tensor) -> Self:
        """The same layer with some parameters replaced."""
        return replace(self, **tensors)

    def sites(self) -> list[Tensor] | None:
        """The states (states, units of the site), float64, of each independent site in turn; None for continuous units."""
        return None

    def holds(self, images: Tensor) -> bool:
        """Whether `images` (samples, units) are states of this layer: what `needs` says."""
        return bool(images.isfinite().all())

    def check_data(self, images: Tensor, what: str = "the images") -> None:
        """Raise UserError, which says what fits, unless `images` (samples, units), called `what`, are states of this layer."""
        if images.shape[-1] != self.units:
            raise UserError(
                f"{what} have {images.shape[-1]} columns, and the layer has {self.units} units: give as many"
            )
        if not self.holds(images):
            raise UserError(
                f"{self.kind.replace('_', ' ')} units need data of {self.needs}; {what} hold {cure(self.kind, images)}"
            )

    def energy(self, x: Tensor) -> Tensor:
        """E(x): (..., units) -> (...)."""
        raise NotImplementedError

    def further_gradient(self, states: Tensor, sample_weights: Tensor) -> dict[str, Tensor]:
        """Gradient of sum_s sample_weights_s E(x_s) by name, but for the bias, whose is -sample_weights . states.

        states (samples, units), sample_weights (samples,); nothing for parameters that are fixed.
        """
        return {}

    def log_partition(self, inputs: Tensor) -> Tensor:
        """log sum_x exp(-E(x) + inputs . x), an integral for continuous units: (..., units) -> (...)."""
        raise NotImplementedError

    def mean(self, inputs: Tensor) -> Tensor:
        """Conditional mean, d log_partition / d inputs: (..., units) -> (..., units), of the inputs' dtype."""
        raise NotImplementedError

    def mode(self, inputs: Tensor) -> Tensor:
        """Most probable state given the inputs: (..., units) -> (..., units)."""
        raise NotImplementedError

    def sample(self, inputs: Tensor, generator: torch.Generator | None) -> Tensor:
        """A draw given the inputs: (..., units) -> (..., units), of the inputs' dtype."""
        raise NotImplementedError

    def bias_for_mean(self, mean: Tensor) -> Tensor:
        """The bias (units,) at which the layer alone, without inputs, has this mean (clipped to what it can have)."""
        raise NotImplementedError

    def fitted(self, states: Tensor) -> Self:
        """The layer that alone, without inputs, has the mean of `states` (samples, units); Gaussian units their variance too."""
        return self.with_tensors(bias=self.bias_for_mean(states.mean(0)))

    def of_data(self, images: Tensor) -> Self:
        """The layer that alone describes `images` (count, units) best, every parameter of it fitted: the same for any layer of
        its kind, whatever its parameters were.
        """
        return self.fitted(images)

    def within(self, variance: Tensor) -> Self:
        """The layer with its learned variances at most `variance` (units,), and at least their floors."""
        return self

    def annealed(self, beta: float | Tensor, base: Self) -> Self:
        """The layer with the energy (1 - beta) E_base(x) + beta E(x); beta a number or (replicas, 1, 1)."""
        raise NotImplementedError

    def anneal_step(
        self, field: Tensor, scale: float, earlier: Self, earlier_scale: float, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """log_partition(scale * field) minus earlier.log_partition(earlier_scale * field), and a draw given scale * field.

        field (..., units) -> (...), (..., units). What annealing asks of a layer that is summed out; a layer in which the two
        share work does them in one.
        """
        inputs = scale * field
        change = self.log_partition(inputs) - earlier.log_partition(earlier_scale * field)
        return change, self.sample(inputs, generator)
