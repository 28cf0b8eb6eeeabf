"""`python -m benchmarks.peers [PEER ...]`: other programs that train RBMs beside this one, judged by one evaluator.

RBM 784-200 on the 57,000 training images of MNIST (threshold), one thread each. Every peer that the package index has gets an
environment of its own in outputs/peers, with the versions of constraints.txt where that names them. It trains with PCD-1 and
batches of 100 (learnergy: CD-1, which is all it has) at several learning rates; the best of them then goes on, constant and
falling linearly to 0 (in all epochs, and in half of them, there also from the next higher rate); and by the settings of its own
documentation. Seconds are those of the processor: the least of all epochs of a kind, times the epochs until a model was kept
whose whole interval of the log-likelihood of the test images lies above a target. A peer that cannot be installed or run is
printed with the reason.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from benchmarks.common import SEED, composed, hardware, table
from benchmarks.peers.judge import Judge
from ebm_pipeline.runs.configuration import build_data

ROOT = Path(__file__).parents[2]
TARGETS = (-100.0, -90.0, -85.0)
KEPT = (1, 2, 3, 5, 7, 10, 15, 20)
OUR_EPOCHS = (2, 5, 7, 10, 20, 40)  # each with its own schedule, which ends at 0
OUR_SHORT = (2, 3, 4, 5)  # epochs with half of the default penalty
L2 = "model.penalties=[{_target_: ebm_pipeline.training.L2, parameters: [weights/0], strength: 1e-3}]"
Options = dict[str, Any]


@dataclass(frozen=True)
class Peer:
    """What is installed, learning rates to try, and its own documentation's settings with the epochs that they get here."""

    packages: tuple[str, ...]
    rates: tuple[float, ...] = (0.02, 0.05, 0.1)
    common: Options = field(default_factory=dict)
    documented: Options | None = None
    epochs: int = 1
    whole: bool = True  # install what the packages ask for too


PEERS = {
    "scikit-learn": Peer(("scikit-learn",), documented={"rate": 0.1, "batch_size": 10}, epochs=3),
    "rbms": Peer(
        ("rbms", "torch"), rates=(0.05, 0.1, 0.2),
        documented={"rate": 0.01, "batch_size": 2000, "chains": 2000, "steps": 100},
    ),
    "learnergy": Peer(("learnergy", "torch"), documented={"rate": 0.1, "batch_size": 128}, epochs=3),
    "boltzmann9": Peer(
        ("boltzmann9", "torch"),
        documented={"rate": 0.1, "batch_size": 256, "steps": 10, "momentum": 0.9, "weight_decay": 1e-4, "clip_value": 0.05},
        epochs=3,
    ),
    "paysage": Peer(  # without torchvision, which it asks for and does not use
        ("paysage", "numpy", "matplotlib", "numexpr", "pandas", "scipy", "seaborn", "tables", "cytoolz"),
        common={"beta_std": 0.0}, documented={"rate": 0.01, "adam": True, "beta_std": 0.6}, epochs=3, whole=False,
    ),
    "pydbm": Peer(("pydbm",)),
}  # fmt: skip


class FailedError(Exception):
    """Why a peer has no numbers."""


