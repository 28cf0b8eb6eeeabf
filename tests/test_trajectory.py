"""Trajectory tempering: the distribution of its rungs, its exchanges, how the ladder grows, log Z, and two modes far apart."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers import (
    DISCRETE_MACHINES,
    MACHINES,
    assert_same_distribution,
    joint_probabilities,
    joint_states,
    random_machine,
    state_counts,
    state_numbers,
)
from test_tempering import two_far_modes
from torch import Tensor

from benchmarks.likelihood import far_modes
from ebm_pipeline.evaluation.enumeration import exact_log_partition
from ebm_pipeline.evaluation.trajectory import trajectory_log_partition
from ebm_pipeline.models.inference import MeanField
from ebm_pipeline.models.machine import ODD, BoltzmannMachine, States
from ebm_pipeline.sampling import Ladder, TrajectoryTempering, leaves, with_leaves
from ebm_pipeline.sampling.bennett import bennett, bennett_step
from ebm_pipeline.sampling.ladder import (
    MOVES,
    NEVER,
    RUNGS,
    SWEEPS,
    TAKEN_OUT,
    acceptance_at,
    between,
    distances,
    first_ladder,
    independent_base,
    stacked,
    with_rung,
    without_rung,
)
from ebm_pipeline.sampling.trajectory import log_partition
from ebm_pipeline.support.errors import UserError
from ebm_pipeline.training.objectives import ContrastiveDivergence

Case = tuple[tuple[str, ...], tuple[int, ...]]
CHAINS = 20_000
STILL = TrajectoryTempering(steps=2, rungs=4, chains=None, every=0, warm_up=0)


def rungs_of(machine: BoltzmannMachine, seed: int = 7) -> list[BoltzmannMachine]:
    """A base, a machine with other weights, and the machine itself: no symmetry hides a fault."""
    machine = machine.folded()
    generator = torch.Generator().manual_seed(seed)
    changes = {
        name: 0.5 * tensor + 0.3 * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
        for name, tensor in machine.named_tensors().items()
        if "variance" not in name
    }
    base = independent_base(machine, (None,) * machine.depth)
    return [base, machine.with_tensors(changes), machine]


def exact_ladder(machine: BoltzmannMachine, generator: torch.Generator) -> tuple[Ladder, list[Tensor]]:
    """Chains of three rungs drawn from their exact distributions, and those distributions over all joint states."""
    machines, drawn, probabilities = rungs_of(machine), [], []
    for own in machines:
        states, probability = joint_probabilities(own)
        rows = torch.multinomial(probability, CHAINS, replacement=True, generator=generator)
        drawn.append(tuple(state[rows] for state in states))
        probabilities.append(probability)
    ladder = first_ladder(stacked(machines[:2]), drawn[2], 3, CHAINS)
    below = tuple(torch.stack((drawn[0][index], drawn[1][index], drawn[1][index])) for index in range(machine.depth))
    return ladder._replace(below=below), probabilities


def states_of(ladder: Ladder, rung: int) -> States:
    """All layers of a rung."""
    return ladder.top if rung == ladder.rungs else tuple(state[rung] for state in ladder.below)


@pytest.mark.parametrize("case", DISCRETE_MACHINES)
@pytest.mark.parametrize("offsets", [0.0, 1.0])
def test_every_rung_keeps_its_distribution(case: Case, offsets: float, generator: torch.Generator) -> None:
    machine = random_machine(*case, seed=1, offsets=offsets, weights=1.0)
    ladder, probabilities = exact_ladder(machine, generator)
    moved, _ = STILL.step(machine, ladder, generator)
    assert moved.rungs == 2
    for rung, probability in enumerate(probabilities):
        counts = state_counts(machine, states_of(moved, rung))
        assert_same_distribution(counts, probability)
    unfinished, _ = STILL.step(machine, ladder, generator, finish=False)
    finished = unfinished.completed(machine.sample(unfinished.samples, ODD, generator))
    assert_same_distribution(state_counts(machine, finished.samples), probabilities[-1])


def test_the_rungs_stay_independent(generator: torch.Generator) -> None:
    """The joint distribution of all three rungs is the product of theirs: 8^3 states, exchanges included."""
    machine = random_machine(("bernoulli", "bernoulli"), (2, 1), seed=3, weights=2.0)
    ladder, probabilities = exact_ladder(machine, generator)
    moved, _ = STILL.step(machine, ladder, generator)
    numbers = [state_numbers(states_of(moved, rung)) for rung in range(3)]
    product = torch.einsum("i,j,k->ijk", *probabilities).flatten()
    counts = torch.bincount(64 * numbers[0] + 8 * numbers[1] + numbers[2], minlength=512)
    assert_same_distribution(counts, product)


def test_exchanges_are_accepted_as_often_as_enumeration_says(generator: torch.Generator) -> None:
    machine = random_machine(("bernoulli", "bernoulli"), (3, 2), seed=4, weights=2.0)
    ladder, _ = exact_ladder(machine, generator)
    moved, _ = replace(STILL, steps=2).step(machine, ladder, generator)
    visible = torch.unique(joint_states(machine)[0], dim=0)
    energies = [own.free_energy((visible, None)) for own in rungs_of(machine)]
    for pair in (0, 1):
        low, high = energies[pair], energies[pair + 1]
        ratio = low[:, None] + high[None, :] - low[None, :] - high[:, None]
        weights = torch.softmax(-low, 0)[:, None] * torch.softmax(-high, 0)[None, :]
        expected = float((weights * ratio.exp().clamp(max=1)).sum())
        assert expected < 0.95
        assert float(moved.rates[pair]) == pytest.approx(expected, abs=5 * 0.5 / CHAINS**0.5)


def test_bennett_of_normal_weights_is_exact() -> None:
    """w of two unit normals a shift apart is normal on both sides, and log Z the same."""
    shift, count = 1.5, 200_000
    x = torch.randn(count, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    w = [shift * (x + mean) - shift**2 / 2 + 3.0 for mean in (0.0, shift)]
    assert float(bennett(*w)) == pytest.approx(3.0, abs=5 * math.sqrt(2 * 2.5 / count))


@pytest.mark.parametrize(("ends", "spread"), [((-20.0, 18.0), 6.0), ((-50.0, 30.0), 10.0), ((-1.0, 1.0), 1.0)])
def test_bennett_is_at_its_own_result_where_machines_hardly_overlap(ends: tuple[float, float], spread: float) -> None:
    """There a whole step leaps as far beyond the result as it was away from it before."""
    noise = torch.randn(2, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    low, high = (end + spread * own for end, own in zip(ends, noise, strict=True))
    found = bennett(low, high)
    assert float(bennett_step(low, high, found)) == pytest.approx(float(found), abs=1e-6)


@pytest.mark.parametrize("case", MACHINES)
@pytest.mark.parametrize("offsets", [0.0, 0.5])
def test_log_z_along_a_ladder_is_that_of_enumeration(case: Case, offsets: float) -> None:
    """At every depth and unit: within four of its own errors, which are some hundredths of a nat."""
    machine = random_machine(*case, seed=1, offsets=offsets, weights=1.0 if "gaussian" not in str(case) else 0.4)
    rungs = stacked([independent_base(machine.folded(), (None,) * machine.depth)])
    generator = torch.Generator().manual_seed(3)
    images = machine.layers[0].sample(torch.zeros(50, case[1][0], dtype=torch.float64), generator)
    found = trajectory_log_partition(machine, rungs, images, 40, 200, generator)
    assert found.std_error < 0.2
    assert abs(found.value - exact_log_partition(machine)) < 4 * found.std_error
    assert 20 < found.ess <= 40 * 60


def test_columns_that_keep_where_they_began_have_a_large_error() -> None:
    """Two modes far apart, and a ladder that does not reach independent units in the sweeps that are made."""
    machine, images = far_modes()
    twice = stacked([independent_base(machine, (torch.full((20,), 0.01), None)), machine, machine])
    found = trajectory_log_partition(machine, twice, 1 - images[:50], 40, 30, torch.Generator().manual_seed(1))
    assert abs(found.value - exact_log_partition(machine)) < 4 * found.std_error


def test_a_ladder_beyond_float32_is_one_message() -> None:
    machine = random_machine(("bernoulli", "bernoulli"), (4, 3), seed=1).map(lambda tensor: tensor.float())
    base = independent_base(machine, (None, None))
    rungs = stacked([base, machine.with_tensors({"weights/0": torch.full((4, 3), 3e38)})])
    with pytest.raises(UserError, match=r"not finite.*likelihood\.trajectory_sweeps=0"):
        trajectory_log_partition(machine, rungs, torch.zeros(10, 4), 10, 40, torch.Generator().manual_seed(1))


# ---------------------------------------------------------------------------------------------- the ladder's length


def grown(machine: BoltzmannMachine, sampler: TrajectoryTempering, sweeps: int, chains: int = 200) -> Ladder:
    """A ladder from independent units to a machine, after so many sweeps from zeros."""
    start = tuple(torch.zeros(chains, layer.units, dtype=layer.bias.dtype) for layer in machine.layers)
    state = sampler.init(machine, start, (None,) * machine.depth)
    state, _ = replace(sampler, steps=sweeps).step(machine, state, torch.Generator().manual_seed(1))
    return state


@pytest.mark.parametrize("case", [MACHINES[0], MACHINES[1], MACHINES[4], MACHINES[8], MACHINES[11]])
def test_a_ladder_closes_its_gaps_by_machines_halfway(case: Case) -> None:
    machine = random_machine(*case, seed=2, weights=3.0)
    base = stacked([independent_base(machine, (None,) * machine.depth)])
    ladder = grown(machine, TrajectoryTempering(rungs=20, acceptance=0.5, chains=None, every=0, ladder=base), 400)
    assert 1 < ladder.rungs < 19
    assert float(ladder.rates[: ladder.rungs].min()) > 0.4
    energies = [ladder.rung(machine, rung).energy(ladder.top)[:10] for rung in range(ladder.rungs + 1)]
    shares = [(energy - energies[0]) / (energies[-1] - energies[0]) for energy in energies]
    for share in shares:  # each energy is a mean of the first and the last one, the same for all states
        torch.testing.assert_close(share, share[:1].expand(10))
    assert all(float(lower[0]) < float(upper[0]) for lower, upper in itertools.pairwise(shares))


def test_a_machine_that_learns_leaves_its_history_behind() -> None:
    """Each rung is what the machine was at the sweep that it names."""
    start = random_machine(("bernoulli", "bernoulli"), (6, 5), seed=1, weights=2.0)
    machines = [start.with_tensors({n: t * share for n, t in start.named_tensors().items()}) for share in
                torch.linspace(0, 1, 301).tolist()]  # fmt: skip
    sampler = TrajectoryTempering(rungs=12, acceptance=0.6, every=1)
    generator = torch.Generator().manual_seed(1)
    states = tuple(torch.zeros(400, layer.units, dtype=torch.float64) for layer in start.layers)
    ladder = sampler.init(machines[0], states, (None, None))
    for machine in machines:
        ladder, _ = sampler.step(machine, ladder, generator)
    kept = ladder.kept[: ladder.rungs].tolist()
    assert kept[0] == NEVER
    own_times = [sweep for sweep in kept if sweep != NEVER]
    assert len(own_times) > 1
    assert own_times == sorted(own_times)
    for rung, sweep in enumerate(kept[1:], start=1):
        if sweep != NEVER:
            own = ladder.rung(start, rung).named_tensors()
            assert all(
                torch.equal(own[n].squeeze(), t.squeeze()) for n, t in machines[sweep - 1].named_tensors().items()
            )
    assert log_partition(start, ladder) == pytest.approx(exact_log_partition(start), abs=0.3)


def test_a_full_ladder_gives_up_the_rung_that_it_needs_least() -> None:
    machine = random_machine(("bernoulli", "bernoulli"), (6, 5), seed=2, weights=4.0)
    base = stacked([independent_base(machine, (None, None))])
    sampler = TrajectoryTempering(rungs=6, acceptance=0.9, chains=None, every=0, ladder=base)
    ladder = grown(machine, sampler, 600)
    assert ladder.rungs == ladder.room == 5
    assert int(ladder.counts[TAKEN_OUT]) > 0
    apart = distances(ladder.rates[:5])
    assert float(apart.max()) < 3 * float(apart.min())
    assert [tensor.shape for tensor in leaves(ladder)] == [
        tensor.shape for tensor in leaves(grown(machine, sampler, 1))
    ]


def test_taking_out_what_was_put_in_leaves_the_ladder_as_it_was(generator: torch.Generator) -> None:
    machine = random_machine(("bernoulli",) * 3, (3, 3, 2), seed=4)
    ladder, _ = exact_ladder(machine, generator)
    ladder = ladder._replace(log_ratios=torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64))
    longer = with_rung(ladder, 0, between(ladder.rung(machine, 0), ladder.rung(machine, 1)), NEVER)
    assert longer.rungs == 3
    assert longer.log_ratios.tolist() == [0.5, 0.5, 2.0]
    again = without_rung(longer, 1)
    assert int(again.counts[RUNGS]) == 2
    assert again.log_ratios[:2].tolist() == [1.0, 2.0]
    for before, after in zip(ladder.parameters + ladder.below, again.parameters + again.below, strict=True):
        assert torch.equal(before[:2], after[:2])
    assert float(acceptance_at(distances(torch.tensor([0.3])).sum())) == pytest.approx(0.3)


def test_memory_is_bounded_by_the_rungs() -> None:
    machine = random_machine(("bernoulli", "bernoulli"), (4, 3), seed=1)
    states = tuple(torch.zeros(10**6, layer.units) for layer in machine.layers)
    with pytest.raises(UserError, match=r"sampler\.rungs=1000 machines of 7 units with 1000000 chains each would take"):
        TrajectoryTempering(rungs=1000, chains=None).init(
            machine, tuple(s.expand(10**6, -1) for s in states), (None, None)
        )
    few = TrajectoryTempering(rungs=1000, chains=20).init(machine, states, (None, None))  # the machine alone has many
    assert few.below[0].shape == (999, 20, 4)


def test_memory_is_bounded_by_the_sweeps_along_a_ladder() -> None:
    machine = random_machine(("bernoulli", "bernoulli"), (4, 3), seed=1)
    rungs = stacked([independent_base(machine, (None, None))])
    message = r"trajectory_sweeps=100000000 of likelihood\.trajectory_chains=1000 chains of each of up to 4 machines would take"
    with pytest.raises(UserError, match=message):
        trajectory_log_partition(machine, rungs, torch.zeros(5, 4), 1000, 10**8, torch.Generator())


# ---------------------------------------------------------------------------------------------- what it is for


def test_two_far_modes_get_their_weights_where_gibbs_stays(generator: torch.Generator) -> None:
    """All chains start in the lesser mode, which Gibbs sampling does not leave in 500 sweeps (test_tempering)."""
    machine, weight = two_far_modes()
    start = (torch.zeros(200, 8), torch.zeros(200, 5))
    base = stacked([independent_base(machine, (torch.full((8,), 0.75), None))])
    sampler = TrajectoryTempering(steps=500, rungs=12, acceptance=0.5, chains=None, every=0, warm_up=300, ladder=base)
    ladder, info = sampler.step(machine, sampler.init(machine, start, (None, None)), generator)
    upper = []
    for _ in range(25):
        ladder, info = replace(sampler, steps=20).step(machine, ladder, generator)
        upper.append((ladder.samples[1].mean(1) > 0.5).double())
    assert float(torch.stack(upper).mean()) == pytest.approx(weight, abs=0.06)
    assert info["sampler/round_trips"] > 0
    assert log_partition(machine, ladder) == pytest.approx(exact_log_partition(machine), abs=0.2)
    assert 0 < float(ladder.ages.double().mean()) < 200  # the chains forget where they began


def test_a_chain_is_as_old_as_its_last_visit_to_independent_units() -> None:
    """Where all rungs are the same machine every exchange is accepted, and states go up one rung at each move."""
    machine = random_machine(("bernoulli", "bernoulli"), (3, 2), seed=1)
    base = independent_base(machine, (None, None))
    sampler = TrajectoryTempering(steps=40, rungs=3, every=0, warm_up=0, ladder=stacked([base, base]))
    start = tuple(torch.zeros(5, layer.units, dtype=torch.float64) for layer in base.layers)
    ladder, info = sampler.step(base, sampler.init(base, start, (None, None)), torch.Generator().manual_seed(1))
    assert set(ladder.ages.tolist()) <= {0, 1}
    assert info["sampler/round_trips"] > 0
    assert float(log_partition(base, ladder)) == pytest.approx(
        sum(float(layer.log_partition(torch.zeros_like(layer.bias))) for layer in base.layers)
    )


def test_the_ladder_moves_once_in_so_many_sweeps_of_its_rungs(generator: torch.Generator) -> None:
    machine = random_machine(("bernoulli", "bernoulli"), (4, 3), seed=5)
    ladder, _ = exact_ladder(machine, generator)
    sampler = replace(STILL, every=3, steps=60)
    moved, _ = sampler.step(machine, ladder, generator)
    assert int(moved.counts[SWEEPS]) == 60
    assert int(moved.seen.sum()) == 10  # two rungs, so at every sixth sweep, of one pair each time


@pytest.mark.parametrize(
    ("lowest", "room", "moves"),
    [(0.5, 3, 0), (0.2, 3, 0), (0.1, 3, 5), (0.1, 2, 0)],
    ids=["good", "low", "behind", "behind and full"],
)
def test_a_ladder_that_has_fallen_behind_moves_at_every_sweep(
    lowest: float, room: int, moves: int, generator: torch.Generator
) -> None:
    """Nothing tells a machine the weights of modes that it learns while its ladder lags."""
    machines = rungs_of(random_machine(("bernoulli", "bernoulli"), (4, 3), seed=5))
    states = tuple(torch.zeros(10, layer.units, dtype=torch.float64) for layer in machines[-1].layers)
    ladder = first_ladder(stacked(machines[:2]), states, room, 10)
    sampler = replace(STILL, acceptance=0.3, every=100, steps=1)
    for _ in range(5):
        rates = torch.tensor([0.5, lowest, 0.0][:room], dtype=torch.float64)
        ladder, _ = sampler.step(machines[-1], ladder._replace(rates=rates), generator)
    assert int(ladder.counts[MOVES]) == moves


def test_clamped_even_layers_stay_and_odd_ones_are_refused(generator: torch.Generator) -> None:
    machine = random_machine(("bernoulli",) * 3, (3, 3, 2), seed=3)
    ladder, _ = exact_ladder(machine, generator)
    visible = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
    ladder = ladder._replace(
        top=(visible.expand(CHAINS, 3), *ladder.top[1:]),
        below=(visible.expand(3, CHAINS, 3), *ladder.below[1:]),
    )
    samples = replace(STILL, steps=12).step(machine, ladder, generator, clamped=(0,))[0].samples
    assert torch.equal(samples[0], visible.expand(CHAINS, 3))
    states, probabilities = joint_probabilities(machine)
    conditional = probabilities * (states[0] == visible).all(1)
    assert_same_distribution(state_counts(machine, samples), conditional / conditional.sum())
    with pytest.raises(UserError, match="cannot clamp them: use sampler=gibbs"):
        STILL.step(machine, ladder, generator, clamped=(1,))


def test_chains_that_are_clamped_to_states_of_their_own_keep_them(generator: torch.Generator) -> None:
    machine = random_machine(("bernoulli",) * 3, (4, 3, 2), seed=3)
    visible = (torch.rand(40, 4, generator=generator) < 0.5).double()
    states = (visible, torch.zeros(40, 3, dtype=torch.float64), torch.zeros(40, 2, dtype=torch.float64))
    sampler = TrajectoryTempering(steps=30, rungs=4, chains=None, every=0)
    ladder, _ = sampler.step(machine, sampler.init(machine, states, (None,) * 3), generator, clamped=(0,))
    assert torch.equal(ladder.samples[0], visible)
    few = replace(sampler, chains=10)  # chains of a rung exchange with one of the machine's, then with another
    with pytest.raises(UserError, match=r"10 chains of a rung take turns with 40 of .*sampler\.chains=null"):
        few.step(machine, few.init(machine, states, (None,) * 3), generator, clamped=(0,))


def test_a_ladder_is_made_again_of_its_leaves(generator: torch.Generator) -> None:
    machine = random_machine(("bernoulli", "bernoulli"), (3, 2), seed=1)
    ladder, _ = exact_ladder(machine, generator)
    again = with_leaves(ladder, iter(leaves(ladder)))
    assert type(again) is Ladder
    assert all(torch.equal(own, other) for own, other in zip(leaves(ladder), leaves(again), strict=True))


@pytest.mark.parametrize(
    "changes", [{"steps": 0}, {"rungs": 1}, {"acceptance": 0}, {"acceptance": 1}, {"every": -1}, {"warm_up": -1}]
)
def test_wrong_settings_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"sampler.{next(iter(changes))}"):
        TrajectoryTempering(**changes)


def test_cd_cannot_use_a_ladder() -> None:
    with pytest.raises(UserError, match="sampler=gibbs"):
        ContrastiveDivergence(TrajectoryTempering(), MeanField())
