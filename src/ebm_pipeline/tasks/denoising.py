"""Flipped pixels, taken back by sampling what the image was, or by one pass up and down."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ebm_pipeline.evaluation.metrics import flip_pixels
from ebm_pipeline.models.storage import SavedModel
from ebm_pipeline.sampling.denoising import can_denoise, restoration, restored
from ebm_pipeline.support.errors import check_number, check_whole
from ebm_pipeline.tasks.base import Answer, Progress, Task, parts, root_mean_square


@dataclass(frozen=True)
class Denoising(Task):
    """Images with flipped pixels, restored by `sweeps` Gibbs sweeps given the noisy ones (`sampling.denoising`).

    sweeps=0, or visible units of more than two states: through the model up and down (`inference.up_and_down`).
    """

    name = "denoising"
    changes_pixels = True
    flips: float = 0.15
    sweeps: int = 100

    def __post_init__(self) -> None:
        check_number("task.flips", self.flips, 0, 1)
        check_whole("task.sweeps", self.sweeps, 0)

    def __call__(self, model: SavedModel, images: Tensor, seed: int, progress: Progress = lambda done: None) -> Answer:
        visible, machine = model.visible, model.machine
        noisy = flip_pixels(images, self.flips, seed, visible)
        means, modes = restored(machine, noisy, self.flips, self.sweeps, seed, progress)
        label = "; the label is given" if visible.classes else ""
        how = (
            f"{self.flips:.0%} of the pixels flipped; {restoration(machine.layers[0], self.flips, self.sweeps)}{label}"
        )
        wrong = {}
        if can_denoise(machine.layers[0]):
            wrong = {
                f"wrong_pixels{name}": float((states != images).double().mean())
                for name, states in (("", modes), ("_of_noisy", noisy))
            }
        return Answer(
            parts(visible, data=images, noisy=noisy, denoised=modes, denoised_means=means),
            {"denoised": how, "denoised_means": f"{how}; means"},
            ("data", "noisy", "denoised"),
            {
                "error": root_mean_square(visible.images(means - images)),
                "error_of_noisy": root_mean_square(visible.images(noisy - images)),
                **wrong,
            },
        )
