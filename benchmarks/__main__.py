"""`python -m benchmarks [NAME ...]`: print the numbers, all of them or those that are named."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from benchmarks import (
    faults,
    gaussian,
    resume,
    start,
    studies,
    tracking_cost,
    tracking_store,
    training_cost,
    trajectory,
)  # fmt: skip
from benchmarks.common import hardware
from ebm_pipeline.support.errors import UserError

BENCHMARKS = {
    "start": start.start,
    "speed": training_cost.speed,
    "parallel": training_cost.parallel,
    "memory": training_cost.memory,
    "digits": studies.digits,
    "likelihood": studies.likelihood,
    "study": studies.study,
    "sparsity": studies.sparsity,
    "gaussian": gaussian.gaussian,
    "resume": resume.resume,
    "inputs": faults.inputs,
    "server": faults.server,
    "requests": faults.requests,
    "tracking": tracking_cost.tracking,
    "tracking_store": tracking_store.store,
    "trajectory": trajectory.trajectory,
}
NEED_MNIST = {
    "start", "speed", "parallel", "memory", "likelihood", "study", "sparsity", "gaussian", "tracking", "trajectory",
}  # fmt: skip


def main() -> None:
    """Run the benchmarks in a temporary folder, or in one that is given and kept."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(BENCHMARKS)}; default: all")
    parser.add_argument("--output", type=Path, help="keep the runs in this folder")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(BENCHMARKS))
    if unknown:
        parser.error(f"unknown benchmark {', '.join(unknown)}; known: {', '.join(BENCHMARKS)}")
    print(hardware(), flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        output = (options.output or Path(temporary)).absolute()
        output.mkdir(parents=True, exist_ok=True)
        for name in options.names or BENCHMARKS:
            if name in NEED_MNIST and "EBM_DATA_DIR" not in os.environ:
                print(f"{name}: EBM_DATA_DIR is not set, MNIST will be downloaded", file=sys.stderr)
            print(f"\n## {name}: {BENCHMARKS[name].__doc__}\n", flush=True)
            try:
                BENCHMARKS[name](output)
            except UserError as error:
                raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
