"""What the benchmarks share: the machine's description, runs of the commands, likelihoods of saved models."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from ebm_pipeline.cli import config_folder
from ebm_pipeline.evaluation.ais import LogPartition, annealed_importance_sampling, base_of_data, even_steps
from ebm_pipeline.evaluation.card import LikelihoodCard
from ebm_pipeline.evaluation.enumeration import enumerable_parity, exact_log_partition
from ebm_pipeline.evaluation.likelihood import unnormalized
from ebm_pipeline.models.inference import MeanField
from ebm_pipeline.models.storage import load_model
from ebm_pipeline.runs.assess import MOST_TRAINING_IMAGES, Material, measure_likelihood
from ebm_pipeline.runs.configuration import build, build_data

SEED = 137


def hardware(seed: int = SEED) -> str:
    """Processor, cores, vector units, versions and date, as one line."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    fields = {line.split(":")[0].strip(): line.split(":", 1)[1].strip() for line in lines if ":" in line}
    name = fields.get("model name", platform.processor() or platform.machine())
    flags = set(fields.get("flags", "").split())
    labels = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "bfloat16", "amx_bf16": "AMX"}
    units = [label for flag, label in labels.items() if flag in flags]
    return (
        f"{name} ({', '.join(units) or 'vector units unknown'}), {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, torch {torch.__version__}, seed {seed}, {date.today().isoformat()}"
    )


@dataclass(frozen=True)
class Finished:
    """A command that ended: seconds from its start to its end, those of the processor, and its peak resident memory."""

    seconds: float
    processor_seconds: float
    peak_gigabytes: float


def command(name: str, *arguments: str, output: Path) -> Finished:
    """Run one of the package's commands with its output under `output`; its own progress goes to the terminal."""
    started = time.perf_counter()
    program = Path(sys.executable).parent / name
    process = subprocess.Popen([program, *arguments], env=os.environ | {"EBM_OUTPUT_DIR": str(output)})
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{name} {' '.join(arguments)} failed")
    return Finished(time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20)


def composed(output: Path, *overrides: str) -> DictConfig:
    """The configuration that `ebm-train` would compose."""
    with initialize_config_dir(config_folder(), version_base="1.3"):
        return compose("train", overrides=[f"output_root={output}", f"seed={SEED}", *overrides])


@dataclass(frozen=True)
class LogLikelihood:
    """Mean over images, in nats per image; for machines of more than two layers a lower bound, given log Z."""

    nats: float
    is_bound: bool
    log_partition: LogPartition | float  # a plain number is exact


def ais(model: Path, part: str, temperatures: int, chains: int = 100) -> LogLikelihood:
    """Log-likelihood (or variational bound) of a saved model on a part of the data of its own configuration.

    Forward AIS alone, which tends to be too high: for numbers to compare with each other. The card of a run has both sides.
    """
    saved = load_model(model)
    config = OmegaConf.create(saved.config)
    assert isinstance(config, DictConfig)
    data = build_data(config)
    images: Tensor = data.images(part)
    mean_field = MeanField(config.mean_field.tolerance, config.mean_field.max_steps)
    machine = saved.machine.folded()
    if enumerable_parity(machine) is not None:
        exact = exact_log_partition(machine)
        return LogLikelihood(unnormalized(machine, images, mean_field) - exact, machine.depth > 2, exact)
    generator = torch.Generator().manual_seed(SEED)
    base = base_of_data(machine, data.images("train", MOST_TRAINING_IMAGES), mean_field, generator)
    estimate = annealed_importance_sampling(machine, base, even_steps(temperatures), chains, generator)
    return LogLikelihood(unnormalized(machine, images, mean_field) - estimate.value, machine.depth > 2, estimate)


def card(model: Path, temperatures: int, chains: int, sweeps: int = 3000, seed: int = SEED) -> LikelihoodCard:
    """The likelihood card of a saved model on the test part of the data of its own configuration."""
    with initialize_config_dir(config_folder(), version_base="1.3"):
        settings = {"temperatures": temperatures, "chains": chains, "sweeps": sweeps}
        config = compose("evaluate", [f"likelihood.{name}={value}" for name, value in settings.items()])
    saved = load_model(model)
    own = OmegaConf.create(saved.config)
    assert isinstance(own, DictConfig)
    data = build_data(own)
    mean_field = MeanField(own.mean_field.tolerance, own.mean_field.max_steps)
    material = Material({"test": data.images("test")}, data.images("train", MOST_TRAINING_IMAGES), data.quantity)
    return measure_likelihood(build(config.likelihood, "likelihood"), saved, material, mean_field, seed)


def median_seconds(function: Callable[[], object], calls: int = 100, repeats: int = 9) -> float:
    """Median over `repeats` of the seconds that one call takes."""
    function()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        for _ in range(calls):
            function()
        times.append((time.perf_counter() - started) / calls)
    return sorted(times)[repeats // 2]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table."""
    for cells in (header, ["---"] * len(header), *rows):
        print(f"| {' | '.join(cells)} |")
    print(flush=True)
