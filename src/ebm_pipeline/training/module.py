"""One Lightning module for every machine: manual optimization with gradients that the objective makes.

It only wires. The parameters are those of the machine by name; chains are buffers, so that a checkpoint holds them; the
generator that draws everything is owned here and saved too. Where several processes train one machine, each has its own
share of the chains and its own generator, and a checkpoint holds those of all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from ebm_pipeline.errors import DivergedError, UserError, check_memory, check_number, check_whole
from ebm_pipeline.evaluation.metrics import MonitoredImages, monitor, monitor_clamped
from ebm_pipeline.inference import MeanField
from ebm_pipeline.machine import BoltzmannMachine, States
from ebm_pipeline.objectives import Objective
from ebm_pipeline.samplers import visible_at_mean
from ebm_pipeline.training import processes
from ebm_pipeline.training.arrangement import Arrangement
from ebm_pipeline.training.centring import centre
from ebm_pipeline.training.constraints import Constraint, step_size
from ebm_pipeline.training.penalties import Penalty, check_names
from ebm_pipeline.training.precision import precision_scaled

PRODUCT_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Encoder = Callable[[Tensor], Tensor]
CHAIN_BYTES = 12  # of a unit of a chain: its state, the next one and what it is drawn from


@dataclass(frozen=True)
class Recipe:
    """How a machine is trained."""

    objective: Objective
    mean_field: MeanField
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]
    scheduler: Callable[[Optimizer], LRScheduler]
    chains: int = 100  # of all processes together
    products: str = "float32"  # type of the matrix products; parameters and sums stay float32
    centring: float | None = None  # rate of the offsets' running means; None trains without centring
    average_from: int | None = None  # how many updates stand before those whose parameters are averaged; None: no mean
    variance_rate: float = 1.0  # learning rate of the logarithms of learned variances, times the optimizer's
    seed: int = 0
    penalties: Sequence[Penalty] = field(default_factory=tuple)
    constraints: Sequence[Constraint] = field(default_factory=tuple)  # after each step or epoch, in this order
    fixed: Sequence[str] = field(default_factory=tuple)  # names of parameters that training leaves alone

    def __post_init__(self) -> None:
        check_whole("training.chains", self.chains, 1)
        if self.centring is not None:
            check_number("training.centring, if not null,", self.centring, 0, 1, open_low=True)
        check_number("training.variance_rate", self.variance_rate, 0, 1)
        if self.products not in PRODUCT_TYPES:
            raise UserError(f"training.products must be one of {', '.join(PRODUCT_TYPES)}; got {self.products!r}")


class BoltzmannTraining(pl.LightningModule):
    """Trains `machine` by `recipe`; `encode` brings a batch of data to the machine's visible layer (pretraining)."""

    def __init__(
        self,
        machine: BoltzmannMachine,
        recipe: Recipe,
        visible_mean: Tensor,
        monitored: MonitoredImages,
        arrangement: Arrangement = Arrangement.PLAIN,
        encode: Encoder | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.recipe = recipe
        self.arrangement = arrangement
        self.encode = encode
        self.monitored = monitored
        self.product_type = PRODUCT_TYPES[recipe.products]
        check_names("model.fixed", recipe.fixed, machine)
        for penalty in recipe.penalties:
            penalty.check(machine)
        for constraint in recipe.constraints:
            check_names(f"the constraint {constraint.name}", constraint.parameters, machine)
            for name in constraint.parameters:
                constraint.check(name, machine.named_tensors()[name])
        if self.product_type != torch.float32 and not all(layer.binary for layer in machine.layers):
            raise UserError(f"products={recipe.products} needs a model of binary units only: set products=float32")

        self.template = machine
        self.trained = self._trainable(machine)
        self.tensors = nn.ParameterDict(
            {
                name: nn.Parameter(tensor.clone(), requires_grad=name in self.trained)
                for name, tensor in machine.named_tensors().items()
            }
        )
        self.variance_names = [
            f"layers/{index}/{name}" for index, layer in enumerate(machine.layers) for name in layer.learned_variances
        ]
        for name in set(self.variance_names) & set(recipe.fixed):
            raise UserError(
                f"model.fixed names {name}, which this layer learns: take ebm_pipeline.layers.Gaussian for it"
            )
        self.generator = torch.Generator().manual_seed(processes.seed(recipe.seed))
        self.named = dict(self.tensors.items())  # looking up a ParameterDict costs more
        self.sums: dict[str, float] = {}  # of the objective's figures since the last validation
        self.summed = 0  # updates in the sums
        self.updates = 0  # of this epoch
        self.averaged = None if recipe.average_from is None else AveragedModel(self.tensors)
        self.offset_names: list[str] = []
        if recipe.centring is not None:
            expanded = arrangement.expand(machine)
            start = recipe.mean_field(expanded, arrangement.clamp(expanded.depth, visible_mean[None])).means
            self.offset_names = self._register("offset", [state[0].clone() for state in start])
        self.chain_names: list[str] = []
        if recipe.objective.persistent:
            units = sum(layer.units for layer in arrangement.expand(machine).layers)
            check_memory(
                f"training.chains={recipe.chains} chains of {units} units", CHAIN_BYTES * recipe.chains * units
            )
            visible = visible_at_mean(machine, recipe.chains // processes.count(), visible_mean, self.generator)
            expanded = arrangement.expand(machine)
            states = [state.to(self.product_type) for state in arrangement.start(expanded, visible, self.generator)]
            means = arrangement.clamp(expanded.depth, visible_mean)
            self.chain_names = self._register("chain", recipe.objective.start(expanded, tuple(states), means))

    def _register(self, name: str, tensors: Sequence[Tensor]) -> list[str]:
        """Buffers name_0, name_1, ...: what a checkpoint holds beside the parameters."""
        names = [f"{name}_{index}" for index in range(len(tensors))]
        for own, tensor in zip(names, tensors, strict=True):
            self.register_buffer(own, tensor)
        return names

    def _trainable(self, machine: BoltzmannMachine) -> list[str]:
        fixed = set(self.recipe.fixed)
        for index, layer in enumerate(machine.layers):
            fixed |= {f"layers/{index}/{name}" for name in layer.fixed}
        return [name for name in machine.named_tensors() if name not in fixed]

    @property
    def machine(self) -> BoltzmannMachine:
        """The machine as it is now; its tensors are the parameters themselves, detached."""
        return self.template.with_tensors({name: tensor.detach() for name, tensor in self.named.items()})

    @property
    def result(self) -> BoltzmannMachine:
        """What training has made so far: the machine of the averaged parameters once there are any, else of the last ones.

        Constraints hold for it too: weights that ended at 0 by a proximal step are 0.
        """
        if self.averaged is None or not self.averaged.n_averaged:
            return self.machine
        tensors = {name: value.detach().clone() for name, value in self.averaged.module.named_parameters()}
        for constraint in self.recipe.constraints:
            for name in constraint.parameters:
                constraint.apply_to_mean(tensors[name], self.named[name].detach())
        return self.template.with_tensors(tensors)

    @property
    def chains(self) -> States | None:
        """What the sampler keeps: one tensor (chains, units) per layer of the machine that is sampled, and more if it has."""
        return tuple(getattr(self, name) for name in self.chain_names) or None

    # ---------------------------------------------------------------- training

    def configure_optimizers(self) -> tuple[list[Optimizer], list[LRScheduler]]:
        optimizer = self.recipe.optimizer([self.named[name] for name in self.trained])
        return [optimizer], [self.recipe.scheduler(optimizer)]

    def on_fit_start(self) -> None:
        if self.generator.device != self.device:
            state = int(torch.randint(2**62, (), generator=self.generator))
            self.generator = torch.Generator(device=self.device).manual_seed(state)
        self.monitored = self.monitored.to(self.device)

    @torch.no_grad()
    def training_step(self, block: Sequence[Tensor], block_index: int) -> None:
        """One update per batch (batch, units) of the block."""
        for batch in block:
            self.update(batch)
        if self.trainer.is_last_batch:  # of the epoch: what is validated and saved has had all of its constraints
            self.constrain(self.updates, once_an_epoch=True)
            self.updates = 0

    def update(self, batch: Tensor) -> None:
        """One step of the optimizer, from images (batch, units): this process's share of a batch."""
        if self.encode is not None:
            batch = self.encode(batch)
        machine = self.arrangement.expand(self.machine)
        if self.product_type != torch.float32:
            machine = machine.with_products_in(self.product_type)
        clamped = self.arrangement.clamp(machine.depth, batch.to(self.product_type))
        learning = self.recipe.objective(machine, clamped, self.chains, self.generator)
        self.summed += 1
        for name, value in learning.info.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        offsets: list[Tensor] = [getattr(self, name) for name in self.offset_names]
        means = [states.mean(0, dtype=offset.dtype) for states, offset in zip(learning.data, offsets, strict=False)]
        processes.average([*learning.gradient.values(), *means])
        rate = self.recipe.variance_rate
        scaled = (lambda gradient: precision_scaled(gradient, machine, offsets, rate)) if self.variance_names else None
        if self.recipe.centring is not None:
            for offset, mean in zip(offsets, means, strict=True):
                offset.lerp_(mean, self.recipe.centring)
            centre(learning.gradient, offsets, scaled)
        elif scaled is not None:
            scaled(learning.gradient)
        gradient = self.arrangement.collapse(learning.gradient)
        if not math.isfinite(float(gradient["layers/1/bias"].sum())):
            raise DivergedError(
                f"training diverged: the gradient is not finite at step {self.global_step} (epoch {self.current_epoch}); "
                "lower optimizer.lr"
            )
        for penalty in self.recipe.penalties:
            penalty.add(self.named, gradient, self.arrangement.own(learning.data))
        for name in self.trained:
            self.named[name].grad = gradient[name]
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)
        optimizer.step()
        self.updates += 1
        self.constrain(1, once_an_epoch=False)
        for name in self.variance_names:
            self.named[name].clamp_(min=self.named[f"{name}_floor"])
        for name, chain in zip(self.chain_names, learning.chains or (), strict=True):
            setattr(self, name, chain)
        if self.averaged is not None and self.global_step > (self.recipe.average_from or 0):
            self.averaged.update_parameters(self.tensors)

    def constrain(self, updates: int, once_an_epoch: bool) -> None:
        """Apply the constraints of this kind, after so many updates."""
        for constraint in self.recipe.constraints:
            if constraint.once_an_epoch != once_an_epoch:
                continue
            bare = self.optimizers(use_pl_optimizer=False)
            assert isinstance(bare, Optimizer)
            for name in constraint.parameters:
                constraint.apply(self.named[name].data, updates * step_size(bare, self.named[name]))

    def on_train_epoch_end(self) -> None:
        schedulers = self.lr_schedulers()
        assert isinstance(schedulers, LRScheduler)
        schedulers.step()

    # ---------------------------------------------------------------- validation

    def figures(self) -> dict[str, float]:
        """The monitored figures of what training has made so far."""
        if self.arrangement is Arrangement.PLAIN:
            return monitor(self.result, self.monitored, self.recipe.mean_field, self.recipe.seed)
        expanded = self.arrangement.expand(self.result)
        return monitor_clamped(expanded, self.arrangement.clamp(expanded.depth, self.monitored.validation))

    def validation_step(self, batch: Tensor, batch_index: int) -> None:
        """Once per epoch. The images are the module's own, not the loader's: `batch` only gives the beat."""
        self._check_finite()
        sums = processes.gathered(self.sums)
        means = {name: sum(own[name] for own in sums) / len(sums) / self.summed for name in self.sums}
        self.sums, self.summed = {}, 0
        self.log_dict(processes.decided(self.figures) | means, on_epoch=True, batch_size=1)

    def _check_finite(self) -> None:
        """Before an epoch is recorded and saved: the gradient's check sees what a step broke only in the next one."""
        own = [name for name, tensor in self.state_dict().items() if not torch.isfinite(tensor).all()]
        broken = dict.fromkeys(name for names in processes.gathered(own) for name in names)
        if broken:
            raise DivergedError(
                f"training diverged: {', '.join(broken)} not finite after step {self.global_step} (epoch "
                f"{self.current_epoch}); lower optimizer.lr"
            )

    # ---------------------------------------------------------------- checkpoint

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["generator"] = self.generator.get_state()
        checkpoint["generator_device"] = self.generator.device.type
        chains = {name: getattr(self, name).cpu() for name in self.chain_names}
        checkpoint["others"] = processes.gathered({"chains": chains, "generator": checkpoint["generator"]})[1:]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        others = checkpoint.get("others", [])  # the processes but the first, whose chains are in the state_dict
        if len(others) + 1 != processes.count():
            raise UserError(
                f"the checkpoint is of a training in {len(others) + 1} processes, not {processes.count()}: give the "
                "trainer.devices it was made with, or start a new run"
            )
        if processes.rank() > 0:
            checkpoint["generator"] = others[processes.rank() - 1]["generator"]
            checkpoint["state_dict"] |= others[processes.rank() - 1]["chains"]
        there, here = (
            {name: tuple(tensor.shape) for name, tensor in state.items()}
            for state in (checkpoint["state_dict"], self.state_dict())
        )
        changed = [
            f"{name} {there.get(name, 'missing')} there, {here.get(name, 'missing')} here"
            for name in there | here
            if there.get(name) != here.get(name)
        ]
        if changed:
            raise UserError(
                f"the checkpoint is of a training of other sizes ({'; '.join(changed)}): give the number of chains and the "
                "units it was made with, or start a new run"
            )
        if self.generator.device.type != checkpoint["generator_device"]:
            self.generator = torch.Generator(checkpoint["generator_device"])
        self.generator.set_state(checkpoint["generator"])
