"""What the use of a layer above the first says of the truth: how many nats of the bound the machine has over one without it.

`python -m benchmarks.layers` makes 80 machines of three Bernoulli layers and enumerates them; `python -m benchmarks.layers RUN
...` takes finished runs, by annealed importance sampling (4,000 temperatures, 100 chains).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.calibration import images_of, learned
from benchmarks.common import SEED, hardware, table
from ebm_pipeline.evaluation.ais import annealed_importance_sampling, base_of_data, equal_steps
from ebm_pipeline.evaluation.enumeration import exact_log_partition
from ebm_pipeline.evaluation.inside import HiddenLayer, hidden_layers
from ebm_pipeline.evaluation.likelihood import unnormalized
from ebm_pipeline.models.growth import grown
from ebm_pipeline.models.inference import MeanField
from ebm_pipeline.models.layers import Bernoulli
from ebm_pipeline.models.machine import BoltzmannMachine, assemble
from ebm_pipeline.models.storage import load_model
from ebm_pipeline.runs.configuration import build_data, read_run_config

HEADER = ("machine", "spread", "participation", "use", "use / use of layer 1", "nats over the machine without it")
EXACT = MeanField(1e-6, 200)
IMAGES = 1000
TEMPERATURES, CHAINS = 4000, 100


def without_top(machine: BoltzmannMachine, images: Tensor) -> BoltzmannMachine:
    """The machine of three layers without the third, whose mean goes into the biases of the second."""
    mean = EXACT(machine, (images, None, None)).means[2].mean(0)
    below = machine.layers[1].with_tensors(bias=machine.layers[1].bias + machine.weights[1] @ mean)
    return replace(machine, layers=(machine.layers[0], below), weights=machine.weights[:1])


def row(
    name: str, machine: BoltzmannMachine, images: Tensor, log_partition: Callable[[BoltzmannMachine], float]
) -> list[str]:
    """A line of the table."""
    first, second = hidden_layers(machine, images, EXACT)
    nats = [unnormalized(one, images, EXACT) - log_partition(one) for one in (machine, without_top(machine, images))]
    return [*described(name, first, second), f"{nats[0] - nats[1]:+.3f}"]


def described(name: str, first: HiddenLayer, second: HiddenLayer) -> list[str]:
    """What is seen without log Z."""
    share = second.use / first.use
    return [name, f"{second.spread:.3f}", f"{second.participation:.1f}", f"{second.use:.3f}", f"{share:.2%}"]


def small_machines() -> list[list[str]]:
    """Trained ones, and RBMs with random weights above them, by their share of use."""
    rows = []
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        sizes = [(10, 6, 4), (12, 8, 6)][seed % 2]
        draw = images_of("binary", sizes[0], generator)
        images, held_out = draw(1000), draw(1000).double()
        layers = [Bernoulli.create(units) for units in sizes]
        rbm = learned(list(layers[:2]), images, 1000, 0.1, generator)
        std = [0.001, 0.1, 0.5][seed % 3]
        weights = std * torch.randn(sizes[1], sizes[2], generator=generator)
        begun = grown(rbm, assemble([*rbm.layers, layers[2]], [rbm.weights[0], weights]), images, EXACT)
        trained = learned(list(layers), images, 1500, 0.2, generator)
        for name, machine in ((f"random, {std:g}", begun), ("trained", trained)):
            rows.append(row(name, machine.map(Tensor.double), held_out, exact_log_partition))
    return sorted(rows, key=lambda one: float(one[4].rstrip("%")))


def of_run(folder: Path) -> list[str]:
    """A line of the table for a finished run of three layers."""
    images = build_data(read_run_config(folder)).images("validation")[:IMAGES]

    def log_partition(machine: BoltzmannMachine) -> float:
        generator = torch.Generator().manual_seed(SEED)
        with torch.inference_mode():
            base = base_of_data(machine, images, EXACT, generator)
            betas = equal_steps(machine, base, TEMPERATURES, 40, generator)
            return annealed_importance_sampling(machine, base, betas, CHAINS, generator).value

    return row(folder.name, load_model(folder / "model.h5").machine, images, log_partition)


def main(words: list[str]) -> None:
    """What the words ask for: see the module's text."""
    rows = [of_run(Path(word)) for word in words] if words else small_machines()
    print(hardware())
    table(HEADER, rows)


if __name__ == "__main__":
    main(sys.argv[1:])
