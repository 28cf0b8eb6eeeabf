"""What the ladder of trajectory tempering tells of a machine while it learns: log-likelihood by epoch, and how the ladder is."""

from __future__ import annotations

from ebm_pipeline.evaluation.likelihood import unnormalized
from ebm_pipeline.evaluation.metrics import MonitoredImages
from ebm_pipeline.models.inference import MeanField
from ebm_pipeline.models.machine import BoltzmannMachine
from ebm_pipeline.sampling import Ladder
from ebm_pipeline.sampling.ladder import NEVER
from ebm_pipeline.sampling.trajectory import log_partition

LOG_LIKELIHOOD = "validation/trajectory_log_likelihood"


def ladder_metrics(
    ladder: Ladder, machine: BoltzmannMachine, images: MonitoredImages, mean_field: MeanField
) -> dict[str, float]:
    """Numbers by name. `machine` is that of the ladder's chains: the last weights, not their mean.

    The log-likelihood (of machines of more than two layers the variational bound) takes log Z along the ladder, with no more
    sampling than training does anyway: good enough to watch and to stop by, and no interval.
    """
    log_z = log_partition(machine, ladder)
    parts = {images.part: images.validation, "train": images.training}
    dtype = machine.weights[0].dtype
    return ladder.numbers() | {
        f"{part}/trajectory_log_likelihood": unnormalized(machine, states.to(dtype), mean_field) - log_z
        for part, states in parts.items()
    }


def updates_of(ladder: Ladder, sweeps: int) -> list[int]:
    """After which update of the training each rung was the machine, NEVER of others; so many sweeps of the machine to an update.

    The machine that made the first sweep is that of no update.
    """
    kept = ladder.kept[: ladder.rungs].tolist()
    return [NEVER if sweep == NEVER else (sweep - 1) // sweeps for sweep in kept]
