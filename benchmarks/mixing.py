"""How fast samplers mix: Gibbs, parallel tempering and tempering along the trajectory, on machines trained by trajectory.

`python -m benchmarks.mixing [RUN ...] [OPTION=VALUE ...]` trains an RBM on images of two far classes, with these options of
`ebm-train`; chains of each sampler start from data and from noise. Finished runs with sampler=trajectory are added. What is
watched is what mixes last: for the two classes which of them a chain is in, else the first principal component of the images.
Two classes as frequent in the data have the same mean free energy where the machine gives them the same weight: how far apart
these are is printed, since chains that all end in a class that has all the weight mix as well as any.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import SEED, command, hardware, table
from ebm_pipeline.evaluation.equilibrium import autocorrelation_time, equilibrate, from_both
from ebm_pipeline.models.machine import BoltzmannMachine
from ebm_pipeline.models.storage import load_model, with_ladder
from ebm_pipeline.runs.configuration import build_data, read_run_config
from ebm_pipeline.sampling import Gibbs, ParallelTempering, Sampler
from ebm_pipeline.sampling.trajectory import along

PIXELS, HIDDEN, FLIPPED, IMAGES = 200, 30, 0.05, 4000
CHAINS, SWEEPS = 50, 4000
SEEDS = 5  # trainings on the two classes: whether their ladder mixes is another thing in each
Case = tuple[
    BoltzmannMachine, BoltzmannMachine, Tensor, Tensor
]  # a machine, its ladder, images, what is watched (units,)


def two_classes(output: Path, seed: int, options: Sequence[str] = ()) -> Case:
    """An RBM trained by our own recipe and `options` on two classes that differ in every pixel; watched: their axis."""
    generator = np.random.default_rng(seed)
    prototype = generator.random(PIXELS) < 0.5
    kinds = generator.random((IMAGES, 1)) < 0.5
    images = (prototype == kinds) ^ (generator.random((IMAGES, PIXELS)) < FLIPPED)
    np.save(output / "two_classes.npy", images.astype(np.uint8))
    words = (
        "data=file",
        f"data.path={output / 'two_classes.npy'}",
        "model=rbm",
        f"hidden_units={HIDDEN}",
        f"seed={seed}",
    )
    command("ebm-train", *words, "sampler=trajectory", *options, f"hydra.run.dir={output / 'run'}", output=output)
    machine, ladder, shown, _ = of_run(output / "run")
    return machine, ladder, shown, torch.from_numpy(2.0 * prototype - 1).float()


def rows(
    name: str, seed: int, machine: BoltzmannMachine, ladder: BoltzmannMachine, images: Tensor, axis: Tensor
) -> list[list[str]]:
    """A line for each sampler: R-hat, effective samples of the position along `axis` (units,) in all sweeps, and per second."""
    warm_up = SWEEPS // 2
    samplers: dict[str, Sampler] = {
        "Gibbs": Gibbs(),
        "tempering, 10 replicas": ParallelTempering(replicas=10, warm_up=warm_up),
        "trajectory": along(ladder, 1, warm_up),
    }
    found = []
    for label, sampler in samplers.items():
        generator = torch.Generator().manual_seed(seed)
        start = from_both(machine, images, CHAINS // 2, generator)
        state = sampler.init(machine, start, (images.mean(0), None))
        trace = []
        began = 0.0
        for sweep in range(SWEEPS):
            if sweep == warm_up:
                began = time.process_time()
            state, _ = sampler.step(machine, state, generator)
            if sweep >= warm_up:
                trace.append(state.samples[0] @ axis)
        seconds = time.process_time() - began
        effective = CHAINS * len(trace) / autocorrelation_time(torch.stack(trace, 1))
        r_hat = equilibrate(machine, images, CHAINS, SWEEPS, generator, sampler=sampler)
        found.append(
            [
                name,
                label,
                f"{r_hat.worst:.3f}",
                f"{r_hat.mixing.r_hat:.2f}",
                f"{effective:.0f}",
                f"{effective / seconds:.{0 if effective > seconds else 2}f}",
            ]
        )
    return found


def apart(machine: BoltzmannMachine, images: Tensor, axis: Tensor) -> float:
    """Mean free energy of the images on one side of `axis` (units,) less that of the others, in nats."""
    energies, side = machine.free_energy((images, None)), images @ axis > 0
    return float(energies[side].mean() - energies[~side].mean())


def of_run(folder: Path) -> Case:
    """The machine of a run with a ladder, that ladder, training images and their first principal component."""
    model = with_ladder(load_model(folder / "model.h5"), folder)
    assert model.ladder is not None, f"{folder} has no ladder: train with sampler=trajectory"
    images = build_data(read_run_config(folder)).images("train", 2000)
    axis = torch.linalg.svd(images - images.mean(0), full_matrices=False).Vh[0]
    return model.machine.folded(), model.ladder, images, axis


HEADER = (
    "machine", "sampler", "R-hat, data against noise", "R-hat of single chains", f"effective samples of {CHAINS * SWEEPS // 2:,}",
    "effective samples per second of the processor",
)  # fmt: skip


def main(folders: list[Path], options: list[str]) -> None:
    """Print the table."""
    print(hardware(), flush=True)
    torch.set_num_threads(1)
    with torch.inference_mode():
        found = []
        for seed in range(SEED, SEED + SEEDS):
            with tempfile.TemporaryDirectory() as temporary:
                name = f"two far classes, {PIXELS}-{HIDDEN}, seed {seed}"
                case = two_classes(Path(temporary), seed, options)
                found += rows(name, seed, *case)
                print(f"{name}: classes {apart(case[0], case[2], case[3]):+.1f} nats apart", flush=True)
        for folder in folders:
            found += rows(folder.name, SEED, *of_run(folder))
    table(HEADER, found)


if __name__ == "__main__":
    given = sys.argv[1:]
    main([Path(word) for word in given if "=" not in word], [word for word in given if "=" in word])