def command(words: list[str]) -> str:
    """The output of a command that succeeds; raises FailedError with its last line otherwise."""
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | single
    if words[0] == sys.executable:
        environment["PYTHONPATH"] = os.pathsep.join((str(ROOT), str(ROOT / "src")))
    done = subprocess.run(words, env=environment | {"MPLBACKEND": "agg"}, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        lines = (done.stderr + done.stdout).strip().splitlines() or ["it ended without a message"]
        raise FailedError(([line for line in lines if "Error: " in line] or lines)[-1].strip())
    return done.stdout


def environment_of(name: str, peer: Peer, folder: Path) -> Path:
    """The Python of a peer's environment, which is made where it is not there."""
    python, stamp = folder / "bin" / "python", folder / ".installed"
    if not stamp.exists():
        print(f"installing {name} into {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--constraint", str(ROOT / "constraints.txt")]
        if peer.whole:
            command([*pip, *peer.packages])
        else:
            command([*pip, *peer.packages[1:]])
            command([*pip, "--no-deps", peer.packages[0]])
        stamp.touch()
    return python


@dataclass(frozen=True)
class Trained:
    """A training that was made: its kind (what an epoch costs goes by it), its label, and the weights after some epochs."""

    kind: str
    label: str
    seconds: list[float]
    weights: dict[int, Path]


class Peers:
    """The trainings of this and the other programs, in one folder."""

    def __init__(self, output: Path, tried: int, long: int, documented: bool) -> None:
        self.output, self.tried, self.long, self.documented = output, tried, long, documented
        data = build_data(composed(output, "data=mnist"))
        self.judge = Judge(data)
        self.images = output / "images.npy"
        np.save(self.images, data.images("train").numpy().astype(np.uint8))

    def trained(
        self, words: list[str], kind: str, label: str, options: Options, epochs: int, keep: tuple[int, ...]
    ) -> Trained:
        """One training by a command that is given the file of its plan; one that was made before is read."""
        folder = self.output / "runs" / label.replace(" ", "_").replace(",", "")
        folder.mkdir(parents=True, exist_ok=True)
        plan = {
            "images": str(self.images),
            "folder": str(folder),
            "epochs": epochs,
            "seed": SEED,
            "keep": keep,
            "options": options,
        }
        file, text, times = folder / "plan.json", json.dumps(plan), folder / "seconds.json"
        if not (times.exists() and file.exists() and file.read_text(encoding="utf-8") == text):
            times.unlink(missing_ok=True)
            file.write_text(text, encoding="utf-8")
            print(f"{label}: {command([*words, str(file)]).strip()}", file=sys.stderr, flush=True)
        seconds = json.loads(times.read_text(encoding="utf-8"))
        if len(seconds) < epochs:  # it was interrupted
            times.unlink()
            return self.trained(words, kind, label, options, epochs, keep)
        found = {epoch: folder / f"{epoch}.npz" for epoch in keep}
        return Trained(kind, label, seconds, {epoch: path for epoch, path in found.items() if path.exists()})

    def ours(self) -> list[Trained]:
        """This package's default recipe, of several lengths; and one for a short training."""
        words = [sys.executable, "-m", "benchmarks.peers.ours"]
        default, options = self.our_options(), self.our_options(L2)
        label = "ours, L2 penalty 0.001"
        return [self.trained(words, "same", f"ours, {n} epochs", default, n, (n,)) for n in OUR_EPOCHS] + [
            self.trained(words, "short", f"{label}, {n} epochs", options, n, (n,)) for n in OUR_SHORT
        ]

    def our_options(self, *words: str) -> Options:
        """Options of `ebm-train` and the recipe that they make, so that one by other defaults is not taken for it."""
        config = composed(self.output, "data=mnist", "model=rbm", *words)
        parts = (config.optimizer, config.scheduler, config.model.penalties, config.training)
        return {"words": [*words], "recipe": [OmegaConf.to_yaml(part) for part in parts]}

    def of(self, name: str, peer: Peer) -> list[Trained]:
        """All trainings of a peer."""
        python = environment_of(name, peer, self.output / "environments" / name)
        script = Path(__file__).parent / f"with_{name.replace('-', '_')}.py"
        words = [str(python), str(script)]
        if not script.exists():
            raise FailedError("installed, but no training is written for it here")
        runs = []
        for rate in peer.rates:
            options = {**peer.common, "rate": rate, "falling": False}
            runs.append(self.trained(words, "same", f"{name}, rate {rate:g}", options, self.tried, (self.tried,)))
        best = max(range(len(runs)), key=lambda index: self.judge.screened(runs[index].weights[self.tried]))
        half, rate, higher = max(1, self.long // 2), peer.rates[best], peer.rates[best + 1 : best + 2]
        further = [(False, self.long, rate), (True, self.long, rate), *((True, half, each) for each in (rate, *higher))]
        for falling, epochs, rate in further:
            ending = f" in {epochs} epochs" if epochs < self.long else ""
            label = f"{name}, rate {rate:g} {'falling' if falling else 'constant'}{ending}"
            options = {**peer.common, "rate": rate, "falling": falling}
            runs.append(self.trained(words, "same", label, options, epochs, tuple(n for n in KEPT if n <= epochs)))
        if peer.documented is not None and self.documented:
            options, label = {"falling": False, **peer.documented}, f"{name}, documented"
            runs.append(self.trained(words, "documented", label, options, peer.epochs, (peer.epochs,)))
        return runs

    def row(self, name: str, runs: list[Trained]) -> list[list[str]]:
        """Lines of the table: one for each kind of training."""
        lines = []
        for kind in dict.fromkeys(run.kind for run in runs):
            own = [run for run in runs if run.kind == kind]
            least = min(value for run in own for value in run.seconds)
            models = [(epoch, path, run) for run in own for epoch, path in run.weights.items()]
            epoch, path, run = max(models, key=lambda model: self.judge.screened(model[1]))
            cells = []
            for target in TARGETS:
                in_turn = sorted(models, key=lambda model: model[0])
                first = next((epoch for epoch, path, _ in in_turn if self.judge.reaches(path, target)), None)
                cells.append("not" if first is None else f"{first * least:.1f} ({first} epochs)")
            setting = run.label.partition(", ")[2]
            lines.append([name, setting, f"{least:.2f}", *cells, f"{self.judge.interval(path)} after {epoch}"])
        return lines


HEADER = [
    "",
    "best setting",
    "s per epoch",
    *(f"s until {target:g}" for target in TARGETS),
    "best, nats per test image",
]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument(
        "peers", nargs="*", metavar="PEER", help=f"{', '.join(PEERS)}; default: all. Ours is in every table"
    )
    default = Path(os.environ.get("EBM_OUTPUT_DIR") or "outputs") / "peers"
    parser.add_argument("--output", type=Path, default=default, help=f"environments and weights; default: {default}")
    parser.add_argument("--tried", type=int, default=3, help="epochs at each learning rate; default: %(default)s")
    parser.add_argument("--epochs", type=int, default=20, help="at the best of them; default: %(default)s")
    parser.add_argument("--no-documented", action="store_true", help="leave out the settings of their documentation")
    options = parser.parse_args()
    unknown = sorted(set(options.peers) - set(PEERS))
    if unknown:
        parser.error(f"unknown peer {', '.join(unknown)}; known: {', '.join(PEERS)}")
    output = options.output.absolute()
    output.mkdir(parents=True, exist_ok=True)
    print(f"{hardware()}, load {os.getloadavg()[0]:.1f}\n", flush=True)
    peers = Peers(output, options.tried, options.epochs, not options.no_documented)
    rows = peers.row("ours", peers.ours())
    for name in options.peers or PEERS:
        try:
            rows += peers.row(name, peers.of(name, PEERS[name]))
        except FailedError as error:
            rows.append([name, f"not run: {error}", *["-"] * (len(HEADER) - 2)])
        table(HEADER, rows[-2:])
    table(HEADER, rows)


if __name__ == "__main__":
    main()
