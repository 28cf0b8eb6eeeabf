"""Missing pixels, given the others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ebm_pipeline.models.labels import image_layer
from ebm_pipeline.models.storage import SavedModel
from ebm_pipeline.sampling import inpaint
from ebm_pipeline.support.errors import UserError, check_memory, check_number, check_whole
from ebm_pipeline.support.files import read_truth_values
from ebm_pipeline.tasks.base import Answer, Progress, Task, parts, root_mean_square

MASKS = ("lower_half", "upper_half", "left_half", "right_half", "box", "random")


@dataclass(frozen=True)
class Inpainting(Task):
    """Pixels under a mask, given the others: a sample, and the mean over `chains` chains per image and half of their sweeps.

    mask: one of MASKS (what is hidden; box is the middle half of height and width, random hides `fraction` of the pixels), or
    a file .npy of the image's shape, true where the pixel is hidden. Labels are hidden too.
    """

    name = "inpainting"
    changes_pixels = True
    mask: str = "lower_half"
    fraction: float = 0.5
    sweeps: int = 500
    chains: int = 10

    def __post_init__(self) -> None:
        check_whole("task.sweeps", self.sweeps, 2)
        check_whole("task.chains", self.chains, 1)
        check_number("task.fraction", self.fraction, 0, 1, open_low=True, open_high=True)

    def __call__(self, model: SavedModel, images: Tensor, seed: int, progress: Progress = lambda done: None) -> Answer:
        units = sum(layer.units for layer in model.machine.layers)
        check_memory(
            f"task.chains={self.chains} chains for each of {len(images)} images", 12 * self.chains * len(images) * units
        )
        generator = torch.Generator(device=images.device).manual_seed(seed)
        visible = model.visible
        pixels = hidden_pixels(self.mask, self.fraction, model.image_shape, seed)
        hidden = torch.cat((pixels, torch.ones(visible.classes, dtype=torch.bool))).to(images.device)
        mean = model.data_mean.to(images)
        several = images.repeat(self.chains, 1)
        samples, means = inpaint(model.machine, several, ~hidden, mean, self.sweeps, generator, progress)
        sample, means = samples[: len(images)], means.unflatten(0, (self.chains, -1)).mean(0)
        judged = hidden & visible.is_pixel.to(hidden.device)
        truth = images[:, judged]
        metrics = {}
        for name, guess in (("inpainted", means[:, judged]), ("data_mean", mean[judged].expand_as(truth))):
            metrics[f"error_of_{name}"] = root_mean_square(guess - truth)
            if image_layer(model.machine.layers[0], visible).binary:
                metrics[f"wrong_pixels_of_{name}"] = float(((guess > 0.5) != (truth > 0.5)).double().mean())
        label = " and the label" if visible.classes else ""
        how = f"{int(pixels.sum())} pixels{label} hidden ({self.mask}); {self.sweeps} Gibbs sweeps given the others"
        return Answer(
            parts(
                visible, data=images, given=torch.where(hidden, mean, images), inpainted=sample, inpainted_means=means
            ),
            {
                "given": f"{how}; here the data mean in their place",
                "inpainted": f"{how}; a sample",
                "inpainted_means": f"{how}; mean of the second half of them over {self.chains} chains",
            },
            ("data", "given", "inpainted", "inpainted_means"),
            metrics,
        )


def hidden_pixels(mask: str, fraction: float, image_shape: tuple[int, int], seed: int) -> Tensor:
    """True where a pixel is hidden: (units,), by the name of a pattern or from a .npy file."""
    height, width = image_shape
    hidden = torch.zeros(height, width, dtype=torch.bool)
    match mask:
        case "lower_half":
            hidden[height // 2 :] = True
        case "upper_half":
            hidden[: height // 2] = True
        case "left_half":
            hidden[:, : width // 2] = True
        case "right_half":
            hidden[:, width // 2 :] = True
        case "box":
            hidden[height // 4 : height - height // 4, width // 4 : width - width // 4] = True
        case "random":
            chosen = torch.randperm(height * width, generator=torch.Generator().manual_seed(seed))
            hidden.view(-1)[chosen[: round(fraction * height * width)]] = True
        case _:
            hidden = _mask_file(Path(mask), image_shape)
    if not hidden.any() or hidden.all():
        raise UserError(
            f"the mask {mask} hides {int(hidden.sum())} of {hidden.numel()} pixels: some must be, and not all"
        )
    return hidden.view(-1)


def _mask_file(path: Path, image_shape: tuple[int, int]) -> Tensor:
    if path.suffix != ".npy" or not path.is_file():
        raise UserError(f"task.mask is one of {', '.join(MASKS)}, or a .npy file that is there; got {path}")
    return torch.from_numpy(read_truth_values(path, image_shape))
