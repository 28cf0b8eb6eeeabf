"""Pictures: pixels land where they belong, scales are shared, files are whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from ebm_pipeline import plots
from ebm_pipeline.errors import UserError


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


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(UserError, match="no curves"):
        plots.learning_curves({}, "title")
    with pytest.raises(UserError, match="at least one row"):
        plots.comparison({}, (2, 2), "title")
