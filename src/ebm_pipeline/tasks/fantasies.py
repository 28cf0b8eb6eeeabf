"""Fantasy particles: samples of the model, in equilibrium and checked for it, or annealed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ebm_pipeline.evaluation.equilibrium import LEAST_SWEEPS, check_size, defined, equilibrate, shown_r_hat
from ebm_pipeline.models.storage import SavedModel
from ebm_pipeline.sampling import Gibbs, ParallelTempering, Sampler, anneal, start_at_mean
from ebm_pipeline.support.errors import UserError, check_number, check_whole
from ebm_pipeline.tasks.base import Answer, Progress, Task, parts


@dataclass(frozen=True)
class Fantasies(Task):
    """As many samples of the model as there are images.

    With start_beta = 1 half of the chains start from the images and half from noise, and R-hat says whether that is still to
    be seen after `sweeps` Gibbs sweeps, or after as many of parallel tempering with `replicas` replicas, whose rungs are
    placed in the first half of them. With start_beta below 1 the sweeps anneal from that inverse temperature, from independent
    pixels at the data mean: better looking samples, in no exact equilibrium.
    """

    name = "fantasies"
    needs_images = False
    sweeps: int = 1000
    start_beta: float = 1.0
    replicas: int | None = None

    def __post_init__(self) -> None:
        check_whole("task.sweeps", self.sweeps, LEAST_SWEEPS)
        check_number("task.start_beta", self.start_beta, 0, 1, open_low=True)
        if self.replicas is not None:
            check_whole("task.replicas, if not null,", self.replicas, 2)
            if self.start_beta != 1:
                raise UserError("task.replicas tempers and task.start_beta below 1 anneals: set one of them")

    def __call__(self, model: SavedModel, images: Tensor, seed: int, progress: Progress = lambda done: None) -> Answer:
        check_size("task", len(images), self.sweeps, sum(layer.units for layer in model.machine.layers))
        generator = torch.Generator(device=images.device).manual_seed(seed)
        metrics, families = {}, {}
        if self.start_beta == 1:
            sampler: Sampler = Gibbs()
            if self.replicas is not None:
                sampler = ParallelTempering(replicas=self.replicas, warm_up=self.sweeps // 2)
            chains = equilibrate(
                model.machine, images, len(images), self.sweeps, generator, progress, sampler, model.data_mean
            )
            last = chains.visible[self.sweeps]
            families = {"data": last[: len(images)], "noise": last[len(images) :]}
            states, metrics = chains.states, defined({"sampler/r_hat": chains.worst}) | chains.info
            kind = "Gibbs sweeps"
            if self.replicas is not None:
                rates = [rate for name, rate in chains.info.items() if name.startswith("sampler/swap_rate")]
                kind = (
                    f"sweeps of parallel tempering with {self.replicas} replicas (swap rates {min(rates):.2f} to "
                    f"{max(rates):.2f}, {chains.info['sampler/round_trips']:.2g} round trips per chain)"
                )
            how = (
                f"{self.sweeps} {kind}, half of the chains from data, half from noise; "
                f"R-hat over both starts {shown_r_hat(chains.worst)}"
            )
        else:
            start = start_at_mean(model.machine, len(images), model.data_mean, generator)
            base = model.machine.independent(model.data_mean)
            states = anneal(model.machine, base, start, self.sweeps, self.start_beta, generator, progress)
            how = (
                f"start: independent pixels at the data mean; {self.sweeps} Gibbs sweeps annealed from inverse temperature "
                f"{self.start_beta:g}; not checked for equilibrium"
            )
        means = model.machine.layers[0].mean(model.machine.inputs(states, 0))
        return Answer(
            parts(model.visible, fantasies=states[0], fantasy_means=means),
            {"fantasies": f"samples; {how}", "fantasy_means": f"conditional means given the hidden units; {how}"},
            ("fantasies",),
            metrics,
            families=families,
        )
