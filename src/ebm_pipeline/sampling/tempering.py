"""Parallel tempering (Swendsen & Wang 1986; Geyer 1991; for RBMs Desjardins et al. 2010).

Replica k samples (1 - beta_k) E_base + beta_k E, from beta_0 = 0, a base without couplings whose visible units have the
data mean, to beta = 1, the machine. After each sweep neighbours exchange their states, even and odd pairs in turn, with
the odd layers summed out of the acceptance,

    min(1, exp[F_k(x_k) + F_{k+1}(x_{k+1}) - F_k(x_{k+1}) - F_{k+1}(x_k)]),        x: even layers

and drawn anew afterwards. That leaves the joint distribution of the replicas as it is, and accepts more than energies would.
The rungs are placed where all pairs reject equally often: the cumulative rejection rate as a function of beta is cut into
equal parts (Syed et al. 2022, section 5.1).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ebm_pipeline.models.machine import EVEN, ODD, BoltzmannMachine, PartialStates, States
from ebm_pipeline.sampling.base import Info
from ebm_pipeline.support.errors import UserError, check_memory, check_whole

MEMORY = 0.1  # weight of the newest in the running means of the acceptance
PLACING_PERIOD = 50  # sweeps between two placements: the running means have forgotten the rungs before
HALF_WAY = 0.5  # of each move of the rungs: damped, since the rates are noisy
NEW, DOWN, UP = 0.0, 1.0, 2.0  # a walker before it first was the coldest; on its way to the hottest; on its way back


class Replicas(NamedTuple):
    """Replicas of a machine at rising inverse temperatures, the machine itself last."""

    states: States  # (replicas, chains, units), one per layer
    base: States  # biases (units,) of the base, one per layer
    betas: Tensor  # (replicas,), rising from 0 to 1
    walkers: Tensor  # (replicas, chains): NEW, DOWN or UP
    rates: Tensor  # (replicas - 1,): running means of the acceptance between neighbours
    counts: Tensor  # (2,): sweeps so far; round trips in the last step

    @property
    def samples(self) -> States:
        """The coldest replica: states (chains, units), one per layer."""
        return tuple(state[-1] for state in self.states)

    def completed(self, samples: States) -> Replicas:
        """The replicas as they are: `step` draws the odd layers of every one of them itself."""
        return self

    def info(self) -> Info:
        """sampler/swap_rate_k between replicas k - 1 and k, from the hottest; round trips in the last step, per chain."""
        rates = {f"sampler/swap_rate_{index}": rate for index, rate in enumerate(self.rates.unbind(), start=1)}
        return rates | {"sampler/round_trips": self.counts[1] / self.walkers.shape[1]}


@dataclass(frozen=True)
class ParallelTempering:
    """`steps` sweeps with exchanges per call of `step`, each of `replicas` replicas.

    The rungs are placed anew for the first `warm_up` sweeps; None: always, for a machine in training, which never stands
    still. Samples count from the end of the warm-up.
    """

    steps: int = 1
    replicas: int = 10
    warm_up: int | None = None

    def __post_init__(self) -> None:
        check_whole("sampler.steps", self.steps, 1)
        check_whole("sampler.replicas", self.replicas, 2)
        if self.warm_up is not None:
            check_whole("sampler.warm_up, if not null,", self.warm_up, 0)

    def init(self, machine: BoltzmannMachine, states: States, means: PartialStates) -> Replicas:
        """Replicas that all start at `states` (chains, units), on even rungs."""
        machine.check_units(states)
        machine.check_units(means)
        bias = machine.layers[0].bias
        check_memory(
            f"sampler.replicas={self.replicas} replicas of {len(states[0])} chains",
            12 * self.replicas * sum(state.numel() for state in states),
        )
        return Replicas(
            states=tuple(state.expand(self.replicas, *state.shape).clone() for state in states),
            base=tuple(
                torch.zeros_like(layer.bias) if mean is None else layer.bias_for_mean(mean)
                for layer, mean in zip(machine.layers, means, strict=True)
            ),
            betas=torch.linspace(0, 1, self.replicas, dtype=bias.dtype, device=bias.device),
            walkers=bias.new_full((self.replicas, len(states[0])), NEW),
            rates=bias.new_full((self.replicas - 1,), 0.5),
            counts=bias.new_zeros(2),
        )

    def step(
        self,
        machine: BoltzmannMachine,
        state: Replicas,
        generator: torch.Generator | None,
        clamped: Collection[int] = (),
        *,
        finish: bool = True,
    ) -> tuple[Replicas, Info]:
        """Replicas after `steps` sweeps with exchanges. Clamped layers stay; only even ones can be clamped.

        The odd layers are not read, but drawn from the even ones first; finish=False leaves old ones in their place.
        """
        if any(index % 2 == ODD for index in clamped):
            raise UserError("parallel tempering sums the odd layers out and cannot clamp them: use sampler=gibbs")
        replicas = state._replace(  # these are changed in place below
            walkers=state.walkers.clone(), counts=state.counts.clone()
        )
        replicas.counts[1] = 0
        for _ in range(self.steps):
            hot = tempered(machine, replicas, replicas.betas)
            states = hot.sample(replicas.states, ODD, generator, clamped)
            states = hot.sample(states, EVEN, generator, clamped)
            replicas = exchange(machine, replicas._replace(states=states), generator)
            replicas.counts[0] += 1
            due = replicas.counts[0] % PLACING_PERIOD == 0  # numbers stay where they are: no device is waited for
            if self.warm_up is not None:
                due = due & (replicas.counts[0] <= self.warm_up)
            replicas = replicas._replace(betas=torch.where(due, placed(replicas.betas, replicas.rates), replicas.betas))
        if finish:
            states = tempered(machine, replicas, replicas.betas).sample(replicas.states, ODD, generator, clamped)
            replicas = replicas._replace(states=states)
        return replicas, replicas.info()


def tempered(machine: BoltzmannMachine, replicas: Replicas, betas: Tensor) -> BoltzmannMachine:
    """The replicas' machines at inverse temperatures (replicas,), as one that steps on (replicas, chains, units)."""
    beta = betas.to(machine.weights[0].dtype)[:, None, None]  # or the inputs would leave the dtype of the products
    layers = [
        layer.annealed(beta, layer.with_tensors(bias=bias))
        for layer, bias in zip(machine.layers, replicas.base, strict=True)
    ]
    return replace(machine, layers=tuple(layers), scale=beta * machine.scale)


