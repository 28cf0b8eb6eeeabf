"""Pictures: pixels land where they belong, scales are shared, files are whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text

from ebm_pipeline import plots
from ebm_pipeline.runs.compare import COMPARED, CURVES, LIKELIHOODS
from ebm_pipeline.support.errors import UserError
from ebm_pipeline.support.names import label


def mosaic_of(figure: Figure) -> np.ndarray:
    """What the figure's image shows, NaN in the gaps."""
    array = figure.axes[0].images[0].get_array()
    assert array is not None
    return np.ma.filled(np.ma.asarray(array, dtype=float), np.nan)


def test_tiles_land_in_reading_order() -> None:
    images = np.arange(6)[:, None] / 10 * np.ones((6, 28 * 28))
    mosaic = mosaic_of(plots.image_grid(images, (28, 28), "title", columns=4))
    assert mosaic.shape == (2 * 30 - 2, 4 * 30 - 2)
    assert float(mosaic[5, 5]) == 0.0
    assert float(mosaic[5, 95]) == pytest.approx(0.3)
    assert float(mosaic[35, 35]) == pytest.approx(0.5)
    assert np.isnan(mosaic[28, 5])  # the gap between the rows


def test_small_images_are_enlarged_not_smoothed() -> None:
    mosaic = mosaic_of(plots.image_grid(np.eye(4), (2, 2), "title"))
    assert set(mosaic[np.isfinite(mosaic)].tolist()) == {0.0, 1.0}
    assert mosaic.shape[0] == 24


@pytest.mark.parametrize("shape", [(1, 1), (1, 13), (1, 20), (1, 4000), (4999, 1), (2, 3000), (300, 500), (1, 100_000)])
def test_images_of_any_shape_are_seen_at_a_cost_that_does_not_grow(shape: tuple[int, int]) -> None:
    """One row of 5,000 pixels made a mosaic of 10 x 43,000, mostly gaps, and 9 GB; its tiles were lines thinner than a dot."""
    rng = np.random.default_rng(1)
    images = (rng.random((16, shape[0] * shape[1])) < 0.25).astype(float)
    figure = plots.image_grid(images, shape, "title")
    mosaic = mosaic_of(figure)
    assert mosaic.size < 1e6
    assert np.nanmean(mosaic) == pytest.approx(images.mean(), abs=0.02)
    height, width = figure.get_size_inches()[::-1] * figure.dpi
    assert min(height / 2, width / 8) > 8  # dots of a tile and its gap


def test_long_sides_are_averaged_in_order() -> None:
    images = np.linspace(0, 1, 4000)[None]
    mosaic = mosaic_of(plots.image_grid(images, (1, 4000), "title"))
    assert mosaic.shape == (40, 200)
    np.testing.assert_allclose(mosaic[7], images.reshape(200, 20).mean(1))


def test_real_values_are_scaled_and_the_picture_says_so() -> None:
    figure = plots.image_grid(np.random.default_rng(0).normal(size=(4, 64)) * 3, (8, 8), "title")
    assert any("grey levels from" in text.get_text() for text in figure.texts)


def test_weights_share_one_scale_symmetric_about_zero() -> None:
    weights = np.zeros((9, 30))
    weights[0, 3], weights[8, 29] = -2.5, 7.0  # unit 29 is beyond the 25 that are shown
    figure = plots.weight_grid(weights, (3, 3), "title")
    assert figure.axes[0].images[0].get_clim() == (-2.5, 2.5)
    assert np.nanmin(mosaic_of(figure)) == -2.5


def test_a_comparison_has_a_labelled_row_for_each_entry() -> None:
    rows = {"Data": np.zeros((5, 16)), "RBM (L1)": np.ones((5, 16))}
    figure = plots.comparison(rows, (4, 4), "title")
    assert [text.get_text() for text in figure.axes[0].texts] == ["Data", "RBM (L1)"]
    mosaic = mosaic_of(figure)
    assert float(mosaic[2, 2]) == 0.0
    assert float(mosaic[-2, 2]) == 1.0


def test_examples_carry_their_labels() -> None:
    figure = plots.data_examples(np.zeros((3, 16)), [7, 1, 4], (4, 4), "title")
    assert [text.get_text() for text in figure.axes[0].texts] == ["7", "1", "4"]
    assert not plots.data_examples(np.zeros((3, 16)), None, (4, 4), "title").axes[0].texts


