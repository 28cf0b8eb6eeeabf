"""Pictures as a journal takes them: axes say their units, scales of colour have one sense, files are of the format asked for."""

from __future__ import annotations

import inspect
import itertools
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import PLAIN, composed, run_command
from helpers import random_machine
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from PIL import Image
from torch import Tensor

from ebm_pipeline import cli, plots
from ebm_pipeline.evaluation.lacking import of_the_likelihood, of_the_pictures
from ebm_pipeline.evaluation.metrics import MonitoredImages, monitor
from ebm_pipeline.models.inference import MeanField
from ebm_pipeline.models.storage import SavedModel
from ebm_pipeline.plots.charts import say_metric
from ebm_pipeline.plots.scales import GUTTERS, colours_of
from ebm_pipeline.runs.beforehand import before
from ebm_pipeline.runs.compare import learning_curves
from ebm_pipeline.runs.configuration import build
from ebm_pipeline.runs.features import feature_figures
from ebm_pipeline.runs.report import picture
from ebm_pipeline.runs.resume import digest
from ebm_pipeline.runs.train import train
from ebm_pipeline.sampling.denoising import can_denoise
from ebm_pipeline.support.errors import UserError
from ebm_pipeline.support.glossary import HIGHER, LOWER, NONE, TERMS, Term
from ebm_pipeline.tasks import Features
from ebm_pipeline.tracking import records
from ebm_pipeline.training import Pretraining
from ebm_pipeline.training.pictures import deviations, weight_figure

SOME_TERMS = list({(term.unit, term.better): term for term in TERMS}.values())[:7]
RNG = np.random.default_rng(5)
LONG = "Restricted Boltzmann machine with a name that is longer than its picture is wide: what a title says of it"
WALKS = {start: RNG.normal(size=(3, 9)) for start in ("data", "noise")}
ONE, TWO = {"RBM": ([0, 1, 2], [3.0, 2.0, 1.5])}, {"data": RNG.normal(size=(9, 2)), "samples": RNG.normal(size=(9, 2))}
SETTINGS = ("lr", ["0.1", "0.2"]), ("k", ["1", "5", "9"])
GRID = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, np.nan]])
EVERY = {
    plots.against_settings: lambda: plots.against_settings(
        {"test/log_likelihood_low": {"RBM": {"1": (-80.0, 1.0), "5": (-78.0, 0.5)}}}, ["1", "5"], "k", LONG, "said",
        numeric=True, lines=True,
    ),
    plots.approach_of_chains: lambda: plots.approach_of_chains({"data": ([1, 10], [1.0, 0.1], [0.2, 0.1])}, LONG, "said"),
    plots.chains_by_sweeps: lambda: plots.chains_by_sweeps({"data": {1: np.eye(4), 1000: np.eye(4)}}, (2, 2), LONG),
    plots.class_shares: lambda: plots.class_shares({"a": (np.array([0.4, 0.6]), np.array([0.1, 0.1]))}, [0.5, 0.5], [0, 1], LONG),
    plots.comparison: lambda: plots.comparison({"Data": np.eye(4)}, (2, 2), LONG),
    plots.confusion_matrix: lambda: plots.confusion_matrix([[7, 1], [0, 9]], LONG, "said"),
    plots.data_examples: lambda: plots.data_examples(np.eye(4), [0, 1, 2, 3], (2, 2), LONG),
    plots.energy_traces: lambda: plots.energy_traces(WALKS, 1, LONG),
    plots.heat_maps: lambda: plots.heat_maps(
        dict.fromkeys(("validation/reconstruction_error", "time/total_seconds"), GRID), *SETTINGS, LONG
    ),
    plots.image_grid: lambda: plots.image_grid(np.eye(4), (2, 2), LONG),
    plots.learning_curves: lambda: plots.learning_curves(
        {term.name.format(part="validation", layer=1, pair=1): ONE for term in SOME_TERMS}, LONG, "said"
    ),
    plots.log_partition_estimates: lambda: plots.log_partition_estimates(
        {"forward": ([0.0, 1.0], [1.0, 2.0])}, {"forward": [(100, 2.0, 0.1), (200, 2.0, 0.1)]}, (1.9, 2.1), LONG
    ),
    plots.matrices: lambda: plots.matrices({"layer 1": WALKS["data"], "layer 2": RNG.random((5, 3))}, "x", "y", "bar", LONG),
    plots.moments: lambda: plots.moments({"mean": ([0.1, 0.2], [0.1, 0.3]), "covariance": ([0.1], [0.2])}, LONG),
    plots.samples_against_data: lambda: plots.samples_against_data(TWO, {name: own[:, 0] for name, own in TWO.items()}, LONG),
    plots.unit_values: lambda: plots.unit_values([1.0, 2.0], 0.1, "component", "deviation", LONG),
    plots.value_map: lambda: plots.value_map(np.arange(6), (2, 3), "deviation", LONG),
    plots.weight_grid: lambda: plots.weight_grid(RNG.normal(size=(4, 7)), (2, 2), LONG),
    plots.weights_side_by_side: lambda: plots.weights_side_by_side({"RBM": (RNG.normal(size=(4, 7)), (2, 2))}, LONG),
}  # fmt: skip


