"""One Lightning module for every machine: manual optimization with gradients that the objective makes.

It only wires. The parameters are those of the machine by name; chains are buffers, so that a checkpoint holds them; the
generator that draws everything is owned here and saved too. Where several processes train one machine, each has its own
share of the chains and its own generator, and a checkpoint holds those of all.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from ebm_pipeline.evaluation.metrics import MonitoredImages, monitor, monitor_clamped
from ebm_pipeline.models.machine import BoltzmannMachine, States
from ebm_pipeline.models.numerics import thin_products
from ebm_pipeline.sampling import Ladder, leaves, visible_at_mean, with_leaves
from ebm_pipeline.support.errors import DivergedError, UserError, check_memory
from ebm_pipeline.training import centring, processes
from ebm_pipeline.training.arrangement import Arrangement
from ebm_pipeline.training.constraints import step_size
from ebm_pipeline.training.objectives import Learning
from ebm_pipeline.training.precision import precision_scaled
from ebm_pipeline.training.recipe import Recipe, variance_names
from ebm_pipeline.training.trajectory import ladder_metrics

Encoder = Callable[[Tensor], Tensor]
AVERAGED_EVERY = 5  # updates from one set of parameters in the mean to the next, which is nearly the same
CHAIN_BYTES = 12  # of a unit of a chain: its state, the next one and what it is drawn from


class BoltzmannTraining(pl.LightningModule):
    """Trains `machine` by `recipe`; `encode` brings a batch of data to the machine's visible layer (pretraining).

    begin_at: images (count, units) that chains start at, for a machine that is trained already, from which independent pixels
    are far; None: independent pixels of the data's means.
    """

    def __init__(
        self,
        machine: BoltzmannMachine,
        recipe: Recipe,
        visible_mean: Tensor,
        monitored: MonitoredImages,
        arrangement: Arrangement = Arrangement.PLAIN,
        encode: Encoder | None = None,
        begin_at: Tensor | None = None,
    ) -> None:
        super().__init__()
        recipe.check(machine)
        self.automatic_optimization = False
        self.recipe = recipe
        self.arrangement = arrangement
        self.encode = encode
        self.monitored = monitored
        self.template = machine
        self.trained = recipe.trained(machine)
        self.variance_names = variance_names(machine)
        self.generator = torch.Generator().manual_seed(processes.seed(recipe.seed))
        self.tensors = nn.ParameterDict(
            {
                name: nn.Parameter(tensor.clone(), requires_grad=name in self.trained)
                for name, tensor in machine.named_tensors().items()
            }
        )
        self.named = dict(self.tensors.items())  # looking up a ParameterDict costs more
        self.current = machine.with_tensors(self.named)  # of the parameters themselves: made once, and moves with them
        self.averaged = None if recipe.average_from is None else AveragedModel(self.tensors)
        self.sums: dict[str, float | Tensor] = {}  # of the objective's numbers since the last validation
        self.summed = 0  # updates in the sums
        self.updates = 0  # of this epoch
        self.unchecked: Tensor | None = None  # a sum that is not finite any more once a gradient was not
        self.offset_names = self._register("offset", self._first_offsets(visible_mean))
        chains = self._first_chains(visible_mean, begin_at)
        self.chain_names = self._register("chain", tuple(leaves(chains)))
        self._structure = with_leaves(chains, (tensor.new_empty(0) for tensor in leaves(chains)))

    def _first_offsets(self, visible_mean: Tensor) -> States:
        """Where the offsets of centring start: the means of all layers given the data's; none without centring."""
        if self.recipe.centring is None:
            return ()
        machine = self.arrangement.expand(self.template)
        means = self.recipe.mean_field(machine, self.arrangement.clamp(machine.depth, visible_mean[None])).means
        return tuple(state[0].clone() for state in means)

    def _first_chains(self, visible_mean: Tensor, begin_at: Tensor | None) -> Any:
        """The state that the objective keeps, of chains that start as the class says; empty where it keeps none."""
        recipe, machine = self.recipe, self.arrangement.expand(self.template)
        if not recipe.objective.persistent:
            return ()
        units = sum(layer.units for layer in machine.layers)
        check_memory(f"training.chains={recipe.chains} chains of {units} units", CHAIN_BYTES * recipe.chains * units)
        count = recipe.chains // processes.count()
        if begin_at is None:
            visible = visible_at_mean(self.template, count, visible_mean, self.generator)
        else:
            visible = begin_at[torch.randint(len(begin_at), (count,), generator=self.generator)]
        states = self.arrangement.start(machine, visible, self.generator)
        means = self.arrangement.clamp(machine.depth, visible_mean)
        return recipe.objective.init(machine, tuple(state.to(recipe.product_type) for state in states), means)

    def _register(self, name: str, tensors: Sequence[Tensor]) -> list[str]:
        """Buffers name_0, name_1, ...: what a checkpoint holds beside the parameters."""
        names = [f"{name}_{index}" for index in range(len(tensors))]
        for own, tensor in zip(names, tensors, strict=True):
            self.register_buffer(own, tensor)
        return names

    @property
    def machine(self) -> BoltzmannMachine:
        """The machine as it is now; its tensors are the parameters themselves, detached."""
        return self.current.map(Tensor.detach)

    @property
    def result(self) -> BoltzmannMachine:
        """What training has made so far: the machine of the averaged parameters once there are any, else of the last ones."""
        return self.result_in(self.state_dict())

    def result_in(self, state: Mapping[str, Tensor]) -> BoltzmannMachine:
        """As `result`, of the `state_dict` that a checkpoint holds.

        Constraints hold for averaged parameters too: weights that ended at 0 by a proximal step are 0.
        """
        last = {name: state[f"tensors.{name}"].detach() for name in self.named}
        if not int(state.get("averaged.n_averaged", torch.tensor(0))):
            return self.template.with_tensors(last)
        tensors = {name: state[f"averaged.module.{name}"].detach().clone() for name in self.named}
        offsets = self._own([state[name] for name in self.offset_names])
        for constraint in self.recipe.constraints:
            for name in constraint.parameters:
                with centring.followed(tensors, name, offsets, self.trained) as mean:
                    constraint.apply_to_mean(mean, last[name])
        return self.template.with_tensors(tensors)

    @property
    def chains(self) -> Any:
        """The state that the objective keeps, made of the buffers; None where it keeps none."""
        tensors: dict[str, Any] = self._buffers  # a module's own look-up costs fifty times as much
        return with_leaves(self._structure, (tensors[name] for name in self.chain_names)) if self.chain_names else None

    @property
    def _offsets(self) -> States:
        """Of centring, one (units,) for each layer of the expanded machine; none without centring."""
        tensors: dict[str, Any] = self._buffers
        return tuple(tensors[name] for name in self.offset_names)

    def _own(self, offsets: Sequence[Tensor]) -> States:
        """Those of the machine's own layers."""
        return self.arrangement.own(tuple(offsets)) if offsets else ()

    def _keep(self, chains: Any) -> None:
        for name, tensor in zip(self.chain_names, leaves(chains) if self.chain_names else (), strict=True):
            self._buffers[name] = tensor

    # ---------------------------------------------------------------- training

    def configure_optimizers(self) -> tuple[list[Optimizer], list[LRScheduler]]:
        optimizer = self.recipe.optimizer_of({name: self.named[name] for name in self.trained})
        if self.recipe.centring is not None and any(group.get("weight_decay") for group in optimizer.param_groups):
            raise UserError(
                "weight decay of the optimizer and centring do not go together: the biases would not follow the weights. Give an "
                "L2 penalty of the same strength (model.penalties), with optimizer.weight_decay=0, or training.centring=null"
            )
        # without torch's wrappers, which cost more than the step of a small machine; one of them says that there was a step
        self._advance = partial(inspect.unwrap(type(optimizer).step), optimizer)
        optimizer._opt_called = True  # type: ignore[attr-defined]
        return [optimizer], [self.recipe.scheduler(optimizer)]

    def on_fit_start(self) -> None:
        if self.generator.device != self.device:
            state = int(torch.randint(2**62, (), generator=self.generator))
            self.generator = torch.Generator(device=self.device).manual_seed(state)
        self.monitored = self.monitored.to(self.device)

    @torch.no_grad()
    def rehearse(self, images: Tensor) -> None:
        """Learn from images (images, units) once; raises UserError where units, sampler and objective do not go together."""
        self._learn(images)

    @torch.no_grad()
    def training_step(self, block: Sequence[Tensor], block_index: int) -> None:
        """One update per batch (batch, units) of the block."""
        for batch in block:
            self.update(batch)
        self._check_gradients()
        if self.trainer.is_last_batch:  # of the epoch: what is validated and saved has had all of its constraints
            self.constrain(self.updates, once_an_epoch=True)
            self.updates = 0

    def update(self, batch: Tensor) -> None:
        """One step of the optimizer, from images (batch, units): this process's share of a batch."""
        machine, learning = self._learn(batch)
        with thin_products():
            gradient = self._gradient(machine, learning)
        self._check_gradient(gradient)
        self._step(gradient)
        self._keep(learning.chains)
        if self.averaged is not None:
            self._average(self.averaged, self.global_step - (self.recipe.average_from or 0))

    def _average(self, averaged: AveragedModel, update: int) -> None:
        """Take the parameters into their mean, at every fifth update from the first that is numbered 1."""
        if update > 0 and (update - 1) % AVERAGED_EVERY == 0:
            count = 1 + update // AVERAGED_EVERY
            averaged.n_averaged.fill_(count)  # its own method would read the number from the device
            for mean, tensor in zip(averaged.parameters(), self.named.values(), strict=True):
                mean.lerp_(tensor, 1 / count)

    def _gradient(self, machine: BoltzmannMachine, learning: Learning) -> dict[str, Tensor]:
        """What the optimizer gets, by name; the offsets move."""
        offsets = self._shared(learning)
        centring.subtract_outer(learning.gradient, offsets)
        if self.variance_names:
            precision_scaled(learning.gradient, machine, offsets, self.recipe.variance_rate)
        gradient = self.arrangement.collapse(learning.gradient)
        for penalty in self.recipe.penalties:
            penalty.add(self.named, gradient, self.arrangement.own(learning.data))
        centring.follow(gradient, self._own(offsets), self.trained, self.recipe.rates)
        return gradient

    def _learn(self, batch: Tensor) -> tuple[BoltzmannMachine, Learning]:
        """The machine that is sampled, and what it learns from a batch; the objective's numbers enter their sums."""
        if self.encode is not None:
            batch = self.encode(batch)
        machine, dtype = self.arrangement.expand(self.current), self.recipe.product_type
        if dtype != torch.float32:
            machine = machine.with_products_in(dtype)
        clamped = self.arrangement.clamp(machine.depth, batch.to(dtype))
        learning = self.recipe.objective(machine, clamped, self.chains, self.generator)
        self.summed += 1
        for name, value in learning.info.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        return machine, learning

    def _shared(self, learning: Learning) -> States:
        """Average the gradient over the processes, and move the offsets, which are returned, towards the data phase's means."""
        offsets = self._offsets
        means = [states.mean(0, dtype=offset.dtype) for states, offset in zip(learning.data, offsets, strict=False)]
        processes.average([*learning.gradient.values(), *means])
        for offset, mean in zip(offsets, means, strict=True):
            assert self.recipe.centring is not None
            offset.lerp_(mean, self.recipe.centring)
        return offsets

    def _check_gradient(self, gradient: Mapping[str, Tensor]) -> None:
        """At once on the CPU; on a device, which the host would wait for, with the others of the block."""
        total = gradient["layers/1/bias"].sum()
        self.unchecked = total if self.unchecked is None else self.unchecked + total
        if total.is_cpu:
            self._check_gradients()

    def _check_gradients(self) -> None:
        total, self.unchecked = self.unchecked, None
        if total is not None and not math.isfinite(float(total)):
            raise DivergedError(
                f"training diverged: the gradient is not finite at step {self.global_step} (epoch {self.current_epoch}); "
                "lower optimizer.lr"
            )

    def _step(self, gradient: Mapping[str, Tensor]) -> None:
        """The optimizer's step, and what holds parameters where they may be."""
        for name in self.trained:
            self.named[name].grad = gradient[name]
        wrapper = self.optimizers()
        assert isinstance(wrapper, LightningOptimizer)
        wrapper._on_before_step()  # which counts the steps
        self._advance()
        wrapper._on_after_step()
        self.updates += 1
        self.constrain(1, once_an_epoch=False)
        for name in self.variance_names:
            self.named[name].clamp_(min=self.named[f"{name}_floor"])

    def constrain(self, updates: int, once_an_epoch: bool) -> None:
        """Apply the constraints of this kind, after so many updates."""
        for constraint in self.recipe.constraints:
            if constraint.once_an_epoch != once_an_epoch:
                continue
            bare = self.optimizers(use_pl_optimizer=False)
            assert isinstance(bare, Optimizer)
            for name in constraint.parameters:
                with centring.followed(self.named, name, self._own(self._offsets), self.trained) as parameter:
                    constraint.apply(parameter, updates * step_size(bare, self.named[name]))

    def on_train_epoch_end(self) -> None:
        schedulers = self.lr_schedulers()
        assert isinstance(schedulers, LRScheduler)
        schedulers.step()

    # ---------------------------------------------------------------- validation

    def metrics(self) -> dict[str, float]:
        """The monitored numbers of what training has made so far."""
        if self.arrangement is Arrangement.PLAIN:
            return monitor(self.result, self.monitored, self.recipe.mean_field) | self._ladder_metrics()
        expanded = self.arrangement.expand(self.result)
        return monitor_clamped(expanded, self.arrangement.clamp(expanded.depth, self.monitored.validation))

    def _ladder_metrics(self) -> dict[str, float]:
        chains = self.chains
        if not isinstance(chains, Ladder):
            return {}
        machine = self.machine.with_products_in(self.recipe.product_type)
        return ladder_metrics(chains, machine, self.monitored, self.recipe.mean_field)

    def validation_step(self, batch: Tensor, batch_index: int) -> None:
        """Once per epoch. The images are the module's own, not the loader's: `batch` only gives the beat."""
        self._check_finite()
        sums = processes.gathered({name: float(value) for name, value in self.sums.items()})
        means = {name: sum(own[name] for own in sums) / len(sums) / self.summed for name in self.sums}
        self.sums, self.summed = {}, 0
        self.log_dict(processes.decided(self.metrics) | means, on_epoch=True, batch_size=1)

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
