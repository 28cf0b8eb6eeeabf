"""Pictures of chains and of log Z: two panels each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from ebm_pipeline.plots.frame import COLOURS, panels

PANEL_WIDTH = 2.95
UNITS = {"mean": "units of pixels", "covariance": "squares of pixels"}
MOST_POINTS = 500  # of a trace, in a panel


def samples_against_data(
    points: Mapping[str, ArrayLike], energies: Mapping[str, ArrayLike], title: str, subtitle: str = ""
) -> Figure:
    """Two panels: points[set] (count, 2) in the plane of two principal components, and histograms of energies[set]."""
    with panels(2, 2, (PANEL_WIDTH, 2.5), title, subtitle) as (figure, (left, right)):
        every = np.concatenate([np.asarray(values, dtype=np.float64) for values in energies.values()])
        bins = np.histogram_bin_edges(every, 40)
        for colour, (name, values) in zip(COLOURS, energies.items(), strict=False):
            place = np.asarray(points[name])
            left.scatter(place[:, 0], place[:, 1], s=3, color=colour, alpha=0.5, linewidths=0, label=name)
            right.hist(np.asarray(values), bins=bins.tolist(), density=True, histtype="step", color=colour, label=name)
        left.set_xlabel("first principal component\n(units of pixels)")
        left.set_ylabel("second (units of pixels)")
        right.set_xlabel("free energy, less its mean\nover the data (nats)")
        right.set_ylabel("density (1/nat)")
        right.legend(loc="best")
    return figure


def approach_of_chains(
    curves: Mapping[str, tuple[Sequence[int], Sequence[float], Sequence[float]]], title: str, subtitle: str = ""
) -> Figure:
    """Two panels against the sweeps made: curves[start] = (sweeps, mean free energies, energy distances to data)."""
    with panels(2, 2, (PANEL_WIDTH, 2.2), title, subtitle) as (figure, both):
        for index, (panel, label) in enumerate(
            zip(
                both,
                ("mean free energy,\nless that of data (nats)", "energy distance to data\n(units of pixels)"),
                strict=True,
            ),
            start=1,
        ):
            for colour, (name, curve) in zip(COLOURS, curves.items(), strict=False):
                panel.plot(curve[0], curve[index], color=colour, marker="o", markersize=3, label=f"start: {name}")
            panel.axhline(0, color="#999999", linewidth=0.6, zorder=0)
            panel.set_xscale("log")
            panel.set_yscale("symlog", linthresh=(1.0, 0.01)[index - 1])
            panel.set_xlabel("sweeps")
            panel.set_ylabel(label)
        both[1].legend(loc="best")
    return figure


def energy_traces(
    traces: Mapping[str, ArrayLike], first_sweep: int, title: str, subtitle: str = "", count: int = 6
) -> Figure:
    """Two panels, traces[start] (chains, sweeps): free energies of the first `count` chains, on one scale."""
    with panels(2, 2, (PANEL_WIDTH, 2.2), title, subtitle) as (figure, both):
        shown = {name: np.asarray(trace, dtype=np.float64)[:count] for name, trace in traces.items()}
        low, high = min(trace.min() for trace in shown.values()), max(trace.max() for trace in shown.values())
        for panel, (name, trace) in zip(both, shown.items(), strict=True):
            every = max(1, trace.shape[1] // MOST_POINTS)
            sweeps = first_sweep + np.arange(trace.shape[1])
            for colour, values in zip(COLOURS, trace, strict=False):
                panel.plot(sweeps[::every], values[::every], color=colour, linewidth=0.5)
            panel.set_title(f"start: {name}", loc="left")
            panel.set_ylim(low - 0.05 * (high - low) - 1e-9, high + 0.05 * (high - low) + 1e-9)
            panel.set_xlabel("sweeps")
            panel.set_ylabel("free energy,\nless the mean of data (nats)")
    return figure


def moments(pairs: Mapping[str, tuple[ArrayLike, ArrayLike]], title: str, subtitle: str = "") -> Figure:
    """Two panels, pairs["mean"] and ["covariance"] = (of data, of samples), each (count,): points on the diagonal agree."""
    with panels(2, 2, (PANEL_WIDTH, 2.5), title, subtitle) as (figure, both):
        for panel, (name, (data, samples)) in zip(both, pairs.items(), strict=True):
            x, y = np.asarray(data), np.asarray(samples)
            if x.size:  # one pixel has no covariance with another
                ends = [min(x.min(), y.min()), max(x.max(), y.max())]
                panel.plot(ends, ends, color="#999999", linewidth=0.6, zorder=0)
            panel.scatter(x, y, s=3, color=COLOURS[0], alpha=0.4, linewidths=0, rasterized=True)
            panel.set_xlabel(f"{name}, data\n({UNITS[name]})")
            panel.set_ylabel(f"{name}, samples\n({UNITS[name]})")
    return figure


def log_partition_estimates(
    ways: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    ends: Mapping[str, Sequence[tuple[int, float, float]]],
    interval: tuple[float, float],
    title: str,
    subtitle: str = "",
) -> Figure:
    """Estimates of log Z by direction: along beta, ways[name] = (betas, log Z), and at beta 1 against the temperatures.

    ends[name] = [(temperatures, log Z, two standard errors), ...]; `interval` is shaded. All in nats.
    """
    with panels(2, 2, (PANEL_WIDTH, 2.2), title, subtitle) as (figure, (left, right)):
        styles = ("-", (0, (4, 2)))
        for number, (name, (betas, values)) in enumerate(ways.items()):
            left.plot(betas, values, color=COLOURS[number], linewidth=1.2, linestyle=styles[number % 2], label=name)
        left.set_xlabel("inverse temperature (1: the machine)")
        left.set_ylabel("log Z (nats)")
        left.legend(loc="best")
        right.axhspan(*interval, color="#dfe5ec", linewidth=0)
        for number, points in enumerate(ends.values()):
            counts, values, errors = zip(*points, strict=True)
            moved = [count * (0.97 if number == 0 else 1.03) for count in counts]  # so that the bars do not overlap
            right.errorbar(
                moved,
                values,
                errors,
                color=COLOURS[number],
                marker="o",
                markersize=3,
                capsize=2,
                linewidth=0.9,
            )
        right.set_xscale("log")
        shown = sorted({count for points in ends.values() for count, _, _ in points})
        right.set_xticks(shown, [f"{float(f'{count:.2g}'):,.0f}" for count in shown])
        right.minorticks_off()
        right.set_xlim(shown[0] / 1.3, shown[-1] * 1.3)
        right.set_xlabel("number of temperatures")
        right.set_ylabel("log Z (nats), 2 standard errors")
    return figure