@pytest.fixture(scope="module", params=EVERY, ids=lambda function: function.__name__)
def figure(request: pytest.FixtureRequest) -> Figure:
    drawn: Figure = EVERY[request.param]()
    plots.to_rgb(drawn)
    return drawn


def with_ticks(axes: Axes) -> list[str]:
    """The labels of those axes of a panel that have ticks with numbers or names."""
    both = [axis for axis in (axes.xaxis, axes.yaxis) if axes.axison and axis.get_visible()]
    return [axis.label.get_text() for axis in both if any(tick.get_text() for tick in axis.get_ticklabels())]


def test_every_function_that_draws_is_tested_here() -> None:
    drawing = {getattr(plots, name) for name in plots.__all__ if inspect.isfunction(getattr(plots, name))}
    assert {own for own in drawing if inspect.signature(own).return_annotation == "Figure"} == set(EVERY)


def test_every_axis_with_ticks_says_what_it_is(figure: Figure) -> None:
    labels = [label for axes in figure.axes if axes.get_visible() for label in with_ticks(axes)]
    assert all(labels), labels


def words_of(figure: Figure) -> list[Text]:
    """Headings, titles, labels of axes, legends and what is written beside panels; the numbers along axes left out."""
    found = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    for axes in figure.axes:
        if axes.get_visible():
            legend = axes.get_legend()
            found += [*axes.texts, *(legend.get_texts() if legend else ())]
            found += [axes.xaxis.label, axes.yaxis.label] if axes.axison else []
            texts = [one for one in axes.findobj(Text) if isinstance(one, Text)]
            found += [text for text in texts if text.get_text() == axes.get_title(loc="left")]
    return [text for text in found if text.get_text()]


def test_nothing_is_cut_off_and_letters_are_of_six_points_at_least(figure: Figure) -> None:
    inside = figure.bbox
    for text in words_of(figure):
        extent = text.get_window_extent()
        assert float(text.get_fontsize()) >= 6, text.get_text()
        assert inside.x0 - 1 <= extent.x0 < extent.x1 <= inside.x1 + 1, text.get_text()
        assert inside.y0 - 1 <= extent.y0 < extent.y1 <= inside.y1 + 1, text.get_text()


# ---------------------------------------------------------------------------------------------- which way is better


@pytest.mark.parametrize("term", TERMS, ids=lambda term: term.name)
def test_a_panel_says_the_unit_and_points_to_where_its_metric_is_better(term: Term) -> None:
    panel = Figure().subplots()
    say_metric(panel, term.name.format(part="test", layer=1, pair=1), 2.0)
    said = [text.get_text() for text in panel.texts]
    assert panel.get_ylabel() == {"1": "pure number"}.get(term.unit, term.unit)
    if term.better in (LOWER, HIGHER):
        (arrow,) = panel.texts
        assert isinstance(arrow, Annotation)
        assert said == ["better"]
        assert (arrow.xy[1] > arrow.get_position()[1]) == (term.better == HIGHER)
    else:
        assert said == ([] if term.better == NONE else [f"best {term.better}"])


def test_every_curve_and_every_panel_of_a_sweep_has_the_mark() -> None:
    names = {"validation/reconstruction_error": "better", "weights/norm": None, "sampler/r_hat": "best near 1"}
    curves = plots.learning_curves(dict.fromkeys(names, ONE), "title")
    points = {"RBM": {"1": (0.5, 0.1), "5": (0.7, 0.1)}}
    swept = plots.against_settings(dict.fromkeys(names, points), ["1", "5"], "k", "k", numeric=True, lines=True)
    for drawn in (curves, swept):
        shown = [axes for axes in drawn.axes if axes.get_visible()]
        found = [[text.get_text() for text in panel.texts] for panel in shown]
        assert found == [[mark] if mark else [] for mark in names.values()]


