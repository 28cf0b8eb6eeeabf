"""Fantasy particles: samples of the model, in equilibrium and checked for it, or annealed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ebm_pipeline.evaluation.equilibrium import (
    ENOUGH,
    LEAST_CHAINS,
    LEAST_SWEEPS,
    MOST_DOUBLINGS,
    Equilibrium,
    check_size,
    defined,
    equilibrate,
    shown_r_hat,
)
from ebm_pipeline.models.storage import SavedModel
from ebm_pipeline.sampling import Gibbs, ParallelTempering, Sampler, anneal, start_at_mean
from ebm_pipeline.sampling.trajectory import along
from ebm_pipeline.support.errors import UserError, check_number, check_whole
from ebm_pipeline.tasks.base import Answer, Progress, Task, parts

SAMPLERS = ("gibbs", "trajectory")


@dataclass(frozen=True)
class Fantasies(Task):
    """As many samples of the model as there are images.

    With start_beta = 1 half of the chains start from the images and half from noise, and R-hat says whether that is still to
    be seen after `sweeps` Gibbs sweeps, or after as many of parallel tempering with `replicas` replicas, whose rungs are
    placed in the first half of them; sampler="trajectory": of trajectory tempering along the history that the model's run has
    kept. While R-hat is above 1.01 the chains go on to twice as many sweeps, at most `doublings` times. With start_beta below 1
    the sweeps anneal from that inverse temperature, from independent
    pixels at the data mean: better looking samples, in no exact equilibrium.
    """

    name = "fantasies"
    needs_images = False
    sweeps: int = 1000
    start_beta: float = 1.0
    replicas: int | None = None
    sampler: str = "gibbs"
    doublings: int = 0

    def __post_init__(self) -> None:
        check_whole("task.sweeps", self.sweeps, LEAST_SWEEPS)
        check_number("task.start_beta", self.start_beta, 0, 1, open_low=True)
        check_whole("task.doublings", self.doublings, 0, MOST_DOUBLINGS)
        check_whole("task.sweeps times 2 to the power of task.doublings", self.sweeps * 2**self.doublings, LEAST_SWEEPS)
        if self.replicas is not None:
            check_whole("task.replicas, if not null,", self.replicas, 2)
            if self.start_beta != 1:
                raise UserError("task.replicas tempers and task.start_beta below 1 anneals: set one of them")
        if self.sampler not in SAMPLERS:
            raise UserError(
                f"task.sampler must be one of {', '.join(SAMPLERS)}; got {self.sampler!r} (parallel tempering: task.replicas=10)"
            )
        if self.needs_ladder and (self.replicas is not None or self.start_beta != 1):
            raise UserError("task.sampler=trajectory takes neither task.replicas nor task.start_beta: set one of them")

    @property
    def needs_ladder(self) -> bool:
        return self.sampler == "trajectory"

    def __call__(self, model: SavedModel, images: Tensor, seed: int, progress: Progress = lambda done: None) -> Answer:
        if self.start_beta == 1 and len(images) < LEAST_CHAINS:
            raise UserError(
                f"task=fantasies runs a chain for each image, and R-hat needs {LEAST_CHAINS} at least; got {len(images)}: set "
                "part=train or task.start_beta=0.5"
            )
        most = self.sweeps * 2**self.doublings
        check_size("task", len(images), most, sum(layer.units for layer in model.machine.layers))
        generator = torch.Generator(device=images.device).manual_seed(seed)
        metrics, families, tried = dict[str, float](), dict[str, Tensor](), dict[int, float]()
        if self.start_beta == 1:
            sampler = self._sampler(model)
            chains = equilibrate(
                model.machine,
                images,
                len(images),
                self.sweeps,
                generator,
                progress,
                sampler,
                model.data_mean,
                self.doublings,
            )
            last = chains.visible[chains.sweeps]
            families = {"data": last[: len(images)], "noise": last[len(images) :]}
            states, tried = chains.states, chains.tried
            metrics = defined({"sampler/r_hat": chains.worst}) | {"sampler/sweeps": float(chains.sweeps)} | chains.info
            how = self._how(chains)
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
            tried=tried,
        )

    def _how(self, chains: Equilibrium) -> str:
        """How chains were run, with R-hat, and whether that was enough."""
        kind = self._kind(chains.info)
        before = ", ".join(f"{shown_r_hat(value)} after {count}" for count, value in list(chains.tried.items())[:-1])
        enough = f"at most {ENOUGH:g}, which asks for no more sweeps"
        if not chains.worst <= ENOUGH:
            enough = (
                f"not at most {ENOUGH:g}, so {chains.sweeps} sweeps are not enough: raise task.doublings or task.sweeps"
            )
        return (
            f"{chains.sweeps} {kind}, half of the chains from data, half from noise; "
            f"R-hat over both starts {shown_r_hat(chains.worst)}{f' ({before})' if before else ''}, {enough}"
        )

    def _sampler(self, model: SavedModel) -> Sampler:
        if self.needs_ladder:
            if model.ladder is None:
                raise UserError(
                    "task.sampler=trajectory needs the ladder of a run that was trained with sampler=trajectory"
                )
            return along(model.ladder, 1, self.sweeps // 2)
        if self.replicas is not None:
            return ParallelTempering(replicas=self.replicas, warm_up=self.sweeps // 2)
        return Gibbs()

    def _kind(self, info: Mapping[str, float]) -> str:
        """What the sweeps are."""
        if self.needs_ladder:
            return (
                f"sweeps of trajectory tempering with {info['sampler/rungs']:.0f} machines (least swap rate "
                f"{info['sampler/least_swap_rate']:.2f}, {info['sampler/round_trips']:.2g} round trips per chain)"
            )
        if self.replicas is None:
            return "Gibbs sweeps"
        rates = [rate for name, rate in info.items() if name.startswith("sampler/swap_rate")]
        return (
            f"sweeps of parallel tempering with {self.replicas} replicas (swap rates {min(rates):.2f} to "
            f"{max(rates):.2f}, {info['sampler/round_trips']:.2g} round trips per chain)"
        )