def exchange(machine: BoltzmannMachine, replicas: Replicas, generator: torch.Generator | None) -> Replicas:
    """One round of exchanges: pairs (0, 1), (2, 3), ... or (1, 2), (3, 4), ..., by the number of sweeps so far."""
    count = len(replicas.walkers)
    index = torch.arange(count, device=replicas.betas.device)
    lower = (index % 2 == replicas.counts[0] % 2) & (index < count - 1)  # of a pair
    partner = index + lower.long() - lower.roll(1).long()  # of a replica that has none: itself

    own = tempered(machine, replicas, replicas.betas).free_energy(replicas.states)
    other = tempered(machine, replicas, replicas.betas[partner]).free_energy(replicas.states)
    change = own - other
    log_ratio = change + change[partner]  # (replicas, chains), the same for both of a pair
    uniform = torch.rand(log_ratio.shape, generator=generator, dtype=log_ratio.dtype, device=log_ratio.device)
    accepted = uniform[torch.minimum(index, partner)].log() < log_ratio

    source = torch.where(accepted, partner[:, None], index[:, None])  # which replica each state comes from
    states = tuple(state.gather(0, source[..., None].expand_as(state)) for state in replicas.states)
    seen = log_ratio.clamp(max=0).exp().mean(1)[:-1].to(replicas.rates.dtype)
    rates = torch.where(lower[:-1], torch.lerp(replicas.rates, seen, MEMORY), replicas.rates)
    walkers = replicas.walkers.gather(0, source)
    replicas.counts[1] += (walkers[-1] == UP).sum()
    walkers[-1] = DOWN
    walkers[0] = torch.where(walkers[0] == DOWN, UP, walkers[0])
    return replicas._replace(states=states, walkers=walkers, rates=rates)


def placed(betas: Tensor, rates: Tensor) -> Tensor:
    """Rungs (replicas,) moved half way to where each pair would reject equally often, given the pairs' acceptance."""
    rejection = (1 - rates).clamp(min=1e-3)  # a pair that always accepts still has a length
    length = torch.cat((rejection.new_zeros(1), rejection.cumsum(0)))
    wanted = torch.linspace(0, 1, len(betas), dtype=betas.dtype, device=betas.device)[1:-1] * length[-1]
    right = torch.searchsorted(length, wanted).clamp(1, len(betas) - 1)
    share = (wanted - length[right - 1]) / (length[right] - length[right - 1])
    inner = torch.lerp(betas[right - 1], betas[right], share)
    return torch.cat((betas[:1], torch.lerp(betas[1:-1], inner, HALF_WAY), betas[-1:]))