@pytest.mark.parametrize(
    ("name", "better"), [("validation/reconstruction_error", LOWER), ("test/log_likelihood_low", HIGHER)]
)
def test_the_bright_end_of_a_heat_map_is_the_better_one(name: str, better: str) -> None:
    drawn = plots.heat_maps({name: GRID}, ("lr", ["0.1", "0.2"]), ("k", ["1", "5", "9"]), "title")
    panel, bar = drawn.axes
    colours = panel.images[0].to_rgba(np.array([1.0, 5.0]))
    brightness = colours[:, :3].sum(1)
    assert (brightness[0] > brightness[1]) == (better == LOWER)
    assert f"(bright: {better}, better)" in bar.get_ylabel()


# ---------------------------------------------------------------------------------------------- scales of colour


@pytest.mark.parametrize("scale", GUTTERS)
def test_gutters_are_of_no_colour_of_the_scale(scale: str) -> None:
    scale_colours = colours_of(scale)(np.linspace(0, 1, 1001))[:, :3]
    assert np.linalg.norm(scale_colours - to_rgb(GUTTERS[scale]), axis=1).min() > 0.08
    if scale == "RdBu_r":  # neutral: neither the red of positive nor the blue of negative weights
        assert np.ptp(to_rgb(GUTTERS[scale])) == 0


def test_between_the_tiles_of_weights_a_picture_has_the_colour_of_gutters_alone() -> None:
    drawn = plots.weight_grid(np.full((64, 4), -0.05), (8, 8), "title", columns=2)
    (image,) = drawn.axes[0].images
    shown = image.to_rgba(np.ma.asarray(image.get_array()))
    gap = np.isnan(np.ma.filled(np.ma.asarray(image.get_array(), dtype=float), np.nan))
    assert gap.any()
    np.testing.assert_allclose(shown[gap][:, :3], np.tile(to_rgb(GUTTERS["RdBu_r"]), (gap.sum(), 1)), atol=0.003)


def test_rows_of_a_comparison_that_end_early_end_on_white_paper() -> None:
    """Two of four tiles: no gutters behind them, neither beside nor between such rows; all of them before."""
    ending = np.full((4, 16), np.nan)
    ending[:2] = 0.5
    drawn = plots.comparison({"all": np.full((4, 16), 0.5), "two": ending, "two more": ending}, (4, 4), "title")
    (image,) = drawn.axes[0].images
    shown, (height, width) = plots.to_rgb(drawn), np.asarray(image.get_array()).shape

    def colour(row: float, column: float) -> Any:
        across, up = drawn.axes[0].transData.transform((column * width - 0.5, row * height - 0.5))
        return (shown[len(shown) - 1 - int(up), int(across)] / 255).tolist()

    for row in (0.5, 0.665, 0.83):  # the middles of both, and between them
        assert colour(row, 0.8) == [1, 1, 1]
    gutter = list(to_rgb(GUTTERS["gray_r"]))
    assert colour(0.665, 0.2) == pytest.approx(gutter, abs=0.01)
    assert colour(0.17, 0.5) == pytest.approx(gutter, abs=0.01)


def test_signed_numbers_are_red_and_blue_about_zero_others_are_not() -> None:
    drawn = plots.matrices({"signed": [[-1.0, 0.5]], "not": [[0.0, 0.5]]}, "x", "y", "weight (nats)", "title")
    (signed, other) = (axes.images[0] for axes in drawn.axes[:2])
    assert signed.get_clim() == (-1, 1)
    blue, red = signed.to_rgba(np.array([-1.0, 1.0]))[:, :3]
    assert blue[2] > blue[0]
    assert red[0] > red[2]
    assert other.get_clim() == (0, 0.5)
    assert signed.cmap.name != other.cmap.name
    assert [axes.get_ylabel() for axes in drawn.axes[2:]] == ["weight (nats)"] * 2


def test_weights_of_data_that_are_no_images_are_one_field_of_colour() -> None:
    weights = torch.tensor(RNG.normal(size=(13, 5)))
    panel, bar = weight_figure(weights, (1, 13), 2, "RBM: weights", 3).axes
    np.testing.assert_array_equal(np.asarray(panel.images[0].get_array()), weights[:, :3])
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("hidden unit", "visible unit")
    assert bar.get_ylabel() == "product of weights (nats²)"


