"""What `ebm-sample task=features` shows: what each hidden unit answers to, and how the hidden units answer to images."""

from __future__ import annotations

from matplotlib.figure import Figure

from ebm_pipeline import plots
from ebm_pipeline.models.storage import SavedModel
from ebm_pipeline.tasks import Answer
from ebm_pipeline.training.pictures import is_image, weight_figure, weights_from_pixels

MOST_TILES, COLUMNS = 64, 8  # first hidden units whose weights are shown
MOST_ROWS, MOST_UNITS = 64, 200  # images and hidden units whose means are shown


def feature_figures(answer: Answer, saved: SavedModel, name: str) -> dict[str, Figure]:
    """By name of the file: the weights to the units of each hidden layer, and the means of these units given the images.

    Of a layer above the first the weights are the products with those below it; where a transform mixes pixels they are those to
    grey levels.
    """
    machine, shape = saved.machine, saved.image_shape
    if saved.transform is not None:
        machine = machine.with_tensors({"weights/0": saved.transform.weights_to_grey(machine.weights[0].mT).mT})
    figures = {}
    kind = "as images" if is_image(shape) else "in one field, as the data are no images"
    for layer, projection in enumerate(weights_from_pixels(machine, saved.visible), start=1):
        what = "weights" if layer == 1 else "products of weights"
        key = "features" if layer == 1 else f"features_{layer}"
        figures[key] = weight_figure(
            projection,
            shape,
            layer,
            f"{name}: features of layer {layer}, {what} {kind}",
            MOST_TILES,
            COLUMNS,
        )
    figures["features_means"] = means_figure(answer, name, "image" if is_image(shape) else "row of the data")
    return figures


def means_figure(answer: Answer, name: str, given: str) -> Figure:
    """Means of the hidden units (images, units), a panel for each layer; given: what one of the data is."""
    layers = {key.replace("_", " "): answer.arrays[key][:MOST_ROWS, :MOST_UNITS].cpu().numpy() for key in answer.hidden}
    how = answer.made[answer.hidden[0]]
    if any(answer.arrays[key].shape[1] > MOST_UNITS for key in answer.hidden):
        how += f"; the first {MOST_UNITS} units"
    return plots.matrices(
        layers, "hidden unit", given, "mean of its state", f"{name}: hidden units given the data", how
    )