def test_curves_have_a_panel_per_metric_and_a_legend_for_several_runs() -> None:
    curves = {"error": {"a": ([0, 1], [2.0, 1.0]), "b": ([0, 1], [2.0, np.nan])}, "norm": {"a": ([0, 1], [0.0, 1.0])}}
    figure = plots.learning_curves(curves, "title")
    visible = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in visible] == ["error", "norm"]
    assert len(visible[0].lines) == 2
    assert [text.get_text() for text in figure.legends[0].texts] == ["a", "b"]
    single = plots.learning_curves({"error": {"a": ([0, 1], [2.0, 1.0])}}, "title")
    assert not single.legends


def drawn_apart(figure: Figure) -> None:
    """Titles of panels lie inside the picture, and none over that of another panel, or over its numbers."""
    plots.to_rgb(figure)
    panels = [panel for panel in figure.axes if panel.get_visible() and panel.get_title(loc="left")]
    named = [panel.get_title(loc="left") for panel in panels]
    texts = [
        next(one for one in panel.findobj(Text) if one.get_text() == name)
        for panel, name in zip(panels, named, strict=True)
    ]
    titles = [one.get_window_extent() for one in texts]
    inside = figure.bbox
    for index, title in enumerate(titles):
        assert inside.x0 <= title.x0 < title.x1 <= inside.x1, named[index]
        assert inside.y0 <= title.y0 < title.y1 <= inside.y1, named[index]
        others = [other for place, other in enumerate(titles) if place != index] + [one.bbox for one in panels]
        assert not any(title.overlaps(other) for other in others), named[index]


@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_the_labels_of_all_metrics_are_read_above_their_panels(count: int) -> None:
    names = sorted({*CURVES, *COMPARED, *LIKELIHOODS}, key=lambda name: len(label(name)))[-count:]
    runs = {"RBM": ([0, 30], [2.0, 1.0]), "Hopfield": ([0, 30], [2.0, 3.0])}
    drawn_apart(plots.learning_curves(dict.fromkeys(names, runs), "Learning curves", "metrics on validation images"))
    points = {"RBM": {"1": (0.5, 0.1), "5": (0.7, 0.1)}}
    drawn_apart(plots.against_settings(dict.fromkeys(names, points), ["1", "5"], "k", "k", numeric=True, lines=True))
    grid = dict.fromkeys(names, np.array([[1.0, 2.0], [3.0, 4.0]]))
    drawn_apart(plots.heat_maps(grid, ("lr", ["0.1", "0.2"]), ("k", ["1", "5"]), "k and lr"))


def test_files_and_arrays_show_the_same_picture(tmp_path: Path) -> None:
    figure = plots.image_grid(np.random.default_rng(1).random((4, 64)), (8, 8), "title")
    path = plots.save(figure, tmp_path / "deep" / "picture.png")
    saved, array = imread(path), plots.to_rgb(figure)
    assert array.dtype == np.uint8
    np.testing.assert_array_equal(np.round(saved * 255), array)
    figure.suptitle("another title")
    assert not np.array_equal(plots.to_rgb(figure), array)
    assert [entry.name for entry in path.parent.iterdir()] == ["picture.png"]


@pytest.mark.parametrize("images", [np.zeros((3, 64)), np.zeros(784), np.zeros((0, 784))])
def test_shapes_that_do_not_fit_are_refused(images: np.ndarray) -> None:
    with pytest.raises(UserError, match=r"784|no images"):
        plots.image_grid(images, (28, 28), "title")


def test_weights_of_several_models_have_as_many_tiles_and_a_scale_each() -> None:
    generator = np.random.default_rng(3)
    sizes = {"RBM": (0.5, 30), "DBM, layer 1": (2.0, 20), "DBM, layer 2": (0.1, 9)}
    given = {label: (scale * generator.uniform(-1, 1, (64, units)), (8, 8)) for label, (scale, units) in sizes.items()}
    figure = plots.weights_side_by_side(given, "Weights", "of three layers")
    drawn_apart(figure)
    panels = {panel.get_title(loc="left"): panel.images[0] for panel in figure.axes if panel.get_title(loc="left")}
    assert list(panels) == list(sizes)
    assert len({image.get_size() for image in panels.values()}) == 1  # 9 tiles of each, as the smallest layer has
    for name, image in panels.items():
        limit = np.abs(given[name][0][:, :9]).max()
        assert image.get_clim() == pytest.approx((-limit, limit))
        assert image.colorbar is not None
        assert np.ma.getmaskarray(np.ma.masked_invalid(np.ma.asarray(image.get_array()))).any(), (
            "gaps are of no colour of the scale"
        )


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(UserError, match="no curves"):
        plots.learning_curves({}, "title")
    with pytest.raises(UserError, match="at least one row"):
        plots.comparison({}, (2, 2), "title")