def test_deviations_of_principal_components_are_not_drawn_as_an_image() -> None:
    layer = random_machine(("learned_gaussian", "bernoulli"), (6, 3), seed=5).layers[0]
    image = deviations(layer, (2, 3), "GRBM").axes[0]  # type: ignore[arg-type]
    assert image.images[0].get_size() == (2, 3)
    points = deviations(layer, (2, 3), "GRBM", units_are_pixels=False).axes[0]  # type: ignore[arg-type]
    assert not points.images
    shown = np.asarray(points.lines[0].get_ydata())
    np.testing.assert_allclose(shown, layer.variance.sqrt())  # type: ignore[attr-defined]
    assert points.get_xlabel().startswith("principal component")


# ---------------------------------------------------------------------------------------------- files


def two_panels() -> Figure:
    return plots.learning_curves({"validation/pseudo_likelihood": ONE, "weights/norm": ONE}, "RBM: learning curves")


def test_an_svg_has_its_words_as_words_and_is_the_same_each_time(tmp_path: Path) -> None:
    written = plots.save(two_panels(), tmp_path / "one.png", plots.Files("svg"))
    assert written == tmp_path / "one.svg"
    words = written.read_text(encoding="utf-8")
    for said in ("RBM: learning curves", "nats per image", "pseudo-likelihood, validation", "better", "epoch"):
        assert re.search(rf"<text[^>]*>(<tspan[^>]*>)?{re.escape(said)}<", words), said
    other = plots.save(two_panels(), tmp_path / "two.png", plots.Files("svg"))
    assert other.read_bytes() == written.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.png", "one.svg", "two.png", "two.svg"]


def test_a_pdf_holds_its_fonts_and_is_the_same_each_time(tmp_path: Path) -> None:
    written = [plots.save(two_panels(), tmp_path / f"{name}.png", plots.Files("pdf")) for name in ("one", "two")]
    content = written[0].read_bytes()
    assert content.startswith(b"%PDF")
    assert b"/FontFile2" in content
    assert b"/Type3" not in content
    assert written[1].read_bytes() == content


def test_a_pdf_is_written_without_a_word_about_its_fonts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        plots.save(two_panels(), tmp_path / "one.png", plots.Files("pdf"))
    assert caplog.messages == []


@pytest.mark.parametrize("form", ["png", "pdf", "svg"])
def test_the_png_is_there_with_every_format_and_is_what_mlflow_gets(form: str, tmp_path: Path) -> None:
    drawn = two_panels()
    plots.save(drawn, tmp_path / "picture.png", plots.Files(form, 80))  # type: ignore[arg-type]
    with Image.open(tmp_path / "picture.png") as image:
        assert image.info["dpi"] == pytest.approx((80, 80), abs=0.01)
        np.testing.assert_array_equal(np.asarray(image), plots.to_rgb(drawn))
        assert image.size == tuple(int(side * 80) for side in drawn.get_size_inches())


def test_a_page_shows_pictures_of_any_resolution_in_one_size(tmp_path: Path) -> None:
    widths = set()
    for dpi in (75, 150, 600):
        path = plots.save(two_panels(), tmp_path / f"{dpi}.png", plots.Files(dpi=dpi))
        widths.add(picture(path.read_bytes(), "curves")["width"])
    assert len(widths) == 1
    assert picture(path.read_bytes()[:33], "cut off")["width"] == round(Image.open(path).width * 96 / 150)


def test_a_picture_of_hundreds_of_images_is_written_at_the_highest_resolution_it_can_have(tmp_path: Path) -> None:
    row = plots.comparison({"Data": np.zeros((400, 1))}, (1, 1), "title")
    path = plots.save(row, tmp_path / "wide.png", plots.Files(dpi=600))
    with Image.open(path) as image:
        assert 39_000 < image.width <= 40_000


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("plots.format=jpg", r"plots\.format must be one of png, pdf, svg; got 'jpg'"),
        ("plots.format=3", r"plots\.format must be one of png, pdf, svg; got 3"),
        ("plots.dpi=0", r"plots\.dpi, dots per inch, must be .*50.*600.*0"),
        ("plots.dpi=5000", r"plots\.dpi, dots per inch, must be .*50.*600.*5000"),
        ("plots.dpi=fine", r"plots\.dpi must be a whole number; got 'fine'"),
        ("plots.size=3", "size"),
    ],
)
def test_what_is_no_format_or_resolution_is_one_message(given: str, said: str) -> None:
    config = composed(f"+{given}" if "size" in given else given)
    with pytest.raises(UserError, match=said):
        build(config.plots, "plots", plots.Files)


