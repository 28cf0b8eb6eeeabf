"""How far the likelihoods can be trusted: AIS against exact log Z, coverage of the stated interval, its width and its cost.

`python -m benchmarks.likelihood NAME ...` prints some of the numbers: accuracy, coverage, cost (no data needed);
small OUTPUT: the exact likelihood of RBM-16 on MNIST, trained into that folder;
full RUN OUTPUT: the evaluation of a run.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from sklearn.datasets import load_digits
from torch import Tensor

from ebm_pipeline.cli import config_folder
from ebm_pipeline.evaluation.ais import (
    annealed_importance_sampling,
    base_of_data,
    equal_steps,
    even_steps,
    reverse_annealed_importance_sampling,
)
from ebm_pipeline.evaluation.card import Bracketed, Likelihood, bracket
from ebm_pipeline.evaluation.enumeration import enumerable_parity, exact_log_partition, joint_states
from ebm_pipeline.models.inference import MeanField
from ebm_pipeline.models.initialization import initialize, normal
from ebm_pipeline.models.layers import Bernoulli, Gaussian, Layer
from ebm_pipeline.models.machine import BoltzmannMachine, States, assemble
from ebm_pipeline.models.numerics import choose_float32_products
from ebm_pipeline.runs.evaluate import evaluate
from ebm_pipeline.runs.train import train
from ebm_pipeline.sampling import Chains, Gibbs, start_at_mean
from ebm_pipeline.training.objectives import ContrastiveDivergence, PersistentContrastiveDivergence

SEED = 137
UNITS: dict[str, type[Bernoulli] | type[Gaussian]] = {"b": Bernoulli, "g": Gaussian}
CASES = {  # name: (unit types, visible first; units; scale of the random weights, None for trained; centring offsets)
    "RBM, random": ("bb", (30, 14), 0.5, False),
    "RBM, random, offsets": ("bb", (40, 18), 0.3, True),
    "RBM, trained": ("bb", (64, 16), None, False),
    "RBM, trained, offsets": ("bb", (64, 12), None, True),
    "Gaussian RBM, random": ("gb", (20, 15), 0.3, True),
    "Gaussian RBM, trained": ("gb", (64, 14), None, False),
    "Hopfield, random": ("bg", (16, 9), 0.3, False),
    "Hopfield, random, offsets": ("bg", (18, 5), 0.25, True),
    "DBM, random": ("bbb", (12, 18, 10), 0.5, True),
    "DBM, trained": ("bbb", (64, 16, 10), None, False),
    "DBM, Gaussian pixels, random": ("gbb", (10, 16, 8), 0.4, True),
    "DBM of four layers, random": ("bbbb", (14, 10, 9, 6), 0.5, True),
}


# --------------------------------------------------------------------------------------------------------- machines


def digits(kinds: str) -> Tensor:
    """The 1,797 digits of scikit-learn (images, 64), thresholded, or standardized for Gaussian pixels."""
    grey = torch.from_numpy(load_digits().data).float() / 16
    return (grey > 0.5).float() if kinds[0] == "b" else (grey - grey.mean(0)) / (grey.std(0) + 0.1)


@cache
def known_machine(name: str) -> tuple[BoltzmannMachine, Tensor]:
    """A machine of CASES, float32, whose log Z can be enumerated, and images (images, units) of what it models."""
    kinds, sizes, scale, offsets = CASES[name]
    generator = torch.Generator().manual_seed(len(name))
    layers: list[Layer] = [UNITS[kind].create(units) for kind, units in zip(kinds, sizes, strict=True)]
    if scale is None:
        images = digits(kinds)
        machine = trained(layers, images, 2000, generator)
    else:
        layers = [layer.with_tensors(bias=0.5 * torch.randn(layer.units, generator=generator)) for layer in layers]
        machine = assemble(layers, [scale * torch.randn(*pair, generator=generator) for pair in pairwise(sizes)])
        images = (torch.rand(500, sizes[0], generator=generator) < 0.5).float()
    if offsets:
        machine = replace(machine, offsets=tuple(torch.rand(units, generator=generator) for units in sizes))
    return machine, images


def trained(
    layers: list[Layer],
    images: Tensor,
    steps: int,
    generator: torch.Generator,
    rate: float | None = None,
    *,
    persistent: bool = True,
    falling: bool = True,
) -> BoltzmannMachine:
    """A machine after `steps` updates of PCD-1 (or CD-1) with batches of 100 and a rate that falls to zero (or stays)."""
    mean = images.mean(0)
    machine = initialize(layers, lambda low, high, g, images: normal(low, high, g, std=0.05), mean, generator)
    kind = PersistentContrastiveDivergence if persistent else ContrastiveDivergence
    objective = kind(Gibbs(1), MeanField())
    chains: Chains | None = Chains(start_at_mean(machine, 100, mean, generator)) if persistent else None
    if rate is None:
        rate = 0.1 if isinstance(layers[0], Bernoulli) else 0.01
    for step in range(steps):
        batch = images[torch.randint(len(images), (100,), generator=generator)]
        learning = objective(machine, (batch, *(None,) * (machine.depth - 1)), chains, generator)
        chains = learning.chains
        tensors = machine.named_tensors()
        factor = rate * (1 - step / steps if falling else 1)
        machine = machine.with_tensors({name: tensors[name] - factor * g for name, g in learning.gradient.items()})
    return machine


def far_modes() -> tuple[BoltzmannMachine, Tensor]:
    """An RBM with two modes that Gibbs sampling does not go between, one of 6 nats less weight, and images of that one."""
    weights = torch.full((20, 10), 2.0)
    layers = [Bernoulli(torch.full((20,), -10.0)), Bernoulli(torch.full((10,), -20.0 + 0.6))]
    return assemble(layers, [weights]), torch.zeros(200, 20)


def exact_samples(machine: BoltzmannMachine, count: int, generator: torch.Generator) -> States:
    """Independent samples (count, units) of a machine whose smaller parity is enumerated (at most 20 units)."""
    parity = enumerable_parity(machine)
    assert parity is not None, "this machine cannot be enumerated"
    exact = machine.map(Tensor.double)
    sizes = [machine.layers[index].units for index in machine.parity(parity)]
    states: list[Tensor | None] = [None] * machine.depth
    bit = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    every = torch.cat(list(joint_states([bit] * sum(sizes))))
    for index, part in zip(machine.parity(parity), every.split(sizes, dim=1), strict=True):
        states[index] = part
    chosen = torch.multinomial(
        torch.softmax(-exact.free_energy(states, 1 - parity), 0), count, True, generator=generator
    )
    for index in machine.parity(parity):
        state = states[index]
        assert state is not None
        states[index] = state[chosen]
    return tuple(state.float() for state in exact.sample(states, 1 - parity, generator))


def cold() -> tuple[BoltzmannMachine, Tensor]:
    """A trained RBM at three times its inverse temperature, where chains stay long in their modes, and its images."""
    machine, images = known_machine("RBM, trained")
    return machine.map(lambda tensor: 3 * tensor), images


HARD = {"two far modes": far_modes, "RBM, trained, cold": cold}
COVERED = (  # machine, temperatures
    ("RBM, random, offsets", 300), ("RBM, trained", 300), ("DBM, trained", 300), ("RBM, trained", 30), ("RBM, trained", 10),
    ("RBM, trained, cold", 100), ("RBM, trained, cold", 1000), ("two far modes", 300),
)  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- metrics


def accuracy(chains: int = 1000, temperatures: int = 1000) -> None:
    """AIS in both directions against enumeration; the reverse runs start from exact samples."""
    print("| machine | log Z, exact | forward - exact | SE | reverse - exact | SE | largest error / SE |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name in CASES:
        machine, images = known_machine(name)
        generator = torch.Generator().manual_seed(SEED)
        base = base_of_data(machine, images, MeanField(), generator)
        exact = exact_log_partition(machine)
        betas = equal_steps(machine, base, temperatures, chains, generator)
        forward = annealed_importance_sampling(machine, base, betas, chains, generator)
        samples = exact_samples(machine, chains, generator)
        reverse = reverse_annealed_importance_sampling(machine, base, betas, samples, generator)
        errors = [run.value - exact for run in (forward, reverse)]
        worst = max(abs(error) / run.std_error for error, run in zip(errors, (forward, reverse), strict=True))
        print(
            f"| {name} | {exact:.3f} | {errors[0]:+.4f} | {forward.std_error:.4f} | {errors[1]:+.4f} | "
            f"{reverse.std_error:.4f} | {worst:.2f} |",
            flush=True,
        )


def coverage(seeds: int = 100) -> None:
    """How often the stated interval holds the exact log Z, how often none is stated, and the stated width."""
    print("| machine | temperatures | median ESS | not determined | stated and right | stated | width / SE, median |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, temperatures in COVERED:
        machine, images = HARD[name]() if name in HARD else known_machine(name)
        exact = exact_log_partition(machine)
        settings = Likelihood(
            temperatures=temperatures, chains=100, base="data", placement="equal", sweeps=500,
            most_width=1.0, least_ess=20, most_r_hat=1.1,
        )  # fmt: skip
        mean = images.mean(0)

        def once(
            seed: int, machine: BoltzmannMachine = machine, mean: Tensor = mean, images: Tensor = images,
            settings: Likelihood = settings,
        ) -> Bracketed:  # fmt: skip
            return settings.bracketed(machine, mean, images, MeanField(), torch.Generator().manual_seed(seed))

        with torch.inference_mode():
            runs = [once(seed) for seed in range(seeds)]
        stated = [run for run in runs if not settings.objections(run)]
        ends = [bracket(run.forward, run.reverse) for run in stated]
        right = sum(interval.low <= exact <= interval.high for interval in ends)
        widths = [
            interval.width / statistics.mean((run.forward.std_error, run.reverse.std_error))
            for interval, run in zip(ends, stated, strict=True)
        ]
        ess = statistics.median(min(run.forward.ess, run.reverse.ess) for run in runs)
        width = f"{statistics.median(widths):.2f}" if widths else "-"
        print(
            f"| {name} | {temperatures} | {ess:.0f} | {seeds - len(stated)} | {right} | {len(stated)} | {width} |",
            flush=True,
        )


def cost() -> None:
    """CPU time of forward AIS for 784-500 against its two products by torch.mm, in turns, one thread, by chains.

    AIS has the products that the commands choose on this machine, torch.mm those of torch's default settings.
    """
    torch.set_num_threads(1)
    for chains in (100, 200, 400):
        cost_of(chains, temperatures=500_000 // chains)


def cost_of(chains: int, temperatures: int, rounds: int = 10) -> None:
    chosen = choose_float32_products()
    generator = torch.Generator().manual_seed(SEED)
    layers = [Bernoulli(torch.randn(784, generator=generator) - 1), Bernoulli(torch.randn(500, generator=generator))]
    machine = assemble(layers, [0.05 * torch.randn(784, 500, generator=generator)])
    base = machine.independent(torch.full((784,), 0.2))
    weights = machine.weights[0]
    visible, hidden = (torch.rand(chains, units, generator=generator).round() for units in (784, 500))
    share = temperatures // rounds

    def products() -> None:
        torch.set_float32_matmul_precision("highest")
        for _ in range(share):
            torch.mm(visible, weights)
            torch.mm(hidden, weights.T)

    def annealing() -> None:
        torch.set_float32_matmul_precision(chosen)
        annealed_importance_sampling(machine, base, even_steps(share + 1), chains, generator)

    with torch.inference_mode():
        seconds = [(_cpu_seconds(products), _cpu_seconds(annealing)) for _ in range(rounds)]
    product, annealed = (sum(column) for column in zip(*seconds, strict=True))
    ratio = statistics.median(annealed / product for product, annealed in seconds)
    print(
        f"AIS 784-500, {chains} chains: {1e6 * annealed / temperatures / chains:.1f} us for a chain and temperature, "
        f"its products {1e6 * product / temperatures / chains:.1f} us, ratio {ratio:.2f} (median of {rounds})"
    )


def small(output: Path, epochs: int = 50) -> None:
    """Exact log-likelihood of RBM-16 on thresholded MNIST, PCD-1, centred, at the best of the rates 0.05, 0.1 and 0.2."""
    overrides = [
        f"output_root={output}", "data=mnist", "hidden_units=16", "optimizer.lr=0.1", "model.penalties=[]",
        f"training.epochs={epochs}", f"seed={SEED}", "evaluation.every_epochs=0",
    ]  # fmt: skip
    folder = output / "rbm16"
    with initialize_config_dir(config_folder(), version_base="1.3"):
        config = compose("train", overrides=overrides)
    train(config, folder)
    full(folder, output)


def full(run: Path, output: Path) -> None:
    """Seconds of the evaluation of a run as `ebm-evaluate` does it, and its interval."""
    with initialize_config_dir(config_folder(), version_base="1.3"):
        config = compose("evaluate", overrides=[f"run={run}", f"output_root={output}"])
    started = time.perf_counter()
    metrics = evaluate(config, str(run), output / "evaluation")
    ends = {name: round(value, 2) for name, value in metrics.items() if name.endswith(("_low", "_high"))}
    print(f"full evaluation: {time.perf_counter() - started:.0f} s; {ends or 'not determined'}")


def _cpu_seconds(function: Callable[[], None]) -> float:
    started = time.process_time()
    function()
    return time.process_time() - started


MEASURED: dict[str, Callable[[], None]] = {"accuracy": accuracy, "coverage": coverage, "cost": cost}

if __name__ == "__main__":
    arguments = sys.argv[1:] or list(MEASURED)
    if arguments[0] == "small":
        small(Path(arguments[1]))
    elif arguments[0] == "full":
        full(Path(arguments[1]), Path(arguments[2]))
    else:
        for argument in arguments:
            MEASURED[argument]()
