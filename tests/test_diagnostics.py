"""Samples of a machine against data that it models, and against data that it does not."""

from __future__ import annotations

import pytest
import torch
from helpers import joint_probabilities, random_machine
from torch import Tensor

from ebm_pipeline import plots
from ebm_pipeline.evaluation.diagnostics import Diagnosis, Diagnostics
from ebm_pipeline.evaluation.equilibrium import autocorrelation_time, equilibrate
from ebm_pipeline.models.inference import MeanField
from ebm_pipeline.models.layers import Bernoulli
from ebm_pipeline.models.machine import assemble
from ebm_pipeline.runs.present import diagnosis_figures
from ebm_pipeline.support.errors import UserError

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
    metrics = diagnosis.metrics
    assert metrics["sampler/r_hat"] < 1.05
    assert abs(metrics["own/samples_energy_distance"]) < 0.02
    assert metrics["coins/samples_energy_distance"] > 3 * abs(metrics["own/samples_energy_distance"])
    assert metrics["own/samples_mean_error"] < 5 * (2 * 0.25 / 400) ** 0.5
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


def test_the_autocorrelation_time_of_a_chain_of_two_states(generator: torch.Generator) -> None:
    """A chain that changes its state with probability p has rho(t) = (1 - 2p)^t, so tau = (1 - p) / p."""
    chains, draws, change = 50, 4000, 0.1
    flips = torch.rand(chains, draws, generator=generator) < change
    start = torch.rand(chains, 1, generator=generator) < 0.5
    trace = (flips.cumsum(1) + start) % 2
    # The relative error of tau is about sqrt(2 (2M + 1) / N) with a window M of some tau (Sokal 1997).
    assert autocorrelation_time(trace) == pytest.approx(
        (1 - change) / change, rel=5 * (2 * 61 / (chains * draws)) ** 0.5
    )
    assert autocorrelation_time(torch.randn(50, 1000, generator=generator)) == pytest.approx(1, abs=0.1)


def test_families_can_agree_where_single_chains_do_not_mix(generator: torch.Generator) -> None:
    """Two modes of equal weight that no chain leaves: noise falls into either, and so do data of both."""
    weights = torch.full((20, 10), 2.0)
    machine = assemble([Bernoulli(torch.full((20,), -10.0)), Bernoulli(torch.full((10,), -20.0))], [weights])
    data = torch.cat((torch.zeros(100, 20), torch.ones(100, 20)))
    found = equilibrate(machine, data, 200, 100, generator)
    assert found.worst < 1.1
    assert found.mixing.r_hat > 2
    easy = equilibrate(random_machine(("bernoulli", "bernoulli"), (6, 4), 3), data[:, :6].double(), 200, 100, generator)
    assert easy.mixing.r_hat < 1.05
    assert easy.mixing.autocorrelation_time is not None
    assert 1 < easy.mixing.autocorrelation_time < 5
    assert set(easy.visible) == {1, 10, 100}
    assert easy.energies.shape == (100, 50)


def test_the_approach_starts_at_the_start_and_ends_at_the_model(generator: torch.Generator) -> None:
    diagnosis, _ = drawn((6, 4), generator)
    first, last = ({family: way[end] for family, way in diagnosis.approach.items()} for end in (0, -1))
    assert [point.sweeps for point in diagnosis.approach["noise"]] == [1, 10, 100]
    assert first["noise"].deviation > 0.1
    assert all(point.deviation > 0.3 for point in last.values())  # of the coins, which come last
    assert all(abs(point.distance) < 0.02 for point in last.values())
    mean, covariance = diagnosis.moments["mean"], diagnosis.moments["covariance"]
    assert [len(moment) for moment in (*mean, *covariance)] == [6, 6, 15, 15]


def test_every_picture_says_how_the_samples_were_drawn(generator: torch.Generator) -> None:
    diagnosis, _ = drawn((6, 4), generator)
    figures = diagnosis_figures(diagnosis, "RBM", (2, 3))
    assert set(figures) == {"chains_by_sweeps", "samples_against_data", "approach", "energy_traces", "moments"}
    for key, figure in figures.items():
        assert any("Gibbs sweeps" in text.get_text() for text in figure.texts), key
    assert [line.get_label() for line in figures["approach"].axes[1].lines[:2]] == ["start: data", "start: noise"]
    assert [text.get_text() for text in figures["chains_by_sweeps"].axes[0].texts][:2] == ["data, 1", "data, 10"]