@pytest.mark.parametrize(("command", "run"), [("sample", "run=a"), ("evaluate", "run=a"), ("compare", "runs=[a]")])
def test_every_command_that_draws_has_the_choice(command: str, run: str) -> None:
    config = composed(run, "plots.format=svg", "plots.dpi=300", name=command)
    assert build(config.plots, "plots", plots.Files) == plots.Files("svg", 300)


# ---------------------------------------------------------------------------------------------- a run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a DBM, its pictures as SVG too."""
    root = tmp_path_factory.mktemp("run")
    train(
        composed(*PLAIN, "model=dbm", "hidden_units=6", "plots.format=svg", "plots.dpi=60", output_root=root),
        root / "dbm",
    )
    return root / "dbm"


def test_a_run_has_both_files_of_each_picture_and_its_report_shows_them(run: Path) -> None:
    for folder in (run, run / "pictures"):
        found = {path.stem for path in folder.glob("*.png")}
        assert found == {path.stem for path in folder.glob("*.svg")}
    with Image.open(run / "pictures" / "weights_2_final.png") as image:
        assert image.info["dpi"] == pytest.approx((60, 60), abs=0.01)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == len(list((run / "pictures").glob("*_final.png"))) + 1
    images = [path for path in run.parent.rglob("images/*") if path.suffix == ".png"]
    assert len(images) > 5


def test_the_curves_of_a_pretrained_machine_say_so(run: Path) -> None:
    words = (run / "pictures" / "learning_curves_final.svg").read_text(encoding="utf-8")
    assert "layerwise pretraining came before: 2 epochs for each of 2 layers" in words
    assert "epoch of the joint training" in words
    grown = before(Pretraining(1, grow=True), 2)
    assert "1 epoch of the first RBM alone" in grown
    assert "the trained model of the run 1f3a" in before(Pretraining(3), 2, "the run 1f3a")
    assert before(None, 1) == ""


def test_what_the_machine_cannot_have_stands_in_its_report(run: Path) -> None:
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "What this model cannot have" in page
    assert "No pseudo-likelihood: with more than one hidden layer" in page


def test_what_is_asked_of_a_run_is_drawn_in_the_format_too(run: Path) -> None:
    done = run_command(cli.sample, f"run={run}", "task=features", "count=8", "plots.format=pdf", output_root=run.parent)
    assert done.code == 0, done.err
    (folder,) = (run.parent / "samples").iterdir()
    expected = {"features", "features_2", "features_means"}
    assert {path.stem for path in folder.glob("*.png")} == {path.stem for path in folder.glob("*.pdf")} == expected
    wrong = run_command(cli.sample, f"run={run}", "plots.format=gif", output_root=run.parent)
    assert wrong.code == 1
    assert "plots.format must be one of png, pdf, svg; got 'gif'" in wrong.err


@pytest.mark.slow
def test_comparing_and_evaluating_write_the_format_too(run: Path) -> None:
    done = run_command(cli.compare, f"runs=[{run}]", "plots.format=pdf", "plots.dpi=60", output_root=run.parent)
    assert done.code == 0, done.err
    (curves,) = run.parent.glob("comparisons/*/learning_curves.pdf")
    assert {path.stem for path in curves.parent.glob("*.png")} == {path.stem for path in curves.parent.glob("*.pdf")}
    assert "layerwise pretraining came before" in plain_text_of_curves(run)
    few = ("likelihood=null", "diagnostics.chains=20", "diagnostics.sweeps=40")
    done = run_command(cli.evaluate, f"run={run}", *few, "plots.format=pdf", output_root=run.parent)
    assert done.code == 0, done.err
    assert len(list(run.parent.glob("evaluations/*/moments.pdf"))) == 1


def plain_text_of_curves(run: Path) -> str:
    """What the picture of a comparison says under its title."""
    record = records.find_run(f"sqlite:///{run.parent / 'mlflow.db'}", str(run))
    return learning_curves({"DBM": record}).texts[1].get_text().replace("\n", " ")


