"""Samples of a machine against data that it models, and against data that it does not."""

from __future__ import annotations

import pytest
import torch
from helpers import joint_probabilities, random_machine
from torch import Tensor

from ebm_pipeline import plots
from ebm_pipeline.errors import UserError
from ebm_pipeline.evaluation.diagnostics import Diagnosis, Diagnostics
from ebm_pipeline.inference import MeanField

SETTINGS = Diagnostics(chains=400, sweeps=100)


def drawn(sizes: tuple[int, ...], generator: torch.Generator) -> tuple[Diagnosis, Tensor]:
    """A machine's diagnosis against exact samples of its own, and against coins."""
    machine = random_machine(("bernoulli",) * len(sizes), sizes, seed=6, weights=1.0)
    states, probabilities = joint_probabilities(machine)
    own = states[0][torch.multinomial(probabilities, 400, replacement=True, generator=generator)]
    coins = (torch.rand(400, sizes[0], generator=generator) < 0.5).double()
    parts = {"own": own, "coins": coins}
    return SETTINGS(machine, parts, MeanField(), seed=1), own


@pytest.mark.parametrize("sizes", [(6, 4), (5, 4, 3)])
def test_exact_samples_agree_and_others_do_not(sizes: tuple[int, ...], generator: torch.Generator) -> None:
    diagnosis, _ = drawn(sizes, generator)
    figures = diagnosis.figures
    assert figures["samples_r_hat"] < 1.05
    assert abs(figures["own/samples_energy_distance"]) < 0.02
    assert figures["coins/samples_energy_distance"] > 3 * abs(figures["own/samples_energy_distance"])
    assert figures["own/samples_mean_error"] < 5 * (2 * 0.25 / 400) ** 0.5
    assert "400 chains, started from data or from noise; 100 Gibbs sweeps" in diagnosis.drawn
    assert set(diagnosis.points) == set(diagnosis.energies) == {"own", "coins", "samples"}
    assert float(diagnosis.energies["own"].mean()) == pytest.approx(0, abs=1e-9)


def test_the_picture_has_every_set_in_both_panels(generator: torch.Generator) -> None:
    diagnosis, _ = drawn((6, 4), generator)
    figure = plots.samples_against_data(diagnosis.points, diagnosis.energies, "title", diagnosis.drawn)
    scatter, histogram = figure.axes
    assert len(scatter.collections) == len(histogram.patches) == 3
    legend = histogram.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.texts] == ["own", "coins", "samples"]


@pytest.mark.parametrize("settings", [(2, 100), (10, 5), (10.5, 100)])
def test_settings_out_of_range_are_refused(settings: tuple[int, int]) -> None:
    with pytest.raises(UserError, match=r"diagnostics\.(chains|sweeps) must be a whole number"):
        Diagnostics(*settings)