def test_the_format_of_pictures_is_no_setting_of_a_run(tmp_path: Path) -> None:
    """So that a run that was begun with another one, or by an earlier version without, can go on."""
    plain, other = (
        composed(*PLAIN, *given, output_root=tmp_path) for given in ((), ("plots.format=pdf", "plots.dpi=300"))
    )
    assert digest(plain) == digest(other)


# ---------------------------------------------------------------------------------------------- what cannot be had

KINDS = [
    (("bernoulli", "bernoulli"), (4, 3)),
    (("bernoulli", "gaussian"), (4, 3)),
    (("ising", "bernoulli"), (4, 3)),
    (("gaussian", "bernoulli"), (4, 3)),
    (("learned_gaussian", "bernoulli"), (4, 3)),
    (("potts", "bernoulli"), (4, 3)),
    (("bernoulli", "bernoulli", "bernoulli"), (4, 3, 2)),
]


@pytest.mark.parametrize(("kinds", "units"), KINDS)
def test_a_number_is_there_or_it_is_said_that_it_cannot_be(kinds: tuple[str, ...], units: tuple[int, ...]) -> None:
    machine = random_machine(kinds, units, seed=5)
    images = torch.eye(4, dtype=torch.float64)
    metrics = monitor(machine, MonitoredImages(images, images, images), MeanField())
    words = " ".join(of_the_pictures(machine, (2, 2)))
    for name, said in (
        ("pseudo_likelihood", "pseudo-likelihood"),
        ("reconstruction_wrong_pixels", "shares of wrong pixels"),
        ("free_energy_gap", "No free-energy gap"),
        ("classification_error", "No error of classification"),
    ):
        assert (f"validation/{name}" in metrics) != (said in words), name
    assert can_denoise(machine.layers[0]) != ("No restoring by sampling" in words)
    assert ("No picture of standard deviations" in words) == (kinds[0] == "gaussian")
    assert "No weights as images" not in words
    assert "No weights as images" in " ".join(of_the_pictures(machine, (1, 4)))
    card = " ".join(of_the_likelihood(machine, exact=False))
    assert ("only a bound" in card) == (len(units) > 2)
    assert ("is a density" in card) == ("gaussian" in kinds[0])
    assert "no picture of the estimates of log Z" in " ".join(of_the_likelihood(machine, exact=True))


def test_features_are_drawn_and_not_the_images_that_were_given() -> None:
    """Under that title stood the digits themselves."""
    machine = random_machine(("bernoulli", "bernoulli", "bernoulli"), (6, 4, 3), seed=5).map(Tensor.float)
    saved = SavedModel(machine, torch.full((6,), 0.4), (2, 3), "")
    answer = Features(MeanField(1e-6, 200))(saved, torch.eye(6), 1)
    figures = feature_figures(answer, saved, "DBM")
    titles = {key: drawn.texts[0].get_text().replace("\n", " ") for key, drawn in figures.items()}
    assert titles == {
        "features": "DBM: features of layer 1, weights as images",
        "features_2": "DBM: features of layer 2, products of weights as images",
        "features_means": "DBM: hidden units given the data",
    }
    first, second = machine.weights
    for key, weights in (("features", first), ("features_2", first @ second)):
        image = figures[key].axes[0].images[0]
        pixels: np.ndarray = np.ma.filled(np.ma.asarray(image.get_array(), dtype=float), np.nan)
        tile = next(size for size in range(1, 99) if np.isnan(pixels[0, size]))  # dots of a tile and of three pixels
        np.testing.assert_allclose(pixels[0, : tile : tile // 3], weights[:3, 0], rtol=1e-6)
        bar = figures[key].axes[1].get_ylabel()
        assert bar == ("weight (nats)" if key == "features" else "product of weights (nats²)")
    means = [panel.images[0].get_array() for panel in figures["features_means"].axes[:2]]
    for shown, name in zip(means, ("layer_1", "layer_2"), strict=True):
        np.testing.assert_array_equal(np.asarray(shown), answer.arrays[name].double())


@pytest.mark.parametrize("width", [5, 9, 12, 4000])
def test_names_of_rows_do_not_run_into_each_other_where_images_are_one_row(width: int) -> None:
    rows = {f"noise, {sweeps}": np.zeros((8, width)) for sweeps in (1, 10, 100)}
    drawn = plots.comparison(rows, (1, width), "title")
    plots.to_rgb(drawn)
    boxes = [text.get_window_extent() for text in drawn.axes[0].texts]
    assert not any(one.overlaps(other) for one, other in itertools.pairwise(boxes))
